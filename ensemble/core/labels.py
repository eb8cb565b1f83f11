"""Labels of rows: one class index each, or a set of classes each. The one place that knows how both are stored.

A vector of class indices, (rows,), says one class a row. A matrix of zeros and ones, (rows, classes), says which
classes a row has: none, one or several. Code that must tell them apart asks `are_sets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ensemble.core.text import JOINER

Labels = NDArray[np.integer[Any]]
Activation = Literal["softmax", "sigmoid"]
"""How a row's probabilities relate: `softmax` ones sum to 1; `sigmoid` ones, of rows with sets of classes, are a yes
or no for each class."""


def are_sets(labels: Labels) -> bool:
    """Whether each row has a set of classes, rather than one class."""
    return labels.ndim == 2


def class_counts(labels: Labels, classes: int) -> NDArray[np.int64]:
    """(classes,): rows of each class; of sets they add up to more or less than the rows."""
    if are_sets(labels):
        return np.asarray(labels.sum(axis=0), dtype=np.int64)  # sum widens uint8 by itself: nothing wraps at 255
    return np.bincount(labels, minlength=classes).astype(np.int64, copy=False)


def class_pairs(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every class that every row has, as row numbers and classes; one a row where rows have one class."""
    if not are_sets(labels):
        return np.arange(len(labels)), labels.astype(np.int64, copy=False)
    rows, classes = np.nonzero(labels)
    return rows, classes


def has_class(labels: Labels, label: int) -> NDArray[np.bool_]:
    """(rows,): whether each has that class."""
    return np.asarray(labels[:, label] != 0 if are_sets(labels) else labels == label)


def row_numbers(labels: Labels) -> NDArray[np.int64]:
    """(rows,): a number for each row; rows labelled alike share it."""
    if not are_sets(labels):
        return labels.astype(np.int64, copy=False)
    packed = np.packbits(labels.astype(np.bool_), axis=1)  # an eighth of the bytes that unique has to sort
    # reshape: some versions of NumPy 2 give the inverse as a column
    return np.asarray(np.unique(packed, axis=0, return_inverse=True)[1].reshape(-1), dtype=np.int64)


def likelihoods(probs: NDArray[np.floating[Any]], labels: Labels) -> NDArray[np.float64]:
    """(rows, 1): what each row's class was given; of sets (rows, classes): p where the class is there, else 1 - p."""
    if are_sets(labels):
        wide = probs.astype(np.float64)  # first: 1 - p in float32 would lose small p
        return np.where(labels != 0, wide, 1 - wide)
    return probs[np.arange(len(labels)), labels].astype(np.float64)[:, None]


def spelled(labels: Labels, classes: Sequence[str]) -> tuple[str, ...]:
    """Each row's class, or its classes with `|` between them; empty for the empty set."""
    if not are_sets(labels):
        return tuple(classes[label] for label in labels)
    return tuple(JOINER.join(classes[label] for label in row) for row in plain_labels(labels))


def read_spelled(texts: Sequence[str], classes: Sequence[str], *, sets: bool) -> Labels:
    """What `spelled` wrote; KeyError for a name that is no class."""
    position = {name: label for label, name in enumerate(classes)}
    if not sets:
        return np.array([position[text] for text in texts], dtype=np.int64)
    lists = [[position[name] for name in text.split(JOINER)] if text else [] for text in texts]
    return labels_of_plain(lists, len(classes), sets=True)


def plain_labels(labels: Labels) -> list[Any]:
    """As JSON types: a class index for each row, or a list of them, ascending."""
    if not are_sets(labels):
        return list(labels.tolist())
    lists: list[Any] = [[] for _ in labels]
    for row, label in np.argwhere(labels).tolist():  # a step for each class that a row has, not for each cell
        lists[row].append(label)
    return lists


def labels_of_plain(values: Sequence[Any], classes: int, *, sets: bool) -> Labels:
    """What `plain_labels` gave."""
    if not sets:
        return np.array(values, dtype=np.int64)
    labels = np.zeros((len(values), classes), dtype=np.uint8)  # bytes: a million rows of 1,000 classes are a gigabyte
    rows = np.repeat(np.arange(len(values)), [len(value) for value in values])
    labels[rows, [label for value in values for label in value]] = 1
    return labels
