"""What workers find ready when they start."""

from __future__ import annotations

import subprocess
import sys

FIRST_WORKER = """
import sys
from ensemble.engine.worker import make_context, start_process

look = "import sys; sys.exit(0 if 'ensemble.training.preload' in sys.modules else 7)"
process = make_context("ensemble.training.tasks").Process(target=exec, args=(look,))
start_process(process)
process.join()
sys.exit(process.exitcode)
"""


def test_a_worker_finds_the_compiled_kernels_loaded() -> None:
    """Else each fold loads them anew, in 0.4 s: Python skips a module of the server's list that is not there."""
    answer = subprocess.run([sys.executable, "-c", FIRST_WORKER], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
