"""All that goes into a blend: members' files loaded and aligned, their out-of-fold rows, the dataset's description.

Everything wrong with any file is one error. Of out-of-fold rows that would not fit into memory, a sample is taken.
Whether members fit one another is decided in `align`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ensemble.blending.align import Aligned, align
from ensemble.blending.options import BlendOptions
from ensemble.combining.combine import Integers
from ensemble.combining.crossfit import Labelled
from ensemble.core.complaints import any_of, closest, counted
from ensemble.core.dataset import DatasetDescription, SubmissionSpec, described_in
from ensemble.core.files import newest, sha256_file
from ensemble.core.metrics import METRICS, SET_METRICS, metric_problem, metrics_for
from ensemble.core.parallel import map_in_threads
from ensemble.core.predictions import Predictions, ProbabilityPaths, Seen, load_predictions
from ensemble.core.records import EARLIER, Count, Record, RecordSchema, Schema, is_inner_path, load_record
from ensemble.core.run import RunFolder, records_of, unfinished_text
from ensemble.core.schema import MOST_FOLDS
from ensemble.errors import InputError

FindDataset = Callable[[str], DatasetDescription | None]

_TABLES = (".csv", ".tsv", ".txt", ".xlsx")  # what may hold probabilities, but is no probability file
MOST_MEMBERS = 1_000  # files of one blend
_AT_ONCE = min(4, os.cpu_count() or 1)
_SAME_IN_BOTH = ("run", "identity", "dataset", "dataset_sha256", "folds_sha256")
_SECONDS = "seconds_per_1000_images"
_TRIAL = re.compile(r"trial-\d+")  # as tuning/trials.py names the folder of a run
_IN_MEMORY = 1 << 30  # bytes of out-of-fold rows are brought into order once, more each time they are looked at
_MOST_NUMBERS = 1 << 28  # of 32 bits a gibibyte: so much is looked at as it is
_SAMPLE_NUMBERS = 100_000_000  # of more than that a sample, which leaves twice as much for what is learned from it
_FEWEST_ROWS = 20_000  # an accuracy of 0.9 is then known to 0.002


@dataclass(frozen=True, eq=False)
class Member:
    """One model's predictions."""

    path: Path
    """The `.npy` of its test rows; of its out-of-fold rows, where it has no test rows."""
    test: Predictions | None
    oof: Predictions | None
    """Its out-of-fold rows; None where there are none beside the test rows."""
    run: str
    """What it is called: its run, else its folder for a `probs.npy`, else its file."""
    study: Path | None = None
    """The folder of the study whose best trial it is; None for any other member."""
    doubt: str = ""
    """Why nothing shows that its labels, folds and scores are as they were written; empty where its hashes do."""

    @property
    def main(self) -> Predictions:
        """What says where it comes from: its test rows, else its out-of-fold rows."""
        predictions = self.test or self.oof
        if predictions is None:
            raise ValueError(f"{self.path}: a member of no rows")
        return predictions


@dataclass(frozen=True, eq=False)
class Ingredients:
    """Members in their canonical order, everything else in the order of the members."""

    members: tuple[Member, ...]
    names: tuple[str, ...]
    """What each member is called in files and tables."""
    costs: tuple[float | None, ...]
    """Each member's seconds per 1000 images, where its file says."""
    test: Aligned
    """What is answered. Without `has_test` the out-of-fold rows stand here, for their classes and origin alone."""
    has_test: bool
    sets: bool
    """Whether each row has a set of classes."""
    labelled: Labelled | None
    """The out-of-fold rows."""
    unlabelled_because: str | None
    """Why there are none."""
    other_folds: tuple[int, ...]
    """Members of other fold plans than the one of `labelled`."""
    plans: int
    """How many fold plans there are."""
    oof_rows: int
    """How many of them there are; `labelled` may hold a sample."""
    renormalized_rows: int
    """How many rows, of both kinds, were divided by their sum."""
    metric: str
    spec: SubmissionSpec
    has_class_order: bool
    """Whether the dataset's description says in which order the classes stand."""
    sample: Path | None
    """The dataset's own sample file, if it was found."""

    @property
    def doubts(self) -> dict[str, str]:
        """Why some members are unverified, by their names."""
        return doubts_of(self.members, self.names)


