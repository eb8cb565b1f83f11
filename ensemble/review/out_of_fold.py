"""Out-of-fold rows of runs, blends and files: found by name, and joined by id, never by position.

Other than in a blend, members may have other fold plans and other rows: each row is the mean of those that have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.blend import load_blend
from ensemble.blending.formula import Formula
from ensemble.blending.inputs import Member, load_members
from ensemble.core.complaints import any_of, closest, counted
from ensemble.core.labels import Labels, are_sets, spelled
from ensemble.core.npy import release_pages
from ensemble.core.predictions import Predictions
from ensemble.core.records import EARLIER, Record
from ensemble.errors import InputError

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]

_NEED = "name a run, a blend, or an oof.npy"


@dataclass(frozen=True, eq=False)
class LabelSource:
    """What one word named: a run or file by itself, or the members of a blend with their weights."""

    name: str
    oofs: tuple[Predictions, ...]
    weights: tuple[float, ...]
    members: tuple[Member, ...]
    document: Record | None = None
    """The content of `blend.json`; None for a run."""
    formula: Formula | None = None
    """How the blend answers, if its record says."""
    places: tuple[int, ...] = ()
    """The number of each member in the blend's document."""

    @property
    def doubts(self) -> dict[str, str]:
        """Why nothing vouches for the labels and folds of some members, by their names."""
        own = {self.name: EARLIER} if self.document is not None and not self.document.is_verified else {}
        return own | {member.run: member.doubt for member in self.members if member.doubt}

    @property
    def metric(self) -> str:
        """The metric that it was made for."""
        named = (self.document or Record()).get("metric") or self.oofs[0].sidecar.get("metric")
        return str(named or "accuracy")


def find_sources(words: Sequence[Path | str], outputs: Path) -> list[LabelSource]:
    """The out-of-fold rows that words name, of one kind of labels and the same classes; all faults are one error."""
    if not words:
        raise InputError(f"no out-of-fold rows given; {_NEED}")
    sources: dict[str, LabelSource] = {}
    problems: list[str] = []
    for word in words:
        try:
            place = _place(str(word), outputs)
            source = _blend(place, outputs) if (place / "blend.json").is_file() else _single(place)
            sources.setdefault(str(place.absolute()), source)
        except InputError as error:
            problems += error.messages
    found = list(sources.values())
    first = found[0].oofs[0] if found else None
    for source in found:
        for oof in source.oofs:
            assert first is not None
            if oof.activation != first.activation:
                problems.append(f"{first.path} and {oof.path}: one class a row in one, sets of classes in the other")
            elif set(oof.classes) != set(first.classes):
                problems.append(f"{first.path} and {oof.path}: different classes")
    if problems:
        raise InputError(*dict.fromkeys(problems))
    return found


def _place(word: str, outputs: Path) -> Path:
    """The folder or file that a word stands for: a path, else the name of a run or blend."""
    path = Path(word)
    if path.suffix == ".npy" and (path.parent / "blend.json").is_file():
        return path.parent  # outputs/blends/*/probs.npy: its out-of-fold rows are those of its members
    named = [outputs / path, outputs / "blends" / path]
    for place in (path, *named):
        if place.is_dir() and any(
            (place / name).is_file() for name in ("run.json", "blend.json", "oof.npy", "probs.npy")
        ):
            return place
    if path.is_file() or path.with_name(f"{path.name}.npy").is_file():
        return path
    if any((place / "study.json").is_file() for place in (path, outputs / "studies" / path)):
        raise InputError(f"{word}: is a study; name one of its trials, such as outputs/studies/{path.name}/trial-0")
    names = [note.parent.name for place in (outputs, outputs / "blends") for note in place.glob("*/*.json")]
    near = closest(path.name, sorted(set(names)))
    raise InputError(f"{word}: no such run, blend or file" + (f"; did you mean {near}?" if near else f"; {_NEED}"))


def _single(place: Path) -> LabelSource:
    (member,) = load_members([place])
    oof = _oof(member)
    return LabelSource(member.run, (oof,), (1.0,), (member,))


def _oof(member: Member) -> Predictions:
    oof = member.oof
    if oof is None and member.test is not None and member.test.kind == "oof":  # an oof.npy that was named itself
        oof = member.test
    if oof is None or oof.labels is None:
        raise InputError(f"{member.path}: no out-of-fold rows with labels beside it; {_NEED}")
    return oof


def _blend(place: Path, outputs: Path) -> LabelSource:
    """The members of a blend that have a say, each with its weight."""
    where = place / "blend.json"
    document = load_blend(where)
    listed = document["members"]
    voting = [number for number, member in enumerate(listed) if member["weight"] > 0]
    voting = voting or [number for number, member in enumerate(listed) if not member.get("dropped")]
    formula = Formula.of(document, str(where)) if document.get("apply") is not None else None
    needed = sorted({*voting, *(formula.needed if formula is not None else ())})
    members, problems = {}, []
    for number in needed:
        try:
            members[number] = _member(listed[number], place, outputs)
        except InputError as error:
            problems += [f"{where}: {message}" for message in error.messages]
    if problems:
        raise InputError(*problems)
    weights = tuple(max(0.0, float(listed[number]["weight"])) for number in needed)
    weights = weights if any(weights) else tuple(float(number in voting) for number in needed)
    oofs = tuple(_oof(members[number]) for number in needed)
    return LabelSource(place.name, oofs, weights, tuple(members.values()), document, formula, tuple(needed))


