"""The server that workers come from must leave CUDA alone: once asked, a driver sees no later choice."""

from __future__ import annotations

import subprocess
import sys

TRAP = """
import torch
calls = []
for name in ("device_count", "is_available", "init", "_lazy_init", "mem_get_info", "get_device_properties"):
    setattr(torch.cuda, name, lambda *rest, name=name: calls.append(name) or 0)
import ensemble.engine.worker
import ensemble.training.tasks
assert not torch.cuda.is_initialized()
print(calls)
"""


def test_what_a_server_preloads_asks_nothing_of_cuda() -> None:
    done = subprocess.run([sys.executable, "-c", TRAP], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
