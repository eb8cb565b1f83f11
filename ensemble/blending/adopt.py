"""Teammates' bare `.npy` matrices and CSV tables become probability files, with ids, classes and hashes.

Every file is read and checked, as a probability file of ours is, before anything is written; all that is wrong with any
of them is one error. A file that has to be changed (float16, rows divided by their sum) is kept beside the new one as
`X.npy.original`. Lists of ids and tables of labels are read in `id_files`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ensemble.blending.id_files import (
    Truth,
    check_ids,
    collected,
    examples,
    id_column,
    read_classes,
    read_ids,
    read_truth,
)
from ensemble.combining.combine import Floats, Integers, Matrix
from ensemble.core.complaints import any_of, counted
from ensemble.core.files import replaced_together, settle
from ensemble.core.labels import Activation, row_numbers
from ensemble.core.metrics import score_all
from ensemble.core.notebook import check_arguments, listed
from ensemble.core.npy import map_matrix
from ensemble.core.predictions import Predictions, ProbabilityPaths, load_predictions, save_predictions
from ensemble.core.predictions_check import check_rows, class_problems, parse_ids, renormalized_rows, shape_problems
from ensemble.core.text import TextTable, read_text_table
from ensemble.errors import InputError

Kind = Literal["test", "oof"]
Names = tuple[str, ...]

_READABLE = (".npy", ".csv")  # the others below are refused by name: loading a pickle would run its code
_OTHER_FORMATS = (".npz", ".pkl", ".pickle", ".pt", ".pth", ".h5", ".hdf5", ".parquet", ".feather", ".xlsx", ".joblib")


@dataclass(frozen=True)
class AdoptOptions:
    """What is known of the files, and where they go; made by the command line and by `adopt` alike."""

    ids: Path | str | None = None
    """The rows' ids, in order."""
    classes: Path | str | None = None
    """The columns' classes, in order."""
    kind: Kind | None = None
    """None: out-of-fold rows where there are labels or folds, else test rows."""
    labels: Path | str | None = None
    folds: Path | str | None = None
    run: str | None = None
    """What the model is called; None: from the file's name."""
    out: Path | str | None = None
    """A stem for one file, a folder for several; None: beside the file."""
    renormalize: bool = False
    multilabel: bool = False
    """A row may have several classes, and need not sum to 1."""

    @property
    def is_oof(self) -> bool:
        """Whether these are out-of-fold rows."""
        return self.kind == "oof" or (self.kind is None and (self.labels is not None or self.folds is not None))


@dataclass(frozen=True, eq=False)
class Adopted:
    """A probability file that is now complete."""

    source: Path
    path: Path
    kind: Kind
    rows: int
    classes: int
    run: str
    is_new: bool
    """False where the probability file was there already, the same."""
    renormalized: int
    """Rows divided by their sum."""
    original: Path | None
    """Where the file lies as it was given, if it had to be changed."""
    scores: dict[str, float | None] | None
    """Of out-of-fold rows."""
    commonest: float | None
    """The share of the commonest class, or set of them; an accuracy below it hints at rows or columns out of order."""

    def plain(self) -> dict[str, Any]:
        """For `--json`."""
        return {key: str(value) if isinstance(value, Path) else value for key, value in vars(self).items()}


