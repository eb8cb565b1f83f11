"""`compare`: runs, trials and blends on the same out-of-fold rows: by how much they differ, whether that is more than
other rows and another training would make of it, what their recipes say, and which rows changed sides.

Rows are joined by id. What stands on a side is loaded in `sides`, what a difference is worth is computed in
`training_noise`. Writes nothing but the list of rows that is asked for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ensemble.blending.inputs import sampled_rows
from ensemble.combining.combine import Integers, Matrix
from ensemble.combining.intervals import Support, doubt_about, least_error
from ensemble.comparison.changed_rows import ChangedRows, SideAnswers, changed_csv
from ensemble.comparison.sides import RETRAINED, Side, Trained, changed_keys, load_sides, record_in
from ensemble.comparison.training_noise import (
    MeanSquare,
    Paired,
    Profile,
    Training,
    between_trainings,
    mean_squares,
    paired,
    profile,
)
from ensemble.core.complaints import any_of, counted
from ensemble.core.files import save_text
from ensemble.core.labels import Labels, are_sets
from ensemble.core.metrics import (
    decide,
    decide_sets,
    is_greater_better,
    metrics_for,
    per_class,
    ranking_metric,
    shared_scorers,
)
from ensemble.core.notebook import NotebookValue, check_arguments, listed
from ensemble.core.predictions import Predictions, load_predictions
from ensemble.core.records import doubt_lines
from ensemble.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_MOST_OTHERS = 12  # other runs to learn the noise of training from: it is then known to a fifth
_MOST_NUMBERS = 1 << 28  # rows x classes of all that is read for the noise alone: 1 GB
_MOST_TIMES = 100.0  # the rows: beyond that nobody gets them


@dataclass(frozen=True, repr=False)
class Compared(NotebookValue):
    """A comparison; `document` is what `ens compare --json` prints."""

    document: dict[str, Any]
    changed: tuple[ChangedRows, ...] = ()
    """Of each comparison, the answers of both sides row by row."""

    @property
    def headline(self) -> str:
        """Every verdict."""
        return "; ".join(item["text"] for item in self.document["comparisons"])

    def table(self) -> pd.DataFrame:
        """A row a comparison: both names, the difference, its interval, the verdict, rows that changed sides."""
        import pandas as pd

        rows = [
            {
                "first": item["first"],
                "second": item["second"],
                "difference": item["difference"],
                "low": (item["ci95"] or (None, None))[0],
                "high": (item["ci95"] or (None, None))[1],
                "verdict": item["verdict"],
                "became_right": item["rows"]["became_right"],
                "became_wrong": item["rows"]["became_wrong"],
            }
            for item in self.document["comparisons"]
        ]
        return pd.DataFrame(rows)


@check_arguments
def compare(
    paths: Sequence[Path | str] | Path | str,
    *,
    metric: str | None = None,
    out: Path | str | None = None,
    outputs: Path | str = "outputs",
) -> Compared:
    """Compare runs, trials (`study/trial-3`) or blends with the first one, on the out-of-fold rows that all have.

    Trainings of one recipe count as one side: named together as `R,R-s1,R-s2`, or found beside `R` in `outputs`.
    `out` is a CSV file for the rows whose decision changed from right to wrong or back.
    """
    words = [str(word) for word in listed(paths)]
    target = _check_out(out)
    compared = compare_sides(load_sides(words, Path(outputs)), Path(outputs), metric)
    if target is not None:
        save_text(target, changed_csv(compared.changed))
    return Compared(compared.document | {"out": None if target is None else str(target)}, compared.changed)


def compare_sides(sides: Sequence[Side], outputs: Path, metric: str | None = None) -> Compared:
    """The same of what is loaded already; writes nothing."""
    table = _Table.of(sides, metric)
    first = sides[0]
    squares, others = _noise_of_others(table, sides, outputs)
    changed = tuple(table.changed(sides, number) for number in range(1, len(sides)))
    items = [_compare(table, sides, number, squares, others, rows) for number, rows in enumerate(changed, start=1)]
    doubts = {name: why for side in sides for name, why in side.doubts.items()}
    return Compared(
        {
            "metric": table.metric,
            "greater_is_better": is_greater_better(table.metric),
            "dataset": first.trained[0].rows.sidecar.get("dataset"),
            "rows": len(table.ids),
            "shared": table.shared,
            "units": int(table.units.max()) + 1,
            "by": "rows" if table.groups is None else "groups",
            "classes": list(table.classes),
            "sides": [_side_facts(table, side, places) for side, places in zip(sides, table.places, strict=True)],
            "comparisons": items,
            "correction": "Bonferroni" if len(items) > 1 else None,
            "out": None,
            "unverified": list(doubts),
            "remarks": [*table.remarks, *(remark for side in sides for remark in side.remarks), *doubt_lines(doubts)],
        },
        changed,
    )


def _check_out(out: Path | str | None) -> Path | None:
    """The file for changed rows; a name that could be that of an input is refused."""
    if out is None:
        return None
    path = Path(out)
    if path.suffix != ".csv" or path.is_dir() or not path.absolute().parent.is_dir():
        raise InputError(f"--out {path}: must be a new file that ends in .csv, in a folder that exists")
    return path


# Rows


@dataclass(frozen=True, eq=False)
class _Table:
    """The rows that all sides have, in the order of the first, with what is computed on them."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    labels: Labels
    groups: Integers | None
    units: Integers
    metric: str
    shared: int
    """How many rows all sides have; of very many a sample is looked at."""
    profile: Profile
    places: tuple[tuple[int, ...], ...]
    """Of each side, where its trainings are in `profile`."""
    views: tuple[_View, ...]
    remarks: tuple[str, ...]

    @classmethod
    def of(cls, sides: Sequence[Side], wanted: str | None) -> _Table:
        first = sides[0].trained[0].rows
        sets = first.activation == "sigmoid"
        metric, remarks = ranking_metric([side.metric for side in sides], wanted, sets=sets)
        everyone = [training for side in sides for training in side.trained]
        ids = _shared_ids(sides)
        shared, labels, groups = len(ids), *_truth(sides, ids)
        chosen = sampled_rows(shared, len(everyone), len(first.classes), groups)
        if chosen is not None:
            ids, labels = [ids[row] for row in chosen], labels[chosen]
            groups = None if groups is None else groups[chosen]
            remarks.append(f"a sample of {len(ids):,} of {shared:,} rows is compared")
        units = np.arange(len(ids)) if groups is None else np.unique(groups, return_inverse=True)[1].astype(np.int64)
        if doubt := doubt_about(metric, Support(units, labels)):
            remarks.append(f"no interval can be trusted: {doubt}")
        views: list[_View] = []
        trainings: list[Training] = []
        places: list[tuple[int, ...]] = []
        for side in sides:
            view = _View.of(side, ids, labels, first.classes, metric)
            views.append(view)
            places.append(tuple(range(len(trainings), len(trainings) + len(view.trainings))))
            trainings += view.trainings
        return cls(
            tuple(ids),
            first.classes,
            labels,
            groups,
            units,
            metric,
            shared,
            profile(trainings, units),
            tuple(places),
            tuple(views),
            tuple(remarks),
        )

    def changed(self, sides: Sequence[Side], number: int) -> ChangedRows:
        """One side beside the first, row by row."""
        here, there = self.views[0].answers, self.views[number].answers
        return ChangedRows(sides[0].name, sides[number].name, self.ids, self.classes, self.labels, here, there)


