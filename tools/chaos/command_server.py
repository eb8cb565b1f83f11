"""Runs commands of `ens`, each in a child forked from one process that has imported all they need.

A command starts in milliseconds, where a fresh Python that imports torch takes seconds. Each has a session, a working
directory, an environment and a limit of time of its own. Run as a script this is that one process: requests come as
lines of JSON on stdin, answers go out on stdout.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_MARK = "ENS_CHAOS_MARK"
_IMPORTED = (
    "cv2",
    "pandas",
    "optuna",
    "scipy.optimize",
    "torch",
    "ensemble.training.preload",
    "rich.table",
    "ensemble.cli",
)
_ROOMS = ("commands", "blending", "runs", "tuning", "training", "images", "inference")
_SETTLE_S = 20.0


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; negative: the signal that it died of."""
    out: str
    err: str
    seconds: float
    is_hung: bool = False
    peak_mb: float = 0.0
    left: Sequence[str] = ()
    """Processes that it left alive."""

    @property
    def faults(self) -> list[str]:
        """What no command may do, whatever was done to it: hang, show a traceback, end by its own fault."""
        text = self.out + self.err
        faults = ["it hung"] if self.is_hung else []
        faults += ["a traceback on the screen"] if "Traceback (most recent call last)" in text else []
        faults += ["a fault of its own"] if "a fault of its own" in text else []
        faults += [f"processes left: {', '.join(self.left)}"] if self.left else []
        return faults


class CommandServer:
    """The parent's side; a context, whose end ends the server."""

    def __init__(self, folder: Path, library: Path | None = None) -> None:
        """`folder`: where outputs of commands are caught; `library`: preloaded into all commands."""
        self._folder, self._mark = folder, secrets.token_hex(8)
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
        environment |= {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
        self._environment = environment | ({"LD_PRELOAD": str(library)} if library else {})
        for name in [name for name in self._environment if name.startswith(("ENS_", "_ARGCOMPLETE"))]:
            del self._environment[name]
        command = [sys.executable, "-P", str(Path(__file__).resolve())]
        self._server = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=self._environment, text=True, cwd=folder
        )

    def __enter__(self) -> CommandServer:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it was killed with this process's group
            self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()

    def run(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
        memory_mb: int = 0,
    ) -> Ended:
        """Run `ens` with these words in `folder`, forked; `memory_mb`: how much more address space it may take."""
        assert self._server.stdin is not None and self._server.stdout is not None
        out, err = self._folder / "stdout.txt", self._folder / "stderr.txt"
        own = {**self._environment, _MARK: self._mark, **(environment or {})}
        request = {"words": list(words), "cwd": str(folder), "environment": own, "timeout_s": timeout_s}
        request |= {"out": str(out), "err": str(err), "memory_mb": memory_mb}
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError(f"the server of commands died: {self._server.wait()}")
        answer: dict[str, Any] = json.loads(line)
        left = self._wait_for_others(answer.pop("session"))
        return Ended(**answer, out=_text(out), err=_text(err), left=left)

    def run_fresh(
        self,
        words: Sequence[str],
        folder: Path,
        *,
        environment: Mapping[str, str] | None = None,
        timeout_s: float = 120.0,
        stdout: int | None = None,
    ) -> Ended:
        """The same in a fresh Python, as a person starts it: by a script, so that its folder alone is on the path."""
        script = self._folder / "bin" / "ens"
        if not script.exists():
            script.parent.mkdir(exist_ok=True)
            script.write_text("import sys\nfrom ensemble.cli import main\nsys.exit(main())\n", encoding="utf-8")
        out, err = self._folder / "stdout.txt", self._folder / "stderr.txt"
        own = {**self._environment, _MARK: self._mark, **(environment or {})}
        started, is_hung = time.monotonic(), False
        with out.open("wb") as out_stream, err.open("wb") as err_stream:
            process = subprocess.Popen(
                [sys.executable, str(script), *words],
                cwd=folder,
                env=own,
                stdin=subprocess.DEVNULL,
                stdout=out_stream if stdout is None else stdout,
                stderr=err_stream,
                start_new_session=True,
            )
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                is_hung = True
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        seconds = time.monotonic() - started
        left = self._wait_for_others(process.pid)
        return Ended(process.returncode, _text(out), _text(err), seconds, is_hung, left=left)

    def _wait_for_others(self, session: int) -> list[str]:
        """What a command started may take a moment to notice that it ended; what stays longer is killed and named."""
        deadline, own = time.monotonic() + _SETTLE_S, self._server.pid
        while (alive := _alive(session, self._mark, own)) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
        return [f"{pid} {what}" for pid, what in alive.items()]


def _alive(session: int, mark: str, server: int) -> dict[int, str]:
    """Processes of a session, or with the mark in their environment, but for zombies."""
    alive = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) in (server, os.getpid()):
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            is_marked = mark.encode() in (entry / "environ").read_bytes()
            if fields[0] not in "ZX" and (int(fields[3]) == session or is_marked):
                alive[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:80]
        except (OSError, IndexError):  # it ended meanwhile, or is another user's
            continue
    return alive


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="backslashreplace")


def _serve() -> None:
    """Import all, then answer requests until stdin ends."""
    import importlib

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not be taken for an answer
    for name in _IMPORTED:
        importlib.import_module(name)
    for room in _ROOMS:
        for module in sorted((ROOT / "ensemble" / room).glob("*.py")):
            if module.stem not in ("__init__", "preload", "server"):
                importlib.import_module(f"ensemble.{room}.{module.stem}")
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            answers.close()
            _become(request)
        answers.write(json.dumps(_wait(pid, request["timeout_s"])) + "\n")
        answers.flush()


def _wait(pid: int, timeout_s: float) -> dict[str, Any]:
    """How a child ended; its whole session is killed when it takes longer."""
    started, is_hung = time.monotonic(), False
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        if not is_hung and time.monotonic() - started > timeout_s:
            is_hung = True
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.004)
    return {
        "code": os.waitstatus_to_exitcode(status),
        "seconds": time.monotonic() - started,
        "is_hung": is_hung,
        "peak_mb": usage.ru_maxrss / 1024,
        "session": pid,
    }


def _become(request: Mapping[str, Any]) -> None:
    """In the child: be the command, with its own session, streams, folder and environment; never returns."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
            flags = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            descriptor = os.open(path, flags, 0o600)
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environment"])
        import tempfile

        tempfile.tempdir = None  # of the environment that is in force now
        if request["memory_mb"]:
            _limit_memory(request["memory_mb"])
        if "ENS_FAULT_STATE" in os.environ:
            ctypes.CDLL(None).faults_reload()
        code = _call(request["words"])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _call(words: Sequence[str]) -> int:
    """The command, and then what a Python that ends does: exit handlers, streams."""
    import atexit

    from ensemble.cli import main

    sys.argv = ["ens", *words]
    try:
        code = main(words)
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 120  # as Python itself says it
    return code


def _limit_memory(more_mb: int) -> None:
    """Let this process take so much more address space than it has."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + (more_mb << 20),) * 2)


if __name__ == "__main__":
    _serve()
