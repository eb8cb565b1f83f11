"""`score`: test probabilities against labels that were kept apart, beside what the out-of-fold rows promised.

The only one that reads test labels (`data/answers.py`), and nothing that trains, chooses or blends imports this module.
Each look at the labels is counted in `outputs/scored.json` before a score is shown. Nothing else is written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.blend import load_blend
from ensemble.blending.inputs import load_members, unique_names
from ensemble.combining.honest import with_intervals
from ensemble.combining.intervals import Support, doubt_about
from ensemble.combining.thresholds import decide_by_cuts
from ensemble.core.complaints import Complaint, any_of, closest, counted, raise_together
from ensemble.core.dataset import DatasetDescription, described_in
from ensemble.core.labels import Labels
from ensemble.core.locks import folder_lock
from ensemble.core.metrics import (
    decide,
    decide_sets,
    is_greater_better,
    metrics_for,
    per_class,
    ranking_metric,
    shared_scorers,
)
from ensemble.core.notebook import check_arguments
from ensemble.core.predictions import Predictions
from ensemble.core.records import EARLIER, Record, doubt_lines
from ensemble.core.run import RunFolder, find_runs, load_looks, now, records_of, save_looks
from ensemble.core.text import natural_key
from ensemble.data.answers import Answers, load_answers, meant_ids
from ensemble.data.table import dataset_folder
from ensemble.errors import InputError
from ensemble.recipe.find import find_dataset
from ensemble.recipe.layers import parse_data
from ensemble.recipe.load import load_dataset
from ensemble.runs.describe import dataset_name, describe_folder, undescribed_folder

Probs = NDArray[np.floating[Any]]
Integers = NDArray[np.int64]
Interval = list[float] | None

_EXAMPLES = 5  # ids that a document shows; their number is exact


@dataclass(frozen=True)
class Scored:
    """Scores of test rows; `document` is what `ens score --json` prints."""

    document: dict[str, Any]

    def table(self) -> list[dict[str, Any]]:
        """A plain mapping for each file, the best first: rank, name, every score, the promise and whether it held."""
        metric = self.document["metric"]
        rows = []
        for item in self.document["scored"]:
            interval, promise = item["scores"][metric]["ci95"] or (None, None), item["promise"] or {}
            rows.append(
                {
                    "rank": item["rank"],
                    "name": item["name"],
                    "rows": item["rows"],
                    **{name: score["value"] for name, score in item["scores"].items()},
                    "low": interval[0],
                    "high": interval[1],
                    "out_of_fold": promise.get("value"),
                    "difference": promise.get("difference"),
                    "held": promise.get("held"),
                }
            )
        return rows


@check_arguments
def score(
    paths: Sequence[Path | str] | Path | str,
    *,
    data: str | None = None,
    labels: Path | str | None = None,
    metric: str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
) -> Scored:
    """Score test probabilities of runs, blends, studies or `.npy` files against the labels of the test rows.

    The labels are those that the dataset's description names in `test.label`, or a CSV file of ids and labels.
    `metric` ranks the files. The look is counted in `outputs/scored.json`.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    outputs, folder = Path(outputs), Path(folder)
    files = _load(_paths(given, outputs))
    sets = files[0].test.activation == "sigmoid"
    name, remarks = ranking_metric([file.test.sidecar.get("metric") for file in files], metric, sets=sets)
    dataset = _Dataset.of(files, data, folder, outputs)
    answers = _answers(files, dataset, labels, outputs, folder, sets=sets)
    joined = [_Joined(file, answers) for file in files]
    _refuse_strangers(joined, answers)
    # All is computed before the look is counted, and counted before anything is shown.
    items = [_describe(rows, name) for rows in joined]
    doubts = {file.name: file.doubt for file in files if file.doubt}
    remarks += doubt_lines(doubts)
    looks = _count_look(outputs, answers, dataset.name, [(item["name"], item["npy_sha256"]) for item in items])
    for item in items:
        item["looks"] = looks["files"][item["npy_sha256"]]["looks"]
    _rank(items, name)
    if len({item["rows"] for item in items}) > 1:
        remarks.append("the files are scored on different numbers of rows, so their order says little")
    return Scored(
        {
            "metric": name,
            "greater_is_better": is_greater_better(name),
            "dataset": dataset.name,
            "classes": list(answers.classes),
            "labels": {
                "from": answers.where,
                "rows": len(answers.ids),
                "empty": _told(answers.empty),
                "groups": None if answers.groups is None else len(set(answers.groups)),
                "sha256": answers.sha256,
            },
            "looks": {key: looks[key] for key in ("looks", "first", "last")},
            "independent": "rows" if answers.groups is None else "groups",
            "scored": items,
            "unverified": list(doubts),
            "remarks": remarks,
        }
    )


