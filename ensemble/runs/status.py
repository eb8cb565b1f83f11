"""What is in an outputs folder: runs, studies and blends as their own files say, how far they are, what is missing.

Only reads, and takes no lock, so it works beside a running command. `next_step` words the command to give next;
`status_command.py` draws the tables.
"""

from __future__ import annotations

import os
import re
import shlex
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ensemble.blending.blend import load_blend
from ensemble.core.complaints import counted
from ensemble.core.files import canonical_json
from ensemble.core.locks import lock_holder
from ensemble.core.metrics import is_greater_better
from ensemble.core.notebook import NotebookValue, check_arguments
from ensemble.core.records import Record
from ensemble.core.run import (
    SETTINGS,
    Asked,
    FoldKey,
    RunFolder,
    find_runs,
    is_seed_of,
    load_fold,
    load_looks,
    looks_path,
    verify_files,
)
from ensemble.core.text import natural_key
from ensemble.errors import InputError
from ensemble.recipe.find import shown_path
from ensemble.runs.fold_progress import EVENTS_NAME, FoldProgress, folds_in_progress
from ensemble.runs.study_record import load_study_record, load_trial_record

if TYPE_CHECKING:
    import pandas as pd

KINDS = {"run": "runs", "study": "studies", "blend": "blends"}
_COLUMNS = (
    "kind",
    "name",
    "state",
    "dataset",
    "metric",
    "value",
    "sd",
    "optimistic",
    "verified",
    "plan",
    "missing",
    "path",
)
_TO_CONTINUE = ("failed", "interrupted", "partial")
_WORST_FIRST = (*_TO_CONTINUE, "running", "complete")
_SMALL = 1 << 20  # bytes that are hashed in a millisecond
_TICK_NS = 2_000_000_000  # the coarsest times of a file system in use (FAT)
_RESTLESS = (".lock", EVENTS_NAME)  # touched every few seconds, and written at every epoch: read anew each time
_CODE = re.compile(r"[^\W\d][\w.]*:[^\W\d]\w*")  # module:function anywhere in a word; its schema would cost 60 ms


class Status(NotebookValue, dict[str, Any]):
    """What an outputs folder holds, as `ens status --json` prints it: mappings in `runs`, `studies` and `blends`."""

    @property
    def headline(self) -> str:
        """How many of each kind."""
        counts = [counted(len(self[plural]), kind, plural) for kind, plural in KINDS.items()]
        return f"{self['outputs']}: {', '.join(counts)}"

    def table(self) -> pd.DataFrame:
        """A row a run, study and blend: its state, deciding metric and score; only scores of one `plan` compare. Runs
        that differ in the seed alone are one row, with the mean and deviation of their scores."""
        import pandas as pd

        rows = [_row_of_runs(line) for line in run_lines(self["runs"], self["seeds"])]
        rows += [_row(kind, item) for kind, plural in KINDS.items() for item in self[plural] if kind != "run"]
        return pd.DataFrame(rows, columns=_COLUMNS)


@check_arguments
def status(outputs: Path | str = "outputs") -> Status:
    """`runs`, `studies`, `blends`, best first, each with what its JSON file says, its `state`, what is `missing`, and
    whether it is `verified`: its own hash shows that nothing in it was altered.

    `seeds`: which runs differ in the seed alone, and what they have together. `scored`: how often test labels were
    looked at.
    """
    return StatusReader(Path(outputs)).read()


_Stamp = tuple[tuple[Any, ...], ...]
_Value = TypeVar("_Value")


