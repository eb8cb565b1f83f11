"""Makes the environments that peers need, once, in the user's cache folder; nothing of it lies in the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

__all__ = ["Unavailable", "python_of"]

_HERE = Path(__file__).resolve().parent


class Unavailable(Exception):
    """A peer can't be installed on this machine, as where no package index is reached; its rows are left out."""


def python_of(peer: str) -> Path:
    """The Python of a peer's environment, made from `requirements-PEER.txt` where it isn't there yet."""
    requirements = _HERE / f"requirements-{peer}.txt"
    stamp = hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "ens-bench" / f"{peer}-{stamp}"
    python = folder / "bin" / "python"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two benchmarks may ask at once
        if not (folder / "ready").exists():
            print(f"making {folder} from {requirements.name}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
            install = [str(python), "-m", "pip", "install", "-q", "-r", str(requirements)]
            done = subprocess.run(install, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unavailable((done.stderr.strip().splitlines() or ["pip failed without a word"])[-1])
            (folder / "ready").touch()
    return python