# Which files, and which labels


def _paths(given: Sequence[Path | str], outputs: Path) -> list[Path]:
    """The probability files that paths, and names of runs, blends and studies, stand for; each once."""
    files: dict[Path, Path] = {}
    problems: list[str] = []
    for word in given:
        try:
            for path in _paths_of(str(word), outputs):
                files.setdefault(path.absolute(), path)
        except InputError as error:
            problems += error.messages
    if problems:
        raise InputError(*problems)
    if not files:
        raise InputError("nothing to score; name a run, a blend, a study or a .npy file, such as outputs/*/probs.npy")
    return list(files.values())


def _paths_of(word: str, outputs: Path) -> list[Path]:
    path = Path(word)
    if path.suffix == ".csv":
        raise InputError(f"{word}: is a table, not probabilities with ids; ens adopt makes them of it")
    if path.is_file() or path.with_name(f"{path.name}.npy").is_file():
        return [path]
    places = {"run": outputs, "blend": outputs / "blends", "study": outputs / "studies"}
    named = [place / path for place in places.values() if (place / path).is_dir()] if path.name == str(path) else []
    # A folder of images often has the name of the run that was trained on it.
    is_ours = any((path / name).is_file() for name in ("run.json", "blend.json", "study.json", "probs.npy"))
    if path.is_dir() and (is_ours or not named):
        return _paths_in(path)
    if len(named) > 1:
        raise InputError(f"{word}: may be {any_of(list(map(str, named)))}; give the path")
    if named:
        return _paths_in(named[0])
    names = [note.parent.name for place in places.values() for note in place.glob("*/*.json")]
    near = closest(path.name, sorted(set(names)))
    hint = f"did you mean {near}?" if near else f"ens status {outputs} lists runs, studies and blends"
    raise InputError(f"{word}: no such file, run, blend or study; {hint}")


def _paths_in(folder: Path) -> list[Path]:
    """The test probabilities of a run, a blend, or all finished trials of a study."""
    if (folder / "study.json").is_file():
        trials = sorted(folder.glob("*/probs.npy"), key=lambda path: natural_key(path.parent.name))
        if not trials:
            raise InputError(f"{folder}: no trial of this study has test probabilities yet")
        return trials
    if (folder / "probs.npy").is_file():
        return [folder / "probs.npy"]
    if (folder / "blend.json").is_file():
        raise InputError(f"{folder}: this blend has no test rows; ens blend judged it by the out-of-fold rows")
    record = RunFolder(folder).load_record()
    if record is None:
        raise InputError(f"{folder}: neither a run nor a blend nor a study, and holds no probs.npy")
    if record["state"] == "complete":
        raise InputError(f"{folder}: this run has no test rows; its dataset describes none (test)")
    raise InputError(f"{folder}: this run is {RunFolder(folder).state(record)}; ens train finishes it")


