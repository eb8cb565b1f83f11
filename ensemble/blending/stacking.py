"""Stacking: a multinomial regression on log-probabilities, with a weight a member and class and an offset a class.

The score of class c is `offset[c] + sum over members of slope[member, c] * log p[member, c]`. A penalty pulls the
slopes to equal ones and the offsets to zero, so that the strongest penalty gives the geometric mean; how strong it is,
is decided by left-out folds. With one member the same regression is vector scaling.

Where each row has a set of classes, every class has a binary regression of its own on the logarithms of odds, all of
them solved together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.combine import Combined, Weights, in_blocks, logs, softmax
from ensemble.blending.crossfit import SMALLEST, Fitted, Labelled, Method, Part
from ensemble.core.labels import Labels, are_sets, likelihoods
from ensemble.core.scorers import decide, decide_sets

Matrix = NDArray[np.floating[Any]]
Array = NDArray[np.float64]
Narrow = NDArray[np.float32]
STRENGTHS = (3.0, 0.3, 0.03, 0.003)
_STEPS, _TOLERANCE, _SLOPE = 60, 1e-7, 1e-5
_CURVATURE_ROWS = 2000


def stack_method() -> Method:
    """Stacking at the strength of penalty that does best on left-out folds, by log-loss."""
    return Method("stack", _fit_stack)


@dataclass(frozen=True, eq=False)
class Regression:
    """What was fitted."""

    slopes: Array
    """(members, classes)."""
    offsets: Array
    """(classes,)."""
    sets: bool = False
    """Whether each row has a set of classes."""

    def answer(self, stack: Sequence[Matrix]) -> Combined:
        """Probabilities and decisions."""
        return in_blocks(self._answer)(stack, None)

    def _answer(self, stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        scores = np.zeros(stack[0].shape) + self.offsets
        for matrix, slope in zip(stack, self.slopes, strict=True):
            scores += (_log_odds(matrix) if self.sets else logs(matrix)) * slope
        probs = self._probs(scores)
        return Combined(probs, decide_sets(probs) if self.sets else decide(probs))

    def true_class(self, features: Narrow, labels: Labels) -> Array:
        """What each row's right class, or each right yes and no, gets; at least 2.2e-16."""
        scores = np.matmul(self.slopes.T[:, None, :], features)[:, 0, :] + self.offsets[:, None]
        return np.maximum(likelihoods(self._probs(scores.T), labels).ravel(), SMALLEST)

    def _probs(self, scores: Array) -> Array:
        return _sigmoid(scores) if self.sets else softmax(scores)


def fit_regression(features: Narrow, labels: Labels, strengths: Sequence[float]) -> list[Regression]:
    """A regression for each strength, the strongest first, on `features` (classes, members, rows) of log-probabilities.

    L-BFGS in coordinates in which each class's own curvature, as it is at the geometric mean, is round; each weaker
    penalty starts where the stronger one ended.
    """
    from scipy.optimize import minimize  # a fifth of a second, which only those who stack shall wait

    classes, members, _ = features.shape
    curvature = _curvature(features, sets=are_sets(labels))
    step = np.zeros((classes, members + 1))
    found = []
    for strength in strengths:
        lower = np.linalg.cholesky(curvature + strength / classes * np.eye(members + 1))
        kind = _SetsProblem if are_sets(labels) else _Problem
        problem = kind(features, labels, strength, np.linalg.inv(lower).transpose(0, 2, 1))
        start = np.matmul(lower.transpose(0, 2, 1), step[:, :, None]).ravel()
        options = {"maxiter": _STEPS, "ftol": _TOLERANCE, "gtol": _SLOPE}
        step = problem.step(minimize(problem.value, start, jac=True, method="L-BFGS-B", options=options).x)
        slopes = (1 / members + step[:, :members]).T
        found.append(Regression(slopes, step[:, members].copy(), are_sets(labels)))
    return found


