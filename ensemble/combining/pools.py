"""The log pool: a weighted product of the members' probabilities, with one slope a member. Arithmetic only.

The score of class c is the sum over members of `slope[member] * log p[member, c]`: equal slopes of one over the number
of members are the geometric mean, and a single slope of 1 is that member. Slopes are at least 0 and need not sum to 1,
so the pool finds its own sharpness. A penalty pulls them to equal ones. Where each row has a set of classes, the
logarithms are those of the odds, and all classes share the slopes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.combining.combine import Combined, Floats, Matrix, Weights, decided, in_blocks, softmax
from ensemble.combining.crossfit import Fitted, Labelled
from ensemble.combining.simplex import least_above_zero
from ensemble.combining.stacking import Narrow
from ensemble.core.labels import Labels, are_sets

# What a probability below it counts as. A tree or a near neighbour says zero and means "none of my five": in trials
# with real models (tools/accuracy/choosing.py) floors of .05, .01 and .002 lost 10, 5 and 7 thousandths of log-loss.
FLOOR = 0.01
_PULL = (
    0.1  # towards equal slopes; .02 and 1 lost 9 and 5 there, and with one good member of ten 4 and 28 in place of 3
)
_STEPS = 60  # Newton's method needs about eight, and more where the curvature is that of a part of the rows
_CLOSE = 1e-13  # of the loss a row: what a step can still gain where the search ends
_CURVATURE_ROWS = 2000  # decides how fast the answer is found, not what it is; each row costs members squared
_DESCENT, _HALVINGS = 1e-4, 40  # of Armijo's rule, as in `simplex`
_BLOCK_NUMBERS = 1 << 20  # features that are 64 bits wide at a time
_SMALL = 1e-9  # a slope below it is zero: no probability could tell


@dataclass(frozen=True, eq=False)
class Pool:
    """Slopes, and the floor of the probabilities that they were learned for."""

    slopes: Floats  # (members,)
    floor: float = FLOOR
    sets: bool = False  # whether each row has a set of classes

    def answer(self, stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        """Probabilities and decisions; `weights` are a combiner's and have no influence on slopes."""
        scores = np.zeros(stack[0].shape)
        for index, slope in enumerate(self.slopes):
            if slope:  # a member without a slope is not even read
                scores += slope * clipped_logs(stack[index], self.floor, sets=self.sets)
        return decided(_probs(scores, sets=self.sets), sets=self.sets)


def fit_pool(labelled: Labelled) -> Pool:
    """The slopes of least penalised log-loss."""
    rows, classes = labelled.stack[0].shape
    features = np.empty((len(labelled.stack), rows * classes), dtype=np.float32)
    for index, matrix in enumerate(labelled.stack):
        features[index] = clipped_logs(matrix, FLOOR, sets=labelled.sets).ravel()
    return Pool(_fit_slopes(features, labelled.labels, classes), FLOOR, labelled.sets)


def fitted_pool(labelled: Labelled) -> Fitted:
    """The same as what a method has learned; the weights are the slopes' shares, for people."""
    pool = fit_pool(labelled)
    total, count = float(pool.slopes.sum()), len(pool.slopes)
    shares = pool.slopes / total if total else np.full(count, 1 / count)
    learned = {"slopes": pool.slopes.tolist()}
    step = {"do": "pool", "floor": FLOOR, **learned}
    return Fitted(in_blocks(pool.answer), tuple(shares.tolist()), learned, weighs=False, step=step)


def clipped_logs(matrix: Matrix, floor: float, *, sets: bool) -> Floats:
    """Logarithms, or with `sets` those of the odds, of probabilities that are taken for at least `floor`."""
    wide = matrix.astype(np.float64)
    logs: Floats = np.log(np.maximum(wide, floor))
    return logs - np.log(np.maximum(1 - wide, floor)) if sets else logs


def _fit_slopes(features: Narrow, labels: Labels, classes: int) -> Floats:
    """Slopes (members,) for `features` (members, rows x classes), by projected steps of Newton's."""
    members, rows = len(features), len(labels)
    equal, pull = np.full(members, 1 / members), _PULL * members
    problem = _Slopes(features, labels, classes)
    slopes = equal
    loss, gradient = problem.value(slopes)
    for _ in range(_STEPS):
        curvature = problem.curvature(slopes) + pull * np.eye(members)
        target = least_above_zero(curvature, gradient, slopes)
        descent = float(gradient @ (target - slopes))
        if descent >= -_CLOSE * rows:
            break
        length = 1.0
        for _ in range(_HALVINGS):
            trial = slopes + length * (target - slopes)
            trial_loss, trial_gradient = problem.value(trial)
            trial_loss += pull * float(((trial - equal) ** 2).sum()) / 2
            if trial_loss <= loss + _DESCENT * length * descent:
                break
            length /= 2
        else:  # no way down is left
            break
        slopes, loss, gradient = trial, trial_loss, trial_gradient + pull * (trial - equal)
    return np.where(slopes < _SMALL, 0.0, slopes)


class _Slopes:
    """Log-loss, added up over rows, as a function of the slopes; of sets of classes the mean over classes."""

    def __init__(self, features: Narrow, labels: Labels, classes: int) -> None:
        self._features, self._labels, self._classes = features, labels, classes
        self._sets = are_sets(labels)

    def value(self, slopes: Floats) -> tuple[float, Floats]:
        """The loss and its gradient (members,)."""
        loss, gradient = 0.0, np.zeros(len(slopes))
        for wide, labels in self._blocks(1):
            scores = (slopes @ wide).reshape(-1, self._classes)
            probs = _probs(scores, sets=self._sets)
            if self._sets:
                wanted = labels != 0
                loss += float((np.logaddexp(0, scores) - wanted * scores).sum()) / self._classes
                gradient += wide @ (probs - wanted).ravel() / self._classes
            else:
                row = np.arange(len(labels))
                top = scores.max(axis=1)
                loss += float((np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top - scores[row, labels]).sum())
                probs[row, labels] -= 1
                gradient += wide @ probs.ravel()
        return loss, gradient

    def curvature(self, slopes: Floats) -> Floats:
        """The second derivatives, as evenly spaced rows have them."""
        every = max(1, len(self._labels) // _CURVATURE_ROWS)
        total, rows = np.zeros((len(slopes), len(slopes))), 0
        for wide, labels in self._blocks(every):
            probs = _probs((slopes @ wide).reshape(-1, self._classes), sets=self._sets)
            rows += len(labels)
            if self._sets:
                total += (wide * (probs * (1 - probs)).ravel()) @ wide.T / self._classes
            else:
                weighted = wide * probs.ravel()
                mean = weighted.reshape(len(slopes), -1, self._classes).sum(axis=2)
                total += weighted @ wide.T - mean @ mean.T
        return total * (len(self._labels) / rows)

    def _blocks(self, every: int) -> Iterator[tuple[Floats, Labels]]:
        """Features of some rows, (members, rows x classes) in 64 bits, and their labels; one row of `every`."""
        members = len(self._features)
        by_row = self._features.reshape(members, -1, self._classes)[:, ::every]
        labels = self._labels[::every]
        step = max(1, _BLOCK_NUMBERS // (members * self._classes))
        for start in range(0, len(labels), step):
            part = by_row[:, start : start + step]
            yield part.astype(np.float64).reshape(members, -1), labels[start : start + step]


def _probs(scores: Floats, *, sets: bool) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -scores))) if sets else softmax(scores)
