"""The probability file: named rows x named classes, as three files with one stem, loaded and saved.

`X.npy` holds the numbers, `X.ids.txt` one id a line, `X.json` everything else and the hashes of the other two. They are
replaced as one, so that a reader always finds a whole trio. `predictions_check` says what is refused.

Of many files, ids and lists that are alike are kept in memory once (`Seen`).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ensemble.core.files import newest, replaced_together, sha256_file
from ensemble.core.labels import Activation, Labels, labels_of_plain, plain_labels
from ensemble.core.notebook import MOST_ROWS, NotebookValue, check_arguments, html_of
from ensemble.core.npy import map_matrix, mapped_sha256, release_pages
from ensemble.core.predictions_check import (
    OWN_KEYS,
    check_rows,
    document_problems,
    parse_document,
    parse_ids,
    read_whole,
    renormalized_rows,
    shape_problems,
)
from ensemble.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")


class Seen:
    """Values that were read already; one that comes again is the same object."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, Any] = {}
        self._last: tuple[bytes, str, tuple[str, ...]] = (b"", "", ())

    def ids(self, path: Path) -> tuple[tuple[str, ...], str]:
        """The ids of a file and its hash; what was in the file before, is neither parsed nor hashed again."""
        last, digest, ids = self._last
        if _holds(path, last):
            return ids, digest
        content = read_whole(path)
        digest = hashlib.sha256(content).hexdigest()
        ids = self._kept.get(digest) or self._kept.setdefault(digest, parse_ids(path, content))
        self._last = content, digest, ids
        return ids, digest

    def numbers(self, what: str, values: Value) -> Value:
        """An array, or lists, of whole numbers; None stays None."""
        if values is None:
            return values
        array = np.asarray(values)
        content = array.tobytes() if array.dtype.kind in "iub" else None
        if content is None:  # rows of unequal length, or what no checked file holds
            return values
        key = (what, array.dtype.str, array.shape, hashlib.sha256(content).digest())
        kept: Value = self._kept.setdefault(key, values)
        return kept


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file is exactly this; many times as fast as hashing it."""
    try:
        if not content or os.stat(path).st_size != len(content):
            return False
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            return len(mapped) == len(content) and _equal(mapped, content)
    except (OSError, ValueError):  # gone, or shorter by now: reading it will tell
        return False


def _equal(mapped: mmap.mmap, content: bytes) -> bool:
    """Eight bytes at a time, and what is left over; a mapped file knows no comparing of its own."""
    words = len(content) // 8
    here, there = (np.frombuffer(content_part, np.uint64, words) for content_part in (mapped, content))
    same = bool(np.array_equal(here, there)) and mapped[words * 8 :] == content[words * 8 :]
    del here  # else the map can't be closed
    return same


FORMAT = 1  # of the sidecar; another one is refused
_PATIENCE = 5  # files that are replaced while they are read are read again


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(NotebookValue):
    """Probabilities of named rows over named classes, and where they come from."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probs: NDArray[np.floating[Any]]
    """(rows, classes); a read-only memory map when loaded."""
    kind: Literal["test", "oof"]
    labels: Labels | None = None
    """Class index of each row, or (rows, classes) which classes each row has; oof only."""
    folds: list[Any] | None = None
    """Fold of each row; when the plan is repeated, one such list per repeat. Oof only."""
    groups: NDArray[np.int64] | None = None
    """Group number of each row; oof only, None where rows have no groups."""
    sidecar: dict[str, Any] = field(default_factory=dict)
    """The rest of `X.json`: run, identity, dataset, dataset_sha256, folds_sha256, tta, metric, scores, cost, ..."""
    activation: Activation = "softmax"
    """`softmax`: rows sum to 1; `sigmoid`: each class by itself, for rows with sets of classes."""
    renormalized: int = 0
    """Number of rows that were divided by their sum when loaded."""
    npy_sha256: str = ""
    """Hash of the `.npy` file these came from; empty for what was made in memory."""
    path: Path | None = None
    """The `.npy` file these came from."""

    @property
    def headline(self) -> str:
        """How many rows and classes, of which run."""
        run = self.sidecar.get("run")
        of_run = f" of {run}" if run else ""
        where = f" ({self.path})" if self.path is not None else ""
        return f"{self.kind} rows{of_run}: {len(self.ids):,} rows x {len(self.classes):,} classes{where}"

    def frame(self) -> pd.DataFrame:
        """The probabilities as a pandas table, for notebooks: a row an id, a column a class."""
        return self._frame(slice(None))

    def table(self) -> pd.DataFrame:
        """The same as `frame`, under the name that runs and blends have for it."""
        return self.frame()

    def _frame(self, rows: slice) -> pd.DataFrame:
        import pandas as pd  # 0.36 s, which no command has to pay

        index = pd.Index(self.ids[rows], name="id")
        return pd.DataFrame(np.asarray(self.probs[rows]), index=index, columns=list(self.classes))

    def _repr_html_(self) -> str:
        return html_of(self.headline, self._frame(slice(MOST_ROWS)), len(self.ids))  # of a million rows, the first


