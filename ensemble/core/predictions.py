"""The probability file: named rows x named classes, as three files with one stem, loaded and saved.

`X.npy` holds the numbers, `X.ids.txt` one id per line, `X.json` everything else and the hashes of the other two. They
are replaced as one, so that a reader always finds a whole trio. `predictions_check` says what is refused.

Where many files are loaded, equal ids and lists are kept in memory once (`Seen`).
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ensemble.core.complaints import counted
from ensemble.core.files import read_together, replaced_together, sha256_file
from ensemble.core.labels import Activation, Labels, labels_of_plain, plain_labels
from ensemble.core.notebook import MOST_ROWS, NotebookValue, check_arguments, html_of
from ensemble.core.npy import map_matrix, mapped_sha256, release_pages, save_matrix
from ensemble.core.plain_file import open_plain
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
from ensemble.core.records import SEAL, check_seal, sealed, with_seal
from ensemble.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

Value = TypeVar("Value")


@dataclass(eq=False)
class Seen:
    """Values that were read already; an equal one that comes again is the same object."""

    _kept: dict[Hashable, Any] = field(default_factory=dict)
    _last: tuple[bytes, str, tuple[str, ...]] = (b"", "", ())

    def ids(self, path: Path) -> tuple[tuple[str, ...], str]:
        """The ids of a file and its hash."""
        # Members of a blend nearly always share their ids: a million are compared rather than hashed and parsed.
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
        array = np.asarray(values)
        if array.dtype.kind not in "iub":  # None, or what no checked file holds
            return values
        key = (what, array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        kept: Value = self._kept.setdefault(key, values)
        return kept


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file is exactly this; many times as fast as hashing it."""
    try:
        if not content or os.stat(path).st_size != len(content):
            return False
        with open_plain(path) as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            if len(mapped) != len(content):
                return False
            words = (
                len(content) // 8
            )  # eight bytes at a time, then the rest: a mapped file has no comparison of its own
            here, there = (np.frombuffer(part, np.uint64, words) for part in (mapped, content))
            same = bool(np.array_equal(here, there)) and mapped[words * 8 :] == content[words * 8 :]
            del here  # else the map can't be closed
            return same
    except (OSError, ValueError):  # gone, or shorter by now: reading it will tell
        return False


FORMAT, _SEALED_FROM = 2, 2  # of the sidecar; since 2 it has a hash of itself


@dataclass(frozen=True, eq=False, repr=False)
class Predictions(NotebookValue):
    """Probabilities of named rows over named classes, and where they come from."""

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    probs: NDArray[np.floating[Any]]
    """(rows, classes); a read-only memory map when loaded."""
    kind: Literal["test", "oof"]
    labels: Labels | None = None
    """Class index of each row, or (rows, classes) of zeros and ones; oof only."""
    folds: list[Any] | None = None
    """Fold of each row; when the plan is repeated, one such list per repeat. Oof only."""
    groups: NDArray[np.int64] | None = None
    """Group number of each row; oof only, None where rows have no groups."""
    sidecar: dict[str, Any] = field(default_factory=dict)
    """The rest of `X.json`: run, identity, dataset, dataset_sha256, folds_sha256, tta, metric, scores, cost, …"""
    activation: Activation = "softmax"
    """`softmax`: rows sum to 1; `sigmoid`: each class by itself, for rows with sets of classes."""
    renormalized: int = 0
    """Number of rows that were divided by their sum when loaded."""
    npy_sha256: str = ""
    """Hash of the `.npy` file these came from; empty for what was made in memory."""
    path: Path | None = None
    """The `.npy` file these came from."""
    is_verified: bool = True
    """Whether the sidecar's own hash showed that labels, folds and scores are as they were written; a file of an
    earlier version has none."""

    @property
    def headline(self) -> str:
        """How many rows and classes, of which run."""
        run = self.sidecar.get("run")
        of_run = f" of {run}" if run else ""
        where = f" ({self.path})" if self.path is not None else ""
        shape = f"{counted(len(self.ids), 'row')} x {counted(len(self.classes), 'class', 'classes')}"
        return f"{self.kind} rows{of_run}: {shape}{where}"

    def frame(self) -> pd.DataFrame:
        """The probabilities as a pandas table, for notebooks: a row for each id, a column for each class."""
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
        """The ones that are not there."""
        return [path for path in (self.npy, self.ids, self.json) if not path.is_file()]