class _Problem:
    """Log-loss and penalty as a function of round coordinates."""

    def __init__(self, features: Narrow, labels: Labels, strength: float, roots: Array) -> None:
        self._features, self._labels, self._strength, self._roots = features, labels, strength, roots
        self._row = np.arange(features.shape[2])

    def step(self, coordinates: Array) -> Array:
        """(classes, members + 1): what the coordinates add to equal slopes and offsets of zero."""
        classes, members, _ = self._features.shape
        return np.asarray(np.matmul(self._roots, coordinates.reshape(classes, members + 1, 1))[:, :, 0])

    def value(self, coordinates: Array) -> tuple[float, Array]:
        """What is to be least, and its slope."""
        classes, members, rows = self._features.shape
        step = self.step(coordinates)
        narrow = step.astype(np.float32)
        scores = np.matmul(np.float32(1 / members) + narrow[:, None, :members], self._features)[:, 0, :]
        scores += narrow[:, members:]
        lost, scores = self._loss(scores)
        loss = float(lost / rows + self._strength * (step**2).sum() / 2 / classes)
        slope = self._strength / classes * step
        slope[:, :members] += np.matmul(self._features, scores[:, :, None])[:, :, 0] / rows
        slope[:, members] += scores.sum(axis=1) / rows
        return loss, np.matmul(slope[:, None, :], self._roots)[:, 0, :].ravel()

    def _loss(self, scores: Narrow) -> tuple[float, Narrow]:
        """The rows' losses added up, and their slope by the scores (classes, rows), in the scores' own memory."""
        scores -= scores.max(axis=0)
        chosen = scores[self._labels, self._row].sum(dtype=np.float64)
        np.exp(scores, out=scores)
        total = scores.sum(axis=0)
        scores /= total
        scores[self._labels, self._row] -= 1
        return float(np.log(total).sum(dtype=np.float64) - chosen), scores


class _SetsProblem(_Problem):
    """The same for sets of classes: the mean over classes of the losses of yes and no."""

    def _loss(self, scores: Narrow) -> tuple[float, Narrow]:
        wanted = self._labels.T
        lost = np.logaddexp(0, scores).sum(dtype=np.float64) - scores[wanted != 0].sum(dtype=np.float64)
        slope: Narrow = np.asarray((_sigmoid(scores) - wanted) / len(scores), dtype=np.float32)
        return float(lost / len(scores)), slope


def _sigmoid(scores: Matrix) -> Array:
    return np.asarray(np.exp(-np.logaddexp(0, -scores)), dtype=np.float64)


def _log_odds(matrix: Matrix) -> Array:
    """Logarithms of the odds, of zero and one those of `FLOOR`."""
    wide = matrix.astype(np.float64)
    return logs(wide) - logs(1 - wide)


def class_features(stack: Sequence[Matrix], *, sets: bool = False) -> Narrow:
    """Log-probabilities, or with `sets` the logarithms of odds, as (classes, members, rows).

    In 32 bits, as fitting does little but read them, again and again; what is fitted is of 64.
    """
    features = np.empty((stack[0].shape[1], len(stack), len(stack[0])), dtype=np.float32)
    for index, matrix in enumerate(stack):
        features[:, index] = (_log_odds(matrix) if sets else logs(matrix)).T
    return features


def _fit_stack(labelled: Labelled) -> Fitted:
    losses = np.zeros(len(STRENGTHS))
    for splits in labelled.splits:
        for rest, rows in splits:
            held_out = Part(labelled.stack, rows, range(len(labelled.stack)))
            features, labels = class_features(held_out, sets=labelled.sets), labelled.labels[rows]
            losses += [-np.log(one.true_class(features, labels)).sum() for one in _path(rest)]
    best = int(np.argmin(losses))
    found = _path(labelled)[best]

    def combine(stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        return found.answer(stack)

    share = np.abs(found.slopes).mean(axis=1)
    told = {"penalty": STRENGTHS[best], "offsets": found.offsets.tolist(), "slopes": found.slopes.tolist()}
    return Fitted(combine, tuple((share / share.sum()).tolist()), told, weighs=False)


def _path(labelled: Labelled) -> list[Regression]:
    """The regressions of all strengths; remembered, as neighbouring choices ask for the same."""
    key = ("stack", labelled.key)
    if key not in labelled.memo:
        labelled.memo[key] = fit_regression(
            class_features(labelled.stack, sets=labelled.sets), labelled.labels, STRENGTHS
        )
    found: list[Regression] = labelled.memo[key]
    return found


def _curvature(features: Narrow, *, sets: bool) -> Array:
    """(classes, members + 1, members + 1): each class's own, at the geometric mean. Looks at no label.

    From a part of the rows: it decides how fast the answer is found, not what it is.
    """
    classes, _, rows = features.shape
    part = features[:, :, :: max(1, rows // _CURVATURE_ROWS)].astype(np.float64)
    mean = part.mean(axis=1)
    probs = _sigmoid(mean) if sets else softmax(mean.T).T
    own = np.concatenate([part, np.ones((classes, 1, part.shape[2]))], axis=1)
    weighted = own * (probs * (1 - probs))[:, None, :]
    return np.asarray(np.matmul(weighted, own.transpose(0, 2, 1)) / part.shape[2] / (classes if sets else 1))