@dataclass(frozen=True, eq=False)
class _View:
    """A side on the shared rows: its trainings' scores, and the answers of their mean."""

    trainings: tuple[Training, ...]
    answers: SideAnswers
    per_class: Mapping[str, Any]

    @classmethod
    def of(cls, side: Side, ids: Sequence[str], labels: Labels, classes: Sequence[str], metric: str) -> _View:
        """Matrices of several trainings are in memory one after the other, and their sum."""
        trainings: list[Training] = []
        total: Matrix | None = None
        decisions: Integers | None = None
        for trained in side.trained:
            rows = _places(trained.rows, ids)
            probs = _in_order(trained.rows, rows, classes)
            decisions = None if trained.decisions is None else trained.decisions[rows]
            trainings.append(_training(trained, rows, probs, labels, metric, decisions))
            if len(side.trained) > 1:
                probs, decisions = probs / len(side.trained), None
            total = probs if total is None else total + probs
        if total is None:
            raise ValueError(f"{side.name}: a side without trainings")
        if decisions is None:
            decisions = np.asarray(decide_sets(total) if are_sets(labels) else decide(total), dtype=np.int64)
        return cls(tuple(trainings), SideAnswers.of(total, decisions, labels), per_class(labels, total, decisions))


def _training(
    trained: Trained, rows: Integers, probs: Matrix, labels: Labels, metric: str, decisions: Integers | None = None
) -> Training:
    known = metrics_for(sets=are_sets(labels))
    scorer = shared_scorers({metric: known[metric]}, labels, probs, decisions)[metric]
    return Training(scorer, trained.folds[rows], trained.models)