@check_arguments
def load_predictions(
    path: Path | str, *, renormalize: bool = False, verify_hashes: bool = True, seen: Seen | None = None
) -> Predictions:
    """Load a probability file by any of its three names or its stem; all that is wrong with it is one `InputError`.

    `seen`: what other files held; equal ids, labels, folds and groups are kept once.
    """
    named, seen = ProbabilityPaths.of(Path(path)), seen or Seen()

    def load(places: list[Path]) -> Predictions:
        return _load(ProbabilityPaths(*places), named.npy, renormalize, verify_hashes, seen)

    return read_together([named.npy, named.ids, named.json], named.npy.name.removesuffix(".npy"), load)


def _load(paths: ProbabilityPaths, path: Path, renormalize: bool, verify_hashes: bool, seen: Seen) -> Predictions:
    if len(missing := paths.missing()) == 3:
        raise InputError(f"{paths.npy}: no such probability file")
    if missing:
        names = " and ".join(path.name for path in missing)
        bare = "; a bare .npy gets them from ens adopt" if paths.json in missing and paths.npy not in missing else ""
        raise InputError(
            f"{paths.npy}: {names} missing in {paths.npy.parent}; the three files travel together, copy them all{bare}"
        )
    problems: list[str] = []
    probs = _collect(problems, map_matrix, paths.npy)
    # Hashed at once, which brings the numbers into memory for the checks; other faults are told before a wrong hash.
    npy_sha256 = mapped_sha256(probs) if verify_hashes and probs is not None else ""
    ids, ids_sha256 = _collect(problems, seen.ids, paths.ids) or (None, "")
    content = _collect(problems, read_whole, paths.json)
    document = None if content is None else _collect(problems, parse_document, paths.json, FORMAT, content)
    if document is not None and probs is not None:
        problems += [f"{paths.json}: {problem}" for problem in document_problems(document, *probs.shape)]
    if ids is not None and probs is not None:
        problems += [f"{paths.ids}: {problem}" for problem in shape_problems(len(ids), probs.shape[0])]
    # Hashes last: of a file that is cut off, "changed after it was written" would say less than what was said above.
    is_verified = False
    if document is not None and content is not None and not problems:
        is_sealed = document["format"] >= _SEALED_FROM
        seal = (content, document, paths.json, "make it again")
        is_verified = bool(_collect(problems, partial(check_seal, required=is_sealed), *seal))
    if document is not None and verify_hashes and not problems:
        hashes = ((paths.npy, "npy_sha256", npy_sha256), (paths.ids, "ids_sha256", ids_sha256))
        problems += [
            f"{path}: changed after it was written (its sha256 is not the {key} of {paths.json.name}); make it again"
            for path, key, sha256 in hashes
            if sha256 != document[key]
        ]
    if problems or probs is None or ids is None or document is None:
        raise InputError(*problems)
    activation: Activation = document.get("activation") or "softmax"
    rows = check_rows(probs, ids, document["classes"], renormalize=renormalize, activation=activation)
    if rows.problems:
        raise InputError(*(f"{paths.npy}: {problem}" for problem in rows.problems))
    release_pages(probs)  # hash and checks read every number, so each member of a blend would fill memory
    if rows.to_renormalize.size:
        probs = renormalized_rows(probs, rows.to_renormalize)
    labels, groups = document.get("labels"), document.get("groups")
    if labels is not None:
        labels = labels_of_plain(labels, probs.shape[1], sets=activation == "sigmoid")
    return Predictions(
        ids=ids,
        classes=tuple(document["classes"]),
        probs=probs,
        kind=document["kind"],
        labels=seen.numbers("labels", labels),
        folds=seen.numbers("folds", document.get("folds")),
        groups=None if groups is None else seen.numbers("groups", np.array(groups, dtype=np.int64)),
        sidecar={key: value for key, value in document.items() if key not in OWN_KEYS},
        activation=activation,
        renormalized=int(rows.to_renormalize.size),
        npy_sha256=document["npy_sha256"],
        path=path,
        is_verified=is_verified,
    )