class StatusReader:
    """Looks at one outputs folder again and again, and reads only what has changed since the last time, by `stat`.

    What is stamped: every file directly in the folder of a run or blend, the folders of folds, the records of studies
    and trials. A file inside of a fold that is overwritten in place is seen by a new reader only: to look at each of
    them at every refresh would be ten times the calls of the file system.
    """

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._kept: dict[str, tuple[_Stamp | None, Any]] = {}
        self._seen: dict[str, tuple[_Stamp | None, Any]] = {}

    def read(self) -> Status:
        """What `status` returns, as of now."""
        outputs = self._outputs
        if not outputs.is_dir():
            raise InputError(f"{outputs}: no such folder; `ens train` makes it, --outputs names another")
        self._seen = {}
        runs = sorted(filter(None, map(self._run, find_runs(outputs))), key=_rank)
        report = Status(
            outputs=str(outputs),
            runs=runs,
            seeds=seed_groups(runs),
            studies=[self._study(path) for path in sorted(outputs.glob("studies/*/study.json"))],
            blends=[self._blend(path) for path in sorted(outputs.glob("blends/*/blend.json"))],
            scored=self._known(looks_path(outputs), _stamp, lambda path: _looks(outputs)),
        )
        self._kept = self._seen  # what is gone is forgotten
        return report

    def _known(self, path: Path, stamp_of: Callable[[Path], _Stamp], read: Callable[[Path], _Value]) -> _Value:
        """What was read before, if its stamp is the same, else `read(path)`."""
        stamp: _Stamp | None = stamp_of(path)  # before it is read: a change meanwhile shows the next time
        before, value = self._kept.get(str(path), (None, None))
        if before is None or before != stamp:
            # As in git's index: what was changed just now may be changed again without another time.
            is_young = any(time.time_ns() - when < _TICK_NS for *_, when in stamp or ())
            value, stamp = read(path), None if is_young else stamp
        self._seen[str(path)] = stamp, value
        return cast(_Value, value)

    def _run(self, folder: RunFolder) -> dict[str, Any] | None:
        """A run's record with its state as of now; None for one that was moved away meanwhile. A broken record is
        reported, not raised, so that others are shown."""
        try:
            record, problems = self._known(folder.path, _stamp_of_all, _load_run)
        except FileNotFoundError:
            return None
        if record is None:
            return _unreadable("run", folder.path, problems)
        return _run(folder, record, problems)

    def _study(self, path: Path) -> dict[str, Any]:
        places = sorted(path.parent.glob("trial-*/trial.json"), key=lambda place: natural_key(str(place)))
        trials = [self._known(place, _stamp, _loaded(load_trial_record)) for place in places]
        return _study(path, self._known(path, _stamp, _loaded(load_study_record)), trials)

    def _blend(self, path: Path) -> dict[str, Any]:
        return self._known(path.parent, _stamp_of_all, lambda folder: _blend(path))


def _stamp(path: Path) -> _Stamp:
    """What a file's change would change; empty where there is none. The last is the time of the latest change."""
    try:
        about = os.stat(path)
    except OSError:
        return ()
    return ((about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns),)


def _stamp_of_all(folder: Path) -> _Stamp:
    """The stamps of all that lies directly in a folder, but for what changes while nothing else does."""
    stamps = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name not in _RESTLESS:
                about = entry.stat(follow_symlinks=False)
                stamps.append((entry.name, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns))
    return tuple(sorted(stamps))


def _loaded(load: Callable[[Path], Record]) -> Callable[[Path], Record | str]:
    """`load`, with what is wrong with a file in place of its record."""

    def read(path: Path) -> Record | str:
        try:
            return load(path)
        except (InputError, FileNotFoundError) as error:
            return str(error)

    return read