@check_arguments
def adopt(
    files: Path | str | Sequence[Path | str],
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

    The arguments are those of `AdoptOptions`. `labels` and `folds` make out-of-fold files, on which a blend can be
    judged. In a folder, files with `oof` in their name are out-of-fold files, all others test files.
    """
    return adopt_files(
        listed(files), AdoptOptions(ids, classes, kind, labels, folds, run, out, renormalize, multilabel)
    )


def adopt_files(files: Sequence[Path | str], options: AdoptOptions) -> list[Adopted]:
    """The same, from one options object, as the command line makes it."""
    names = _read_names(options)  # first and alone: what is wrong with it, every file would suffer from
    problems: list[str] = []
    sources = _sources([Path(file) for file in files], options, problems)
    if options.run is not None and len(sources) > 1:
        problems.append(
            f"--run {options.run}: {len(sources)} files would have one name; leave it out, and each gets its own"
        )
    targets = _targets(sources, None if options.out is None else Path(options.out), problems)
    plans = []
    for source, target in zip(sources, targets, strict=True):
        settle(target.npy.parent, _stem(target))  # of a command that was killed while its files took their places
        with collected(problems):
            plans.append(_plan(source, target, names, options.run or _model_name(source)))
    if problems:  # each once: files of one folder share what is wrong with the folder
        raise InputError(*dict.fromkeys(problems))
    return [plan.write() for plan in plans]


@dataclass(frozen=True)
class _Names:
    """What rows and columns are; None: not given."""

    ids: Names | None
    ids_file: str | None
    classes: Names | None
    classes_file: str | None
    truth: Truth | None  # of out-of-fold rows
    renormalize: bool
    activation: Activation


def _read_names(options: AdoptOptions) -> _Names:
    """Read the files that name rows and columns; refused here is what every file would suffer from."""
    problems: list[str] = []
    if not options.is_oof and (options.labels is not None or options.folds is not None):
        problems.append("--kind test: test rows have neither --labels nor --folds; leave them out, or say --kind oof")
    if options.kind not in (None, *get_args(Kind)):
        problems.append(f"--kind {options.kind}: unknown; known are {any_of(get_args(Kind), 'and')}")
    if options.multilabel and options.renormalize:
        problems.append("--renormalize: with --multilabel each class stands for itself, and rows need not sum to 1")
    if options.run is not None and not options.run.strip():
        problems.append("--run: is empty; give a name such as alice")
    ids = classes = truth = None
    with collected(problems):
        ids = None if options.ids is None else read_ids(Path(options.ids))
    with collected(problems):
        classes = None if options.classes is None else read_classes(Path(options.classes))
    with collected(problems):
        labels, folds = (None if path is None else Path(path) for path in (options.labels, options.folds))
        truth = read_truth(labels, folds) if options.is_oof else None
    if problems:
        raise InputError(*problems)
    files = [None if file is None else str(file) for file in (options.ids, options.classes)]
    activation: Activation = "sigmoid" if options.multilabel else "softmax"
    return _Names(ids, files[0], classes, files[1], truth, options.renormalize, activation)


@dataclass(frozen=True, eq=False)
class _Plan:
    """One file that passed every check, and where it goes."""

    source: Path
    target: ProbabilityPaths
    predictions: Predictions  # with the numbers as they lie in the file, or fifty files would be in memory at once
    to_renormalize: Integers  # rows that must be divided by their sum
    is_new: bool  # whether nothing lies there yet that calls itself a probability file

    @property
    def is_as_stored(self) -> bool:
        """Whether the file can stay as it is."""
        is_wide = self.predictions.probs.dtype.itemsize > 2
        return self.source.suffix == ".npy" and is_wide and not self.to_renormalize.size

    @property
    def original(self) -> Path:
        """What the file given is called once a changed one has taken its place."""
        return self.target.npy.with_name(self.target.npy.name + ".original")

    def probs(self) -> Matrix:
        """The numbers as a probability file holds them: float16 as float32, rows divided where they must be."""
        probs: Matrix = self.predictions.probs
        probs = probs.astype(np.float32) if probs.dtype.itemsize == 2 else probs
        return renormalized_rows(probs, self.to_renormalize) if self.to_renormalize.size else probs

    def check(self) -> None:
        """Refuse to write over another file; where the very probability file is there already, all is well."""
        source, npy = self.source, self.target.npy
        if not self.is_new:
            self._refuse_others()
            return
        is_in_place = source.resolve() == npy.resolve()
        problems = [f"{parent}: is a file, not a folder" for parent in npy.parents if parent.is_file()]
        if npy.exists() and not is_in_place:
            problems.append(f"{npy}: is there already; say --out to write {source} elsewhere")
        if is_in_place and not self.is_as_stored and self.original.exists():
            problems.append(f"{self.original}: is there already, and {source.name} would be kept so; move it away")
        meant, ids = "".join(f"{name}\n" for name in self.predictions.ids).encode("utf-8"), self.target.ids
        # The last line end is optional, as in any list of ids.
        if ids.is_file() and ids.read_bytes().removesuffix(b"\n") != meant.removesuffix(b"\n"):
            problems.append(f"{ids}: is there already, with other ids than those given; move it away, or say --out")
        if problems:
            raise InputError(*problems)

    def _refuse_others(self) -> None:
        """Whether the probability file that is there is the one that would be written; another one is refused."""
        remedy = f"remove {self.target.json.name} to adopt it anew, or say --out"
        try:
            present = load_predictions(self.target.npy)
        except InputError as error:
            raise InputError(*(f"{message}; {remedy}" for message in error.messages)) from error
        here, there = vars(present), vars(self.predictions)
        same = {key: here[key] == there[key] for key in ("kind", "activation", "ids", "classes")}
        same |= {key: np.array_equal(here[key], there[key]) for key in ("labels", "folds", "groups")}
        if all(same.values()):  # numbers last, as they may be gigabytes
            same["probabilities"] = np.array_equal(present.probs, self.probs())
        differing = [key for key, is_same in same.items() if not is_same]
        if differing:
            raise InputError(f"{self.target.json}: is there already, with other {', '.join(differing)}; {remedy}")

    def write(self) -> Adopted:
        """Write the trio, unless it is there."""
        predictions, probs = self.predictions, self.probs()
        scores = commonest = original = None
        if predictions.labels is not None:
            scores = score_all(predictions.labels, probs)
            commonest = float(np.bincount(row_numbers(predictions.labels)).max() / len(probs))
        if self.is_new:
            folder, stem = self.target.npy.parent, _stem(self.target)
            with replaced_together(folder, stem) as stage:
                if not self.is_as_stored and self.source.resolve() == self.target.npy.resolve():
                    original = self.original  # comes with the trio that replaces it: a kill leaves all four or none
                    try:
                        os.link(self.target.npy, stage / original.name)
                    except OSError:  # a file system without hard links
                        shutil.copyfile(self.target.npy, stage / original.name)
                sidecar = {**predictions.sidecar, **({"scores": scores} if scores is not None else {})}
                save_predictions(stage / stem, replace(predictions, probs=probs, sidecar=sidecar))
        return Adopted(
            source=self.source,
            path=self.target.npy,
            kind=predictions.kind,
            rows=len(predictions.ids),
            classes=len(predictions.classes),
            run=str(predictions.sidecar["run"]),
            is_new=self.is_new,
            renormalized=int(self.to_renormalize.size),
            original=original,
            scores=scores,
            commonest=commonest,
        )


def _plan(source: Path, target: ProbabilityPaths, names: _Names, run: str) -> _Plan:
    """Read a file, check it, name its rows, and check what lies where it goes."""
    ids, classes, raw = _read_file(source, names)
    rows = check_rows(raw, ids, classes, renormalize=names.renormalize, activation=names.activation)
    if rows.problems:
        as_sets = check_rows(raw, ids, classes, renormalize=False, activation="sigmoid").problems
        is_softmax = names.activation == "softmax"
        hint = "; --multilabel is for rows with several classes" if is_softmax and not as_sets else ""
        raise InputError(*(f"{source}: {problem}{hint}" for problem in rows.problems))
    labels = folds = groups = None
    sidecar: dict[str, Any] = {"run": run}
    if names.truth is not None:
        labels, folds, groups = names.truth.of(ids, classes, sets=names.activation == "sigmoid")
        sidecar |= names.truth.sidecar
    kind: Kind = "test" if names.truth is None else "oof"
    predictions = Predictions(ids, classes, raw, kind, labels, folds, groups, sidecar, activation=names.activation)
    plan = _Plan(source, target, predictions, rows.to_renormalize, is_new=not target.json.exists())
    plan.check()
    return plan


def _sources(given: Sequence[Path], options: AdoptOptions, problems: list[str]) -> list[Path]:
    """The files to adopt; a folder stands for what can be read in it, without the files that only name rows."""
    lists = (options.ids, options.classes, options.labels, options.folds)
    taken = {Path(path).resolve() for path in lists if path is not None}
    sources: list[Path] = []  # the files of folders, sorted: the order of a folder's listing is the file system's
    for path in given:
        if not path.is_dir():
            sources.append(path)
            continue
        inside = [file for file in sorted(path.iterdir()) if file.is_file() and file.resolve() not in taken]
        remedy = "save it again with numpy.save, or as a CSV table, and remove this one"
        problems += [f"{file}: can't be read; {remedy}" for file in inside if file.suffix in _OTHER_FORMATS]
        readable = [file for file in inside if file.suffix in _READABLE and ("oof" in file.stem) == options.is_oof]
        # A table whose probability file lies beside it was adopted before.
        tables = [file for file in readable if file.suffix == ".csv"]
        done = {file for file in tables if not ProbabilityPaths.of(file.with_suffix(".npy")).missing()}
        readable = [file for file in readable if file not in done]
        if not readable:
            wanted = "with oof in its name" if options.is_oof else "(those with oof in their name are for --kind oof)"
            problems.append(f"{path}: holds no .npy or .csv file {wanted}")
        sources += readable
    doubled = [path for path, count in Counter(path.resolve() for path in sources).items() if count > 1]
    problems += [f"{path}: is named twice; name it once" for path in doubled]
    return sources


def _targets(sources: Sequence[Path], out: Path | None, problems: list[str]) -> list[ProbabilityPaths]:
    """Where each file goes; two may not go to one place."""
    if out is None:
        stems = [source.with_suffix("") for source in sources]
    elif len(sources) == 1 and not out.is_dir():
        stems = [out.with_suffix("") if out.suffix in _READABLE else out]
    else:
        stems = [out / source.stem for source in sources]
    first: dict[Path, Path] = {}
    for source, stem in zip(sources, stems, strict=True):
        if stem in first:
            problems.append(f"{first[stem]} and {source}: both would become {stem}.npy; rename one of them")
        first.setdefault(stem, source)
    return [ProbabilityPaths.of(stem.with_name(f"{stem.name}.npy")) for stem in stems]


def _stem(target: ProbabilityPaths) -> str:
    """What the trio goes by while it is replaced, as `save_predictions` and `load_predictions` call it."""
    return target.npy.name.removesuffix(".npy")


def _model_name(source: Path) -> str:
    """A model's name: its file's without `probs` or `oof`, so that both files have one name; else its folder's."""
    rest = re.sub(r"probs|oof", "", source.stem).strip("_-. ")
    return rest or source.absolute().parent.name or "adopted"


def _read_file(path: Path, names: _Names) -> tuple[Names, Names, Matrix]:
    """The rows' ids, the columns' classes, and the numbers, as they lie in the file."""
    if path.suffix == ".npy":
        return _read_matrix(path, names)
    if path.suffix == ".csv":
        return _read_table(path, names)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    raise InputError(f"{path}: neither .npy nor .csv; save the probabilities with numpy.save, or as a CSV table")


def _read_matrix(path: Path, names: _Names) -> tuple[Names, Names, Matrix]:
    """A bare matrix, and the names that were given for its rows and columns."""
    problems: list[str] = []
    raw, ids, classes = None, names.ids, names.classes
    with collected(problems):
        raw = map_matrix(path)
    beside = path.with_name(path.stem + ".ids.txt")
    if ids is None and beside.is_file():
        with collected(problems):
            ids = parse_ids(beside)
    elif ids is None:
        problems.append(f"{path}: the rows' ids are unknown; --ids F names a file with one id a line, in order")
    if classes is None:
        problems.append(f"{path}: the columns' classes are unknown; --classes F names a file with one class a line")
    if raw is not None and ids is not None:
        source = names.ids_file or beside
        problems += [f"{path}: {problem} (ids: {source})" for problem in shape_problems(len(ids), raw.shape[0])]
    if raw is not None and classes is not None:
        where = f" (classes: {names.classes_file})"
        problems += [f"{path}: {problem}{where}" for problem in class_problems(list(classes), raw.shape[1])]
    if problems or raw is None or ids is None or classes is None:
        raise InputError(*problems)
    return ids, classes, raw


def _read_table(path: Path, names: _Names) -> tuple[Names, Names, Matrix]:
    """A table's ids, classes and numbers; everything is text until the numbers are read."""
    table = read_text_table(path, "table of probabilities")
    id_name = id_column(path, table)
    classes = tuple(name for name in table.header if name != id_name)
    ids = table.columns[id_name]
    problems = check_ids(path, ids)
    problems += [f"{path}: {problem}" for problem in class_problems(list(classes), len(classes))]
    if not classes:
        problems.append(f"{path}: one column only, {id_name!r}; it needs an id, and a column of probabilities a class")
    # A table names its own rows and columns; ids and classes that are given as well only have to be the same ones.
    for what, own, given in (("ids", ids, names.ids), ("classes", classes, names.classes)):
        if given is not None and set(own) != set(given):
            sides = (("missing", given, set(own)), ("unknown", own, set(given)))
            lone = [(side, [name for name in here if name not in there]) for side, here, there in sides]
            parts = [f"{len(alone)} {side} ({examples(alone)})" for side, alone in lone if alone]
            problems.append(f"{path}: its {what} are not those of --{what}: {' and '.join(parts)}")
    if problems:
        raise InputError(*problems)
    return ids, classes, _numbers(path, table, ids, classes)


def _numbers(path: Path, table: TextTable, ids: Names, classes: Names) -> Floats:
    """The cells as numbers; the first of each column that is none is an error."""
    matrix = np.empty((len(ids), len(classes)))
    problems = []
    for column, name in enumerate(classes):
        cells = table.columns[name]
        try:
            matrix[:, column] = cells
        except ValueError:  # one cell at a time, to name the first that is no number
            for row, cell in enumerate(cells):
                try:
                    float(cell)
                except ValueError:
                    what = f"{cell[:40]!r} for id {ids[row]!r}"
                    problems.append(f"{path}: column {name!r} holds {what}; probabilities are needed")
                    break
    if problems:
        raise InputError(
            *problems[:3],
            *(
                [f"{path}: so {counted(len(problems) - 3, 'more column does', 'more columns do')}"]
                if problems[3:]
                else []
            ),
        )
    return matrix
