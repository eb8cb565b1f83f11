"""Probability files out of what teammates send: bare `.npy` matrices and CSV tables get ids, classes and hashes.

Reads one such file and looks at every number, with the checks of a probability file of ours. Writes nothing.

Every file is read and checked before anything is written; all that is wrong with any of them is one error. A file that
has to be changed (float16, rows divided by their sum) is kept beside the new one as `X.npy.original`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.id_files import Truth, check_ids, examples, id_column, read_classes, read_ids, read_truth
from ensemble.core.labels import Activation, activation_for, row_numbers
from ensemble.core.metrics import score_all
from ensemble.core.npy import map_matrix
from ensemble.core.predictions import Predictions, ProbabilityPaths, load_predictions, save_predictions
from ensemble.core.predictions_check import check_rows, class_problems, parse_ids, renormalized_rows, shape_problems
from ensemble.core.text import TextTable, read_text_table
from ensemble.errors import InputError

READABLE = (".npy", ".csv")
Names = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Foreign:
    """A file that passed every check, its numbers still as they lie there."""

    path: Path
    ids: Names
    classes: Names
    raw: NDArray[np.floating[Any]]
    to_renormalize: NDArray[np.int64]
    """Rows that must be divided by their sum."""

    @property
    def is_as_stored(self) -> bool:
        """Whether the file can stay as it is."""
        return self.path.suffix == ".npy" and self.raw.dtype.itemsize > 2 and not self.to_renormalize.size

    def probs(self) -> NDArray[np.floating[Any]]:
        """The numbers as a probability file holds them: float16 as float32, rows divided where they must be."""
        probs = self.raw.astype(np.float32) if self.raw.dtype.itemsize == 2 else self.raw
        return renormalized_rows(probs, self.to_renormalize) if self.to_renormalize.size else probs


def read_foreign(
    path: Path,
    ids: Names | None,
    classes: Names | None,
    *,
    renormalize: bool = False,
    activation: Activation = "softmax",
) -> Foreign:
    """Read `path` (rows in the order of `ids`, columns in that of `classes`); all that is wrong is one `InputError`.

    A table names its own rows and columns; then `ids` and `classes`, where given, must be the same ones in any order.
    """
    if path.suffix == ".npy":
        ids, classes, raw = _bare(path, ids, classes)
    elif path.suffix == ".csv":
        ids, classes, raw = _table(path, ids, classes)
    elif not path.exists():
        raise InputError(f"{path}: no such file")
    else:
        raise InputError(f"{path}: neither .npy nor .csv; save the probabilities with numpy.save, or as a CSV table")
    rows = check_rows(raw, ids, classes, renormalize=renormalize, activation=activation)
    if rows.problems:
        sums = check_rows(raw, ids, classes, renormalize=False, activation="sigmoid").problems
        hint = "; --multilabel is for rows with several classes" if activation == "softmax" and not sums else ""
        raise InputError(*(f"{path}: {problem}{hint}" for problem in rows.problems))
    return Foreign(path, ids, classes, raw, rows.to_renormalize)


def _bare(path: Path, ids: Names | None, classes: Names | None) -> tuple[Names, Names, NDArray[np.floating[Any]]]:
    """A matrix, and the names that were given for its rows and columns."""
    problems: list[str] = []
    raw = None
    try:
        raw = map_matrix(path)
    except InputError as error:
        problems += error.messages
    beside = path.with_name(path.stem + ".ids.txt")
    if ids is None and beside.is_file():
        try:
            ids = parse_ids(beside)
        except InputError as error:
            problems += error.messages
    elif ids is None:
        problems.append(f"{path}: nothing says whose rows these are; --ids F names a file with one id a line, in order")
    if classes is None:
        problems.append(f"{path}: nothing says what its columns are; --classes F names a file with one class a line")
    if raw is not None and ids is not None:
        problems += [f"{path}: {problem}" for problem in shape_problems(len(ids), raw.shape[0])]
    if raw is not None and classes is not None:
        problems += [f"{path}: {problem}" for problem in class_problems(list(classes), raw.shape[1])]
    if problems or raw is None or ids is None or classes is None:
        raise InputError(*problems)
    return ids, classes, raw


def _table(path: Path, ids: Names | None, classes: Names | None) -> tuple[Names, Names, NDArray[np.floating[Any]]]:
    """A table's ids, classes and numbers; everything as text until the numbers are read."""
    table = read_text_table(path, "table of probabilities")
    named = id_column(path, table)
    own_classes = tuple(name for name in table.header if name != named)
    own_ids = table.columns[named]
    problems = check_ids(path, own_ids)
    problems += [f"{path}: {problem}" for problem in class_problems(list(own_classes), len(own_classes))]
    if not own_classes:
        problems.append(f"{path}: one column only, {named!r}; an id and a column of probabilities a class are needed")
    if ids is not None:
        problems += _differences(path, "ids", own_ids, ids, "--ids")
    if classes is not None:
        problems += _differences(path, "classes", own_classes, classes, "--classes")
    if problems:
        raise InputError(*problems)
    return own_ids, own_classes, _numbers(path, table, own_ids, own_classes)


