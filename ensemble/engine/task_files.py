"""For engines whose workers can't see the task's folder: its files travel to the worker and back with its events.

Whole or not at all: the folder is filled under another name, then renamed.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from ensemble.core.files import save_bytes, scratch_folder
from ensemble.core.machine import Report
from ensemble.engine.task import Task, TaskEvent, call_task

Files = dict[str, bytes]
"""Content by path below a task's folder, with slashes."""
_INCOMING = ".incoming"  # of a folder with a leading dot, which nobody takes for a fold


def pack_folder(folder: Path) -> Files:
    """All files of a folder, which may be missing: an earlier attempt's, such as its checkpoints."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def call_elsewhere(task: Task, files: Files, report: Report) -> TaskEvent:
    """At the worker: run a task in a temporary folder that starts with `files`; the event carries the final ones."""
    with scratch_folder() as place:
        folder = place / "task"
        _write(files, folder)
        event = call_task(dataclasses.replace(task, folder=folder), report)
        return dataclasses.replace(event, data={**event.data, "files": pack_folder(folder)})


def receive(task: Task, event: TaskEvent) -> TaskEvent:
    """At the engine: put the files in place of an earlier attempt's, and give back the event without them."""
    data = dict(event.data)
    files = data.pop("files", {})
    incoming = task.folder.with_name(f".{task.folder.name}{_INCOMING}")
    shutil.rmtree(incoming, ignore_errors=True)
    _write(files, incoming)
    shutil.rmtree(task.folder, ignore_errors=True)
    incoming.rename(task.folder)
    if "log" in data:
        data["log"] = str(task.folder / "log.txt")
    return dataclasses.replace(event, data=data)


def _write(files: Files, folder: Path) -> None:
    """Fill a new folder; a name that leads out of it is refused."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        target = folder / name
        if not target.resolve().is_relative_to(folder.resolve()):  # a worker elsewhere is not trusted with paths
            raise ValueError(f"{folder}: a file would land outside of it: {name}")
        save_bytes(target, content)