@dataclass(frozen=True)
class ProbabilityPaths:
    """The three files of one stem."""

    npy: Path
    ids: Path
    json: Path

    @classmethod
    def of(cls, path: Path) -> ProbabilityPaths:
        """The trio that `path` belongs to: any one of the three, or their stem."""
        name = path.name
        for suffix in (".npy", ".ids.txt", ".json"):
            name = name.removesuffix(suffix) if path.name.endswith(suffix) else name
        return cls(*(path.with_name(name + suffix) for suffix in (".npy", ".ids.txt", ".json")))

    def missing(self) -> list[Path]:
        """Which of the three are not there."""
        return [path for path in (self.npy, self.ids, self.json) if not path.is_file()]

    def found(self) -> _Found:
        """Where the three lie now, which may be on their way to their places, and which files they are."""
        name = self.npy.name.removesuffix(".npy")
        paths = ProbabilityPaths(*(newest(path, name) for path in (self.npy, self.ids, self.json)))
        stamps = tuple(_stamp(path) for path in (paths.npy, paths.ids, paths.json))
        return _Found(paths, stamps)


@dataclass(frozen=True)
class _Found:
    """Three files, to be told from others that take their places."""

    paths: ProbabilityPaths
    stamps: tuple[tuple[int, int] | None, ...]


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


@check_arguments
def load_predictions(
    path: Path | str, *, renormalize: bool = False, verify_hashes: bool = True, seen: Seen | None = None
) -> Predictions:
    """Load a probability file by any of its three names or its stem; all that is wrong with it is one `InputError`.

    `seen`: what other files said; ids, labels, folds and groups that are the same are kept once.
    """
    named, seen = ProbabilityPaths.of(Path(path)), seen or Seen()
    for _ in range(_PATIENCE):
        files = named.found()
        try:
            return _load(files, named.npy, renormalize, verify_hashes, seen)
        except InputError:
            if named.found() == files:  # nobody replaced the files while they were read
                raise
    return _load(named.found(), named.npy, renormalize, verify_hashes, seen)


def _load(files: _Found, path: Path, renormalize: bool, verify_hashes: bool, seen: Seen) -> Predictions:
    paths = files.paths
    _refuse_missing(paths)
    problems: list[str] = []
    probs = _collect(problems, map_matrix, paths.npy)
    ids, ids_sha256 = _collect(problems, seen.ids, paths.ids) or (None, "")
    document = _collect(problems, parse_document, paths.json, FORMAT)
    if document is not None and probs is not None:
        problems += [f"{paths.json}: {problem}" for problem in document_problems(document, *probs.shape)]
    if ids is not None and probs is not None:
        problems += [f"{paths.ids}: {problem}" for problem in shape_problems(len(ids), probs.shape[0])]
    if document is not None and verify_hashes and not problems:
        problems += _hash_problems(paths, document, mapped_sha256(probs), ids_sha256)
    if problems or probs is None or ids is None or document is None:
        raise InputError(*problems)
    activation: Activation = document.get("activation") or "softmax"
    rows = check_rows(probs, ids, document["classes"], renormalize=renormalize, activation=activation)
    if rows.problems:
        raise InputError(*(f"{paths.npy}: {problem}" for problem in rows.problems))
    release_pages(probs)
    if rows.to_renormalize.size:
        probs = renormalized_rows(probs, rows.to_renormalize)
    return _predictions(path, probs, ids, document, int(rows.to_renormalize.size), seen)


@check_arguments
def save_predictions(stem: Path | str, predictions: Predictions, *, written: Path | None = None) -> None:
    """Write `stem`.npy, `.ids.txt` and `.json`, all or none; `ValueError` for what `load_predictions` would refuse.

    `written`: a file beside `stem` that holds the very numbers, and is moved rather than written a second time.
    """
    stem = Path(stem)
    probs = _storable(predictions.probs)
    document = _document(predictions)
    ids_text = "".join(f"{name}\n" for name in predictions.ids)
    _refuse_unloadable(predictions, probs, document, ids_text)
    with replaced_together(stem.parent, stem.name) as stage:
        npy = stage / f"{stem.name}.npy"
        if written is not None:
            os.replace(written, npy)
        else:
            with npy.open("wb") as stream:
                np.lib.format.write_array(stream, probs, version=(1, 0), allow_pickle=False)
        document["npy_sha256"] = sha256_file(npy)
        (stage / f"{stem.name}.ids.txt").write_bytes(ids_text.encode("utf-8"))
        (stage / f"{stem.name}.json").write_bytes(_document_text(document).encode("utf-8"))


def _refuse_missing(paths: ProbabilityPaths) -> None:
    """Say which of the three files are not there, and what makes them."""
    missing = paths.missing()
    if len(missing) == 3:
        raise InputError(f"{paths.npy}: no such probability file")
    if missing:
        names = " and ".join(path.name for path in missing)
        bare = "; a bare .npy gets them from ens adopt" if paths.json in missing and paths.npy not in missing else ""
        raise InputError(
            f"{paths.npy}: {names} missing in {paths.npy.parent}; the three files travel together, copy them all{bare}"
        )


