"""The checks of a probability file: its ids, its sidecar, its numbers; each fault in one clear message.

Functions of pieces that `predictions` has read. Numbers are checked in blocks of rows, so that a file larger than
memory can be checked, without a Python loop over rows. Where rows have sets of classes no sum is checked.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.core.complaints import counted
from ensemble.core.labels import Activation
from ensemble.core.plain_file import read_plain
from ensemble.core.records import SEAL, shown_repeats, strict_json
from ensemble.errors import InputError

SUM_TOLERANCE = 1e-3  # float16 probabilities of 1,000 classes miss 1 by up to half of it
_BLOCK_NUMBERS = 1 << 18  # a megabyte: stays in the cache while it is looked at three times
_SHORT = 64  # classes; the product with ones is faster for short rows only
_ONE_THREAD = 8192  # numbers; OpenBLAS multiplies fewer than 9,216 without threads
_NO_ROWS: NDArray[np.int64] = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class RowCheck:
    """What is wrong with the numbers, and which rows must still be divided by their sum."""

    problems: list[str]
    to_renormalize: NDArray[np.int64]


def check_rows(
    probs: NDArray[np.floating[Any]],
    ids: Sequence[str],
    classes: Sequence[str],
    *,
    renormalize: bool,
    activation: Activation = "softmax",
) -> RowCheck:
    """Check every number of `probs` (rows, classes); with `renormalize`, a row that needs dividing is fine."""
    sums_to_1 = activation == "softmax"
    renormalize = renormalize and sums_to_1
    broken, negative, off = _Finding(), _Finding(), _Finding()
    step = max(1, _BLOCK_NUMBERS // probs.shape[1])
    for start in range(0, probs.shape[0], step):
        block = np.asarray(probs[start : start + step])
        if block.dtype.itemsize == 2:
            block = block.astype(np.float32)  # sums of float16 are slow, and too coarse to be compared with 1
        if _is_fine(block, sums_to_1):
            continue
        with np.errstate(over="ignore", invalid="ignore"):  # infinity - infinity; it is reported below
            sums = block.sum(axis=1, dtype=np.float64)
        is_broken = ~np.isfinite(sums)  # one NaN or infinity makes the sum one
        if renormalize:
            is_broken |= ~block.any(axis=1)
        is_negative = ~is_broken & (block.min(axis=1) < 0)
        is_off = block.max(axis=1) > 1
        if sums_to_1:
            is_off |= np.abs(sums - 1) > SUM_TOLERANCE
        is_off &= ~is_broken & ~is_negative  # a row has one fault, the first of these that explains the others
        broken.note(start, is_broken, block)
        negative.note(start, is_negative, block)
        off.note(start, is_off, block)
    problems = []
    if broken.count:
        values = ("NaN, infinity or zeros alone", "NaN or infinity")[not renormalize]
        what = f"{counted(broken.count, 'row holds', 'rows hold')} {values}"
        problems.append(f"{what}; {broken.first(ids, classes)}; predict {'it' if broken.count == 1 else 'them'} again")
    if negative.count:
        what = f"{counted(negative.count, 'row holds', 'rows hold')} negative values; {negative.first(ids, classes)}"
        problems.append(f"{what}; if they are raw logits, apply {activation} first")
    if off.count and not sums_to_1:
        what = f"{counted(off.count, 'row exceeds', 'rows exceed')} 1; {off.first(ids, classes)}"
        problems.append(f"{what}; if they are raw logits, apply sigmoid first")
    elif off.count and not renormalize:
        one, many = (f"{words} sum to 1 within {SUM_TOLERANCE:g}, or" for words in ("row doesn't", "rows don't"))
        fault = counted(off.count, f"{one} exceeds 1", f"{many} exceed 1")
        problems.append(f"{fault}; {off.first(ids, classes)}; --renormalize divides each by its sum")
    return RowCheck(problems, off.rows() if renormalize else _NO_ROWS)


def renormalized_rows(probs: NDArray[np.floating[Any]], rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
    """A copy of `probs` in which each of `rows` is divided by its sum."""
    result = np.array(probs)
    chosen = result[rows].astype(np.float64)
    result[rows] = np.minimum(chosen / chosen.sum(axis=1, keepdims=True), 1.0)  # x / x may round above 1
    return result


class _Finding:
    """Rows with one kind of fault: how many, which, and the numbers of the first."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[NDArray[np.int64]] = []
        self._numbers: NDArray[np.floating[Any]] = np.empty(0)

    def note(self, start: int, mask: NDArray[np.bool_], block: NDArray[np.floating[Any]]) -> None:
        """Add the rows of a block, which begins at row `start`, where `mask` is true."""
        bad_rows = np.flatnonzero(mask)
        if not bad_rows.size:
            return
        if not self.count:
            self._numbers = np.array(block[bad_rows[0]])  # a copy: the block is a piece of a mapped file
        self.count += int(bad_rows.size)
        self._parts.append(bad_rows + start)

    def rows(self) -> NDArray[np.int64]:
        """All rows noted, ascending."""
        return np.concatenate(self._parts) if self._parts else _NO_ROWS

    def first(self, ids: Sequence[str], classes: Sequence[str]) -> str:
        """The first such row: its id, its sum, and the value that shows its fault most clearly."""
        numbers = self._numbers
        column = int(np.argmin(np.isfinite(numbers)))  # the first that is not finite, else the first
        if np.isfinite(numbers[column]):
            column = int(np.argmin(numbers) if numbers.min() < 0 else np.argmax(numbers))
        with np.errstate(over="ignore", invalid="ignore"):
            total = float(numbers.sum(dtype=np.float64))
        return f"first id {ids[self.rows()[0]]!r} ({classes[column]!r} is {numbers[column]:.6g}, the sum {total:.6g})"