def _numbers(path: Path, table: TextTable, ids: Names, classes: Names) -> NDArray[np.float64]:
    """The cells as numbers; the first that is none is told for each column."""
    matrix = np.empty((len(ids), len(classes)))
    problems = []
    for column, name in enumerate(classes):
        cells = table.columns[name]
        try:
            matrix[:, column] = cells
        except ValueError:
            row = next(row for row, cell in enumerate(cells) if not _is_number(cell))
            problems.append(
                f"{path}: column {name!r} holds {cells[row][:40]!r} for id {ids[row]!r}; probabilities are needed"
            )
    if problems:
        raise InputError(*problems[:3], *([f"{path}: so do {len(problems) - 3} more columns"] if problems[3:] else []))
    return matrix


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _differences(path: Path, what: str, here: Sequence[str], asked: Sequence[str], option: str) -> list[str]:
    """Whether a table names the same ids or classes as the file given for them."""
    known, wanted = set(here), set(asked)
    missing = [name for name in asked if name not in known]
    unknown = [name for name in here if name not in wanted]
    parts = [f"{len(names)} {text} ({examples(names)})" for names, text in ((missing, "missing"), (unknown, "unknown"))]
    parts = [part for part, names in zip(parts, (missing, unknown), strict=True) if names]
    return [f"{path}: its {what} are not those of {option}: {' and '.join(parts)}"] if parts else []


Kind = Literal["test", "oof"]
_OTHER_FORMATS = (".npz", ".pkl", ".pickle", ".pt", ".pth", ".h5", ".hdf5", ".parquet", ".feather", ".xlsx", ".joblib")
Read = TypeVar("Read")


@dataclass(frozen=True, eq=False)
class Adopted:
    """A probability file that is now complete."""

    source: Path
    path: Path
    """Its `.npy`."""
    kind: Kind
    rows: int
    classes: int
    run: str
    is_new: bool
    """False where the probability file was there already, the same."""
    renormalized: int
    """Rows divided by their sum."""
    original: Path | None
    """Where the file that was given lies, if it had to be changed."""
    scores: dict[str, float | None] | None
    """Of out-of-fold rows."""
    commonest: float | None
    """The share of the commonest class, or set of them; an accuracy below it hints at rows or columns out of order."""

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        paths = {key: None if path is None else str(path) for key, path in vars(self).items() if key in _PATHS}
        return {**vars(self), **paths}


_PATHS = ("source", "path", "original")


@dataclass(frozen=True)
class _AdoptedNames:
    """What was said about rows and columns; None: not said."""

    ids: tuple[str, ...] | None
    classes: tuple[str, ...] | None
    truth: Truth | None
    renormalize: bool
    activation: Activation


def adopt(
    files: Sequence[Path | str],
    *,
    ids: Path | str | None = None,
    classes: Path | str | None = None,
    kind: Kind | None = None,
    labels: Path | str | None = None,
    folds: Path | str | None = None,
    run: str | None = None,
    out: Path | str | None = None,
    renormalize: bool = False,
    multilabel: bool = False,
) -> list[Adopted]:
    """Check files of predictions, or folders of them, and write each one's ids and sidecar beside it.

    `multilabel`: a row may have several classes, and need not sum to 1.
    `out` is a stem for one file, a folder for several. `labels` and `folds` make out-of-fold files, on which a blend
    can be judged. In a folder, files with `oof` in their name are out-of-fold files, all others test files.
    """
    kind = kind or ("oof" if labels is not None or folds is not None else "test")
    named = [None if one is None else Path(one) for one in (ids, classes, labels, folds)]
    problems: list[str] = []
    if kind == "test" and (labels is not None or folds is not None):
        problems.append("--kind test: test rows have neither --labels nor --folds; leave them out, or say --kind oof")
    if multilabel and renormalize:
        problems.append("--renormalize: with --multilabel each class stands for itself, and rows need not sum to 1")
    if run is not None and not run.strip():
        problems.append("--run: is empty; give a name such as alice")
    names = _AdoptedNames(
        ids=_tried(problems, read_ids, named[0]),
        classes=_tried(problems, read_classes, named[1]),
        truth=_truth(problems, named[2], named[3]) if kind == "oof" else None,
        renormalize=renormalize,
        activation=activation_for(sets=multilabel),
    )
    if problems:  # every file would complain of the same
        raise InputError(*problems)
    sources = _sources([Path(one) for one in files], kind, [one for one in named if one is not None], problems)
    if run is not None and len(sources) > 1:
        problems.append(f"--run {run}: {len(sources)} files would have one name; leave it out, and each gets its own")
    targets = _targets(sources, None if out is None else Path(out), problems)
    plans = []
    for source, target in zip(sources, targets, strict=True):
        try:
            plans.append(_plan(source, target, kind, names, run or _name_of(source)))
        except InputError as error:
            problems += error.messages
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return [plan.write() for plan in plans]