def gather(
    paths: Sequence[Path | str],
    options: BlendOptions,
    *,
    submission: SubmissionSpec | None = None,
    find_dataset: FindDataset | None = None,
) -> Ingredients:
    """Load and align the members in `paths`, and what is known of their dataset."""
    members = load_members([Path(path) for path in paths], renormalize=options.renormalize)
    has_test = _have_test(members)
    data_names = [member.main.sidecar.get("dataset") for member in members]
    data_name = next((str(name) for name in data_names if name is not None), None)
    dataset = None if data_name is None else _described(data_name, members)
    if data_name is not None and dataset is None and find_dataset is not None:
        dataset = find_dataset(data_name)
    class_names = dataset.class_names if dataset is not None else None
    if members and class_names is not None and set(class_names) != set(members[0].main.classes):
        dataset = class_names = None  # of other classes: another dataset of the same name
    test = align(
        [member.main for member in members],
        [str(member.path) for member in members],
        kind="test" if has_test else "oof",
        classes=class_names,
        sort_rows=not has_test,
        other_folds=options.other_folds,
    )
    by_main = {id(member.main): member for member in members}
    members = [by_main[id(predictions)] for predictions in test.members]  # in the order of the aligned stack
    sets = members[0].main.activation == "sigmoid"
    names = unique_names(members)
    metric = options.metric or _common_metric(members, sets=sets)
    if problem := metric_problem(metric, sets=sets):
        raise InputError(f"--metric {problem}")
    labelled, reason, plans = _labelled(members, test, metric, options.other_folds)
    # Class numbers are steps of a scale only where something says in which order the classes stand.
    has_order = class_names is not None or test.classes_agreed
    if labelled is not None and has_order and not sets:
        is_scale = metric == "quadratic_kappa" or (dataset is not None and dataset.ordered)
        labelled = replace(labelled, ordered=is_scale)
    costs = [(member.main.sidecar.get("cost") or {}).get(_SECONDS) for member in members]
    oofs = [member.oof for member in members if member.oof is not None]
    spec = submission or (dataset.submission_format if dataset is not None else SubmissionSpec())
    return Ingredients(
        members=tuple(members),
        names=tuple(names),
        costs=tuple(None if cost is None else float(cost) for cost in costs),
        test=test,
        has_test=has_test,
        sets=sets,
        labelled=labelled,
        unlabelled_because=reason,
        other_folds=tuple(member for member, plan in enumerate(plans) if plan),
        plans=max(plans, default=0) + 1,
        oof_rows=max((len(oof.ids) for oof in oofs), default=0),
        renormalized_rows=sum(part.renormalized for part in [*(test.members if has_test else ()), *oofs]),
        metric=metric,
        spec=spec,
        has_class_order=class_names is not None,
        sample=None if spec.sample is None or data_name is None else _find_sample(spec.sample, data_name, members),
    )


def load_members(paths: Sequence[Path], *, renormalize: bool = False) -> list[Member]:
    """Load every file, and the `oof` beside each `probs`; a folder stands for its `probs.npy`, else its `oof.npy`."""
    if len(paths) > MOST_MEMBERS:
        raise InputError(f"{len(paths):,} files, but at most {MOST_MEMBERS:,} can be blended at once")
    load = partial(_load, renormalize=renormalize, seen=Seen())
    loaded = map_in_threads(load, paths, _AT_ONCE)  # hashing and looking at numbers leave Python's lock to others
    problems = [problem for _, messages in loaded for problem in messages]
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return [member for member, _ in loaded if member is not None]


def _load(given: Path, *, renormalize: bool, seen: Seen) -> tuple[Member | None, list[str]]:
    """One member, and what is wrong with its files; read again first, as its run may have been merged meanwhile."""
    member, problems = _load_now(given, renormalize=renormalize, seen=seen)
    return (
        _load_now(given, renormalize=renormalize, seen=seen) if member is not None and problems else (member, problems)
    )