@dataclass(frozen=True, eq=False)
class _File:
    """Probabilities of test rows, with the out-of-fold rows of the same model where they lie beside them."""

    name: str
    path: Path
    test: Predictions
    oof: Predictions | None
    _doubt: str

    @property
    def doubt(self) -> str:
        """Why nothing shows that these numbers are as they were written; empty where their hashes do."""
        blend = self.blend
        is_doubtful = blend is not None and not blend.is_verified
        return self._doubt or (EARLIER if is_doubtful else "")

    @cached_property
    def blend(self) -> Record | None:
        """The `blend.json` that was written with it; None where it is no blend's, or lies elsewhere now."""
        if self.test.sidecar.get("blend_of") is None:
            return None
        try:
            record = load_blend(self.path.with_name("blend.json"))
        except FileNotFoundError:
            return None
        return record if record["files"].get(self.path.name) == self.test.npy_sha256 else None


def _load(paths: Sequence[Path]) -> list[_File]:
    """The files, of one kind of labels and the same classes; everything wrong with any of them is one error."""
    members = load_members(paths)
    files, problems = [], []
    for member, name in zip(members, unique_names(members), strict=True):
        test = member.test
        if test is None or test.kind != "test":
            problems.append(f"{member.path}: holds oof rows; test rows are scored: give the probs.npy beside it")
            continue
        files.append(_File(name, member.path, test, member.oof, member.doubt))
        first = files[0]
        if test.activation != first.test.activation:
            problems.append(f"{first.path} and {member.path}: one class a row in one, sets of classes in the other")
        elif set(test.classes) != set(first.test.classes):
            problems.append(f"{first.path} and {member.path}: different classes; score them one by one")
    if problems:
        raise InputError(*problems)
    return files


@dataclass(frozen=True)
class _Dataset:
    """What is known of the dataset: its name, its description, and where its files lie if that was said."""

    name: str | None
    description: DatasetDescription | None
    path: Path | None
    fault: InputError | None = None
    """Why there is no description."""

    @classmethod
    def of(cls, files: Sequence[_File], data: str | None, folder: Path, outputs: Path) -> _Dataset:
        """The one that `--data` names, else the one that the files do."""
        if data is not None and (place := undescribed_folder(data, folder)) is not None:
            return cls._of_folder(place, files, folder, outputs)
        if data is not None:
            complaints: list[Complaint] = []
            layer, path = parse_data(data, folder, complaints)
            raise_together(complaints)
            name = str(layer.value_at(("data", "name")))
            return cls(name, load_dataset(name, folder), path)
        named = sorted({str(file.test.sidecar["dataset"]) for file in files if file.test.sidecar.get("dataset")})
        if len(named) > 1:
            raise InputError(f"the files are of different datasets: {', '.join(named)}; score them one by one")
        if not named:
            return cls(None, None, None)
        recorded = None
        for record in _records(files, outputs, named[0]):
            # a folder that has no description of its own, as it was recognised
            recorded = recorded or described_in(record)
            if recorded is not None and recorded.test_label is not None:
                return cls(named[0], recorded, None)
        try:
            find_dataset(named[0], folder)
        except InputError as error:  # a file from elsewhere; a table of labels may be enough
            return cls(named[0], recorded, None, None if recorded is not None else error)
        return cls(named[0], load_dataset(named[0], folder), None)

    @classmethod
    def _of_folder(cls, place: Path, files: Sequence[_File], folder: Path, outputs: Path) -> _Dataset:
        """A folder that has no description: as the runs recorded it, else looked at now, as `ens train` would."""
        name, own = dataset_name(place), place.absolute()
        for record in _records(files, outputs, name):
            described = described_in(record)
            # Labels may have come later than the run.
            if described is not None and described.test_label is not None and record.get("data_folder") == str(own):
                return cls(name, described, own)
        layout = describe_folder(place, name, folder=folder, outputs=outputs).layout
        return cls(name, layout.description, layout.folder.absolute())

    def folder(self, files: Sequence[_File], outputs: Path, base: Path) -> Path:
        """Where the files lie: as said, as the runs recorded it, else as `dataset_folder` finds them."""
        assert self.name is not None and self.description is not None
        if self.path is None and self.description.embedded is None:
            for record in _records(files, outputs, self.name):
                place = record.get("data_folder")
                if isinstance(place, str) and Path(place).is_dir():
                    return Path(place)
        return dataset_folder(self.name, self.description, self.path, outputs / "cache", base)