@dataclass(frozen=True, eq=False)
class _Plan:
    """One file that may be adopted, and where to."""

    foreign: Foreign
    target: ProbabilityPaths
    predictions: Predictions
    """All but the numbers, which are made when they are written: fifty files need not be in memory at once."""
    is_there: bool

    def write(self) -> Adopted:
        """Write the trio, unless it is there."""
        probs = self.foreign.probs()
        scores = commonest = original = None
        if self.predictions.labels is not None:
            scores = score_all(self.predictions.labels, probs)
            commonest = float(np.bincount(row_numbers(self.predictions.labels)).max() / len(probs))
        if not self.is_there:
            original = self._keep_original()
            sidecar = {**self.predictions.sidecar, **({"scores": scores} if scores is not None else {})}
            stem = self.target.npy.with_suffix("")
            values = {**vars(self.predictions), "probs": probs, "sidecar": sidecar}
            save_predictions(stem, Predictions(**values))
        return Adopted(
            source=self.foreign.path,
            path=self.target.npy,
            kind=self.predictions.kind,
            rows=len(self.predictions.ids),
            classes=len(self.predictions.classes),
            run=str(self.predictions.sidecar["run"]),
            is_new=not self.is_there,
            renormalized=int(self.foreign.to_renormalize.size),
            original=original,
            scores=scores,
            commonest=commonest,
        )

    def _keep_original(self) -> Path | None:
        """A second name for the file given, where the new one takes its place with other numbers."""
        if self.foreign.is_as_stored or self.foreign.path.resolve() != self.target.npy.resolve():
            return None
        original = _original(self.target.npy)
        try:
            os.link(self.target.npy, original)
        except OSError:  # a file system without hard links
            shutil.copyfile(self.target.npy, original)
        return original


def _plan(source: Path, target: ProbabilityPaths, kind: Kind, names: _AdoptedNames, run: str) -> _Plan:
    """Read a file, name its rows, and look at what lies where it shall go."""
    activation = names.activation
    foreign = read_foreign(source, names.ids, names.classes, renormalize=names.renormalize, activation=activation)
    labels = folds = groups = None
    sidecar: dict[str, Any] = {"run": run}
    if names.truth is not None:
        labels, folds, groups = names.truth.of(foreign.ids, foreign.classes, sets=activation == "sigmoid")
        sidecar |= names.truth.sidecar
    predictions = Predictions(
        foreign.ids, foreign.classes, foreign.raw, kind, labels, folds, groups, sidecar, activation=activation
    )
    is_there = target.json.exists() and _is_same(target, predictions, foreign)
    problems = [] if is_there else _in_the_way(source, target, foreign)
    if problems:
        raise InputError(*problems)
    return _Plan(foreign, target, predictions, is_there)


def _is_same(target: ProbabilityPaths, meant: Predictions, foreign: Foreign) -> bool:
    """Whether the probability file is there already; another one in its place is refused."""
    remedy = f"remove {target.json.name} to adopt it anew, or say --out"
    try:
        found = load_predictions(target.npy)
    except InputError as error:
        raise InputError(*(f"{message}; {remedy}" for message in error.messages)) from error
    same = {
        "kind": found.kind == meant.kind,
        "activation": found.activation == meant.activation,
        "ids": found.ids == meant.ids,
        "classes": found.classes == meant.classes,
        "labels": _equal(found.labels, meant.labels),
        "folds": found.folds == meant.folds,
        "groups": _equal(found.groups, meant.groups),
    }
    if all(same.values()):
        same["probabilities"] = np.array_equal(found.probs, foreign.probs())
    differing = [key for key, is_same in same.items() if not is_same]
    if differing:
        raise InputError(f"{target.json}: is there already, with other {', '.join(differing)}; {remedy}")
    return True