def _is_fine(block: NDArray[np.floating[Any]], sums_to_1: bool) -> bool:
    """Whether no row needs a closer look: five times as fast as looking closely, and never wrong when it says yes."""
    if not (block.min() >= 0 and block.max() <= 1):  # written so that NaN, which fails both, is no yes
        return False
    # half the tolerance: 32 bits round sums by far less than the other half
    return not sums_to_1 or bool(np.abs(_sums(block) - 1).max() <= SUM_TOLERANCE / 2)


def _sums(block: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """The sum of each row, in the block's own precision."""
    rows, classes = block.shape
    if classes > _SHORT:
        long: NDArray[np.floating[Any]] = np.einsum("ij->i", block)
        return long
    # For short rows a product with ones is by far the fastest; in parts too small for BLAS to start threads of its own,
    # which would compete with ours for the cores.
    step = _ONE_THREAD // classes
    ones, sums = np.ones(classes, block.dtype), np.empty(rows, block.dtype)
    whole = rows - rows % step
    np.matmul(block[:whole].reshape(-1, step, classes), ones, out=sums[:whole].reshape(-1, step))
    np.matmul(block[whole:], ones, out=sums[whole:])
    return sums


OWN_KEYS = frozenset(
    {"format", SEAL, "kind", "rows", "classes", "npy_sha256", "ids_sha256", "labels", "folds", "groups", "activation"}
)
_ACTIVATIONS = ("softmax", "sigmoid")  # rows that sum to 1, or a yes and no for each class
_TEXT_KEYS = ("run", "identity", "dataset", "dataset_sha256", "folds_sha256", "tta", "metric")
_NUMBERS_KEYS = ("scores", "cost")
_SHA256 = re.compile(r"[0-9a-f]{64}")  # in lower case, as hashlib writes it: hashes are compared as text


def parse_ids(path: Path, content: bytes | None = None, *, what: str = "id") -> tuple[str, ...]:
    """The ids (or other names: `what` they are called) of a file, one per line: UTF-8, none empty, none twice."""
    content = read_whole(path) if content is None else content
    # Strict, since ids are joined as text: a byte order mark or a \r would make an id that is equal to no other.
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if text.startswith("\ufeff"):
        raise InputError(f"{path}: begins with a byte order mark; save it as plain UTF-8")
    if "\r" in text:
        line = text.count("\n", 0, text.index("\r")) + 1
        raise InputError(f"{path}:{line}: a carriage return; save it with \\n line ends")
    ids = tuple(text.removesuffix("\n").split("\n")) if text else ()
    if "" in ids:
        count = f"{ids.count('')} in all"
        raise InputError(f"{path}:{ids.index('') + 1}: an empty {what} ({count}); one {what} per line is needed")
    if len(set(ids)) != len(ids):
        needs = "every row needs an id" if what == "id" else "every column needs a name"
        raise InputError(f"{path}: {shown_repeats(ids)}; {needs} of its own")
    return ids


def parse_document(path: Path, newest_format: int, content: bytes) -> dict[str, Any]:
    """The sidecar: strict JSON of a known format; its own hash is looked at last, by `check_seal`."""
    document = strict_json(content, path, "make it again")
    version = document.get("format")
    if type(version) is int and version > newest_format:  # type(): True is an int too
        raise InputError(f"{path}: format {version} is newer than this ens ({newest_format}); upgrade ens")
    if type(version) is not int or version < 1:
        raise InputError(f"{path}: format is {_show(version)}; 1 to {newest_format} is needed")
    return document


def document_problems(document: dict[str, Any], rows: int, columns: int) -> list[str]:
    """All that is wrong with a sidecar that stands beside a matrix of `rows` x `columns`."""
    problems = class_problems(document.get("classes"), columns)
    kind = document.get("kind")
    if kind not in ("test", "oof"):
        problems.append(f"kind is {_show(kind)}; test or oof is needed")
    if document.get("activation", "softmax") not in (None, *_ACTIVATIONS):
        problems.append(f"activation is {_show(document['activation'])}; softmax or sigmoid is needed")
    if type(document.get("rows")) is not int or document["rows"] != rows:
        problems.append(f"rows is {_show(document.get('rows'))}; the .npy has {rows}")
    for key in ("npy_sha256", "ids_sha256"):
        value = document.get(key)
        if not isinstance(value, str) or not _SHA256.fullmatch(value):
            problems.append(f"{key} is {_show(value)}; 64 hexadecimal digits are needed")
    # The optional keys, where present; unknown keys pass, since a later ens may add some.
    problems += [
        f"{key} is {_show(document[key])}; a non-empty string is needed"
        for key in _TEXT_KEYS
        if document.get(key) is not None and not (isinstance(document[key], str) and document[key])
    ]
    for key in _NUMBERS_KEYS:
        value = document.get(key)
        is_fine = isinstance(value, dict) and set(map(type, value.values())) <= {int, float, types.NoneType}
        if value is not None and not is_fine:
            problems.append(f"{key} is {_show(value)}; names with numbers are needed")
    members = document.get("blend_of")
    if members is not None and not (isinstance(members, list) and all(isinstance(name, str) for name in members)):
        problems.append(f"blend_of is {_show(members)}; a list of runs is needed")
    reasons = document.get("why_optimistic")
    if reasons is not None and not (isinstance(reasons, list) and all(isinstance(each, str) for each in reasons)):
        problems.append(f"why_optimistic is {_show(reasons)}; a list of sentences is needed")
    if kind == "oof":
        problems += _oof_problems(document, rows, columns)
    elif kind == "test":
        problems += [
            f"{key} must not stand in a test file"
            for key in ("labels", "folds", "groups")
            if document.get(key) is not None
        ]
    return problems


def shape_problems(ids: int, rows: int) -> list[str]:
    """Whether there are as many ids as rows."""
    return (
        []
        if ids == rows
        else [f"{counted(ids, 'id')} for {counted(rows, 'row')} of the .npy; one id per row is needed"]
    )


def class_problems(classes: Any, columns: int) -> list[str]:
    """Whether `classes` names every column, each once."""
    if not isinstance(classes, list) or not all(isinstance(name, str) and name for name in classes):
        return ["classes is not a list of names; give one non-empty string per column"]
    if any("\n" in name or "\r" in name for name in classes):
        return ["classes: a name holds a line break; no submission could be written with it"]
    if len(set(classes)) != len(classes):
        return [f"classes: {shown_repeats(classes)}; every column needs a name of its own"]
    if len(classes) != columns:
        return [
            f"{counted(len(classes), 'class', 'classes')} for {counted(columns, 'column')} of the .npy; "
            "one name per column is needed"
        ]
    return []


def _oof_problems(document: dict[str, Any], rows: int, columns: int) -> list[str]:
    """Whether labels, folds and groups of an out-of-fold file are there, as long as the rows, and in range."""
    if document.get("activation") == "sigmoid":
        problems = _sets_problems(document.get("labels"), rows, columns)
    else:
        problems = _integers_problems("labels", document.get("labels"), rows, columns)
    folds = document.get("folds")
    if isinstance(folds, list) and folds and all(isinstance(part, list) for part in folds):
        for repeat, part in enumerate(folds):
            problems += _integers_problems(f"folds[{repeat}]", part, rows)
    else:
        problems += _integers_problems("folds", folds, rows)
    if document.get("groups") is not None:
        problems += _integers_problems("groups", document["groups"], rows)
    return problems


def _sets_problems(values: Any, rows: int, classes: int) -> list[str]:
    """Whether `values` is a list of `rows` lists of class numbers, ascending, none twice."""
    if not isinstance(values, list) or not all(isinstance(row_classes, list) for row_classes in values):
        return [f"labels is {_show(values)}; with activation sigmoid, a list of class numbers per row is needed"]
    if len(values) != rows:
        return [f"labels has {counted(len(values), 'entry', 'entries')} for {counted(rows, 'row')}"]
    numbers = [number for row_classes in values for number in row_classes]
    if set(map(type, numbers)) - {int}:  # by a set of types: checking each of a million in Python takes a second
        return ["labels holds more than whole numbers"]
    if numbers and not 0 <= min(numbers) <= max(numbers) < classes:
        wrong = min(numbers) if min(numbers) < 0 else max(numbers)
        return [f"labels holds {_show(wrong)}; allowed are 0 to {classes - 1}"]
    if any(len(set(row_classes)) < len(row_classes) for row_classes in values):
        return ["labels names a class twice in one row"]
    return []


def _integers_problems(key: str, values: Any, rows: int, below: int = 1 << 62) -> list[str]:
    """Whether `values` is a list of `rows` whole numbers from 0 to below `below`."""
    if not isinstance(values, list):
        return [f"{key} is {_show(values)}; a list of {counted(rows, 'whole number')} is needed in an oof file"]
    if len(values) != rows:
        return [f"{key} has {counted(len(values), 'entry', 'entries')} for {counted(rows, 'row')}"]
    if set(map(type, values)) != {int}:
        return [f"{key} holds more than whole numbers"]
    if min(values) < 0 or max(values) >= below:
        wrong = min(values) if min(values) < 0 else max(values)
        return [f"{key} holds {_show(wrong)}; allowed are 0 to {below - 1}"]
    return []


def read_whole(path: Path) -> bytes:
    """The bytes of a file, unless it is absurdly large."""
    try:
        return read_plain(path)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error})") from error


def _show(value: Any) -> str:
    """A value in a message: short, as JSON, `missing` for what is not there."""
    if value is None:
        return "missing"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a giant number"
    return text if len(text) <= 40 else text[:37] + "..."