def _member(listed: dict[str, Any], blend: Path, outputs: Path) -> Member:
    """A member's files, in the outputs that the blend lies in or in those of the command, as they were blended."""
    label = str(listed["run"]).partition("@")[0].partition("#")[0]
    places = dict.fromkeys(
        folder / path
        for folder in (blend.absolute().parent.parent, outputs.absolute())
        for path in (label, f"studies/{label}")
    )
    here = [folder for folder in places if (folder / "oof.npy").is_file()]
    for folder in here:
        (member,) = load_members([folder])
        if member.main.npy_sha256 == listed["npy_sha256"]:
            return member
    if here:
        raise InputError(f"{here[0]}: changed since it was blended (its predictions are others); blend again")
    raise InputError(f"{listed['run']}: no out-of-fold rows of this member in {outputs}; name the members' files")


class JoinedRows:
    """The rows of several sources, joined by id: a row's probabilities are the mean of the sources that have it."""

    def __init__(self, sources: Sequence[LabelSource]) -> None:
        self.classes = sources[0].oofs[0].classes
        self.sets = sources[0].oofs[0].activation == "sigmoid"
        self._oofs = [oof for source in sources for oof in source.oofs]
        # Each source counts alike, however many members a blend has.
        self._weights = [weight / sum(source.weights) for source in sources for weight in source.weights]
        self.ids = tuple(dict.fromkeys(row_id for oof in self._oofs for row_id in oof.ids))
        self._places = [_places(self.ids, oof.ids) for oof in self._oofs]
        self._columns = [_columns(self.classes, oof.classes) for oof in self._oofs]
        self.labels = self._agreed_labels()

    @cached_property
    def groups(self) -> Integers | None:
        """The number of each row's group, of the first file that has all rows and names groups; None without."""
        pairs = zip(self._oofs, self._places, strict=True)
        whole = (oof.groups[places] for oof, places in pairs if oof.groups is not None and (places >= 0).all())
        return next(whole, None)

    @cached_property
    def folds(self) -> Integers | None:
        """(repeats, rows) of the first file that has all rows."""
        pairs = zip(self._oofs, self._places, strict=True)
        whole = (
            np.atleast_2d(np.asarray(oof.folds, dtype=np.int64))[:, places]
            for oof, places in pairs
            if oof.folds is not None and (places >= 0).all()
        )
        return next(whole, None)

    def read(self, block: slice) -> Floats:
        """Probabilities (rows, classes) of a slice of the rows."""
        count = len(self.ids[block])
        total, weights = np.zeros((count, len(self.classes))), np.zeros(count)
        for oof, places, columns, weight in zip(self._oofs, self._places, self._columns, self._weights, strict=True):
            if weight == 0:  # needed by the blend's formula alone
                continue
            here = np.flatnonzero(places[block] >= 0)
            probs = np.asarray(oof.probs[places[block][here]], dtype=np.float64)
            total[here] += weight * (probs if columns is None else probs[:, columns])
            weights[here] += weight
            release_pages(oof.probs)  # a matrix may be larger than memory
        return np.asarray(total / np.maximum(weights, 1e-300)[:, None])

    def _agreed_labels(self) -> Labels:
        """Each row's label; files that contradict each other are refused."""
        first = labels_by(self.classes, self._oofs[0])
        labels = np.zeros((len(self.ids), *first.shape[1:]), dtype=first.dtype)
        is_known = np.zeros(len(self.ids), dtype=np.bool_)
        problems = []
        for oof, places in zip(self._oofs, self._places, strict=True):
            own = labels_by(self.classes, oof)
            here = np.flatnonzero(places >= 0)
            values = own[places[here]]
            differs = is_known[here] & (labels[here] != values).reshape(len(here), -1).any(axis=1)
            if differs.any():
                row = int(here[differs.argmax()])
                texts = spelled(np.stack([labels[row], values[differs.argmax()]]), self.classes)
                problems.append(
                    f"{self._oofs[0].path} and {oof.path}: other labels of {counted(int(differs.sum()), 'row')}, the "
                    f"first is {self.ids[row]} ({any_of(texts, 'and')}): one was trained with corrections; name them "
                    "one by one"
                )
            labels[here], is_known[here] = values, True
        if problems:
            raise InputError(*problems)
        return labels


def labels_by(classes: Sequence[str], oof: Predictions) -> Labels:
    """A file's labels by another order of its classes."""
    labels = oof.labels
    assert labels is not None  # a file without is refused where it is loaded
    if tuple(oof.classes) == tuple(classes):
        return labels
    if are_sets(labels):
        return labels[:, _columns(classes, oof.classes)]
    index = {name: column for column, name in enumerate(classes)}
    return np.array([index[name] for name in oof.classes], dtype=np.int64)[labels]


def _places(ids: Sequence[str], own: Sequence[str]) -> Integers:
    """The place of each id among a file's own; -1 where it has none."""
    if tuple(ids) == tuple(own):
        return np.arange(len(own))
    position = {row_id: row for row, row_id in enumerate(own)}
    return np.fromiter((position.get(row_id, -1) for row_id in ids), dtype=np.int64, count=len(ids))


def _columns(classes: Sequence[str], own: Sequence[str]) -> list[int] | None:
    if tuple(classes) == tuple(own):
        return None
    position = {name: column for column, name in enumerate(own)}
    return [position[name] for name in classes]
