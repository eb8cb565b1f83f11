"""Weights on the simplex of least log-loss (of members, exactly, and of views, with a prior) and of least Brier score.

Arithmetic only, with the two quadratic programmes behind it.

The log-loss of a weighted mean looks at nothing but what each member gives to the class that is right, so the problem
is `min -mean(log(w @ true_class))`, which is convex.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Floats, Matrix
from ensemble.core.labels import Labels, are_sets

_VIEW_STEPS = 1000  # expectation maximisation is slow near the optimum, but a step over a dozen views is cheap
_CLOSE = 1e-7  # weights that move less are done: no merged probability would change in 32 bits
_FLOOR = 1e-15  # a view that gives the right class nothing would divide by zero where all views do
_PRIOR = 1.0  # rows that speak for equal weights, for each view: a few rows alone can't silence one
_GAP = 1e-12  # of log-loss; below it rounding decides
_STEPS = 100  # a bound that Newton does not come near: each step about doubles the right digits
_RIDGE = 1e-10  # among weights that are equally good, as for copies, those nearest to equal ones
_SMALL = 1e-12  # a weight below it is zero: no probability could tell
_ENTERING = -1e-13  # a member enters where the slope towards it is clearly below zero, not by rounding
_EQUAL = 1.0  # rows a member that speak for equal weights, against the Brier score of the others
_BLOCK_NUMBERS = 1 << 20  # errors at a time
_DESCENT = 1e-4  # of the descent promised (Armijo's rule, with its usual constant)
_HALVINGS = 40  # 2^-40 of a step is below rounding: if even that gains nothing, this is the optimum


def learn_weights(true: Matrix) -> Floats:
    """Weights (views,) that sum to 1 and maximise the mean log of `weights @ true`, for `true` (views, rows)."""
    # Expectation maximisation of a mixture: every step is better than the one before, and the optimum is the only one.
    views, rows = true.shape
    shares = np.maximum(true.astype(np.float64), _FLOOR)
    weights = np.full(views, 1 / views)
    for _ in range(_VIEW_STEPS):
        claimed = weights * (shares / (weights @ shares)).sum(axis=1)
        after = (claimed + _PRIOR) / (rows + views * _PRIOR)
        if np.abs(after - weights).max() < _CLOSE:
            return after  # type: ignore[no-any-return]
        weights = after
    return weights


@dataclass(frozen=True, eq=False)
class Optimum:
    """The weights, and by how much they can miss the least log-loss at most."""

    weights: Floats
    gap: float


def least_log_loss(true_class: Floats, gap: float = _GAP) -> Optimum:
    """Weights (members,) of least log-loss for `true_class` (members, rows), all above 0."""
    # Newton's steps with the exact Hessian; the bounds are kept by an active set.
    members, rows = true_class.shape
    weights = np.full(members, 1 / members)
    if members == 1:
        return Optimum(weights, 0.0)
    mixed = weights @ true_class
    best = Optimum(weights, np.inf)
    for _ in range(_STEPS):
        scaled = true_class / mixed
        slope = -scaled.sum(axis=1) / rows
        missing = float(-slope.min() - 1)  # the duality gap, as slope @ weights is always -1
        if missing < best.gap:
            best = Optimum(weights, max(missing, 0.0))
        if missing <= gap:
            break
        curvature = scaled @ scaled.T / rows
        target = _least_quadratic(curvature, slope, weights)
        aim, descent, length = target @ true_class, float(slope @ (target - weights)), 1.0
        for _ in range(_HALVINGS):
            trial = mixed + length * (aim - mixed)
            gained = float(np.mean(np.log(trial / mixed)))
            if gained >= -_DESCENT * length * descent and gained > 0:
                break
            length /= 2
        else:  # no way down is left
            break
        mixed = trial
        weights = (1 - length) * weights + length * target
        weights[weights < _SMALL] = 0.0
        weights /= weights.sum()
    return best


def least_brier(stack: Sequence[Matrix], labels: Labels) -> Floats:
    """Weights (members,) of least Brier score, pulled to equal ones as if by one more row a member."""
    # All that matters are the products of the members' errors: the score of a mean is `weights @ products @ weights`.
    members, (rows, classes) = len(stack), stack[0].shape
    products = np.zeros((members, members))
    step = max(1, _BLOCK_NUMBERS // (members * classes))
    truth = labels if are_sets(labels) else None
    for start in range(0, rows, step):
        part = labels[start : start + step]
        true = np.eye(classes)[part] if truth is None else truth[start : start + step]
        errors = np.stack([matrix[start : start + step] - true for matrix in stack]).reshape(members, -1)
        products += errors @ errors.T
    # The mean error of a row speaks for equal weights, `members` times: with few rows they stay near to equal, with
    # many it fades. In trials with real models none, 1 and 3 lost 8, 7 and 6 thousandths, with one good member of ten
    # 2, 4 and 9 (tools/accuracy/choosing.py).
    equal = np.full(members, 1 / members)
    products /= max(float(np.trace(products)) / members, np.finfo(np.float64).tiny)
    pull = _EQUAL * members / rows * np.eye(members)
    return _least_quadratic(products + pull, products @ equal, equal)


def least_above_zero(curvature: Floats, slope: Floats, start: Floats) -> Floats:
    """The point without a number below zero where the quadratic around `start` is least; an active-set method."""
    members = len(start)
    linear, point, free = slope - curvature @ start, start.copy(), np.ones(len(start), dtype=bool)
    for _ in range(10 * members + 20):  # as in `_least_quadratic`
        aim = np.zeros(members)
        aim[free] = np.linalg.solve(curvature[np.ix_(free, free)], -linear[free])
        if (aim >= -_SMALL).all():
            point = np.maximum(aim, 0.0)
            reduced = np.where(free, np.inf, curvature @ point + linear)
            entering = int(np.argmin(reduced))
            if reduced[entering] >= _ENTERING:
                break
            free[entering] = True
        else:
            point, leaving = _walk(point, aim, free & (aim < point))
            free[leaving] = False
    return point


def _walk(point: Floats, aim: Floats, falling: NDArray[np.bool_]) -> tuple[Floats, int]:
    """From `point` to `aim` until the first number reaches zero; where that is, and which number it is."""
    room = np.full(len(point), np.inf)
    room[falling] = point[falling] / (point[falling] - aim[falling])
    leaving = int(np.argmin(room))
    point = np.maximum(point + min(1.0, float(room[leaving])) * (aim - point), 0.0)
    point[leaving] = 0.0
    return point, leaving


def _least_quadratic(curvature: Floats, slope: Floats, start: Floats) -> Floats:
    """The point of the simplex where the quadratic around `start` is least; an active-set method."""
    members = len(start)
    matrix = curvature + _RIDGE * max(1.0, float(np.trace(curvature)) / members) * np.eye(members)
    linear = slope - matrix @ start
    point, free = start.copy(), start > 0
    for _ in range(10 * members + 20):  # each face is left for a better one, so few are seen; this rules out a cycle
        aim, level = _on_face(matrix, linear, free)
        if (aim[free] >= -_SMALL).all():
            point = np.maximum(aim, 0.0)
            reduced = np.where(free, np.inf, matrix @ point + linear - level)
            entering = int(np.argmin(reduced))
            if reduced[entering] >= _ENTERING:
                break
            free[entering] = True
        else:  # walk until the first weight reaches zero, and let it go
            point, leaving = _walk(point, aim, free & (aim < point))
            free[leaving] = False
    return np.asarray(point / point.sum(), dtype=np.float64)


def _on_face(matrix: Floats, linear: Floats, free: NDArray[np.bool_]) -> tuple[Floats, float]:
    """Where the quadratic is least among points whose other weights are zero and that sum to 1, and the multiplier."""
    inverse = np.linalg.solve(matrix[np.ix_(free, free)], np.column_stack([np.ones(free.sum()), -linear[free]]))
    level = (1 - inverse[:, 1].sum()) / inverse[:, 0].sum()
    aim = np.zeros(len(free))
    aim[free] = inverse[:, 1] + level * inverse[:, 0]
    return aim, float(level)
