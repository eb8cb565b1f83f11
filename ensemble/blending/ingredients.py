"""All that goes into a blend, loaded and side by side: members, out-of-fold rows, the dataset's wishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemble.blending.align import Aligned, align
from ensemble.blending.labelled import Labelled
from ensemble.blending.members import Member, load_members, unique_names
from ensemble.blending.sample import find_sample
from ensemble.blending.sampled import sampled_rows
from ensemble.core.complaints import any_of
from ensemble.core.dataset import DatasetDescription, SubmissionSpec
from ensemble.core.metrics import METRICS, SET_METRICS, metric_problem, metrics_for
from ensemble.core.probability import Predictions
from ensemble.errors import InputError

__all__ = ["FindDataset", "Ingredients", "gather"]

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
