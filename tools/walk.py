"""How far a reader walks to follow one command: which functions run, in how many files, and how often the file changes.

    python tools/walk.py                 all three walks of this checkout
    python tools/walk.py --order blend   every function of one walk, in the order of its first call

Three commands run for real, each in a fresh process, on the embedded digits: `train` with two folds inline, `blend
--method stack` of two runs, and one trial of `tune`. A function counts once, where it is first called: that is how one
reads code that is new to one. A change of file is two functions in this order that stand in different files; a change
of room, in different folders of `ensemble/`. What runs while modules are imported does not count, nor do functions
without a name (comprehensions, lambdas) and what `dataclass` makes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SMALL = ["--set", "folds.k=2", "--set", "train.epochs=1", "--set", "train.precision=fp32"]
TRAIN = ["train", "--recipe", "quickstart", "--engine", "inline", *SMALL]
WALKS = {
    "train": [*TRAIN, "--name", "walked"],
    "blend": ["blend", "first/probs.npy", "second/probs.npy", "--method", "stack", "--force", "--name", "walked"],
    "tune": ["tune", "--recipe", "quickstart", "--trials", "1", "--engine", "inline", *SMALL],
}
"""The command lines that are followed; the runs that `blend` needs are trained first, unfollowed."""


def main() -> None:
    """Walk, and print a line a walk."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("walks", nargs="*", choices=[[], *WALKS], help="which to take; all without a name")
    parser.add_argument("--order", action="store_true", help="print every function in the order of its first call")
    parser.add_argument("--follow", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.follow:
        follow(json.loads(arguments.follow))
        return
    print(f"{'walk':8} {'files':>6} {'functions':>10} {'changes of file':>16} {'of room':>8}")
    for name in arguments.walks or WALKS:
        steps = take(name)
        files, rooms = [step[0] for step in steps], [step[0].rpartition("/")[0] for step in steps]
        print(f"{name:8} {len(set(files)):6} {len(steps):10} {changes(files):16} {changes(rooms):8}")
        if arguments.order:
            print("\n".join(f"  {file}:{line} {function}" for file, function, line in steps))


def changes(names: list[str]) -> int:
    """How often a name is another than the one before it."""
    return sum(a != b for a, b in pairwise(names))


def take(name: str) -> list[list[Any]]:
    """The functions of one walk as [file, function, line], in the order of their first calls."""
    with tempfile.TemporaryDirectory(prefix="walk-") as folder:
        if name == "blend":
            for run, seed in (("first", 0), ("second", 1)):
                command([*TRAIN, "--name", run, "--set", f"seed={seed}"], folder, followed=False)
        return command(WALKS[name], folder, followed=True)


def command(words: list[str], folder: str, *, followed: bool) -> list[list[Any]]:
    """Run one command in a process of its own, with the outputs in `folder`."""
    words = [f"{folder}/{word}" if word.endswith(".npy") else word for word in words]
    asked = json.dumps({"words": [*words, "--outputs", folder], "followed": followed})
    told = Path(folder) / "walk.json"
    environment = {**os.environ, "WALK_TOLD": str(told)}
    run = [sys.executable, __file__, "--follow", asked]
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"walk: ens {' '.join(words)} ended with {done.returncode}\n{done.stderr[-2000:]}")
    steps: list[list[Any]] = json.loads(told.read_text())
    return steps


def follow(asked: dict[str, Any]) -> None:
    """In the process of its own: run the command, and write down which functions of the package are called first."""
    import ensemble
    from ensemble.cli import main as ens

    package = str(Path(ensemble.__file__).parent) + os.sep
    firsts: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code not in firsts and code.co_filename.startswith(package) and not importing(frame):
            firsts[code] = None

    if asked["followed"]:
        threading.setprofile(note)
        sys.setprofile(note)
    try:
        code = ens(asked["words"])
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    steps = [
        (code.co_filename.removeprefix(package), code.co_qualname, code.co_firstlineno)
        for code in firsts
        if not code.co_name.startswith("<") and code.co_filename.endswith(".py")
    ]
    Path(os.environ["WALK_TOLD"]).write_text(json.dumps(steps))
    sys.exit(code)


def importing(frame: FrameType | None) -> bool:
    """Whether a call is made while a module is imported: tables being filled, decorators being applied."""
    while frame := frame and frame.f_back:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") != "__main__":
            return True
    return False


if __name__ == "__main__":
    main()
