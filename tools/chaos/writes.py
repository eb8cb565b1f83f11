"""Every command that writes, killed at its n-th write or out of disk from there on, then given once more.

    python tools/chaos/writes.py --tries 300                       # kills
    python tools/chaos/writes.py --tries 100 --faults ENOSPC       # a full disk; EDQUOT, EIO likewise
    python tools/chaos/writes.py --command blend --only 17 --keep  # one try again, its folder left to look at

After a kill the same command must end with 0, with the files of an undisturbed one, and leave nothing behind. On a
full disk the first must end with 3 and a line that names the trouble, nothing half-written may count, and the same
command must then do the rest. Which call is hit is drawn from the seed and the number of the try. A command with
`-local` in its name starts its folds in processes of their own, as usual; the others compute in their own process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script, Python knows this folder alone

from chaos.command_server import CommandServer, Ended
from chaos.faults import ERRORS, NOTHING, Fault, FaultLibrary
from chaos.workplace import (
    QUICK,
    TUNE,
    Snapshot,
    copy_template,
    environment,
    leftovers,
    make_template,
    unverified,
)

__all__ = ["COMMANDS", "Campaign", "main"]

CODES = (0, 2, 3, 130)
_INLINE = ("--engine", "inline")
_NAMES = ("--ids", "ids.txt", "--classes", "classes.txt")


@dataclass(frozen=True)
class Written:
    """A command that writes."""

    words: tuple[str, ...]
    prepare: Callable[[Path], None] | None = None
    """What is done to the copy of the place first."""
    refuses_its_own: bool = False
    """Whether, once done, it refuses to write over what it wrote: then a second one may end with 2."""


def _cold(folder: Path) -> None:
    """No fold plan, and no images decoded."""
    for name in ("folds", "cache"):
        shutil.rmtree(folder / "outputs" / name, ignore_errors=True)


def _cold_study(folder: Path) -> None:
    shutil.rmtree(folder / "outputs" / "studies", ignore_errors=True)


_BLEND = ("blend", "outputs/a/probs.npy", "outputs/b/probs.npy", "--name", "n")
COMMANDS: dict[str, Written] = {
    "init": Written(("init", "raw", "--name", "fresh"), refuses_its_own=True),
    "folds": Written(("folds", "--recipe", "tiny"), _cold),
    "eda": Written(("eda", "--recipe", "tiny"), _cold),
    "eda-out": Written(("eda", "--recipe", "tiny", "--out", "looks", "--augment"), _cold),
    "blend": Written(_BLEND),
    "blend-out": Written((*_BLEND, "--method", "greedy", "--template", "sample.csv", "--out", "sub.csv")),
    "adopt-float16": Written(("adopt", "half.npy", *_NAMES)),
    "adopt-renormalize": Written(("adopt", "sums.npy", *_NAMES, "--renormalize")),
    "adopt-out": Written(("adopt", "half.npy", "sums.npy", *_NAMES, "--renormalize", "--out", "mates")),
    "predict-again": Written(("predict", "a", "--tta", "hflip", *_INLINE)),
    "predict-images": Written(("predict", "a", "--images", "new", *_INLINE)),
    "predict-out": Written(("predict", "a", "--images", "new", "--out", "preds", *_INLINE)),
    "predict-blend": Written(("predict", "outputs/blends/ab", "--images", "new", *_INLINE)),
    "predict-pack": Written(("predict", "pack.zip", "--images", "new", "--out", "preds", *_INLINE)),
    "pack-folder": Written(("pack", "outputs/blends/ab", "--out", "packed"), refuses_its_own=True),
    "pack-zip": Written(("pack", "a", "--out", "deep/packed.zip"), refuses_its_own=True),
    "score": Written(("score", "a", "b", "--labels", "answers.csv")),
    "train": Written(("train", "--recipe", "tiny", "--name", "t", *QUICK), _cold),
    "tune": Written(("tune", "--recipe", "tiny", "--trials", "2", "--study", "t", *TUNE, *QUICK), _cold_study),
    "predict-local": Written(("predict", "a", "--images", "new")),
    "again-local": Written(("predict", "a", "--tta", "hflip", "--workers", "2")),
    "train-local": Written(("train", "--recipe", "tiny", "--name", "t", "--workers", "2", "--quiet"), _cold),
    "tune-local": Written(("tune", "--recipe", "tiny", "--trials", "2", "--study", "t", *TUNE, "--quiet"), _cold_study),
}
CHEAP = [name for name in COMMANDS if not name.endswith("-local")]
_MAY_BE_EARLIER = ("run.json", "study.json", "trial.json", "trials.csv", "history.csv", "tta_study.json")
"""Files that are replaced while a command goes on: between the old and the last version there are others."""


@dataclass(frozen=True)
class Undisturbed:
    """What a command does when it is left alone."""

    before: Snapshot
    after: Snapshot
    calls: int
    written: int


@dataclass
class Campaign:
    """Tries of commands in copies of one place; `complaints` is empty when all went as it should."""

    folder: Path
    seed: int = 0
    keep: bool = False
    complaints: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self.library = FaultLibrary(self.folder)
        self._server = CommandServer(self.folder, self.library.path)
        self._template, self._work = self.folder / "template", self.folder / "work"
        self._whole: dict[str, Undisturbed] = {}

    def __enter__(self) -> Campaign:
        make_template(self._work, lambda words, folder: self._checked(words, folder).code)  # records name their place
        copy_template(self._work, self._template)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.__exit__()

    def fault(self, name: str, number: int, kinds: Sequence[str]) -> Fault:
        """What try `number` does to a command: drawn from the seed, the command and the number, and nothing else."""
        chance = random.Random(f"{self.seed} {name} {number}")
        whole, kind = self.whole(name), chance.choice(list(kinds))
        if kind == "kill":
            action, takes_all = chance.choice(("before", "half")), chance.random() < 0.7
            return Fault(action, chance.randint(1, max(1, whole.calls)), kills_command=takes_all)  # type: ignore[arg-type]
        if chance.random() < 0.3 and whole.written:
            return Fault("room", chance.randrange(whole.written), kind)
        return Fault("fail", chance.randint(1, max(1, whole.calls)), kind)

    def attempt(self, name: str, number: int, kinds: Sequence[str], fault: Fault | None = None) -> list[str]:
        """One try: what was wrong with it."""
        fault = fault or self.fault(name, number, kinds)
        whole = self.whole(name)
        wrong: list[str] = []
        self._prepare(name)
        first = self._run(COMMANDS[name].words, fault)
        fired, calls = self.library.has_fired, self.library.calls
        where = self._shown(calls[fault.at - 1]) if 0 < fault.at <= len(calls) and fault.action != "room" else ""
        if fired:
            wrong += self._check_first(fault, first, whole)
        second = self._run(COMMANDS[name].words, NOTHING)
        wrong += self._check_second(name, second, whole)
        self.results.append(
            {"command": name, "number": number, "fault": str(fault), "call": where, "fired": fired, "wrong": wrong}
            | {"codes": [first.code, second.code]}
        )
        if wrong:
            kept = self._keep(name, number)
            again = f"--command {name} --only {number} --seed {self.seed} --faults {','.join(kinds)}"
            self.complaints.append(
                f"{name}, try {number}: {fault}{f' ({where})' if where else ''}: {'; '.join(wrong)}"
                f"\n    the first said: {_end(first)}\n    the second said: {_end(second)}\n    again: {again}{kept}"
            )
        return wrong

    def whole(self, name: str) -> Undisturbed:
        """The command left alone, once."""
        if name not in self._whole:
            self._prepare(name)
            before = Snapshot.of(self._work)
            # By bytes without end, so that they are counted too.
            ended = self._run(COMMANDS[name].words, Fault("room", 1 << 62))
            wrong = [*ended.faults, *leftovers(self._work)] + ([f"code {ended.code}"] if ended.code else [])
            if wrong:
                self.complaints.append(f"{name}, left alone: {'; '.join(wrong)}; it said: {_end(ended)}")
            calls, written = len(self.library.calls), self.library.written
            self._whole[name] = Undisturbed(before, Snapshot.of(self._work), calls, written)
        return self._whole[name]

    def _check_first(self, fault: Fault, ended: Ended, whole: Undisturbed) -> Iterator[str]:
        """What the command that was disturbed may not have done."""
        if fault.action in ("fail", "room"):
            yield from ended.faults
            words = os.strerror(ERRORS[fault.error])
            if ended.code not in (0, 3):  # 0: what could not be written was not needed, as a log of events
                yield f"exit code {ended.code} in place of 3"
            elif ended.code == 3 and words not in ended.err:
                yield f"no line says {words!r}"
            if ended.code == 0 and (lost := whole.after.differences(Snapshot.of(self._work))):
                yield f"it claims to be done, but {', '.join(lost)}"
        elif ended.is_hung or ended.left:
            yield from ended.faults
        for name, text in Snapshot.of(self._work).files.items():
            if name.endswith(_MAY_BE_EARLIER) or (name.endswith(".json") and "fold-" in name):
                continue
            if text not in (whole.before.files.get(name), whole.after.files.get(name), None):
                yield f"{name} is neither the old nor the new one"
        yield from unverified(self._work)
        status = self._run(("status", "--json"), NOTHING)
        if status.code != 0 or status.faults:
            yield f"then ens status ends with {status.code}: {_end(status)}"

    def _check_second(self, name: str, ended: Ended, whole: Undisturbed) -> Iterator[str]:
        """What the same command, given once more, has to have done."""
        yield from ended.faults
        differences = whole.after.differences(Snapshot.of(self._work))
        if ended.code != 0 and not (COMMANDS[name].refuses_its_own and ended.code == 2 and not differences):
            yield f"the same command then ends with {ended.code}"
        if differences:
            yield ", ".join(differences)
        if left := leftovers(self._work):
            yield f"left behind: {', '.join(left)}"

    def _prepare(self, name: str) -> None:
        copy_template(self._template, self._work)
        if (prepare := COMMANDS[name].prepare) is not None:
            prepare(self._work)

    def _run(self, words: Sequence[str], fault: Fault) -> Ended:
        own = {**environment(self._work), **self.library.environment(fault, self._work)}
        return self._server.run(words, self._work, environment=own)

    def _checked(self, words: Sequence[str], folder: Path) -> Ended:
        ended = self._server.run(words, folder, environment=environment(folder))
        if ended.code:
            print(ended.err, file=sys.stderr)
        return ended

    def _keep(self, name: str, number: int) -> str:
        if not self.keep:
            return ""
        kept = Path(tempfile.mkdtemp(prefix=f"ens-{name}-{number}-"))
        shutil.copytree(self._work, kept, symlinks=True, dirs_exist_ok=True)
        return f"\n    its folder: {kept}"

    def _shown(self, call: str) -> str:
        return call.replace(f"{self._work}/", "")


def summary(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line a command: tries, those whose fault came to pass, exit codes of both, faults."""
    lines = [f"{'command':<18} {'tries':>5} {'fired':>5} {'first ended with':<24} {'then':<10} {'faults':>6}"]
    for name in dict.fromkeys(result["command"] for result in results):
        own = [result for result in results if result["command"] == name]
        fired = [result for result in own if result["fired"]]
        codes = [" ".join(_counts(result["codes"][part] for result in fired or own)) for part in (0, 1)]
        faults = sum(bool(result["wrong"]) for result in own)
        lines.append(f"{name:<18} {len(own):>5} {len(fired):>5} {codes[0]:<24} {codes[1]:<10} {faults:>6}")
    return lines


