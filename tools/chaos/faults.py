"""Faults of the disk, and kills at a chosen moment, for a command that runs with the library of `faults.c` preloaded.

Counted is each call that changes a file below `root`: open to make or empty, write, rename, unlink, mkdir, rmdir,
truncate, link, symlink, fsync, and copies inside the kernel. Knows nothing of `ens`.
"""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Action = Literal["nothing", "count", "before", "half", "fail", "room"]
SOURCE = Path(__file__).with_name("faults.c")
_STATE = struct.Struct("QQI")
ERRORS = {"ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "EIO": errno.EIO}


@dataclass(frozen=True)
class Fault:
    """What happens to a command's calls.

    `before`: SIGKILL in place of call `at`; `half`: half of that call, then SIGKILL; `fail`: it and all later ones that
    need room on the disk fail; `room`: as `fail`, for writes alone, once `at` bytes were written.
    """

    action: Action = "count"
    at: int = 0
    error: str = "ENOSPC"
    kills_command: bool = True
    """Whether a kill takes the whole command; else only the process that made the call, which may be a worker."""

    def __str__(self) -> str:
        if self.action in ("before", "half"):
            whom = "the command" if self.kills_command else "the process"
            return f"kill of {whom} {'before' if self.action == 'before' else 'in the middle of'} call {self.at}"
        unit = "byte" if self.action == "room" else "call"
        return f"{self.error} from {unit} {self.at} on" if self.action in ("fail", "room") else "no fault"


NOTHING = Fault("nothing")


class FaultLibrary:
    """The compiled library, its counter and its journal, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            raise FileNotFoundError("no C compiler: cc is needed (Debian: gcc and libc6-dev)")
        self.path, self._state, self.journal = folder / "faults.so", folder / "faults.state", folder / "journal.txt"
        command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(self.path), str(SOURCE), "-ldl"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{SOURCE}: does not compile:\n{done.stderr}")
        self._reset()

    def environment(self, fault: Fault, root: Path) -> dict[str, str]:
        """What a command is started with; counts begin anew."""
        self._reset()
        return {
            "LD_PRELOAD": str(self.path),
            "ENS_FAULT_STATE": str(self._state),
            "ENS_FAULT_JOURNAL": str(self.journal),
            "ENS_FAULT_ROOT": str(root),
            "ENS_FAULT_DO": fault.action,
            "ENS_FAULT_AT": str(fault.at),
            "ENS_FAULT_ERRNO": str(ERRORS[fault.error]),
            "ENS_FAULT_WHO": "command" if fault.kills_command else "process",
            "ENS_FAULT_GROUP": "",
        }

    @property
    def calls(self) -> list[str]:
        """The calls so far, in order, as `write /some/path`."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_text(encoding="utf-8", errors="replace").splitlines()
        parts = sorted((line.split(" ", 3) for line in lines), key=lambda part: int(part[0]))
        return [f"{part[2]} {part[3]}" for part in parts if len(part) == 4]

    @property
    def written(self) -> int:
        """Bytes written so far, where a fault by bytes was asked for."""
        return int(_STATE.unpack_from(self._state.read_bytes())[1])

    @property
    def has_fired(self) -> bool:
        """Whether the fault came to pass: a command may end before the call that it waits for."""
        return bool(_STATE.unpack_from(self._state.read_bytes())[2])

    def _reset(self) -> None:
        if self._state.exists():  # in place: a process that is still ending may have it mapped
            with self._state.open("r+b") as stream:
                stream.write(bytes(64))
        else:
            self._state.write_bytes(bytes(64))
        self.journal.unlink(missing_ok=True)


def is_needed() -> bool:
    """Whether a missing compiler is an error, as in continuous integration, and not a reason to skip."""
    return os.environ.get("CI") == "true"