def _shared_ids(sides: Sequence[Side]) -> list[str]:
    """Ids that every training has, in the order of the first."""
    everyone = [training.rows.ids for side in sides for training in side.trained]
    others = [set(ids) for ids in {id(ids): ids for ids in everyone[1:] if ids != everyone[0]}.values()]
    shared = [row_id for row_id in everyone[0] if all(row_id in ids for ids in others)]
    if not shared:
        raise InputError(
            f"{any_of([side.name for side in sides], 'and')}: share no row; ids are compared letter by letter: "
            f"{everyone[0][0]!r} and {next(iter(others[0]))!r}"
        )
    return shared


def _places(rows: Predictions, ids: Sequence[str]) -> Integers:
    """Where the rows of these ids stand."""
    if tuple(ids) == rows.ids:
        return np.arange(len(ids))
    place = {row_id: row for row, row_id in enumerate(rows.ids)}
    return np.fromiter((place[row_id] for row_id in ids), dtype=np.int64, count=len(ids))


def _in_order(rows: Predictions, places: Integers, classes: Sequence[str]) -> Matrix:
    """(rows, classes); a copy only where rows or columns stand otherwise."""
    whole = len(places) == len(rows.ids) and np.array_equal(places, np.arange(len(places)))
    probs = rows.probs if whole else rows.probs[places]
    probs = probs.astype(np.float32) if probs.dtype.itemsize == 2 else probs
    if rows.classes == tuple(classes):
        return probs
    return probs[:, [rows.classes.index(name) for name in classes]]


def _labels_of(rows: Predictions, places: Integers, classes: Sequence[str]) -> Labels:
    if rows.labels is None:
        raise InputError(f"{rows.path}: has no labels")
    labels = np.asarray(rows.labels)[places]
    if rows.classes == tuple(classes):
        return labels
    if labels.ndim == 2:
        return labels[:, [rows.classes.index(name) for name in classes]]
    return np.array([list(classes).index(name) for name in rows.classes])[labels]


def _truth(sides: Sequence[Side], ids: Sequence[str]) -> tuple[Labels, Integers | None]:
    """Labels and groups of the shared rows; files that contradict each other are refused."""
    first = sides[0].trained[0].rows
    labels, groups = _labels_of(first, _places(first, ids), first.classes), None
    for side in sides:
        for rows in dict.fromkeys(trained.rows for trained in side.trained):
            places = _places(rows, ids)
            different = np.flatnonzero(
                (_labels_of(rows, places, first.classes) != labels).reshape(len(ids), -1).any(axis=1)
            )
            if different.size:
                raise InputError(
                    f"{sides[0].name} and {side.name}: different labels for {counted(different.size, 'row')}; the "
                    f"first is id {ids[int(different[0])]!r}"
                )
            if groups is None and rows.groups is not None:
                groups = np.asarray(rows.groups)[places]
    return labels, groups


# What is known of the noise of training