def _load_now(given: Path, *, renormalize: bool, seen: Seen) -> tuple[Member | None, list[str]]:
    """One member as its files are at this moment, and what is wrong with them."""
    if problem := _not_a_member(given):
        return None, [problem]
    path = ProbabilityPaths.of(given / "probs.npy" if given.is_dir() else given).npy
    files = {"test": path}
    if "probs" in path.name:
        oof_path = path.with_name(path.name.replace("probs", "oof"))
        # Read if any of the three files is there: a part of a trio is an error, not an absence.
        files |= {} if _is_absent(oof_path) else {"oof": oof_path}
        if given.is_dir() and _is_absent(path) and "oof" in files:
            files = {"oof": oof_path}
    elif "oof" in path.name and _is_absent(path.with_name(path.name.replace("oof", "probs"))):
        files = {"oof": path}
    if "test" not in files and (lost := _lost_test_rows(files["oof"].parent)):
        return None, [lost]
    loaded: dict[str, Predictions] = {}
    problems: list[str] = []
    for kind, file in files.items():
        try:
            loaded[kind] = load_predictions(file, renormalize=renormalize, seen=seen)
        except InputError as error:
            problems += error.messages
    test, oof = loaded.get("test"), loaded.get("oof")
    main = test if "test" in files else oof
    if main is None:
        return None, problems
    path = next(iter(files.values()))
    folder = Path(os.path.abspath(path)).parent.name
    run = str(main.sidecar.get("run") or (folder if path.stem in ("probs", "oof") else path.stem))
    problems += _pair_problems(test, oof) if test and oof else []
    if not is_inner_path(run):  # blend.json names its members so, and their runs are looked for by it
        problems.append(f"{ProbabilityPaths.of(path).json}: run: {run!r:.60} is no name of a run; rename it")
    doubt, strangers = _vouched_for(path.parent, [*loaded.values()])
    return Member(path, test, oof, run, _study_won_by(path.parent), doubt), problems + strangers


class _StudyBest(Schema):
    number: Count


class _ChoosingStudy(RecordSchema):
    """Of `study.json`, which trial it chose."""

    newest: ClassVar[int] = 2
    sealed_from: ClassVar[int] = 2
    best: _StudyBest | None = None


def _study_won_by(run: Path) -> Path | None:
    """The folder of the study that chose this run among its trials."""
    run = Path(os.path.abspath(run))
    try:
        best = load_record(run.parent / "study.json", _ChoosingStudy)["best"] if _TRIAL.fullmatch(run.name) else None
    except (InputError, FileNotFoundError, KeyError):  # no study, or one whose record says nothing that holds
        return None
    return run.parent if best is not None and run.name == f"trial-{best['number']}" else None


def _vouched_for(folder: Path, loaded: Sequence[Predictions]) -> tuple[str, list[str]]:
    """What nothing vouches for: why files, or the run's record beside them, may have been altered, empty where not; and
    files that are whole, but not those that the record names: put there from another run."""
    try:
        record = RunFolder(folder).load_record()
    except InputError as error:
        return error.messages[0], []
    is_verified = all(each.is_verified for each in loaded) and (record is None or record.is_verified)
    named = {} if record is None else record["files"]
    paths = [ProbabilityPaths.of(each.path) for each in loaded if each.path is not None]
    strangers = [
        f"{path.json}: not the file that {folder / 'run.json'} names; restore it, or train the run again"
        for path in paths
        if path.json.name in named and sha256_file(newest(path.json, path.json.stem)) != named[path.json.name]
    ]  # it holds the hashes of the other two
    return "" if is_verified else EARLIER, strangers


def doubts_of(members: Sequence[Member], names: Sequence[str]) -> dict[str, str]:
    """Why some members are unverified, by their names."""
    return {name: member.doubt for member, name in zip(members, names, strict=True) if member.doubt}


def optimism_of(member: Member, members: Sequence[Member]) -> dict[str, Any]:
    """What is noted of a member whose score flatters it: by its own files, or as the one trial taken of a study."""
    reasons = list(member.main.sidecar.get("why_optimistic") or ())
    others = [other.path for other in members if other is not member]
    if member.study is not None and member.study not in [Path(os.path.abspath(path)).parents[1] for path in others]:
        reasons.append(
            f"the best trial of study {member.study.name}, chosen on these very folds; `weights` in its study.json is "
            "its honest score"
        )
    if not reasons and not member.main.sidecar.get("optimistic"):
        return {}
    return {"optimistic": True, "why_optimistic": reasons}


