"""Every file that commands read, damaged or altered in seeded ways, and then a command that reads it.

    python tools/fuzz/mutants.py --tries 3000
    python tools/fuzz/mutants.py --only 1234 --keep      # one try again, its folder left to look at

Required: an exit code of 0, 2, 3 or 130, no traceback, no hang, no control characters on the screen; a refusal names
the file. Of files that commands wrote themselves also: with exit code 0 the result is that of the undamaged file, or a
line says that the file is damaged, altered or unverified.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script, Python knows this folder alone

from chaos.command_server import CommandServer, Ended
from chaos.faults import Fault, FaultLibrary
from chaos.workplace import (
    QUICK,
    TUNE,
    Snapshot,
    constant,
    copy_template,
    environment,
    make_template,
)

from fuzz.mutations import mutate, reseal

__all__ = ["TARGETS", "Mutants", "main"]

CODES = (0, 2, 3, 130)
_INLINE = ("--engine", "inline", "--json")
_NAMES = ("--ids", "ids.txt", "--classes", "classes.txt")
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status",),
    "status-json": ("status", "--json"),
    "blend": ("blend", "outputs/a/probs.npy", "outputs/b/probs.npy", "--name", "n", "--json"),
    "blend-sample": ("blend", "outputs/a/probs.npy", "--name", "n", "--template", "sample.csv", "--json"),
    "predict": ("predict", "a", "--images", "new", "--out", "preds", *_INLINE),
    "predict-blend": ("predict", "outputs/blends/ab", "--images", "new", "--out", "preds", *_INLINE),
    "predict-pack": ("predict", "pack", "--images", "new", "--out", "preds", *_INLINE),
    "predict-zip": ("predict", "pack.zip", "--images", "new", "--out", "preds", *_INLINE),
    "again": ("predict", "a", "--tta", "hflip", *_INLINE),
    "train": ("train", "--recipe", "tiny", "--name", "a", "--json", *QUICK),
    "resume": ("train", "--recipe", "tiny", "--name", "c", "--json", *QUICK),
    "tune": ("tune", "--recipe", "tiny", "--trials", "2", "--study", "s", "--json", *TUNE, *QUICK),
    "score": ("score", "a", "outputs/blends/ab", "--labels", "answers.csv", "--json"),
    "pack": ("pack", "outputs/blends/ab", "--out", "p", "--json"),
    "folds": ("folds", "--recipe", "tiny", "--json"),
    "eda": ("eda", "--recipe", "tiny", "--json"),
    "adopt": ("adopt", "half.npy", *_NAMES, "--out", "mates/x", "--json"),
    "init": ("init", "data/squares", "--name", "fresh", "--json"),
}
SLOW = ("again", "train", "resume", "tune")


@dataclass(frozen=True)
class Target:
    """Files that are read, and the commands that read them."""

    pattern: str
    commands: tuple[str, ...]
    is_ours: bool = True
    """Whether commands wrote it: then what it says must not be believed unasked. Else it is the user's to change."""
    also: tuple[str, ...] = ()
    """What else names it in a refusal."""