def _noise_of_others(table: _Table, sides: Sequence[Side], outputs: Path) -> tuple[list[MeanSquare], dict[str, Any]]:
    """What other runs and trials of the dataset show of the noise between trainings, and how many they are."""
    families: dict[str, list[Training]] = {}
    own: dict[str, list[Training]] = {}
    for side, view in zip(sides, table.views, strict=True):
        if side.kind != "blend" and side.facts is not None:
            own.setdefault(_family(side.facts), []).append(view.trainings[0])
    count = 0
    for trained, facts in _other_trainings(table, sides, outputs):
        rows = _places(trained.rows, table.ids)
        probs = _in_order(trained.rows, rows, table.classes)
        families.setdefault(_family(facts), []).append(_training(trained, rows, probs, table.labels, table.metric))
        count += 1
    if not count:
        return [], {"runs": 0, "trained_again": 0}
    for key, trainings in own.items():
        if key in families and len(trainings) == 1:  # two sides of one recipe are what is to be judged
            families[key].append(trainings[0])
    known = profile([training for family in families.values() for training in family], table.units)
    squares, heads, start, again = [], [], 0, 0
    for family in families.values():
        members = range(start, start + len(family))
        squares += between_trainings(known, members)
        again += len(family) - 1
        heads.append(start)
        start += len(family)
    heads.sort(key=lambda place: known.whole[place])  # the most alike side by side
    for here, there in zip(heads[::2], heads[1::2], strict=False):
        signs = np.zeros(len(known.whole))
        signs[here], signs[there] = -1.0, 1.0
        squares += mean_squares(known, signs)
    return squares, {"runs": count, "trained_again": again}


def _family(facts: Mapping[str, Any]) -> str:
    """A text that is the same for trainings of one recipe, whatever seed and folds."""
    recipe = dict(facts.get("recipe") or {})
    folds = {key: value for key, value in dict(recipe.pop("folds", {})).items() if f"folds.{key}" not in RETRAINED}
    recipe.pop("seed", None)
    return json.dumps([recipe, folds, facts.get("code")], sort_keys=True, default=str)


def _other_trainings(
    table: _Table, sides: Sequence[Side], outputs: Path
) -> Iterator[tuple[Trained, Mapping[str, Any]]]:
    """Finished runs and trials of the same dataset that have all the rows, without those that are compared."""
    taken = {trained.rows.sidecar.get("identity") for side in sides for trained in side.trained}
    sidecar = sides[0].trained[0].rows.sidecar
    numbers, count = 0, 0
    if sidecar.get("dataset_sha256") is None:
        return
    for path in sorted([*outputs.glob("*/run.json"), *outputs.glob("studies/*/*/run.json")]):
        record = record_in(path.parent)
        if record is None or record["state"] != "complete" or record["identity"] in taken:
            continue
        if record["identity_of"].get("dataset_sha256") != sidecar["dataset_sha256"] or count >= _MOST_OTHERS:
            continue
        try:
            rows = load_predictions(path.parent / "oof")
        except InputError:  # what is wrong with a run that was not named is not this command's business
            continue
        numbers += rows.probs.size
        is_alike = set(rows.classes) == set(table.classes) and set(table.ids) <= set(rows.ids)
        if numbers > _MOST_NUMBERS or not is_alike:
            continue
        taken.add(record["identity"])
        count += 1
        folds = np.atleast_2d(np.array(rows.folds, dtype=np.int64))
        models = sum(len(np.unique(plan)) for plan in folds)
        yield Trained(str(record["run"]), rows, folds[0], models), record["identity_of"]


# Results


def _side_facts(table: _Table, side: Side, places: Sequence[int]) -> dict[str, Any]:
    """What a side is, and its score: the mean of its trainings'."""
    scores = [_plain(float(value)) for value in table.profile.whole[list(places)]]
    known = [score for score in scores if score is not None]
    return {
        "name": side.name,
        "kind": side.kind,
        "trainings": [trained.name for trained in side.trained],
        "models": sum(trained.models for trained in side.trained),
        "rows": len(side.trained[0].rows.ids),
        "score": sum(known) / len(known) if len(known) == len(scores) else None,
        "scores": scores,
        "folds_sha256": side.trained[0].rows.sidecar.get("folds_sha256"),
    }


