"""The Slurm engine: a job a task, sent with `sbatch` and followed through files on a disk that all nodes see.

Each task has a mailbox beside its folder: the task, the events that its worker (`slurm_worker.py`) appends, the word to
stop. So nothing has to listen on a port, a command that went away can come back to its jobs, and a job that Slurm puts
back into the queue goes on from its last checkpoint. A job that neither `squeue` nor its mailbox knows any more is dead
and sent again. Accounting (`sacct`) is not needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ensemble.core.files import save_bytes, save_text
from ensemble.core.machine import safe_environment
from ensemble.core.plain_file import make_own_folder, open_plain, read_plain
from ensemble.engine.task import LAST, Attempt, Limits, Listener, Slots, Task, TaskEvent
from ensemble.errors import InputError

PROGRAMS = ("sbatch", "squeue", "scancel", "scontrol")
MAILROOM = ".slurm"
TASK, EVENTS, STOP, JOB = "task", "events", "stop", "job"
"""Files of a mailbox: the pickled task; a line of JSON an event; there: stop for good; the job's number."""
OURS = frozenset(
    {"array", "chdir", "dependency", "error", "export", "input", "job-name", "open-mode", "output", "parsable", "wait"}
    | {"requeue", "no-requeue", "signal", "test-only", "wrap", "nodes", "ntasks", "help", "version", "quiet"}
)
"""Options of `sbatch` that this engine sets itself, or that would break it."""
_ASK_S = 2.0  # between two questions to the controller, which thousands of users share; events need none
_GONE_S = 6.0  # absent for so long: dead. Files of a shared disk may arrive some seconds after the job's end
_READ_S = 0.2  # between two looks at the mailboxes
_TIMEOUT_S = 60.0  # of one program: a controller under load answers late
_SILENT_S = 600.0  # without an answer of the controller, after which the command gives up; its jobs run on
_LINES = 3  # of what a job printed before it died


@dataclass
class _Sent:
    """A task that was sent."""

    attempt: Attempt
    box: Path
    number: str  # as squeue prints it: 12_3
    read: int = 0  # bytes of its events
    has_started: bool = False
    absent_since: float | None = None
    reason: str = ""


