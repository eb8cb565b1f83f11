"""What is shipped: the wheel holds what it needs, and works outside of the checkout."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_built_wheel_trains_from_an_empty_folder_in_an_environment_of_its_own() -> None:
    """`tools/wheel_check.py` passes; its own lines are the message when it does not."""
    script = ROOT / "tools" / "wheel_check.py"
    done = subprocess.run([sys.executable, script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
