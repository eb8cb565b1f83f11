"""Whether the kernel has killed for want of memory: what a process that just vanished can't tell itself."""

from __future__ import annotations

from pathlib import Path

__all__ = ["count_memory_kills"]


def count_memory_kills(root: Path = Path("/")) -> int:
    """Processes killed for want of memory so far, in this process' control group where there is one, else anywhere.

    To be asked before and after: a difference means that somebody was killed, probably the one that is missing.
    """
    group = _read(root / "proc/self/cgroup")
    for line in group.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2
            found = _counter(root / f"sys/fs/cgroup{path}/memory.events")
        elif controllers == "memory":
            found = _counter(root / f"sys/fs/cgroup/memory{path}/memory.oom_control")
        else:
            continue
        if found is not None:
            return found
    return _counter(root / "proc/vmstat") or 0


def _counter(path: Path) -> int | None:
    """The number behind `oom_kill` in a file of names and numbers; None where there is none."""
    for line in _read(path).splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill" and value.strip().isdecimal():
            return int(value)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
