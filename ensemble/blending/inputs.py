"""All that goes into a blend: members as they lie on disk, out-of-fold rows, a sample of them where memory is short.

Everything wrong with any file is one error. Whether members fit one another is `align`'s business.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.align import Aligned, align
from ensemble.blending.crossfit import Labelled
from ensemble.core.complaints import any_of
from ensemble.core.dataset import DatasetDescription, SubmissionSpec
from ensemble.core.metrics import METRICS, SET_METRICS, metric_problem, metrics_for
from ensemble.core.parallel import map_in_threads
from ensemble.core.predictions import Predictions, ProbabilityPaths, Seen, load_predictions
from ensemble.core.run import RunFolder
from ensemble.errors import InputError

_AT_ONCE = min(4, os.cpu_count() or 1)
_SAME_IN_BOTH = ("run", "identity", "dataset", "dataset_sha256", "folds_sha256")


@dataclass(frozen=True, eq=False)
class Member:
    """One model's predictions."""

    path: Path
    """The `.npy` of its test rows."""
    test: Predictions
    oof: Predictions | None
    """Its out-of-fold rows; None where there are none beside the test rows."""

    @property
    def run(self) -> str:
        """What it is called: its run, else its folder for a `probs.npy`, else its file."""
        said = self.test.sidecar.get("run")
        return str(said or (self.folder if self.path.stem == "probs" else self.path.stem))

    @property
    def folder(self) -> str:
        """Name of the folder it lies in."""
        return self.path.absolute().parent.name

    @property
    def oof_path(self) -> Path | None:
        """Where its out-of-fold rows would lie; None for a file whose name doesn't tell."""
        return _oof_path(self.path)


def load_members(paths: Sequence[Path], *, renormalize: bool = False) -> list[Member]:
    """Load every file, and the `oof` beside each `probs`; a folder stands for the `probs.npy` in it."""
    load = partial(_load, renormalize=renormalize, seen=Seen())
    loaded = map_in_threads(load, paths, _AT_ONCE)  # hashing and looking at numbers leave Python's lock to others
    problems = [problem for _, found in loaded for problem in found]
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return [member for member, _ in loaded if member is not None]


def unique_names(members: Sequence[Member]) -> list[str]:
    """A name a member: its run; with its folder, and then a number, where that is not enough."""
    runs = Counter(member.run for member in members)
    names = [one.run if runs[one.run] == 1 else f"{one.run}@{one.folder}" for one in members]
    seen: Counter[str] = Counter()
    result = []
    for name in names:
        seen[name] += 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def _load(given: Path, *, renormalize: bool, seen: Seen) -> tuple[Member | None, list[str]]:
    """One member, and what is wrong with its files."""
    path = ProbabilityPaths.of(given / "probs.npy" if given.is_dir() else given).npy
    problems: list[str] = []
    test = _read(path, renormalize, seen, problems)
    oof_path = _oof_path(path)
    oof = None
    if oof_path is not None and _is_there(oof_path):
        oof = _read(oof_path, renormalize, seen, problems)
    if test is None:
        return None, problems
    return Member(path, test, oof), problems if oof is None else problems + _pair_problems(test, oof)


def _read(path: Path, renormalize: bool, seen: Seen, problems: list[str]) -> Predictions | None:
    try:
        return load_predictions(path, renormalize=renormalize, seen=seen)
    except InputError as error:
        problems += error.messages
        return None


def _oof_path(path: Path) -> Path | None:
    """`oof` for `probs`, in the same folder."""
    return path.with_name(path.name.replace("probs", "oof")) if "probs" in path.name else None


def _is_there(path: Path) -> bool:
    """Whether any of the three files is: a part of one is an error, not an absence."""
    return len(ProbabilityPaths.of(path).missing()) < 3


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


def find_sample(sample: str, dataset: str, members: Sequence[Member]) -> Path | None:
    """The dataset's sample: below the folder that a member's `run.json` names, else below `ENS_DATA_ROOT/NAME`.

    None where it is in neither, as for files from another machine.
    """
    return next((folder / sample for folder in _folders(dataset, members) if (folder / sample).is_file()), None)


def _folders(dataset: str, members: Sequence[Member]) -> Iterator[Path]:
    for member in members:
        try:
            record = RunFolder(member.path.parent).load_record()
        except InputError:  # a run of another version of `ens`: its probabilities are good, its record no help
            continue
        if record is not None and record.get("dataset") == dataset and isinstance(record.get("data_folder"), str):
            yield Path(record["data_folder"])
    root = os.environ.get("ENS_DATA_ROOT")
    if root:
        yield Path(root) / dataset


_MOST_NUMBERS = 1 << 28  # of 32 bits a gibibyte: so much is looked at as it is
_SAMPLE_NUMBERS = 100_000_000  # of more than that a sample, which leaves twice as much for what is learned from it
_FEWEST_ROWS = 20_000

Integers = NDArray[np.int64]


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


FindDataset = Callable[[str], DatasetDescription | None]
_SECONDS = "seconds_per_1000_images"
_IN_MEMORY = 1 << 30  # bytes of out-of-fold rows are brought into order once, more each time they are looked at