def _counts(codes: Any) -> Iterator[str]:
    listed = list(codes)
    for code in sorted(set(listed)):
        yield f"{'killed' if code == -9 else code}:{listed.count(code)}"


def _end(ended: Ended) -> str:
    lines = (ended.err or ended.out).strip().splitlines()
    return f"{ended.code}, {' / '.join(lines[-3:])[-400:]!r}"


def main(argv: Sequence[str] | None = None) -> int:
    """0: nothing wrong; 1: faults were seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=100, help="over all commands (100)")
    parser.add_argument("--seed", type=int, default=0, help="of which call is hit, and how (0)")
    parser.add_argument("--faults", default="kill", help=f"kill, {', '.join(ERRORS)}, or several with commas (kill)")
    parser.add_argument("--command", action="append", choices=list(COMMANDS), help="only this one; may be repeated")
    parser.add_argument("--local", action="store_true", help="also commands that start processes: seconds a try")
    parser.add_argument("--only", type=int, metavar="N", help="only try number N, as a failing one says")
    parser.add_argument("--place", type=Path, help="work here, as on a disk that is mounted for this (a temporary one)")
    parser.add_argument("--keep", action="store_true", help="keep a copy of the folder of each failing try")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args(argv)
    names = arguments.command or (list(COMMANDS) if arguments.local else CHEAP)
    kinds, started = arguments.faults.split(","), time.monotonic()
    if unknown := [kind for kind in kinds if kind != "kill" and kind not in ERRORS]:
        parser.error(f"--faults {unknown[0]}: allowed are kill, {', '.join(ERRORS)}")
    with (
        tempfile.TemporaryDirectory(prefix="ens-chaos-", dir=arguments.place) as folder,
        Campaign(Path(folder), arguments.seed, arguments.keep) as campaign,
    ):
        numbers = range(arguments.tries) if arguments.only is None else [arguments.only]
        for number in numbers:
            name = names[number % len(names)] if arguments.only is None else names[0]
            known = len(campaign.complaints)
            campaign.attempt(name, number, kinds)
            for complaint in campaign.complaints[known:]:
                print(complaint, file=sys.stderr, flush=True)
        seconds = round(time.monotonic() - started, 1)
        if arguments.json:
            print(json.dumps({"seconds": seconds, "complaints": campaign.complaints, "results": campaign.results}))
        else:
            print("\n".join(summary(campaign.results)))
            print(f"{len(campaign.results)} tries, {len(campaign.complaints)} with a fault, {seconds} s")
    return 1 if campaign.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
