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

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Combined, Floats, Matrix, Weights, decided, in_blocks, logs, softmax
from ensemble.combining.crossfit import Fitted, Labelled, Part
from ensemble.core.labels import Labels, are_sets, likelihoods
from ensemble.core.metrics import SMALLEST_PROBABILITY

Narrow = NDArray[np.float32]
STRENGTHS = (3.0, 0.3, 0.03, 0.003)  # from nearly the geometric mean to nearly free, a factor of ten apart
_STEPS, _TOLERANCE, _SLOPE = 60, 1e-7, 1e-5  # L-BFGS is stopped at what features of 32 bits can resolve
_CURVATURE_ROWS = 2000  # decides how fast the answer is found, not what it is; each row costs members squared


def fit_stack(labelled: Labelled) -> Fitted:
    """Stacking at the strength of penalty that does best on left-out folds, by log-loss."""
    losses = np.zeros(len(STRENGTHS))
    for splits in labelled.splits:
        for rest, rows in splits:
            held_out = Part(labelled.stack, rows)
            features, labels = class_features(held_out, sets=labelled.sets), labelled.labels[rows]
            losses += [-np.log(regression.true_class(features, labels)).sum() for regression in _path(rest)]
    best = int(np.argmin(losses))
    regression = _path(labelled)[best]
    share = np.abs(regression.slopes).mean(axis=1)  # for people; the slopes are what answers
    learned = {"penalty": STRENGTHS[best], "offsets": regression.offsets.tolist(), "slopes": regression.slopes.tolist()}
    step = {"do": "stack", "slopes": learned["slopes"], "offsets": learned["offsets"]}
    return Fitted(in_blocks(regression.answer), tuple((share / share.sum()).tolist()), learned, weighs=False, step=step)


def _path(labelled: Labelled) -> list[Regression]:
    """The regressions of all strengths; remembered, as neighbouring choices ask for the same."""
    return labelled.remembered(
        ("stack", labelled.key),
        lambda: fit_regression(class_features(labelled.stack, sets=labelled.sets), labelled.labels, STRENGTHS),
    )


@dataclass(frozen=True, eq=False)
class Regression:
    """What was fitted."""

    slopes: Floats  # (members, classes)
    offsets: Floats  # (classes,)
    sets: bool = False  # whether each row has a set of classes

    def answer(self, stack: Sequence[Matrix], weights: Weights = None) -> Combined:
        """Probabilities and decisions; `weights` are a combiner's and have no influence on a regression."""
        scores = np.zeros(stack[0].shape) + self.offsets
        for matrix, slope in zip(stack, self.slopes, strict=True):
            scores += (_log_odds(matrix) if self.sets else logs(matrix)) * slope
        return decided(self._probs(scores), sets=self.sets)

    def true_class(self, features: Narrow, labels: Labels) -> Floats:
        """What each row's right class, or each right yes and no, gets; at least 2.2e-16."""
        scores = np.matmul(self.slopes.T[:, None, :], features)[:, 0, :] + self.offsets[:, None]
        return np.maximum(likelihoods(self._probs(scores.T), labels).ravel(), SMALLEST_PROBABILITY)

    def _probs(self, scores: Floats) -> Floats:
        return _sigmoid(scores) if self.sets else softmax(scores)


def fit_regression(features: Narrow, labels: Labels, strengths: Sequence[float]) -> list[Regression]:
    """A regression for each strength, strongest first; `features` are log-probabilities (classes, members, rows)."""
    # L-BFGS in coordinates in which each class's own curvature, as it is at the geometric mean, is round; each weaker
    # penalty starts where the stronger one ended.
    from scipy.optimize import minimize  # takes a fifth of a second, so only stacking waits for it

    classes, members, _ = features.shape
    curvature = _curvature(features, sets=are_sets(labels))
    step = np.zeros((classes, members + 1))
    regressions = []
    for strength in strengths:
        lower = np.linalg.cholesky(curvature + strength / classes * np.eye(members + 1))
        kind = _SetsProblem if are_sets(labels) else _Problem
        problem = kind(features, labels, strength, np.linalg.inv(lower).transpose(0, 2, 1))
        start = np.matmul(lower.transpose(0, 2, 1), step[:, :, None]).ravel()
        options = {"maxiter": _STEPS, "ftol": _TOLERANCE, "gtol": _SLOPE}
        step = problem.step(minimize(problem.value, start, jac=True, method="L-BFGS-B", options=options).x)
        slopes = (1 / members + step[:, :members]).T
        regressions.append(Regression(slopes, step[:, members].copy(), are_sets(labels)))
    return regressions


class _Problem:
    """Log-loss and penalty as a function of round coordinates."""

    def __init__(self, features: Narrow, labels: Labels, strength: float, roots: Floats) -> None:
        self._features, self._labels, self._strength, self._roots = features, labels, strength, roots
        self._row = np.arange(features.shape[2])

    def step(self, coordinates: Floats) -> Floats:
        """(classes, members + 1): what the coordinates add to equal slopes and offsets of zero."""
        classes, members, _ = self._features.shape
        return np.asarray(np.matmul(self._roots, coordinates.reshape(classes, members + 1, 1))[:, :, 0])

    def value(self, coordinates: Floats) -> tuple[float, Floats]:
        """What is to be least, and its slope; matrices in 32 bits for speed, totals in 64 for L-BFGS's line search."""
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
        scores -= scores.max(axis=0)  # no score above 0: nothing overflows
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


def _sigmoid(scores: Matrix) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0, -scores)), dtype=np.float64)  # overflows on neither side


def _log_odds(matrix: Matrix) -> Floats:
    """Logarithms of the odds, of zero and one those of `FLOOR`."""
    wide = matrix.astype(np.float64)
    return logs(wide) - logs(1 - wide)


def class_features(stack: Sequence[Matrix], *, sets: bool = False) -> Narrow:
    """Log-probabilities, or with `sets` the logarithms of odds, as (classes, members, rows)."""
    # In 32 bits, as fitting does little but read them, again and again; what is fitted is of 64.
    features = np.empty((stack[0].shape[1], len(stack), len(stack[0])), dtype=np.float32)
    for index, matrix in enumerate(stack):
        features[:, index] = (_log_odds(matrix) if sets else logs(matrix)).T
    return features


def _curvature(features: Narrow, *, sets: bool) -> Floats:
    """(classes, members + 1, members + 1): each class's own, at the geometric mean. Looks at no label."""
    classes, _, rows = features.shape
    part = features[:, :, :: max(1, rows // _CURVATURE_ROWS)].astype(np.float64)
    mean = part.mean(axis=1)
    probs = _sigmoid(mean) if sets else softmax(mean.T).T
    own = np.concatenate([part, np.ones((classes, 1, part.shape[2]))], axis=1)
    weighted = own * (probs * (1 - probs))[:, None, :]
    return np.asarray(np.matmul(weighted, own.transpose(0, 2, 1)) / part.shape[2] / (classes if sets else 1))