@dataclass(frozen=True, eq=False)
class Ingredients:
    """Members in their canonical order, everything else in the order of the members."""

    members: tuple[Member, ...]
    names: tuple[str, ...]
    """What each member is called in files and tables."""
    test: Aligned
    labelled: Labelled | None
    """The out-of-fold rows."""
    unlabelled_because: str | None
    """Why there are none."""
    oof_rows: int
    """How many of them there are; `labelled` may hold a sample."""
    metric: str
    spec: SubmissionSpec
    has_class_order: bool
    """Whether the dataset's description says in which order the classes stand."""
    sample: Path | None
    """The dataset's own sample file, if it was found."""

    @property
    def sets(self) -> bool:
        """Whether each row has a set of classes."""
        return self.test.activation == "sigmoid"

    @property
    def costs(self) -> list[float | None]:
        """Each member's seconds per 1000 images, where it tells."""
        told = [(member.test.sidecar.get("cost") or {}).get(_SECONDS) for member in self.members]
        return [None if cost is None else float(cost) for cost in told]

    @property
    def renormalized_rows(self) -> int:
        """How many rows, of both kinds, were divided by their sum."""
        return sum(one.test.renormalized + (one.oof.renormalized if one.oof else 0) for one in self.members)


def gather(
    paths: Sequence[Path | str],
    *,
    metric: str | None,
    renormalize: bool,
    submission: SubmissionSpec | None,
    find_dataset: FindDataset | None,
) -> Ingredients:
    """Load and align the members in `paths`, and what is known of their dataset."""
    members = load_members([Path(path) for path in paths], renormalize=renormalize)
    name_of_data = _dataset_name(members)
    dataset = _known_dataset(members, name_of_data, find_dataset)
    class_names = dataset.class_names if dataset is not None else None
    test = align([member.test for member in members], [str(member.path) for member in members], classes=class_names)
    members = _in_order(members, test)
    sets = test.activation == "sigmoid"
    metric = metric or _common_metric(members, sets=sets)
    if problem := metric_problem(metric, sets=sets):
        raise InputError(f"--metric {problem}")
    labelled, reason = _labelled(members, test, metric)
    spec = submission or (dataset.submission_format if dataset is not None else SubmissionSpec())
    sample = None
    if spec.sample is not None and name_of_data is not None:
        sample = find_sample(spec.sample, name_of_data, members)
    return Ingredients(
        members=tuple(members),
        names=tuple(unique_names(members)),
        test=test,
        labelled=labelled,
        unlabelled_because=reason,
        oof_rows=max((len(member.oof.ids) for member in members if member.oof is not None), default=0),
        metric=metric,
        spec=spec,
        has_class_order=class_names is not None,
        sample=sample,
    )


def _dataset_name(members: Sequence[Member]) -> str | None:
    """What the first member that tells calls its dataset."""
    named = (member.test.sidecar.get("dataset") for member in members)
    return next((str(name) for name in named if name is not None), None)


def _known_dataset(
    members: Sequence[Member], name: str | None, find_dataset: FindDataset | None
) -> DatasetDescription | None:
    """The description of the members' dataset; None when unknown, or when it tells of other classes."""
    found = find_dataset(name) if name is not None and find_dataset is not None else None
    if found is None or found.class_names is None or not members:
        return found
    return found if set(found.class_names) == set(members[0].test.classes) else None


def _in_order(members: Sequence[Member], test: Aligned) -> list[Member]:
    """Members in the order of the aligned stack."""
    by_test = {id(member.test): member for member in members}
    return [by_test[id(predictions)] for predictions in test.members]


def _common_metric(members: Sequence[Member], *, sets: bool) -> str:
    """The metric all members that name one agree on, else accuracy; one of their own can't be had here."""
    named = {member.test.sidecar["metric"] for member in members if member.test.sidecar.get("metric") is not None}
    metric = str(named.pop()) if len(named) == 1 else "accuracy"
    if metric not in METRICS | SET_METRICS:
        raise InputError(
            f"the members' metric, {metric}, is code of their recipe, which a blend does not run; "
            f"say by which to judge with --metric: {any_of(list(metrics_for(sets=sets)))}"
        )
    return metric


def _labelled(members: Sequence[Member], test: Aligned, metric: str) -> tuple[Labelled | None, str | None]:
    """The out-of-fold rows side by side; None and why where they can't be had."""
    without = [member for member in members if member.oof is None]
    if without:
        more = f" (nor beside {len(without) - 1} others)" if len(without) > 1 else ""
        return None, f"no out-of-fold rows beside {without[0].run}'s test rows{more}"
    oofs = [member.oof for member in members if member.oof is not None]
    names = [str(one.path) for one in oofs]
    apart = _of_other_folds(oofs)
    if apart is not None:
        return None, f"{names[0]} and {names[apart]} hold out-of-fold rows of different folds"
    aligned = align(oofs, names, kind="oof", classes=test.classes, sort_rows=True, keep_order=True)
    if aligned.labels is None or aligned.folds is None:  # the format demands them; this keeps a later format honest
        return None, "the out-of-fold rows have no labels or folds"
    chosen = sampled_rows(len(aligned.ids), len(oofs), len(aligned.classes), aligned.groups)
    labels, folds, groups, stack = aligned.labels, np.atleast_2d(aligned.folds), aligned.groups, aligned.stack
    if chosen is not None:
        labels, folds, stack = labels[chosen], folds[:, chosen], stack.rows(chosen)
        groups = None if groups is None else groups[chosen]
    size = len(stack) * len(labels) * len(aligned.classes) * max(one.probs.itemsize for one in oofs)
    ordered = [np.ascontiguousarray(matrix) for matrix in stack] if size <= _IN_MEMORY else stack
    return Labelled(ordered, labels, folds, groups, metric), None


def _of_other_folds(oofs: Sequence[Predictions]) -> int | None:
    """The first file that shares neither rows nor folds with the first, as the folders of two folds of one run."""
    first = oofs[0]
    rows, folds = set(first.ids), set(np.ravel(np.array(first.folds)).tolist())
    for number, one in enumerate(oofs):
        if one.ids is first.ids or not rows.isdisjoint(one.ids):
            continue
        if folds.isdisjoint(np.ravel(np.array(one.folds)).tolist()):
            return number
    return None