def _is_absent(path: Path) -> bool:
    """Whether none of a probability file's three files is there."""
    return len(ProbabilityPaths.of(path).missing()) == 3


def _lost_test_rows(folder: Path) -> str:
    """What to say where a run predicted test rows and its file of them is gone; empty where it never had any."""
    try:
        record = RunFolder(folder).load_record() or Record()
    except InputError:  # of another version of `ens`: nothing is known
        return ""
    if not (record.get("rows") or {}).get("test"):
        return ""
    return f"{folder / 'probs.npy'}: gone, though the run has test rows; ens predict {folder} makes it again"


def _have_test(members: Sequence[Member]) -> bool:
    """Whether the members have test rows; refused where some have and some have not."""
    without = [str(member.path.parent) for member in members if member.test is None]
    if without and len(without) < len(members):
        having = next(member.path for member in members if member.test is not None)
        raise InputError(
            f"{', '.join(without)}: no test rows, while {having} holds some; blend members with test rows, or members "
            "without, not both"
        )
    return not without


def _not_a_member(given: Path) -> str:
    """What is wrong with a word that names no member at all: a table, a run without results, a misspelt name."""
    if given.suffix.lower() in _TABLES and given.is_file():
        return (
            f"{given}: is a table, not a probability file; if it holds a probability for each class, "
            f"ens adopt {given} makes one of it"
        )
    folder = given if given.is_dir() else given.parent
    if len(ProbabilityPaths.of(folder / "probs.npy" if given.is_dir() else given).missing()) < 3:
        return ""
    if (folder / "run.json").is_file() and (given.is_dir() or given.stem in ("probs", "oof")):
        try:
            record = RunFolder(folder).load_record()
        except InputError as error:
            return error.messages[0]
        return "" if record is None or record["state"] == "complete" else unfinished_text(RunFolder(folder), record)
    if "*" in given.name or "*" in given.parent.name:
        return f"{given}: matches nothing; ens status shows which runs are finished"
    # The first part of the path that is not there is the one that may be misspelt.
    absent = next((path for path in reversed([given, *given.parents]) if not path.exists()), None)
    if absent is None or not absent.parent.is_dir():
        return ""
    near = closest(absent.name, sorted(entry.name for entry in absent.parent.iterdir() if entry.name[:1] != "."))
    return f"{given}: there is no {absent}; did you mean {absent.with_name(near)}?" if near else ""


def _pair_problems(test: Predictions, oof: Predictions) -> list[str]:
    """Whether both files are of one model."""
    problems = [
        f"{oof.path}: not of the same model as {test.path}: {key} differs ({oof.sidecar[key]} and {test.sidecar[key]})"
        for key in _SAME_IN_BOTH
        if oof.sidecar.get(key) is not None
        and test.sidecar.get(key) is not None
        and oof.sidecar[key] != test.sidecar[key]
    ][:1]
    if oof.kind != "oof":
        problems.append(f"{oof.path}: holds {oof.kind} rows; out-of-fold rows are expected under this name")
    if set(oof.classes) != set(test.classes):
        problems.append(f"{oof.path}: its classes are not those of {test.path}")
    return problems


def unique_names(members: Sequence[Member]) -> list[str]:
    """A name a member: its run; with its folder, and then a number, where that is not enough."""
    runs = Counter(member.run for member in members)
    seen: Counter[str] = Counter()
    names = []
    for member in members:
        name = member.run if runs[member.run] == 1 else f"{member.run}@{member.path.absolute().parent.name}"
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names


def _runs(members: Sequence[Member]) -> Iterator[RunFolder]:
    return (RunFolder(member.path.parent) for member in members)


def _described(dataset: str, members: Sequence[Member]) -> DatasetDescription | None:
    """The description in a member's `run.json`: that of a folder which has none in `recipes/data`."""
    for record in records_of(_runs(members), dataset):
        with suppress(InputError):  # the description of another version
            return described_in(record)  # one record is enough: a thousand members take a second to read
    return None


def _find_sample(sample: str, dataset: str, members: Sequence[Member]) -> Path | None:
    """The dataset's sample: below the folder that a member's `run.json` names, else below `ENS_DATA_ROOT/NAME`.

    None where it is in neither, as for files from another machine.
    """
    for record in records_of(_runs(members), dataset):
        folder = record.get("data_folder")
        if isinstance(folder, str) and (Path(folder) / sample).is_file():
            return Path(folder) / sample
    root = os.environ.get("ENS_DATA_ROOT")
    path = Path(root or ".") / dataset / sample
    return path if root and path.is_file() else None