def _compare(
    table: _Table,
    sides: Sequence[Side],
    number: int,
    squares: Sequence[MeanSquare],
    others: Mapping[str, Any],
    rows: ChangedRows,
) -> dict[str, Any]:
    """One side against the first."""
    first, second = sides[0], sides[number]
    is_greater = is_greater_better(table.metric)
    result = paired(
        table.profile,
        table.places[0],
        table.places[number],
        greater_is_better=is_greater,
        others=squares,
        comparisons=len(sides) - 1,
        least_error=_least_error(table, number),
    )
    verdict = "the same answers" if rows.here.are_same(rows.there) else _verdict(result)
    is_open = verdict == "can't be told"
    are_alike = (first.kind == "blend") == (second.kind == "blend")
    changed = changed_keys(first.facts, second.facts) if are_alike else None
    values = [(key, here, there) for key, here, there in changed or []]
    trainings = [len(first.trained), len(second.trained)]
    item = {
        "first": first.name,
        "second": second.name,
        "difference": _plain(result.value),
        "ci95": None if result.ci95 is None else list(result.ci95),
        "p_better": result.p_better,
        "verdict": verdict,
        "standard_error": {
            "rows": _plain(math.sqrt(result.rows_variance)),
            "training": _plain(math.sqrt(result.training_variance)),
        },
        "noise_from": {"trainings": trainings, **others},
        "trainings_that_would_tell": result.more_seeds if is_open else None,
        "times_the_rows_that_would_tell": result.more_rows if is_open else None,
        "times_of_both_that_would_tell": result.more_of_both if is_open else None,
        "same_plan": _same_plan(first, second),
        "changed": None
        if changed is None
        else [{"key": key, "first": here, "second": there} for key, here, there in values],
        "same_recipe": changed is not None and {key for key, _, _ in values} <= set(RETRAINED),
        "rows": rows.facts(),
        "per_class": _per_class(table, table.views[0], table.views[number]),
    }
    return item | {"text": _text(item, table.metric)}


def _least_error(table: _Table, number: int) -> float:
    """Of the difference, by rows, even where none of them shows one."""
    here, there = (float(table.profile.whole[list(table.places[side])].mean()) for side in (0, number))
    support = Support(table.units, table.labels)
    return least_error(here, there, support, table.metric, 0.0)


def _same_plan(first: Side, second: Side) -> bool | None:
    plans = [side.trained[0].rows.sidecar.get("folds_sha256") for side in (first, second)]
    return None if None in plans else plans[0] == plans[1]


def _verdict(result: Paired) -> str:
    if result.ci95 is None:
        return "no score"
    if not result.is_evident:
        return "can't be told"
    return "better" if result.ci95[0] > 0 else "worse"


def _text(item: Mapping[str, Any], metric: str) -> str:
    """The verdict in words; numbers are positive where the second is better."""
    names = f"{item['second']} and {item['first']}"
    if item["verdict"] == "no score":
        return f"{names}: {metric} has no meaning on these rows"
    if item["verdict"] == "the same answers":
        return f"{names} give the same answers"
    low, high = item["ci95"]
    numbers = f"{item['difference']:+.4f} {metric} (95 %: {low:+.4f} to {high:+.4f})"
    if item["verdict"] != "can't be told":
        return f"{item['second']} is {item['verdict']} than {item['first']}: {numbers}"
    return f"whether {item['second']} is better than {item['first']} can't be told: {numbers}; {_what_would_tell(item)}"


def _what_would_tell(item: Mapping[str, Any]) -> str:
    """How many more trainings, or rows, would show a difference of this size."""
    trained = max(item["noise_from"]["trainings"])
    seeds, rows = item["trainings_that_would_tell"], item["times_the_rows_that_would_tell"]
    if seeds is not None:
        more = counted(seeds - trained, "more seed")
        return f"about {more} of each would tell, if the difference is as measured"
    if rows is not None and rows <= _MOST_TIMES:
        return f"more seeds would not tell, about {rows:.1f} times the rows would, if the difference is as measured"
    both = item["times_of_both_that_would_tell"]
    if both is not None and both <= _MOST_TIMES:
        return f"about {both:.0f} times the rows and the trainings would tell, if the difference is as measured"
    return "the difference is too small to tell"


def _per_class(table: _Table, first: _View, second: _View) -> list[dict[str, Any]]:
    """Recall and F1 of each class on both sides."""
    return [
        {
            "class": name,
            "rows": first.per_class["rows"][index],
            **{
                side: {key: view.per_class[key][index] for key in ("recall", "f1")}
                for side, view in (("first", first), ("second", second))
            },
        }
        for index, name in enumerate(table.classes)
    ]


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