def seed_groups(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs that differ in nothing but the seed, by what their records say: `runs`, their `paths` and `seeds`, the worst
    `state`, the `folds` of all, `scores` (None before one is known), `mean` and `sd`. `run` has the shortest name."""
    alike: dict[str, dict[int, Mapping[str, Any]]] = {}
    for item in sorted(runs, key=lambda item: (len(item["run"]), item["run"])):
        recipe = item["identity_of"].get("recipe") if item["state"] != "unreadable" else None
        if isinstance(recipe, dict):
            about = {**item["identity_of"], "recipe": {**recipe, "seed": None}}
            key = canonical_json([about, item["dataset"], item["metric"]])
            alike.setdefault(key, {}).setdefault(item["recipe"]["seed"], item)  # a second run of one seed: by itself
    return [_seed_group(by_seed) for by_seed in alike.values() if len(by_seed) > 1]


def _seed_group(by_seed: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    base = next(iter(by_seed.values()))
    seeds = sorted(by_seed)
    runs = [by_seed[seed] for seed in seeds]
    states = [state["state"] for run in runs for state in run["fold_states"]]
    scores = [score_of(run) for run in runs]
    known = [score for score in scores if score is not None]
    return {
        "run": base["run"],
        "runs": [run["run"] for run in runs],
        "paths": [run["path"] for run in runs],
        "seeds": seeds,
        "state": min((run["state"] for run in runs), key=_WORST_FIRST.index),
        "folds": {"complete": states.count("complete"), "all": len(states)},
        "dataset": base["dataset"],
        "metric": base["metric"],
        "scores": scores,
        "mean": statistics.fmean(known) if known else None,
        "sd": statistics.stdev(known) if len(known) > 1 else None,
    }


@dataclass(frozen=True)
class RunLine:
    """A line of a table of runs: one run, or all seeds of one recipe, of which `group` says what they have together."""

    runs: Sequence[Mapping[str, Any]]
    group: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """`r50`, or `r50 (3 seeds)`."""
        if self.group is None:
            return str(self.runs[0]["run"])
        return f"{self.group['run']} ({counted(len(self.runs), 'seed')})"

    @property
    def state(self) -> str:
        """The worst of the runs' states."""
        return str((self.group or self.runs[0])["state"])

    @property
    def value(self) -> float | None:
        """The deciding score out of fold; of several seeds the mean of their scores."""
        return score_of(self.runs[0]) if self.group is None else self.group["mean"]


def run_lines(runs: Sequence[Mapping[str, Any]], groups: Sequence[Mapping[str, Any]]) -> list[RunLine]:
    """The lines of `runs`, the best first; each of `groups`, which `seed_groups` made, is one."""
    grouped = {path for group in groups for path in group["paths"]}
    by_path = {item["path"]: item for item in runs}  # not by name: a copied folder has the record of the first
    lines = [RunLine([item]) for item in runs if item["path"] not in grouped]
    lines += [RunLine([by_path[path] for path in group["paths"]], group) for group in groups]
    return sorted(lines, key=lambda line: _rank(line.runs[0], line))


def score_of(run: Mapping[str, Any]) -> float | None:
    """A run's deciding score out of fold; None before it is merged."""
    scores = (run.get("scores") or {}).get("oof") or {}
    value: float | None = scores.get(run.get("metric"))
    return value


def _row_of_runs(line: RunLine) -> dict[str, Any]:
    """One line of runs of the table."""
    if line.group is None:
        return _row("run", line.runs[0])
    missing = [f"{item['run']}: {lost}" for item in line.runs for lost in item["missing"]]
    return {
        **_row("run", next(item for item in line.runs if item["run"] == line.group["run"])),
        "name": line.name,
        "state": line.state,
        "value": line.value,
        "sd": line.group["sd"],
        "verified": all(item["verified"] for item in line.runs),
        "missing": "; ".join(missing),
    }


def _row(kind: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """One run, study or blend of the table; an unreadable one has no more than its name and state."""
    value = {
        "run": score_of(item),
        "study": (item.get("best") or {}).get("value"),
        "blend": (item.get("honest") or {}).get("value"),
    }[kind]
    return {
        "kind": kind,
        "name": item[kind],
        "state": item.get("state"),
        "dataset": item.get("dataset"),
        "metric": item.get("metric"),
        "value": value,
        "optimistic": value is not None and (kind == "study" or bool(item.get("optimistic"))),
        "verified": item["verified"],
        "plan": plan_of(item),
        "missing": "; ".join(item["missing"]),
        "path": item["path"],
    }


def plan_of(item: Mapping[str, Any]) -> str | None:
    """The first letters of the hash of the fold plan of a run or blend: scores on different plans do not compare."""
    sha256 = (item.get("folds") or {}).get("sha256") or item.get("folds_sha256")
    return None if sha256 is None else str(sha256)[:8]


def _looks(outputs: Path) -> list[dict[str, Any]]:
    """A mapping for each set of test labels that `ens score` has read, the last looked at first."""
    try:
        labels = load_looks(outputs)["labels"]
    except InputError as error:
        return [{"error": str(error)}]
    entries = [
        {"labels_sha256": sha256, **entry, "files": list(entry["files"].values())} for sha256, entry in labels.items()
    ]
    return sorted(entries, key=lambda entry: entry["last"], reverse=True)


def _load_run(path: Path) -> tuple[Record, list[str]] | tuple[None, list[str]]:
    """A run's record, and which of its files are lost; without a record, why."""
    folder = RunFolder(path)
    try:
        record = folder.load_record()
    except InputError as error:
        return None, list(error.messages)
    return (None, ["run.json"]) if record is None else (record, _lost(folder, record))


def _run(folder: RunFolder, record: Record, lost: Sequence[str]) -> dict[str, Any]:
    """A run's record with its state as of now."""
    holder = lock_holder(folder.path)
    now = "running" if holder is not None else "interrupted" if record["state"] == "running" else str(record["state"])
    missing = []
    for fold in record["fold_states"]:
        if fold["state"] != "complete":
            repeat = f" of repeat {fold['repeat']}" if record["folds"]["repeats"] > 1 else ""
            was_cut = fold["state"] == "running" and now == "interrupted"  # nobody is training it any more
            missing.append(
                f"fold {fold['fold']}{repeat}: {fold['error'] or ('interrupted' if was_cut else fold['state'])}"
            )
    report = {
        **record,
        "path": str(folder.path),
        "state": now,
        "verified": record.is_verified,
        "missing": [*missing, *lost],
    }
    if holder is not None:
        progress = [fold.plain() for fold in folds_in_progress(folder, record)]
        report.update(process=str(holder), progress=progress)
    return report


def _lost(folder: RunFolder, record: Mapping[str, Any]) -> list[str]:
    """Files that are gone or were changed; only those younger than the record, which is written last, are hashed."""
    repeats, place = record["folds"]["repeats"], str(folder.path)  # text: `Path` is slow for a thousand runs' files
    notes = [
        f"{FoldKey(state['repeat'], state['fold']).folder_name(repeats)}/fold.json"
        for state in record["fold_states"]
        if state["state"] == "complete"
    ]
    lost = [message for note in notes for message in _lost_of_fold(place, note)]
    written = os.stat(folder.record_path).st_mtime_ns  # hashing all files of a thousand runs would take minutes
    doubtful = {name: sha256 for name, sha256 in record["files"].items() if _is_doubtful(f"{place}/{name}", written)}
    return lost + [f"{name} is missing or was changed" for name in verify_files(folder.path, doubtful)]


def _lost_of_fold(place: str, note: str) -> Iterator[str]:
    """Files of a whole fold that are gone, cut short, or changed as far as that is cheap to see.

    Weights are not hashed: of a thousand runs they are terabytes. Small files are, if they are younger than the note,
    which is written last.
    """
    fold = note.rpartition("/")[0]
    try:
        written = os.stat(f"{place}/{note}").st_mtime_ns
        about = load_fold(Path(f"{place}/{fold}"))
    except FileNotFoundError:
        yield f"{note} is missing"
        return
    except InputError as error:
        yield error.messages[0]
        return
    hashes, sizes = about["files"].items(), about.get("bytes", {})
    for name, sha256 in hashes:
        try:
            file = os.stat(f"{place}/{fold}/{name}")
        except OSError:
            yield f"{fold}/{name} is missing"
            continue
        if file.st_size != sizes.get(name, file.st_size or -1):  # -1: of an earlier version; none of the files is empty
            yield f"{fold}/{name} was changed: it has {file.st_size:,} bytes"
        elif file.st_mtime_ns > written and file.st_size <= _SMALL and verify_files(Path(place, fold), {name: sha256}):
            yield f"{fold}/{name} was changed"


def _is_doubtful(path: str, written: int) -> bool:
    try:
        return os.stat(path).st_mtime_ns > written
    except OSError:  # gone: `verify_files` will say so
        return True


def _unreadable(kind: str, folder: Path, problems: Sequence[str]) -> dict[str, Any]:
    """What is known of a run, study or blend whose record can't be believed."""
    about = {"path": str(folder), "state": "unreadable", "verified": False, "missing": list(problems)}
    return {kind: folder.name, **about}


def _study(path: Path, record: Record | str, loaded: Sequence[Record | str]) -> dict[str, Any]:
    """A study's record with its state as of now, and how many of its trials are done."""
    trials = [trial for trial in loaded if not isinstance(trial, str)]
    missing = [trial for trial in loaded if isinstance(trial, str)]
    states = [trial["state"] for trial in trials]
    counts = {"all": len(loaded)} | {state: states.count(state) for state in ("complete", "stopped", "failed")}
    if isinstance(record, str):
        return _unreadable("study", path.parent, [record, *missing]) | {"trials": counts}
    holder = lock_holder(path.parent)
    now = "running" if holder is not None else "complete" if record["ended"] else "interrupted"
    under_way = [trial["number"] for trial in trials if trial["state"] == "running"]
    if now != "running":
        missing += [f"trial {number}: interrupted" for number in under_way]
    if record["best"] and not (path.parent / "best.yaml").exists():
        missing.append("best.yaml")
    report = {
        **record,
        "study": path.parent.name,
        "path": str(path.parent),
        "state": now,
        "verified": all(each.is_verified for each in [record, *trials]),
        "trials": counts,
        "missing": missing,
    }
    if holder is not None:
        progress = [
            {"trial": trial["number"], **fold.plain()}
            for trial in trials
            if trial["state"] == "running"
            for fold in _folds_of_trial(path.parent / f"trial-{trial['number']}")
        ]
        report.update(process=str(holder), under_way=under_way, progress=progress, so_far=_best_so_far(record, trials))
    return report


def _folds_of_trial(folder: Path) -> list[FoldProgress]:
    """The folds of a trial that train now; whoever works on a study holds the study's lock."""
    run = RunFolder(folder)
    try:
        record = run.load_record()
    except InputError:
        record = None
    return [] if record is None else folds_in_progress(run, record)


def _best_so_far(study: Mapping[str, Any], trials: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """`number` and `value` of the best trial that is complete: `best` of a study is written when it ends."""
    done = [trial for trial in trials if trial["state"] == "complete" and trial["value"] is not None]
    if not done:
        return None
    best = (max if study["greater_is_better"] else min)(done, key=lambda trial: trial["value"])
    return {"number": best["number"], "value": best["value"]}


def _blend(path: Path) -> dict[str, Any]:
    """A blend's record, and which of its files are gone."""
    try:
        record = load_blend(path)
    except (InputError, FileNotFoundError) as error:
        return _unreadable("blend", path.parent, [str(error)])
    missing = [name for name in record["files"] if not (path.parent / name).exists()]
    is_verified = record.is_verified and not record["unverified"]
    about = {"path": str(path.parent), "state": "complete", "verified": is_verified, "missing": missing}
    return {**record, "blend": path.parent.name, **about}


def _rank(item: Mapping[str, Any], line: RunLine | None = None) -> tuple[Any, ...]:
    """The place of a run, or of a line of several: with a score first, best first within a dataset and metric; then the
    others by name."""
    value, name = (score_of(item), item["run"]) if line is None else (line.value, line.name)
    if value is None:
        return (1, "", "", 0.0, name)
    sign = -1 if is_greater_better(item["metric"], item) else 1
    return (0, item["dataset"], item["metric"], sign * value, name)


def next_step(report: Mapping[str, Any], elsewhere: str = "") -> str:
    """The one command to give next: finish what was begun, then train, then blend, then submit.

    `elsewhere`: the `--outputs` that it needs, where that is not the usual place.
    """
    runs = report["runs"]
    for item in runs:
        if item["state"] in _TO_CONTINUE and not _is_hopeless(item):
            return _continuing(item, report, elsewhere)
    studies = report["studies"]
    for item in studies:
        if item["state"] == "interrupted" and item.get("wanted"):
            words = _again(Asked(**item["asked"]), _tune_words(item))
            return f"{_caution(item)}ens tune {words}{elsewhere} continues study {item['study']}"
    complete = [item for item in runs if item["state"] == "complete"]
    if not complete and any(item["state"] == "running" for item in [*runs, *studies]):
        return f"wait; ens status {shlex.quote(report['outputs'])} shows how far it is"
    for item in studies:
        best = Path(item["path"]) / "best.yaml"
        if not complete and best.exists():
            return f"ens train --recipe {_shown(str(best))} --name {shlex.quote(item['study'] + '-best')}{elsewhere}"
    hopeless = [item for item in runs if item["state"] == "failed"]  # those that may go on were named above
    if not complete and hopeless:
        return _changed(hopeless[0], elsewhere)
    if not complete:
        return f"ens train --recipe quickstart{elsewhere}"
    if not report["blends"] and any(item["rows"]["test"] for item in complete):
        return f"ens blend {report['outputs']}/*/probs.npy{elsewhere}"
    if len(complete) == 1:  # a blend of one run is that run
        return "train a second recipe (ens recipes lists them), and blend both"
    if not any(item["rows"]["test"] for item in complete):  # nothing to submit: what was trained is for new images
        if report["blends"]:
            return f"ens predict {shlex.quote(report['blends'][0]['path'])} --images DIR{elsewhere}"
        return f"ens blend {' '.join(shlex.quote(item['path']) for item in complete)}{elsewhere}"
    return f"submit {report['outputs']}/blends/*/submission.csv, or train another recipe"


def _continuing(item: Mapping[str, Any], report: Mapping[str, Any], elsewhere: str) -> str:
    """The command that continues a run, and with it those of other seeds that were begun by one command."""
    line = next((line for line in run_lines(report["runs"], report["seeds"]) if item in line.runs), None)
    if line is not None and line.group is not None:
        base = next(run for run in line.runs if run["run"] == line.group["run"])
        runs = [run for run in line.runs if (run is base or is_seed_of(run, base)) and not _is_hopeless(run)]
        names = [run["run"] for run in runs if run["state"] in _TO_CONTINUE]
        if item["run"] in names and len(names) > 1:
            seeds = ",".join(str(run["recipe"]["seed"]) for run in runs)
            words = _again(Asked(**base["asked"]), ["--seeds", seeds, "--name", base["run"]])
            return f"{_caution(base)}ens train {words}{elsewhere} continues {', '.join(names)}"
    words = _again(Asked(**item["asked"]), ["--name", item["run"]])
    return f"{_caution(item)}ens train {words}{elsewhere} continues {item['run']}"


def _is_hopeless(run: Mapping[str, Any]) -> bool:
    """Whether all that is left of a run failed for its settings: the same command would fail in the same way."""
    left = [state for state in run["fold_states"] if state["state"] != "complete"]
    return bool(left) and all(state["state"] == "failed" and state.get("failed_by") == SETTINGS for state in left)


def _changed(run: Mapping[str, Any], elsewhere: str) -> str:
    """What to do about a run that failed for its settings."""
    error = next(state["error"] for state in run["fold_states"] if state["state"] == "failed")
    words = _again(Asked(**run["asked"]), ["--name", run["run"], "--fresh"])
    return (
        f"{_caution(run)}{run['run']} failed for its settings, and would again: {error}; change them: "
        f"ens train {words}{elsewhere} --set KEY=VALUE"
    )


def _shown(path: str) -> str:
    """A path as a person here would write it, to be copied into a shell."""
    return shlex.quote(shown_path(Path(path), Path.cwd()))


def _tune_words(study: Mapping[str, Any]) -> list[str]:
    """The options of the study, but for its recipe."""
    facts, wanted = study["identity_of"], study["wanted"]
    words = [word for value in wanted["search"] for word in ("--search", value)]
    for option, key, usual in (
        ("--sampler", "sampler", "tpe"),
        ("--policy", "policy", "race"),
        ("--seed", "sampler_seed", 0),
    ):
        if facts[key] != usual:  # a default needs no words
            words += [option, str(facts[key])]
    return [*words, "--study", study["study"], "--trials", str(wanted["trials"])]


def _caution(item: Mapping[str, Any]) -> str:
    """What to say first where a record's `--set` words name code: typed by the user, they would run it unasked."""
    codes = [name for words in item["asked"]["sets"] for name in _CODE.findall(str(words))]
    return f"only if {', '.join(dict.fromkeys(codes))} is code that you know: " if codes else ""


def _again(asked: Asked, words: Sequence[str]) -> str:
    """The words that named a recipe, and more."""
    return f"--recipe {_shown(asked.recipe)} {shlex.join([*asked.words()[2:], *words])}"