def _records(files: Sequence[_File], outputs: Path, dataset: str) -> Iterator[dict[str, Any]]:
    """The records of the files' own runs, then of all others, that are of a dataset."""
    return records_of([*(RunFolder(file.path.parent) for file in files), *find_runs(outputs)], dataset)


def _answers(
    files: Sequence[_File], dataset: _Dataset, labels: Path | str | None, outputs: Path, folder: Path, *, sets: bool
) -> Answers:
    """The labels that were asked for, else those that the dataset's description names."""
    classes, description = files[0].test.classes, dataset.description
    known = description.class_names if description is not None else None
    is_other = known is not None and set(known) != set(classes)
    is_other |= description is not None and description.label.is_set != sets
    ids = {row_id for file in files for row_id in file.test.ids}
    if labels is not None:
        known_by = None if is_other else description
        return load_answers(classes, sets=sets, predicted=ids, description=known_by, file=Path(labels))
    remedy = "or give --labels F, a CSV table with ids and labels"
    if dataset.name is None:
        raise InputError(f"{files[0].path}: does not name its dataset; say --data D, {remedy}")
    if description is None:
        messages = dataset.fault.messages if dataset.fault is not None else ()
        raise InputError(*(f"{message}; say --data D, {remedy}" for message in messages))
    if is_other:
        raise InputError(f"{files[0].path}: its classes are not those of dataset {dataset.name}; {remedy}")
    if description.test_label is None:
        example = '{value: "{label}"}' if description.label.parts is None else "{}"
        raise InputError(
            f"dataset {dataset.name} names no labels of its test rows; say in its description where they are, as in "
            f"test.label: {example} (docs/score.md); of a folder never described: --data DIR looks at it anew; {remedy}"
        )
    place = dataset.folder(files, outputs, folder)
    return load_answers(classes, sets=sets, predicted=ids, description=description, folder=place)


# Scores


class _Joined:
    """One file's rows that have labels, joined by id; columns in the order of the answers' classes."""

    def __init__(self, file: _File, answers: Answers) -> None:
        self.file, self.answers = file, answers
        position = {row_id: row for row, row_id in enumerate(answers.ids)}
        ids = file.test.ids
        places = np.fromiter((position.get(row_id, -1) for row_id in ids), dtype=np.int64, count=len(ids))
        self.rows = np.flatnonzero(places >= 0)
        self.places = places[self.rows]
        self.labels: Labels = answers.values[self.places]

    @cached_property
    def probs(self) -> Probs:
        """(rows, classes); a copy only where rows or columns stand otherwise."""
        test = self.file.test
        probs = test.probs if len(self.rows) == len(test.ids) else test.probs[self.rows]
        return _in_order(probs, test.classes, self.answers.classes)

    @cached_property
    def decisions(self) -> Integers:
        """As the file answers: a blend may have learned a multiplier or a threshold for each class."""
        sets, learned = self.labels.ndim == 2, (self.file.blend or Record()).get("learned") or {}
        tuned = learned.get("class_thresholds" if sets else "class_multipliers")
        if not sets and (cuts := learned.get("class_cuts")) is not None:
            own = self.file.test.classes  # the cuts are of classes in the order of the file
            column = {name: index for index, name in enumerate(self.answers.classes)}
            places = decide_by_cuts(_in_order(self.probs, self.answers.classes, own), np.asarray(cuts))
            return np.array([column[name] for name in own], dtype=np.int64)[places]
        if tuned is None:
            return np.asarray(decide_sets(self.probs) if sets else decide(self.probs), dtype=np.int64)
        wanted = _in_order(np.asarray(tuned)[None], self.file.test.classes, self.answers.classes)
        return np.asarray(self.probs >= wanted if sets else decide(self.probs * wanted), dtype=np.int64)

    @property
    def units(self) -> Integers:
        """The number of each row's group, from 0; each row is its own where there are none."""
        groups = self.answers.groups
        return _units(None if groups is None else np.array(groups, dtype=object)[self.places], len(self.rows))

    @property
    def unlabelled(self) -> list[str]:
        """Rows of the file without a label."""
        has_label = set(self.rows.tolist())
        return [row_id for row, row_id in enumerate(self.file.test.ids) if row not in has_label]

    @property
    def unpredicted(self) -> list[str]:
        """Labelled rows that the file does not have."""
        if len(self.places) == len(self.answers.ids):
            return []
        ids = set(self.file.test.ids)
        return [row_id for row_id in self.answers.ids if row_id not in ids]