def _collect(problems: list[str], read: Any, *arguments: Any) -> Any:
    """What `read` gives, or None with its messages noted, so that all three files are looked at."""
    try:
        return read(*arguments)
    except InputError as error:
        problems.extend(error.messages)
        return None


@check_arguments
def save_predictions(stem: Path | str, predictions: Predictions, *, written: Path | None = None) -> None:
    """Write `stem`.npy, `.ids.txt` and `.json`, all or none; `ValueError` for what `load_predictions` would refuse.

    `written`: a file beside `stem` that holds these very numbers, and is moved rather than written a second time.
    """
    stem, probs = Path(stem), predictions.probs
    if probs.dtype.kind != "f" or probs.dtype.itemsize not in (4, 8) or probs.ndim != 2 or 0 in probs.shape:
        needed = "a float32 or float64 matrix with rows and columns is needed"
        raise ValueError(f"{needed}, got {probs.dtype} {probs.shape}")
    probs = np.ascontiguousarray(probs, dtype=probs.dtype.newbyteorder("<"))
    ids = "".join(f"{name}\n" for name in predictions.ids).encode("utf-8")
    document = _document(predictions) | {"ids_sha256": hashlib.sha256(ids).hexdigest()}
    if problems := _unloadable(predictions, probs, document, ids):
        raise ValueError("; ".join(problems))
    with replaced_together(stem.parent, stem.name) as stage:
        npy = stage / f"{stem.name}.npy"
        if written is not None:
            os.replace(written, npy)
        else:
            save_matrix(npy, probs)
        document["npy_sha256"] = sha256_file(npy)  # of what is on the disk, not of what was meant
        (stage / f"{stem.name}.ids.txt").write_bytes(ids)
        (stage / f"{stem.name}.json").write_bytes(sealed(_document_text(document)))


def _document(predictions: Predictions) -> dict[str, Any]:
    """The sidecar, hashes still to come; the long lists last, where a person need not scroll past them."""
    taken = sorted(OWN_KEYS & predictions.sidecar.keys())
    if taken:
        raise ValueError(f"sidecar: {', '.join(taken)} are written from the predictions themselves")
    document: dict[str, Any] = {
        "format": FORMAT,
        SEAL: "",
        "kind": predictions.kind,
        "rows": len(predictions.ids),
        "classes": list(predictions.classes),
        "npy_sha256": "0" * 64,  # their places; the true ones are put in when the bytes are known
        "ids_sha256": "0" * 64,
        # only where it says something, so that files of one class a row stay as they were before there were sets
        **({} if predictions.activation == "softmax" else {"activation": predictions.activation}),
        **predictions.sidecar,
    }
    if predictions.kind == "oof" or predictions.labels is not None or predictions.folds is not None:
        document["labels"] = None if predictions.labels is None else plain_labels(np.asarray(predictions.labels))
        # asarray: lists may contain NumPy's numbers, which JSON has no form for
        document["folds"] = None if predictions.folds is None else np.asarray(predictions.folds).tolist()
        document["groups"] = None if predictions.groups is None else np.asarray(predictions.groups).tolist()
    return document


def _unloadable(
    predictions: Predictions, probs: NDArray[np.floating[Any]], document: dict[str, Any], ids: bytes
) -> list[str]:
    """Why loading what is about to be written would be refused: by the very checks of loading."""
    problems = document_problems(document, *probs.shape)
    problems += shape_problems(len(predictions.ids), probs.shape[0])
    try:
        if parse_ids(Path("ids"), ids) != predictions.ids:
            problems.append("ids: one contains a line end")
        parse_document(Path("sidecar"), FORMAT, _document_text(document).encode("utf-8"))
    except InputError as error:
        problems += error.messages
    if problems:
        return problems
    activation = predictions.activation
    return check_rows(probs, predictions.ids, predictions.classes, renormalize=False, activation=activation).problems


def _document_text(document: dict[str, Any]) -> str:
    """One key per line, so that a person can read it and a list of a million labels stays on one line."""
    lines = (
        f"  {json.dumps(key, ensure_ascii=False)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in with_seal(document).items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"