def _equal(one: Any, other: Any) -> bool:
    return bool(one is None and other is None) or bool(
        one is not None and other is not None and np.array_equal(one, other)
    )


def _in_the_way(source: Path, target: ProbabilityPaths, foreign: Foreign) -> list[str]:
    """Files that would be written over."""
    is_in_place = source.resolve() == target.npy.resolve()
    problems = [f"{parent}: is a file, not a folder" for parent in target.npy.parents if parent.is_file()]
    if target.npy.exists() and not is_in_place:
        problems.append(f"{target.npy}: is there already; say --out to write {source} elsewhere")
    if is_in_place and not foreign.is_as_stored and _original(source).exists():
        problems.append(f"{_original(source)}: is there already, and {source.name} would be kept so; move it away")
    meant = "".join(f"{name}\n" for name in foreign.ids).encode("utf-8")
    if target.ids.is_file() and target.ids.read_bytes().removesuffix(b"\n") != meant.removesuffix(b"\n"):
        problems.append(f"{target.ids}: is there already, with other ids than those given; move it away, or say --out")
    return problems


def _sources(given: Sequence[Path], kind: Kind, named: Sequence[Path], problems: list[str]) -> list[Path]:
    """The files meant; a folder stands for what can be read in it, without the files that only name rows."""
    sources: list[Path] = []
    taken = {path.resolve() for path in named}
    for path in given:
        if not path.is_dir():
            sources.append(path)
            continue
        inside = [one for one in sorted(path.iterdir()) if one.is_file() and one.resolve() not in taken]
        problems += [
            f"{one}: can't be read; save it again with numpy.save, or as a CSV table, and remove this one"
            for one in inside
            if one.suffix in _OTHER_FORMATS
        ]
        found = [one for one in inside if one.suffix in READABLE and ("oof" in one.stem) == (kind == "oof")]
        found = [one for one in found if one.suffix == ".npy" or not _came_of(one)]
        if not found:
            wanted = "with oof in its name" if kind == "oof" else "(those with oof in their name are for --kind oof)"
            problems.append(f"{path}: holds no .npy or .csv file {wanted}")
        sources += found
    doubled = [path for path, count in Counter(path.resolve() for path in sources).items() if count > 1]
    problems += [f"{path}: is named twice; name it once" for path in doubled]
    return sources


def _came_of(table: Path) -> bool:
    """Whether a table was adopted before: what came of it lies beside it."""
    return not ProbabilityPaths.of(table.with_suffix(".npy")).missing()


def _targets(sources: Sequence[Path], out: Path | None, problems: list[str]) -> list[ProbabilityPaths]:
    """Where each file goes; two may not go to one place."""
    if out is None:
        stems = [source.with_suffix("") for source in sources]
    elif len(sources) == 1 and not out.is_dir():
        stems = [out.with_suffix("") if out.suffix in READABLE else out]
    else:
        stems = [out / source.stem for source in sources]
    first: dict[Path, Path] = {}
    for source, stem in zip(sources, stems, strict=True):
        if stem in first:
            problems.append(f"{first[stem]} and {source}: both would become {stem}.npy; rename one of them")
        first.setdefault(stem, source)
    return [
        ProbabilityPaths(*(stem.with_name(stem.name + end) for end in (".npy", ".ids.txt", ".json"))) for stem in stems
    ]


def _name_of(source: Path) -> str:
    """What a model is called: its file without `probs` or `oof`, so that both have one name; else its folder."""
    rest = re.sub(r"probs|oof", "", source.stem).strip("_-. ")
    return rest or source.absolute().parent.name or "adopted"


def _original(npy: Path) -> Path:
    return npy.with_name(npy.name + ".original")


def _truth(problems: list[str], labels: Path | None, folds: Path | None) -> Truth | None:
    try:
        return read_truth(labels, folds)
    except InputError as error:
        problems += error.messages
        return None


def _tried(problems: list[str], read: Callable[[Path], Read], path: Path | None) -> Read | None:
    """What `read` makes of a file, if one was given; its complaints are noted."""
    try:
        return None if path is None else read(path)
    except InputError as error:
        problems += error.messages
        return None