TARGETS = (
    Target("outputs/a/run.json", ("status", "status-json", "predict", "again", "train", "score", "blend")),
    Target("outputs/a/fold-*/fold.json", ("status-json", "train", "again", "predict")),
    Target("outputs/a/fold-*/model.json", ("predict", "predict-blend", "again", "pack")),
    Target("outputs/a/fold-*/model.safetensors", ("predict", "predict-blend", "pack", "train")),
    Target("outputs/a/oof.*", ("blend", "status-json", "train")),
    Target("outputs/a/probs.*", ("blend", "score", "status-json", "train")),
    Target("outputs/a/fold-*/oof.*", ("train", "again")),
    Target("outputs/a/fold-*/probs.*", ("train", "again")),
    Target("outputs/a/fold-*/history.csv", ("train", "status")),
    Target("outputs/a/events.jsonl", ("train", "status")),
    Target("outputs/c/run.json", ("resume", "status")),
    Target("outputs/c/fold-*/*.json", ("resume", "status")),
    Target("outputs/c/fold-*/checkpoint-*.pt", ("resume",)),
    Target("outputs/studies/s/study.json", ("status", "status-json", "tune")),
    Target("outputs/studies/s/trial-*/*.json", ("status-json", "tune")),
    Target("outputs/studies/s/best.yaml", ("tune", "status")),
    Target("outputs/studies/s/trials.csv", ("tune", "status")),
    Target("outputs/blends/ab/blend.json", ("status", "status-json", "predict-blend", "pack", "score")),
    Target("outputs/blends/ab/probs.*", ("score", "status-json")),
    Target("outputs/scored.json", ("score", "status-json")),
    Target("outputs/folds/*", ("folds", "train")),
    Target("outputs/cache/pixels-*/*", ("again", "folds", "resume")),
    Target("outputs/cache/scan-*/*", ("folds", "eda")),
    Target("pack/manifest.json", ("predict-pack",)),
    Target("pack/blend.json", ("predict-pack",)),
    Target("pack/members/a/*.json", ("predict-pack",)),
    Target("pack/members/a/fold-*/*", ("predict-pack",)),
    Target("pack.zip", ("predict-zip",)),
    Target("data/squares/*.csv", ("folds", "eda", "init", "resume"), is_ours=False),
    Target("data/squares/images/*.png", ("eda", "again", "init"), is_ours=False),
    Target("recipes/tiny.yaml", ("folds", "resume"), is_ours=False, also=("outputs/c: holds a run",)),
    Target("recipes/data/squares.yaml", ("folds", "blend", "score"), is_ours=False),
    Target("sample.csv", ("blend-sample",), is_ours=False),
    Target("answers.csv", ("score",), is_ours=False),
    Target("ids.txt", ("adopt",), is_ours=False),
    Target("classes.txt", ("adopt",), is_ours=False),
    Target("half.npy", ("adopt",), is_ours=False),
    Target("new/*.png", ("predict", "predict-blend"), is_ours=False),
)
_SEALED_SHARE = 0.4  # of altered records: what lies behind the check of the hash must stand odd values, too
_SAID = re.compile(
    r"unverified|altered|damaged|changed|can't be read|missing|not what|not as|ignored|removed|again|broken|differ"
    r"|not here|corrupt|unknown|no longer|not its",
    re.IGNORECASE,
)
_RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass
class Mutants:
    """Tries on copies of one place; `complaints` is empty when all went as it should."""

    folder: Path
    seed: int = 0
    keep: bool = False
    fresh_share: float = 0.0
    """How many of the commands start in a Python of their own: what a forked child may hide shows there."""
    complaints: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self._library = FaultLibrary(self.folder)
        self._server = CommandServer(self.folder, self._library.path)
        self._template, self._work = self.folder / "template", self.folder / "work"
        self._whole: dict[str, tuple[Ended, Snapshot]] = {}

    def __enter__(self) -> Mutants:
        make_template(self._work, lambda words, folder: self._run(words, folder).code)
        copy_template(self._work, self._template)
        self._leave_unfinished(COMMANDS["resume"], "fold-1/checkpoint-")
        self._run(COMMANDS["score"], self._work)
        shutil.rmtree(self._template)
        copy_template(self._work, self._template)
        return self

    def __exit__(self, *error: object) -> None:
        self._server.__exit__()

    def attempt(self, number: int, targets: Sequence[Target] = TARGETS, skipped: Sequence[str] = ()) -> list[str]:
        """One try, drawn from the seed and its number: what was wrong with it."""
        chance = random.Random(f"{self.seed} {number}")
        usable = [target for target in targets if set(target.commands) - set(skipped)]
        target = usable[number % len(usable)]
        name = chance.choice([command for command in target.commands if command not in skipped])
        paths = sorted(path for path in self._template.glob(target.pattern) if path.is_file())
        whole, seen = self.whole(name)
        copy_template(self._template, self._work)
        path = self._work / chance.choice(paths).relative_to(self._template)
        what = f"{path.relative_to(self._work)}, {mutate(path, chance)}"
        is_sealed = chance.random() < _SEALED_SHARE and reseal(path)
        what += ", its own hash made to fit" if is_sealed else ""
        mutated = path.read_bytes()
        ended = self._run(COMMANDS[name], self._work, is_fresh=chance.random() < self.fresh_share)
        wrong = list(self._check(target, path, ended, None if is_sealed else whole, seen))
        self.results.append(
            {"number": number, "target": target.pattern, "command": name, "what": what, "code": ended.code}
            | {"wrong": wrong, "seconds": round(ended.seconds, 3)}
        )
        if wrong:
            kept = ""
            if self.keep:
                path.write_bytes(mutated)
                kept = f"\n    its folder: {shutil.copytree(self._work, tempfile.mkdtemp(), dirs_exist_ok=True)}"
            said = " / ".join((ended.err or ended.out).strip().splitlines()[-3:])[-300:]
            self.complaints.append(
                f"try {number}: ens {name}, {what}: {'; '.join(wrong)}\n    it said: {ended.code}, {said!r}"
                f"\n    again: --only {number} --seed {self.seed}{kept}"
            )
        return wrong

    def whole(self, name: str) -> tuple[Ended, Snapshot]:
        """The command on undamaged files, and what lies there afterwards."""
        if name not in self._whole:
            copy_template(self._template, self._work)
            ended = self._run(COMMANDS[name], self._work)
            if ended.code or ended.faults:
                self.complaints.append(f"{name}, on undamaged files: {ended.code} {ended.err[-300:]}")
            self._whole[name] = ended, Snapshot.of(self._work)
        return self._whole[name]

    def _check(self, target: Target, path: Path, ended: Ended, whole: Ended | None, seen: Snapshot) -> Iterator[str]:
        """`whole`: what is said of the undamaged file; None where the damage can't be told from the truth."""
        yield from ended.faults
        if ended.code not in CODES:
            yield f"exit code {ended.code}"
        text = ended.out + ended.err
        if raw := _RAW.search(text):
            yield f"a control character on the screen: {raw[0]!r}"
        if ended.code == 2 and not any(part in text for part in (*_names(path, self._work), *target.also)):
            yield "the refusal does not name the file"
        if ended.code == 0 and target.is_ours and whole is not None:
            before = set((whole.out + whole.err).splitlines())
            new = [line for line in text.splitlines() if line not in before]
            own = str(path.relative_to(self._work))
            if any(own in line or _SAID.search(line) for line in new):
                return
            now = Snapshot.of(self._work).without(own).differences(seen.without(own))
            if _document(ended.out) != _document(whole.out):
                yield f"what it shows is otherwise, and no line says why: {_first_difference(whole.out, ended.out)}"
            elif now:
                yield f"what it wrote is otherwise, and no line says why: {', '.join(now)}"

    def _leave_unfinished(self, words: Sequence[str], file: str) -> None:
        """Kill a command right after it closed a file of this name."""
        count = self._library.environment(Fault("count"), self._work)
        self._run(words, self._work, extra=count)
        names = [call for call in self._library.calls if call.startswith("rename") and file in call]
        at = 1 + self._library.calls.index(next(call for call in names if call.endswith(".json")))
        copy_template(self._template, self._work)
        self._run(words, self._work, extra=self._library.environment(Fault("before", at + 2), self._work))

    def _run(
        self, words: Sequence[str], folder: Path, *, extra: dict[str, str] | None = None, is_fresh: bool = False
    ) -> Ended:
        own = {**environment(folder), **(extra or {})}
        run = self._server.run_fresh if is_fresh else self._server.run
        return run(words, folder, environment=own, timeout_s=60)