def _in_order(matrix: NDArray[Any], own: Sequence[str], wanted: Sequence[str]) -> NDArray[Any]:
    if tuple(own) == tuple(wanted):
        return matrix
    column = {name: index for index, name in enumerate(own)}
    return matrix[:, [column[name] for name in wanted]]


def _units(groups: NDArray[Any] | None, rows: int) -> Integers:
    if groups is None:
        return np.arange(rows)
    return np.asarray(np.unique(groups, return_inverse=True)[1], dtype=np.int64)


def _refuse_strangers(joined: Sequence[_Joined], answers: Answers) -> None:
    """Refuse files that share no row with the labels, all together."""
    problems = []
    for rows in joined:
        if not len(rows.rows):
            test = rows.file.test
            problems.append(
                f"{answers.where}: none of its {counted(len(answers.ids), 'id')} is a row of {rows.file.path}; ids are "
                f"compared letter by letter: {answers.ids[0]!r} here, {test.ids[0]!r} there"
            )
    if problems:
        raise InputError(*problems)


def _describe(rows: _Joined, metric: str) -> dict[str, Any]:
    """All that is known of one file."""
    test = rows.file.test
    sets, probs, decisions = rows.labels.ndim == 2, rows.probs, rows.decisions
    scorers = shared_scorers(metrics_for(sets=sets), rows.labels, probs, decisions)
    units = rows.units
    scored = with_intervals(list(scorers.values()), units, metrics=list(scorers), labels=rows.labels, probs=probs)
    scores = {
        key: {"value": _plain(value), "ci95": None if math.isnan(value) else _list(interval)}
        for key, (value, interval) in zip(scorers, scored, strict=True)
    }
    promise, reason = _promise(rows.file, metric)
    if promise is not None:
        promise |= _difference(scores[metric], promise, greater_is_better=is_greater_better(metric))
    unpredicted, unlabelled = rows.unpredicted, rows.unlabelled
    return {
        "rank": None,
        "name": rows.file.name,
        "path": str(rows.file.path),
        "npy_sha256": test.npy_sha256,
        "rows": len(rows.rows),
        "without_label": _told(unlabelled),
        "without_prediction": _told(unpredicted) | {"meant": meant_ids(unpredicted[:_EXAMPLES], unlabelled)},
        "scores": scores,
        "doubt": doubt_about(metric, Support(units, rows.labels)),
        "promise": promise,
        "promise_reason": reason,
        "out_of_fold": (rows.file.oof.sidecar.get("scores") if rows.file.oof is not None else None) or {},
        "per_class": per_class(rows.labels, probs, decisions),
    }