def _collect(problems: list[str], read: Any, *arguments: Any) -> Any:
    """What `read` gives, or None with its messages noted, so that all pieces are looked at."""
    try:
        return read(*arguments)
    except InputError as error:
        problems.extend(error.messages)
        return None


def _hash_problems(paths: ProbabilityPaths, document: dict[str, Any], npy_sha256: str, ids_sha256: str) -> list[str]:
    """Which of the two files are not those that the sidecar was written for."""
    hashes = ((paths.npy, "npy_sha256", npy_sha256), (paths.ids, "ids_sha256", ids_sha256))
    return [
        f"{path}: changed after it was written (its sha256 is not the {key} of {paths.json.name}); make it again"
        for path, key, sha256 in hashes
        if sha256 != document[key]
    ]


def _predictions(
    path: Path,
    probs: NDArray[np.floating[Any]],
    ids: tuple[str, ...],
    document: dict[str, Any],
    renormalized: int,
    seen: Seen,
) -> Predictions:
    """The value that a checked trio stands for."""
    labels, groups = document.get("labels"), document.get("groups")
    activation: Activation = document.get("activation") or "softmax"
    return Predictions(
        ids=ids,
        classes=tuple(document["classes"]),
        probs=probs,
        kind=document["kind"],
        labels=None
        if labels is None
        else seen.numbers("labels", labels_of_plain(labels, probs.shape[1], sets=activation == "sigmoid")),
        folds=seen.numbers("folds", document.get("folds")),
        groups=None if groups is None else seen.numbers("groups", np.array(groups, dtype=np.int64)),
        sidecar={key: value for key, value in document.items() if key not in OWN_KEYS},
        renormalized=renormalized,
        npy_sha256=document["npy_sha256"],
        path=path,
        activation=activation,
    )


def _storable(probs: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The same numbers as a C-ordered little-endian matrix; `ValueError` for another type or shape."""
    if probs.dtype.kind != "f" or probs.dtype.itemsize not in (4, 8) or probs.ndim != 2 or 0 in probs.shape:
        raise ValueError(
            f"a float32 or float64 matrix with rows and columns is needed, got {probs.dtype} {probs.shape}"
        )
    return np.ascontiguousarray(probs, dtype=probs.dtype.newbyteorder("<"))


def _document(predictions: Predictions) -> dict[str, Any]:
    """The sidecar, hashes still to come; the long lists last."""
    taken = sorted(OWN_KEYS & predictions.sidecar.keys())
    if taken:
        raise ValueError(f"sidecar: {', '.join(taken)} are written from the predictions themselves")
    document: dict[str, Any] = {
        "format": FORMAT,
        "kind": predictions.kind,
        "rows": len(predictions.ids),
        "classes": list(predictions.classes),
        "npy_sha256": "0" * 64,
        "ids_sha256": "0" * 64,
        **({} if predictions.activation == "softmax" else {"activation": predictions.activation}),
        **predictions.sidecar,
    }
    if predictions.kind == "oof" or predictions.labels is not None or predictions.folds is not None:
        document["labels"] = None if predictions.labels is None else plain_labels(np.asarray(predictions.labels))
        document["folds"] = _plain(predictions.folds)
        document["groups"] = _plain(predictions.groups)
    return document


def _plain(values: NDArray[np.int64] | Sequence[Any] | None) -> list[Any] | None:
    """Lists of Python numbers from whatever holds them."""
    if values is None:
        return None
    if isinstance(values, np.ndarray):
        return list(values.tolist())
    return [_plain(value) if isinstance(value, np.ndarray | list | tuple) else int(value) for value in values]


def _refuse_unloadable(
    predictions: Predictions, probs: NDArray[np.floating[Any]], document: dict[str, Any], ids_text: str
) -> None:
    """`ValueError` when loading what is about to be written would be refused; also fills in the ids' hash."""
    problems = document_problems(document, *probs.shape)
    problems += shape_problems(len(predictions.ids), probs.shape[0])
    content = ids_text.encode("utf-8")
    try:
        if parse_ids(Path("ids"), content) != predictions.ids:
            problems.append("ids: one holds a line end")
        parse_document(Path("sidecar"), FORMAT, _document_text(document).encode("utf-8"))
    except InputError as error:
        problems += error.messages
    if not problems:
        check = check_rows(
            probs, predictions.ids, predictions.classes, renormalize=False, activation=predictions.activation
        )
        problems += check.problems
    if problems:
        raise ValueError("; ".join(problems))
    document["ids_sha256"] = hashlib.sha256(content).hexdigest()


def _document_text(document: dict[str, Any]) -> str:
    """One key a line, so that a person can read it and a list of a million labels stays one line."""
    lines = (
        f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in document.items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"