def _names(path: Path, work: Path) -> list[str]:
    """What names a file in a message: its path, its name, its stem, or a folder that it lies in, such as a run's."""
    inside = path.relative_to(work)
    folders = [str(folder) for folder in inside.parents if str(folder) not in (".", "outputs")]
    return [str(inside), path.name, path.name.split(".")[0], *folders]


def _document(text: str) -> Any:
    try:
        return constant(json.loads(text))
    except ValueError:
        return [line.rstrip() for line in text.splitlines()]


def _first_difference(one: str, other: str) -> str:
    pairs = [(a, b) for a, b in zip(one.splitlines(), other.splitlines(), strict=False) if a != b]
    telling = [pair for pair in pairs if "seconds" not in pair[0]] or pairs
    return " -> ".join(part.strip()[:80] for part in telling[0]) if telling else "a line more or less"


def summary(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line a kind of file: tries, exit codes, faults."""
    lines = [f"{'file':<40} {'tries':>5} {'ended with':<24} {'faults':>6} {'slowest':>8}"]
    for pattern in dict.fromkeys(result["target"] for result in results):
        own = [result for result in results if result["target"] == pattern]
        codes = [result["code"] for result in own]
        shown = " ".join(f"{code}:{codes.count(code)}" for code in sorted(set(codes)))
        faults, slowest = sum(bool(result["wrong"]) for result in own), max(result["seconds"] for result in own)
        lines.append(f"{pattern:<40} {len(own):>5} {shown:<24} {faults:>6} {slowest:>7.1f}s")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """0: nothing wrong; 1: faults were seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=1000, help="how many mutants (1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations (0)")
    parser.add_argument("--file", help="only targets whose pattern has this text")
    parser.add_argument("--fresh", type=float, default=0.01, metavar="SHARE", help="commands in a fresh Python (0.01)")
    parser.add_argument("--only", type=int, metavar="N", help="only try number N, as a failing one says")
    parser.add_argument("--keep", action="store_true", help="keep a copy of the folder of each failing try")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args(argv)
    targets, started = [t for t in TARGETS if not arguments.file or arguments.file in t.pattern], time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="ens-fuzz-") as folder,
        Mutants(Path(folder), arguments.seed, arguments.keep, arguments.fresh) as mutants,
    ):
        for number in range(arguments.tries) if arguments.only is None else [arguments.only]:
            known = len(mutants.complaints)
            mutants.attempt(number, targets)
            for complaint in mutants.complaints[known:]:
                print(complaint, file=sys.stderr, flush=True)
        seconds = round(time.monotonic() - started, 1)
        if arguments.json:
            print(json.dumps({"seconds": seconds, "complaints": mutants.complaints, "results": mutants.results}))
        else:
            print("\n".join(summary(mutants.results)))
            print(f"{len(mutants.results)} mutants, {len(mutants.complaints)} with a fault, {seconds} s")
    return 1 if mutants.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
