"""Links, pipes, sockets, devices and folders under the names that commands write and read; modules that must not run.

    python tools/fuzz/planted.py --tries 100
    python tools/fuzz/planted.py --only 17 --keep

Required: nothing outside of the place changes; no hang, no traceback, bounded memory, an exit code of 0, 2, 3 or 130.
Modules named like libraries lie in the working directory, and a run asks for a function of the attacker's choice as its
network: none of them may be executed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import socket
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a script, Python knows this folder alone

from chaos.command_server import CommandServer, Ended
from chaos.workplace import QUICK, TUNE, copy_template, environment, make_template

from fuzz.mutations import reseal

__all__ = ["PLACES", "Planted", "main"]

CODES = (0, 2, 3, 130)
_NAMES = ("--ids", "ids.txt", "--classes", "classes.txt")
_INLINE = ("--engine", "inline")
_MEMBERS = ("outputs/a/probs.npy", "outputs/b/probs.npy")
_BLEND = ("blend", *_MEMBERS, "--name", "n", "--out", "sub.csv", "--template", "sample.csv")
COMMANDS: dict[str, tuple[str, ...]] = {
    "status": ("status", "--json"),
    "blend": _BLEND,
    "adopt": ("adopt", "half.npy", *_NAMES),
    "adopt-out": ("adopt", "half.npy", *_NAMES, "--out", "mates/half"),
    "predict": ("predict", "a", "--images", "new", "--out", "preds", *_INLINE),
    "predict-blend": ("predict", "outputs/blends/ab", "--images", "new", *_INLINE),
    "predict-pack": ("predict", "pack", "--images", "new", "--out", "preds", *_INLINE),
    "predict-zip": ("predict", "pack.zip", "--images", "new", "--out", "preds", *_INLINE),
    "again": ("predict", "a", "--tta", "hflip", *_INLINE),
    "train-a": ("train", "--recipe", "tiny", "--name", "a", *QUICK),
    "train-b": ("train", "--recipe", "tiny", "--name", "b", "--set", "seed=1", *QUICK),
    "tune-s": ("tune", "--recipe", "tiny", "--trials", "2", "--study", "s", *TUNE, *QUICK),
    "score": ("score", "a", "--labels", "answers.csv"),
    "pack": ("pack", "a", "--out", "p.zip"),
    "folds": ("folds", "--recipe", "tiny"),
    "eda": ("eda", "--recipe", "tiny", "--out", "looks"),
    "init": ("init", "raw", "--name", "fresh"),
}
_TIMEOUT_S, _MOST_MB = 60.0, 512.0

# Names below the place, with spaces between; what hashes and draws decide is filled in.
_WRITTEN = {
    "blend": "outputs/blends/n/.lock outputs/blends/n/.probs.ens-swap outputs/blends/n/probs.npy sub.csv "
    "outputs/blends/n/blend.json outputs/blends/n/submission.csv outputs/blends/n/diversity.csv",
    "adopt": ".half.ens-swap half.npy.original half.json half.ids.txt",
    "adopt-out": "mates/.half.ens-swap mates/half.npy mates/half.json",
    "predict": "preds/.lock preds/.run.ens-swap preds/.probs.ens-swap preds/probs.npy preds/predictions.csv",
    "again": "outputs/a/.lock outputs/a/.run.ens-swap outputs/a/.oof.ens-swap outputs/a/.probs.ens-swap "
    "outputs/a/events.jsonl outputs/a/fold-0/.oof.ens-swap outputs/a/fold-0/log.txt",
    "train-b": "outputs/b/.lock outputs/b/events.jsonl outputs/b/.oof.ens-swap outputs/b/.run.ens-swap "
    "outputs/b/fold-1 outputs/b/fold-1/log.txt outputs/b/fold-1/history.csv outputs/b/fold-1/.oof.ens-swap",
    "tune-s": "outputs/studies/s/.lock outputs/studies/s/trials.csv outputs/studies/s/best.yaml "
    "outputs/studies/s/trial-1 outputs/studies/s/trial-1/.lock outputs/studies/s/trial-1/trial.json "
    "outputs/studies/s/trial-1/fold-0 outputs/studies/s/trial-1/events.jsonl",
    "score": "outputs/.lock outputs/scored.json",
    "folds": "outputs/folds/.lock {plan}.csv {plan}.json {pixels} {scan}/looks.bin {pixels}/.lock",
    "eda": "looks/classes.svg looks/findings.csv looks/.lock",
    "init": "recipes/fresh.yaml recipes/data/fresh.yaml recipes/.lock",
}
_READ = {
    "adopt": "ids.txt classes.txt half.npy",
    "blend": "sample.csv outputs/a/probs.npy outputs/a/probs.json outputs/a/probs.ids.txt "
    "outputs/a/oof.npy outputs/a/oof.json recipes/data/squares.yaml",
    "score": "answers.csv outputs/a/run.json outputs/scored.json",
    "status": "outputs/a/run.json outputs/studies/s/study.json outputs/blends/ab/blend.json outputs/scored.json "
    "outputs/a/fold-0/fold.json outputs/a/events.jsonl outputs/a/.lock",
    "predict": "outputs/a/run.json outputs/a/fold-0/model.json outputs/a/fold-0/model.safetensors "
    "outputs/a/fold-0/fold.json new/{new} new",
    "predict-blend": "outputs/blends/ab/blend.json outputs/a/run.json",
    "predict-pack": "pack/manifest.json pack/blend.json pack/members/a/run.json pack",
    "predict-zip": "pack.zip",
    "pack": "outputs/a/fold-0/model.safetensors outputs/a/run.json",
    "train-a": "outputs/a/run.json outputs/a/fold-0/fold.json outputs/a/fold-0/oof.npy outputs/a/oof.json "
    "outputs/a/fold-0/history.csv",
    "tune-s": "outputs/studies/s/study.json outputs/studies/s/trial-0/trial.json "
    "outputs/studies/s/trial-0/run.json outputs/studies/s/best.yaml",
    "folds": "recipes/tiny.yaml recipes/data/squares.yaml data/squares/train.csv {plan}.csv {plan}.json "
    "data/squares/images/{image} {pixels}/pixels.json {pixels}/index.bin {scan}/looks.bin",
    "again": "{pixels}/pixels.bin {pixels}/ids.txt {pixels}",
    "init": "raw/red/{red}",
}


def _link_to_file(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "thesis.txt")


def _link_to_folder(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "letters", target_is_directory=True)


def _link_to_nothing(path: Path, victim: Path) -> None:
    path.symlink_to(victim / "nothing.txt")


def _link_to_zeros(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/zero")


def _link_to_full(path: Path, victim: Path) -> None:
    path.symlink_to("/dev/full")


def _pipe(path: Path, victim: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path, victim: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:  # bound by its short name: a socket's path may have 107 bytes
        before = Path.cwd()
        os.chdir(path.parent)
        try:
            listener.bind(path.name)
        finally:
            os.chdir(before)


def _folder(path: Path, victim: Path) -> None:
    path.mkdir()
    (path / "letter.txt").write_text("dear", encoding="utf-8")


KINDS: dict[str, Callable[[Path, Path], None]] = {
    "a link to a file": _link_to_file,
    "a link to a folder": _link_to_folder,
    "a link to nothing": _link_to_nothing,
    "a link to /dev/zero": _link_to_zeros,
    "a link to /dev/full": _link_to_full,
    "a pipe": _pipe,
    "a socket": _socket,
    "a folder": _folder,
}
PLACES = [
    (command, name, kind, is_written)
    for is_written, places in ((True, _WRITTEN), (False, _READ))
    for command, names in places.items()
    for name in names.split()
    for kind in KINDS
    # a folder of somebody's own may lie behind a link: `new`, a pack
    if not (kind in ("a link to a folder", "a folder") and name in ("new", "pack"))
]
MODULES = ("numpy", "signal", "ensemble", "torch", "json", "timm", "cv2", "random", "tomllib", "sitecustomize")
FRESH: dict[str, tuple[str, ...]] = {
    "status": ("status",),
    "blend": COMMANDS["blend"],
    "predict": ("predict", "a", "--images", "new", "--out", "preds"),
    "train": ("train", "--recipe", "tiny", "--name", "t", "--quiet"),
}
"""Beside planted modules each in a Python of its own, with workers: as a person starts them."""


@dataclass
class Planted:
    """Tries on copies of one place; `complaints` is empty when all went as it should."""

    folder: Path
    seed: int = 0
    keep: bool = False
    complaints: list[str] = field(default_factory=list)
    results: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()
        self._server = CommandServer(self.folder)
        self._template, self._work, self._victim = (self.folder / name for name in ("template", "work", "outside"))
        self._marker = self.folder / "ran.txt"
        (self._victim / "letters").mkdir(parents=True)
        (self._victim / "thesis.txt").write_text("ten years of work\n", encoding="utf-8")
        for name in ("letter.txt", "half.npy", "probs.npy", "run.json", "checkpoint-000000001.pt"):
            (self._victim / "letters" / name).write_text(f"a stranger's {name}\n", encoding="utf-8")
        self._before = _look(self._victim)

    def __enter__(self) -> Planted:
        make_template(self._work, lambda words, folder: self._run(words, folder).code)
        self._run(COMMANDS["score"], self._work)
        copy_template(self._work, self._template)
        self._usual_mb = max(self._run(COMMANDS[name], self._work).peak_mb for name in ("status", "predict", "train-a"))
        return self

    def __exit__(self, *error: object) -> None:
        self._server.__exit__()

    def attempt(self, number: int, commands: Sequence[str] = tuple(COMMANDS)) -> list[str]:
        """One planted file, drawn from the seed and its number: what was wrong."""
        places = [place for place in PLACES if place[0] in commands]
        random.Random(self.seed).shuffle(places)
        command, name, kind, is_written = places[number % len(places)]
        copy_template(self._template, self._work)
        path = self._work / self._filled(name)
        if is_written and command == "folds":  # cold: else nothing is written
            for cold in ("folds", "cache"):
                shutil.rmtree(self._work / "outputs" / cold)
        if command == "train-b":  # something to do
            shutil.rmtree(self._work / "outputs" / "b" / "fold-1")
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        KINDS[kind](path, self._victim)
        ended = self._run(COMMANDS[command], self._work)
        wrong = [*self._check(ended)]
        if ended.peak_mb > self._usual_mb + _MOST_MB:
            wrong.append(f"it took {ended.peak_mb:.0f} MB, and usually {self._usual_mb:.0f}")
        shown = f"{kind} as {path.relative_to(self._work)}"
        self._note(number, command, shown, "written" if is_written else "read", ended, wrong)
        return wrong

    def attempt_modules(self, command: str) -> list[str]:
        """All modules at once in the working directory and where a command may look, before a real process."""
        copy_template(self._template, self._work)
        for place in (".", "data", "outputs", "outputs/a", "new"):
            for module in MODULES:
                text = f"open({str(self._marker)!r}, 'a').write({f'{place}/{module}.py '!r})\n"
                (self._work / place / f"{module}.py").write_text(text, encoding="utf-8")
        ended = self._server.run_fresh(FRESH[command], self._work, environment=environment(self._work), timeout_s=120)
        wrong = [*self._check(ended)] + ([f"exit code {ended.code} in place of 0"] if ended.code else [])
        self._note(-1, command, "modules in the working directory", "modules", ended, wrong)
        return wrong

    def attempt_foreign_run(self, command: str = "predict") -> list[str]:
        """A run whose network is a function of the attacker's choice, of an installed package."""
        copy_template(self._template, self._work)
        hub = self._work / "hub"
        hub.mkdir()
        text = f"open({str(self._marker)!r}, 'a').write('hubconf')\ndef build(**rest): ...\n"
        (hub / "hubconf.py").write_text(text, encoding="utf-8")
        for fold in sorted((self._work / "outputs" / "a").glob("fold-*")):
            model = json.loads((fold / "model.json").read_bytes())
            model["code"] = {"torch.hub:load": {"sha256": "0" * 64, "files": {}}}
            options = {"repo_or_dir": str(hub), "model": "build", "source": "local"}
            model["network"] |= {"name": "torch.hub:load", "options": options}
            (fold / "model.json").write_text(json.dumps(model, indent=2), encoding="utf-8")
            reseal(fold / "model.json")
            record = json.loads((fold / "fold.json").read_bytes())
            record["files"]["model.json"] = hashlib.sha256((fold / "model.json").read_bytes()).hexdigest()
            record["bytes"]["model.json"] = (fold / "model.json").stat().st_size
            (fold / "fold.json").write_text(json.dumps(record, indent=2), encoding="utf-8")
            reseal(fold / "fold.json")
        ended = self._run(COMMANDS[command], self._work)
        wrong = [*self._check(ended)] + (["it was not refused"] if ended.code == 0 else [])
        self._note(-1, command, "a run that names torch.hub:load", "modules", ended, wrong)
        return wrong

    def _check(self, ended: Ended) -> Iterator[str]:
        yield from ended.faults
        if ended.code not in CODES:
            yield f"exit code {ended.code}"
        if self._marker.exists():
            yield f"it ran {self._marker.read_text(encoding='utf-8')}"
            self._marker.unlink()
        if (after := _look(self._victim)) != self._before:
            changed = sorted({name for name, _ in after.items() ^ self._before.items()})
            yield f"outside of the place it changed {', '.join(changed)}"
            _restore(self._victim, self._before)

    def _note(self, number: int, command: str, shown: str, group: str, ended: Ended, wrong: list[str]) -> None:
        self.results.append({"command": command, "what": shown, "group": group, "code": ended.code, "wrong": wrong})
        if wrong:
            said = " / ".join((ended.err or ended.out).strip().splitlines()[-3:])[-300:]
            again = f"--only {number} --seed {self.seed}" if number >= 0 else "--modules"
            kept = f"\n    its folder: {_kept(self._work)}" if self.keep else ""
            self.complaints.append(
                f"try {number}: ens {command}, {shown}: {'; '.join(wrong)}"
                f"\n    it said: {ended.code}, {said!r}\n    again: {again}{kept}"
            )

    def _filled(self, name: str) -> str:
        """A name with those that hashes or draws decide."""

        def first(pattern: str) -> str:
            return str(sorted(self._template.glob(pattern))[0].relative_to(self._template))

        return name.format(
            plan=first("outputs/folds/*.csv").removesuffix(".csv"),
            pixels=first("outputs/cache/pixels-*"),
            scan=first("outputs/cache/scan-*"),
            new=Path(first("new/*.png")).name,
            image=Path(first("data/squares/images/*.png")).name,
            red=Path(first("raw/red/*.png")).name,
        )

    def _run(self, words: Sequence[str], folder: Path) -> Ended:
        return self._server.run(words, folder, environment=environment(folder), timeout_s=_TIMEOUT_S, memory_mb=3072)