def _common_metric(members: Sequence[Member], *, sets: bool) -> str:
    """The metric that all members who name one agree on, else accuracy; one of their own code can't be used here."""
    named = {member.main.sidecar["metric"] for member in members if member.main.sidecar.get("metric") is not None}
    metric = str(named.pop()) if len(named) == 1 else "accuracy"
    if metric not in METRICS | SET_METRICS:
        raise InputError(
            f"the members' metric, {metric}, is code of their recipe, which a blend does not run; "
            f"name the one to judge by with --metric: {any_of(list(metrics_for(sets=sets)))}"
        )
    return metric


def _labelled(
    members: Sequence[Member], test: Aligned, metric: str, other_folds: bool
) -> tuple[Labelled | None, str | None, tuple[int, ...]]:
    """The out-of-fold rows side by side, None and why where they can't be had; and the number of each one's plan."""
    without = [member for member in members if member.oof is None]
    if without:
        more = f" (nor beside {counted(len(without) - 1, 'other')})" if len(without) > 1 else ""
        return None, f"no out-of-fold rows beside {without[0].run}'s test rows{more}", ()
    oofs = [member.oof for member in members if member.oof is not None]
    names = [str(oof.path) for oof in oofs]
    apart = _of_other_folds(oofs)
    if apart is not None:
        return None, f"{names[0]} and {names[apart]} hold out-of-fold rows of different folds", ()
    aligned = align(
        oofs, names, kind="oof", classes=test.classes, sort_rows=True, keep_order=True, other_folds=other_folds
    )
    if aligned.labels is None or aligned.folds is None:  # the format demands them; this keeps a later format honest
        return None, "the out-of-fold rows have no labels or folds", ()
    if (k := max(len(np.unique(part)) for part in np.atleast_2d(aligned.folds))) > MOST_FOLDS:
        return None, f"the out-of-fold rows have {k:,} folds, at most {MOST_FOLDS} are possible", ()
    chosen = sampled_rows(len(aligned.ids), len(oofs), len(aligned.classes), aligned.groups)
    labels, folds, groups, stack = aligned.labels, np.atleast_2d(aligned.folds), aligned.groups, aligned.stack
    if chosen is not None:
        labels, folds, stack = labels[chosen], folds[:, chosen], stack.rows(chosen)
        groups = None if groups is None else groups[chosen]
    size = len(oofs) * len(labels) * len(aligned.classes) * max(oof.probs.itemsize for oof in oofs)
    ordered = stack if size > _IN_MEMORY else [np.ascontiguousarray(matrix) for matrix in stack]
    return Labelled(ordered, labels, folds, groups, metric), None, aligned.plans


def _of_other_folds(oofs: Sequence[Predictions]) -> int | None:
    """The first file that shares neither rows nor folds with the first, as the folders of two folds of one run."""
    first = oofs[0]
    rows, folds = set(first.ids), set(np.ravel(np.array(first.folds)).tolist())
    for number, oof in enumerate(oofs):
        if oof.ids is first.ids or not rows.isdisjoint(oof.ids):
            continue
        if folds.isdisjoint(np.ravel(np.array(oof.folds)).tolist()):
            return number
    return None


def sampled_rows(rows: int, members: int, classes: int, groups: Integers | None) -> Integers | None:
    """The numbers of the rows to look at, ascending; None for all of them.

    Every group is as likely to be drawn as any other, always the same ones, whatever the members are.
    """
    if rows * members * classes <= _MOST_NUMBERS or rows <= _FEWEST_ROWS:
        return None
    wanted = max(_FEWEST_ROWS, _SAMPLE_NUMBERS // (members * classes))
    units = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(units)
    order = np.random.default_rng(0).permutation(len(sizes))
    is_drawn = np.zeros(len(sizes), dtype=np.bool_)
    is_drawn[order[: np.searchsorted(np.cumsum(sizes[order]), wanted) + 1]] = True
    return np.flatnonzero(is_drawn[units])
