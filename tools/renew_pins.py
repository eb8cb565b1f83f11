"""Write constraints.txt anew: the newest versions that pyproject.toml allows, as a fresh environment gets them.

    python3 tools/renew_pins.py

The comment at the top of the file stays. What belongs to one torch build alone (local suffixes, CUDA libraries) is left
out, so that one file serves machines with and without a GPU.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

import setup_env

_OF_ONE_BUILD = re.compile(r"(nvidia-|cuda-|triton\b|pip\b|ens\b)")


def main() -> int:
    """Install everything unpinned in a temporary environment, and keep what came."""
    with tempfile.TemporaryDirectory(prefix="ens-pins-") as folder:
        venv.create(folder, with_pip=True)
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "--disable-pip-version-check", "--no-input"]
        index = os.environ.get("ENS_TORCH_INDEX", "").strip()
        if index:  # as in the set-up: this index decides about torch, and about nothing else
            subprocess.run([*pip, "install", "--no-deps", "--index-url", index, "torch", "torchvision"], check=True)
        wanted = ["hatchling", "editables", "setuptools", *setup_env.required()]
        subprocess.run([*pip, "install", "--upgrade", *wanted], check=True)
        frozen = subprocess.run([*pip, "freeze", "--all"], check=True, capture_output=True, text=True).stdout
    pins = [line.partition("+")[0] for line in frozen.splitlines() if "==" in line and not _OF_ONE_BUILD.match(line)]
    old = setup_env.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    comment = [line for line in old if line.startswith("#")]
    setup_env.CONSTRAINTS.write_text("\n".join([*comment, *sorted(pins, key=str.lower)]) + "\n", encoding="utf-8")
    print(f"{setup_env.CONSTRAINTS.name}: {len(pins)} pins; see what changed with git diff, then run make test")
    return 0


if __name__ == "__main__":
    sys.exit(main())