def _look(folder: Path) -> dict[str, str]:
    """What lies below: kind, rights and content of each; no link is followed."""
    looks = {}
    for path in sorted(folder.rglob("*")):
        about = path.lstat()
        content = path.read_text(encoding="utf-8", errors="replace") if stat.S_ISREG(about.st_mode) else ""
        looks[str(path.relative_to(folder))] = f"{stat.filemode(about.st_mode)} {content}"
    return looks


def _restore(folder: Path, looks: dict[str, str]) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    for name, look in looks.items():
        if look.startswith("d"):
            (folder / name).mkdir()
        else:
            (folder / name).write_text(look.partition(" ")[2], encoding="utf-8")


def _kept(work: Path) -> Path:
    kept = Path(tempfile.mkdtemp(prefix="ens-planted-")) / "work"
    os.rename(work, kept)  # pipes and sockets can't be copied
    return kept


def summary(results: Sequence[dict[str, Any]]) -> list[str]:
    """A line a group and command: tries, exit codes, faults."""
    lines = [f"{'command':<16} {'planted':<9} {'tries':>5} {'ended with':<20} {'faults':>6}"]
    for key in dict.fromkeys((result["command"], result["group"]) for result in results):
        own = [result for result in results if (result["command"], result["group"]) == key]
        codes = [result["code"] for result in own]
        shown = " ".join(f"{code}:{codes.count(code)}" for code in sorted(set(codes)))
        faults = sum(bool(result["wrong"]) for result in own)
        lines.append(f"{key[0]:<16} {key[1]:<9} {len(own):>5} {shown:<20} {faults:>6}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """0: nothing wrong; 1: faults were seen."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tries", type=int, default=100, help=f"planted files, of {len(PLACES)} (100)")
    parser.add_argument("--seed", type=int, default=0, help="of their order (0)")
    parser.add_argument("--modules", action="store_true", help="only planted modules")
    parser.add_argument("--only", type=int, metavar="N", help="only try number N, as a failing one says")
    parser.add_argument("--keep", action="store_true", help="keep the folder of each failing try")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args(argv)
    started = time.monotonic()
    numbers = range(arguments.tries) if arguments.only is None else [arguments.only]
    with (
        tempfile.TemporaryDirectory(prefix="ens-fuzz-") as folder,
        Planted(Path(folder), arguments.seed, arguments.keep) as planted,
    ):
        tries: list[Callable[[], list[str]]] = []
        if not arguments.modules:
            tries += [lambda number=number: planted.attempt(number) for number in numbers]  # type: ignore[misc]
        if arguments.only is None:
            tries += [lambda name=name: planted.attempt_modules(name) for name in FRESH]  # type: ignore[misc]
            tries.append(planted.attempt_foreign_run)
        for attempt in tries:
            known = len(planted.complaints)
            attempt()
            for complaint in planted.complaints[known:]:
                print(complaint, file=sys.stderr, flush=True)
        seconds = round(time.monotonic() - started, 1)
        if arguments.json:
            print(json.dumps({"seconds": seconds, "complaints": planted.complaints, "results": planted.results}))
        else:
            print("\n".join(summary(planted.results)))
            print(f"{len(planted.results)} planted, {len(planted.complaints)} with a fault, {seconds} s")
    return 1 if planted.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
