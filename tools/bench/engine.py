"""What the local engine costs a task, how soon a task begins, and two one-thread slots against one with two threads.

The peer of a task is a bare forkserver process; that of the slots is the same run, one fold after the other.
.venv/bin/python tools/bench/engine.py
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from side_by_side import row

from ensemble.engine.scheduler import run_tasks
from ensemble.engine.task import LAST, Slots, Task, TaskEvent
from ensemble.engine.worker import start_process
from ensemble.runs.train import train

MODULE = "engine_tasks"


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=1000, help="empty tasks (1,000)")
    parser.add_argument("--turns", type=int, default=3, help="turns of each way to train five folds (3)")
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each fold (6)")
    arguments = parser.parse_args()
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)  # or the server can't preload what lies beside this script
    with tempfile.TemporaryDirectory(prefix="ens-bench-") as place:
        measure_tasks(Path(place), arguments.tasks)
        measure_slots(Path(place), arguments.turns, arguments.epochs)
    return 0


def measure_tasks(place: Path, count: int) -> None:
    """Empty tasks one after the other through one slot, then as many bare processes."""
    ends: list[float] = []

    def listen(event: TaskEvent) -> None:
        if event.kind in LAST:
            ends.append(time.monotonic())

    tasks = [Task(str(number), f"{MODULE}:first_line", {}, place / "tasks" / str(number)) for number in range(count)]
    last = run_tasks(tasks, "local", listen, Slots(1))
    begins = [last[task.name].data["result"] for task in tasks]
    overheads = [after - before for before, after in itertools.pairwise(ends)]
    waits = [begin - end for end, begin in zip(ends, begins[1:], strict=False)]
    context = multiprocessing.get_context("forkserver")
    bare = []
    for _ in range(count):
        clock = time.monotonic()
        process = context.Process(target=os.getpid)
        start_process(process)
        process.join()
        bare.append(time.monotonic() - clock)
    ratio = statistics.median(bare) / statistics.median(overheads)
    note = f"over {count} after the first"
    print(row("an empty task", f"{_ms(overheads)} ms", "a bare process", f"{_ms(bare)} ms", ratio, note=note))
    print(f"first line after the slot became free: {_ms(waits)} ms, 99 of 100 within {_ms(waits, 99)} ms")


def measure_slots(place: Path, turns: int, epochs: int) -> None:
    """Five folds both ways, in turns; from the first fold's start to the last one's end."""
    walls: dict[str, list[float]] = {"two slots": [], "one after the other": []}
    idle: list[float] = []
    for turn in range(turns):
        for name, (workers, threads) in {"two slots": (2, 1), "one after the other": (1, 2)}.items():
            os.environ["OMP_NUM_THREADS"] = str(threads)
            events: list[tuple[float, Mapping[str, Any]]] = []
            train(
                "quickstart",
                sets=[f"train.epochs={epochs}"],
                name=f"{name.replace(' ', '-')}-{turn}",
                workers=workers,
                outputs=place / "outputs",
                on_event=_recorder(events),
            )
            starts = [at for at, event in events if event["event"] == "fold-started"]
            ends = [at for at, event in events if event["event"] == "fold-finished"]
            walls[name].append(max(ends) - min(starts))
            if workers == 2:
                idle.append(idle_share(events, workers))
    medians = {name: statistics.median(seconds) for name, seconds in walls.items()}
    ratio = medians["one after the other"] / medians["two slots"]
    shown = {name: f"{seconds:.1f} s" for name, seconds in medians.items()}
    print(
        row(
            "five folds, two slots", shown["two slots"], "one after the other", shown["one after the other"], ratio, 1.2
        )
    )
    print(f"slots idle while folds waited: {100 * statistics.median(idle):.2f} %")


def _recorder(events: list[tuple[float, Mapping[str, Any]]]) -> Callable[[Mapping[str, Any]], None]:
    return lambda event: events.append((time.monotonic(), event))


def idle_share(events: list[tuple[float, Mapping[str, Any]]], slots: int) -> float:
    """Share of the slots' time, from the first start to the last one, in which one was free."""
    starts = [(at, event) for at, event in events if event["event"] == "fold-started"]
    ends = {event["fold"]: at for at, event in events if event["event"] == "fold-finished"}
    first, last = starts[0][0], starts[-1][0]
    slot_of = {event["fold"]: event["slot"] for _, event in starts}
    busy_until: dict[int, float] = {}
    idle = 0.0
    for at, event in starts:
        idle += at - busy_until.get(event["slot"], first)
        busy_until[slot_of[event["fold"]]] = ends[event["fold"]]
    return idle / (slots * (last - first))


def _ms(seconds: list[float], percentile: int = 50) -> str:
    return f"{1000 * statistics.quantiles(seconds, n=100, method='inclusive')[percentile - 1]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