class SlurmEngine:
    """Sends what is submitted as an array of jobs; a listener gets what their workers write."""

    def __init__(
        self,
        listener: Listener,
        slots: Slots,
        limits: Limits = Limits(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        missing = [program for program in PROGRAMS if shutil.which(program) is None]
        if missing:
            raise InputError(
                f"--engine slurm: no {missing[0]} on this machine; run the command where `sinfo` works, such as on the "
                "cluster's login node"
            )
        self._listener, self._slots, self._limits, self._clock = listener, slots, limits, clock
        self._queue: deque[Attempt] = deque()
        self._jobs: dict[str, _Sent] = {}
        self._keys: dict[str, str] = {}  # of each task as it was submitted; attempts may have other arguments
        self._asked_at = -_ASK_S
        self._answered_at = clock()

    def submit(self, task: Task) -> None:
        """Queue a task; it is sent at the next `poll`, in one array with the others."""
        if task.name in self._jobs or any(queued.task.name == task.name for queued in self._queue):
            raise ValueError(f"task {task.name} is queued already")
        self._keys[task.name] = _key(task)
        self._queue.append(Attempt(task))

    def poll(self, timeout_s: float) -> None:
        """Send what is queued, pass on events, find jobs that died; waits up to `timeout_s` for an event."""
        if self._queue:
            attempts = list(self._queue)
            self._queue.clear()
            self._send([attempt for attempt in attempts if not self._take_up(attempt)])
        deadline = self._clock() + timeout_s
        while True:
            has_news = any([self._read(job) for job in list(self._jobs.values())])
            if self._jobs and self._clock() - self._asked_at >= _ASK_S:
                self._look_for_the_dead()
            if has_news or self._queue or self._clock() >= deadline:
                return
            time.sleep(max(0.0, min(_READ_S, deadline - self._clock())))

    def cancel(self, name: str) -> None:
        """Forget a queued task, or stop its job."""
        self._queue = deque(queued for queued in self._queue if queued.task.name != name)
        if name in self._jobs:
            self._stop([self._jobs[name]])

    def close(self) -> None:
        """Ask every job to save and stop, then cancel those that did not; at once if interrupted meanwhile."""
        self._queue.clear()
        self._stop(list(self._jobs.values()))

    def leave(self) -> dict[str, str]:
        """Send what is queued, and let all jobs run on; their numbers, by task. A later engine takes them up."""
        self.poll(0.0)
        return {name: job.number for name, job in self._jobs.items()}

    def _take_up(self, attempt: Attempt) -> bool:
        """Follow a job that an earlier command sent for the very same task, if it is there or has reported its end.

        A job of another task in the same folder is cancelled: two workers there would spoil each other's files.
        """
        name, box = attempt.task.name, _mailbox(attempt.task.name, attempt.task.folder)
        number, key = _sent(box)
        if not number:
            return False
        job = _Sent(attempt, box, number)
        events, job.read = _events(box / EVENTS, 0)
        is_over = any(event.kind in (*LAST, "again") for event in events)
        is_there = number in self._ask()
        if key != self._keys[name] or not (is_over or is_there):
            if is_there:
                self._stop([job])
            return False
        self._jobs[name] = job
        for event in events:
            if (event.kind == "started" and not job.has_started) or event.kind in (*LAST, "again"):
                self._pass_on(job, event)
        return True

    def _send(self, attempts: Sequence[Attempt]) -> None:
        """One `sbatch` for all: an array whose element n works on line n of a list of mailboxes."""
        if not attempts:
            return
        lines = []
        for attempt in attempts:
            box = _mailbox(attempt.task.name, attempt.task.folder)
            shutil.rmtree(box, ignore_errors=True)
            make_own_folder(box)
            content = self._content(attempt)
            save_bytes(box / TASK, content)
            lines.append(f"{_digest(content)} {box}")
        room = _mailbox(attempts[0].task.name, attempts[0].task.folder).parent
        name = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
        text = "\0".join(lines)  # a path may hold anything else
        save_text(room / f"list-{name}", text)
        script = room / f"job-{name}.sh"
        save_text(script, _script(room / f"list-{name}"))
        number = self._sbatch(script, len(attempts))
        for index, attempt in enumerate(attempts):
            box = _mailbox(attempt.task.name, attempt.task.folder)
            job = _Sent(attempt, box, f"{number}_{index}")
            save_text(box / JOB, f"{job.number} {self._keys[attempt.task.name]}")
            self._jobs[attempt.task.name] = job
        self._asked_at = self._clock()  # the controller may show a new job a moment later

    def _sbatch(self, script: Path, count: int) -> str:
        """Hand the script in; the job's number."""
        most = f"%{self._slots.at_once}" if self._slots.at_once else ""
        # B: to the script alone, which becomes the worker: in time for a checkpoint before a limit or a preemption.
        grace = max(1, round(self._limits.grace_s))
        words = ["sbatch", "--parsable", f"--array=0-{count - 1}{most}", "--job-name=ens", "--requeue"]
        words += ["--open-mode=append", f"--signal=B:TERM@{grace}", f"--output={script.parent / 'out-%A_%a.txt'}"]
        words += [f"--chdir={os.getcwd()}", *(f"--{ask}" for ask in self._slots.asks), str(script)]
        done = _run(words, {**os.environ, **safe_environment()})
        if done is None or done.returncode != 0:
            said = "no answer" if done is None else " ".join(done.stderr.split()) or f"exit code {done.returncode}"
            raise InputError(f"--engine slurm: sbatch refuses: {said.removeprefix('sbatch: error: ')}")
        return done.stdout.strip().split(";")[0]

    def _content(self, attempt: Attempt) -> bytes:
        """What travels: the task, and the environment its process needs."""
        task = attempt.task
        plain = (task.name, task.function, dict(task.arguments), str(task.folder.absolute()), task.threads)
        return pickle.dumps((plain, attempt.number, self._slots.environment(0, task.threads)), protocol=4)

    def _read(self, job: _Sent) -> bool:
        """Pass on what a job's worker has written since; whether it was anything."""
        events, job.read = _events(job.box / EVENTS, job.read)
        for event in events:
            if self._jobs.get(event.task) is not job:  # its listener cancelled it
                break
            self._pass_on(job, event)
        return bool(events)

    def _pass_on(self, job: _Sent, event: TaskEvent) -> None:
        job.absent_since = None
        if event.kind == "again":
            self._forget(job)
            self._try_again(*job.attempt.after_again(event))
        elif event.kind in LAST:
            self._forget(job)
            self._listener(event)
        else:
            job.has_started = True
            self._listener(event)

    def _look_for_the_dead(self) -> None:
        """Ask the controller for all jobs; one that it does not know, and that has not reported its end, is dead."""
        try:
            states = self._ask()
        except InputError:  # a controller that restarts is no reason to believe that jobs are gone
            if self._clock() - self._answered_at > _SILENT_S:
                raise
            return
        now = self._clock()
        for job in list(self._jobs.values()):
            state = states.get(job.number)
            if state is not None:
                job.absent_since = None
                if state != job.reason and not job.has_started:
                    job.reason = state
                    self._listener(TaskEvent(job.attempt.task.name, "progress", {"event": "waiting", "reason": state}))
            elif job.absent_since is None:
                job.absent_since = now
            elif now - job.absent_since >= _GONE_S and not self._read(job):
                how = _last_words(job)
                self._forget(job)
                self._try_again(*job.attempt.after_death(how))

    def _ask(self) -> dict[str, str]:
        """Number and state of this user's jobs; of one that waits also why."""
        self._asked_at = self._clock()
        done = _run(["squeue", "--me", "--noheader", "--array", "--format=%F_%K %T %r"], dict(os.environ))
        if done is None or done.returncode != 0:
            said = "no answer" if done is None else " ".join(done.stderr.split())
            raise InputError(f"--engine slurm: squeue: {said}; the same command goes on once the controller answers")
        self._answered_at = self._clock()
        states = {}
        for line in done.stdout.splitlines():
            number, state, reason = (*line.split(None, 2), "", "")[:3]
            states[number] = f"{state.lower()}: {reason}" if state == "PENDING" else state.lower()
        return states

    def _try_again(self, event: TaskEvent, again: Attempt | None) -> None:
        self._queue.extendleft([again] if again is not None else [])
        self._listener(event)

    def _stop(self, jobs: Sequence[_Sent]) -> None:
        """Let running jobs save what they have; cancel the others, and at last all."""
        if not jobs:
            return
        numbers = [job.number for job in jobs]
        try:
            for job in jobs:
                with contextlib.suppress(OSError):
                    save_text(job.box / STOP, "")  # read before the signal comes: not to be put back into the queue
            _run(["scancel", "--state=PENDING", *numbers], dict(os.environ))
            _run(["scancel", "--batch", "--signal=TERM", *numbers], dict(os.environ))
            deadline = time.monotonic() + self._limits.grace_s
            while time.monotonic() < deadline:
                with contextlib.suppress(InputError):
                    if not {*numbers} & {*self._ask()}:
                        break
                time.sleep(_READ_S)
        finally:
            _run(["scancel", *numbers], dict(os.environ))
            for job in jobs:
                self._forget(job)

    def _forget(self, job: _Sent) -> None:
        """A job is over: its mailbox goes, and the mailroom with the last one."""
        self._jobs.pop(job.attempt.task.name, None)
        _remove_mailbox(job.box)


def asked_of_slurm(words: Iterable[str]) -> tuple[str, ...]:
    """Options for `sbatch` from `KEY=VALUE` words; what this engine sets itself, or what is none, is refused."""
    asks = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.strip().lstrip("-").replace("_", "-")
        if not key or not key.replace("-", "").isalnum() or (equals and not value.strip()):
            raise InputError(f"--slurm {word}: write KEY=VALUE, such as partition=gpu, time=4:00:00, mem=32G, gpus=1")
        if key in OURS:
            raise InputError(
                f"--slurm {word}: `ens` sets {key} itself; give what a fold needs, such as gpus=1 or mem=32G"
            )
        asks[key] = f"{key}={value.strip()}" if equals else key
    return tuple(asks[key] for key in sorted(asks))


def slurm_threads(asks: Sequence[str]) -> int:
    """Threads of a fold: the CPUs that each job is given."""
    for ask in asks:
        key, _, value = ask.partition("=")
        if key == "cpus-per-task" and value.isdecimal() and int(value) > 0:
            return int(value)
    return 1


def has_mail(name: str, folder: Path) -> bool:
    """Whether a job was sent for this task and nobody has heard its end: it may be at work in the folder."""
    return (_mailbox(name, folder) / JOB).exists()


def drop_mail(name: str, folder: Path) -> None:
    """Forget a job whose task is known to be done."""
    _remove_mailbox(_mailbox(name, folder))


def jobs_left(folder: Path) -> list[str]:
    """Numbers of the jobs that an earlier command left at work in this folder; all, where Slurm can't be asked."""
    sent = [number for box in (folder / MAILROOM).glob("*/") if (number := _sent(box)[0])]
    if not sent:
        return []
    done = _run(["squeue", "--me", "--noheader", "--array", "--format=%F_%K"], dict(os.environ))
    if done is None or done.returncode != 0:
        return sorted(sent)
    return sorted({*sent} & {*done.stdout.split()})


def cancel_left(folder: Path) -> None:
    """End the jobs that an earlier command left at work on folders in this one."""
    if numbers := jobs_left(folder):
        _run(["scancel", *numbers], dict(os.environ))
        deadline = time.monotonic() + _TIMEOUT_S
        while jobs_left(folder) and time.monotonic() < deadline:
            time.sleep(_READ_S)
        if jobs_left(folder):
            raise InputError(f"{folder}: Slurm's jobs {', '.join(numbers)} work there and could not be cancelled")
    shutil.rmtree(folder / MAILROOM, ignore_errors=True)


def _mailbox(name: str, folder: Path) -> Path:
    place = folder.absolute()
    short = hashlib.sha256(f"{name}\0{place}".encode("utf-8", "surrogateescape")).hexdigest()[:20]
    return place.parent / MAILROOM / short


def _remove_mailbox(box: Path) -> None:
    """Remove a mailbox, and the mailroom with the last one."""
    shutil.rmtree(box, ignore_errors=True)
    with contextlib.suppress(OSError):
        if not any(entry.is_dir() for entry in box.parent.iterdir()):
            shutil.rmtree(box.parent, ignore_errors=True)


def _sent(box: Path) -> tuple[str, str]:
    """The number and the key of the job that was sent for a mailbox; empty where none was."""
    try:
        number, _, key = read_plain(box / JOB).decode("ascii", "replace").partition(" ")
    except OSError:
        return "", ""
    return (number, key.strip()) if number.replace("_", "").isdecimal() else ("", "")


def _key(task: Task) -> str:
    """What tells tasks apart, the same in every command that makes the task."""
    facts = [task.name, task.function, dict(task.arguments), str(task.folder.absolute()), task.threads]
    return _digest(json.dumps(facts, sort_keys=True, default=repr).encode("utf-8", "surrogateescape"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _script(mailboxes: Path) -> str:
    """What Slurm runs; it becomes the worker, so that the worker gets the signals."""
    python, place = shlex.quote(sys.executable), shlex.quote(str(mailboxes))
    return f'#!/bin/sh\nexec {python} -P -m ensemble.engine.slurm_worker {place} "$SLURM_ARRAY_TASK_ID"\n'


def _run(words: Sequence[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str] | None:
    """One of Slurm's programs; None where it does not answer in time."""
    try:
        return subprocess.run(
            words, env=environment, capture_output=True, text=True, errors="replace", check=False, timeout=_TIMEOUT_S
        )
    except (subprocess.TimeoutExpired, OSError):
        return None


def _events(path: Path, start: int) -> tuple[list[TaskEvent], int]:
    """Whole lines from byte `start` on, and where the next begin."""
    try:
        with open_plain(path) as stream:
            stream.seek(start)
            content = stream.read()
    except OSError:
        return [], start
    whole = content[: content.rfind(b"\n") + 1]
    return [TaskEvent(*json.loads(line)) for line in whole.splitlines()], start + len(whole)


def _last_words(job: _Sent) -> str:
    """How a job died that wrote no last event: what its script printed, if anything."""
    try:
        text = read_plain(job.box.parent / f"out-{job.number}.txt").decode("utf-8", "replace")
    except OSError:
        text = ""
    lines = [line.strip() for line in text.splitlines() if line.strip()][-_LINES:]
    return f"Slurm's job {job.number} is gone" + (f": {' / '.join(lines)}" if lines else "")