def _promise(file: _File, metric: str) -> tuple[dict[str, Any] | None, str | None]:
    """What the out-of-fold rows say of this metric, or why they say nothing."""
    if file.blend is not None:
        honest = file.blend.get("honest")
        if honest is None:
            return None, str(file.blend.get("honest_reason"))
        if file.blend["metric"] != metric:
            return None, f"the blend was judged by {file.blend['metric']}"
        is_optimistic = (
            file.blend["other_folds"] is not None
        )  # slightly: some members saw the rows it was learned without
        return {
            "from": "blend.json",
            **{key: honest[key] for key in ("value", "ci95")},
            "optimistic": is_optimistic,
        }, None
    oof = file.oof
    if oof is None or oof.labels is None:
        return None, "there are no out-of-fold rows beside it"
    known = metrics_for(sets=oof.labels.ndim == 2)
    scorer = shared_scorers({metric: known[metric]}, oof.labels, oof.probs)[metric]
    units = _units(oof.groups, len(oof.ids))
    ((value, interval),) = with_intervals(
        [scorer], units, metrics=[metric], labels=oof.labels, probs=oof.probs, retrained=_is_retrained(oof.folds)
    )
    if math.isnan(value):
        return None, f"{metric} has no meaning on the out-of-fold rows"
    source = oof.path.name if oof.path is not None else ""
    is_optimistic = bool(file.test.sidecar.get("optimistic"))
    return {"from": source, "value": value, "ci95": _list(interval), "optimistic": is_optimistic}, None


def _is_retrained(folds: Sequence[Any] | None) -> bool:
    """Whether the rows were held out from several models; unknown folds may be."""
    return folds is None or any(fold != folds[0] for fold in folds)


def _difference(score: Mapping[str, Any], promise: Mapping[str, Any], *, greater_is_better: bool) -> dict[str, Any]:
    """By how much the test rows are better than promised, its interval, and whether the promise held.

    It is broken where the test rows are worse by more than chance: the whole interval of the difference is below 0.
    Both intervals are of rows that have nothing to do with each other, so they are put together as in "MOVER" (Zou and
    Donner, Statistics in Medicine 27, 2008), which needs no rows of a blend's promise.
    """
    test, promised = score["value"], promise["value"]
    if test is None:
        return {"difference": None, "difference_ci95": None, "held": None}
    value = test - promised
    if score["ci95"] is None or promise["ci95"] is None:
        return {"difference": value if greater_is_better else -value, "difference_ci95": None, "held": None}
    (low, high), (promised_low, promised_high) = score["ci95"], promise["ci95"]
    ends = [
        value - math.hypot(test - low, promised_high - promised),
        value + math.hypot(high - test, promised - promised_low),
    ]
    if not greater_is_better:
        value, ends = -value, [-ends[1], -ends[0]]
    return {"difference": value, "difference_ci95": ends, "held": ends[1] >= 0}


def _rank(items: list[dict[str, Any]], metric: str) -> None:
    """The best first, in place; equals by name, those without a score last."""
    sign = -1.0 if is_greater_better(metric) else 1.0

    def key(item: Mapping[str, Any]) -> tuple[bool, float, str]:
        value = item["scores"][metric]["value"]
        return value is None, 0.0 if value is None else sign * value, item["name"]

    items.sort(key=key)
    for rank, item in enumerate(items, start=1):
        item["rank"] = rank


def _count_look(
    outputs: Path, answers: Answers, dataset: str | None, files: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    """Write down that these labels were looked at with these files; gives back what is known of the labels now."""
    time = now()
    with folder_lock(outputs, wait=True, may_be_link=True):  # two commands at once are two looks
        document = load_looks(outputs)
        new: dict[str, Any] = {
            "dataset": dataset,
            "rows": len(answers.ids),
            "looks": 0,
            "first": time,
            "last": time,
            "files": {},
        }
        entry: dict[str, Any] = document["labels"].setdefault(answers.sha256, new)
        entry.update(looks=entry["looks"] + 1, last=time)
        for name, sha256 in files:
            file = entry["files"].setdefault(sha256, {"name": name, "looks": 0, "times": []})
            file.update(name=name, looks=file["looks"] + 1, times=[*file["times"], time])
        save_looks(outputs, document)
    return entry


def _told(ids: Sequence[str]) -> dict[str, Any]:
    return {"count": len(ids), "examples": list(ids[:_EXAMPLES])}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _list(interval: Sequence[float] | None) -> Interval:
    return None if interval is None else list(interval)
