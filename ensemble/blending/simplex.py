"""Weights of least log-loss, of members and of views: convex, on the simplex. Arithmetic only.

The log-loss of a weighted mean looks at nothing but what each member gives to the class that is right, so the problem
is `min -mean(log(w @ true_class))`. Newton's steps with the exact Hessian; the bounds are kept by an active set. The
duality gap says how far from the optimum the answer can be at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VIEW_STEPS = 1000
_CLOSE = 1e-7
_FLOOR = 1e-15
_PRIOR = 1.0  # rows that speak for equal weights, for each view: a few rows alone can't silence one


def learn_weights(true: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Weights (views,) that sum to 1 and maximise the mean log of `weights @ true`, for `true` (views, rows).

    Expectation maximisation of a mixture: every step is better than the one before, and the optimum is the only one.
    """
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


Vector = NDArray[np.float64]
_GAP = 1e-12
_STEPS = 100
_RIDGE = 1e-10  # among weights that are equally good, as for copies, those nearest to equal ones
_SMALL = 1e-12


@dataclass(frozen=True, eq=False)
class Optimum:
    """The weights, and by how much they can miss the least log-loss at most."""

    weights: Vector
    gap: float


def least_log_loss(true_class: NDArray[np.float64], gap: float = _GAP) -> Optimum:
    """Weights (members,) of least log-loss for `true_class` (members, rows), all above 0."""
    members, rows = true_class.shape
    weights = np.full(members, 1 / members)
    if members == 1:
        return Optimum(weights, 0.0)
    mixed = weights @ true_class
    best = Optimum(weights, np.inf)
    for _ in range(_STEPS):
        scaled = true_class / mixed
        slope = -scaled.sum(axis=1) / rows
        found = float(-slope.min() - 1)  # slope @ weights is always -1
        if found < best.gap:
            best = Optimum(weights, max(found, 0.0))
        if found <= gap:
            break
        curvature = scaled @ scaled.T / rows
        target = _least_quadratic(curvature, slope, weights)
        taken = _step(true_class, mixed, target, float(slope @ (target - weights)))
        if taken is None:
            break
        length, mixed = taken
        weights = (1 - length) * weights + length * target
        weights[weights < _SMALL] = 0.0
        weights /= weights.sum()
    return best


def _step(
    true_class: NDArray[np.float64], mixed: Vector, target: Vector, descent: float
) -> tuple[float, Vector] | None:
    """How far to go towards `target`, and what the mixture is there; None where no way down is left."""
    aim = target @ true_class
    length = 1.0
    for _ in range(40):
        trial = mixed + length * (aim - mixed)
        gained = float(np.mean(np.log(trial / mixed)))
        if gained >= -1e-4 * length * descent and gained > 0:
            return length, trial
        length /= 2
    return None


def _least_quadratic(curvature: NDArray[np.float64], slope: Vector, start: Vector) -> Vector:
    """The point of the simplex where the quadratic around `start` is least; an active-set method."""
    members = len(start)
    matrix = curvature + _RIDGE * max(1.0, float(np.trace(curvature)) / members) * np.eye(members)
    linear = slope - matrix @ start
    point, free = start.copy(), start > 0
    for _ in range(10 * members + 20):
        aim, level = _on_face(matrix, linear, free)
        if (aim[free] >= -_SMALL).all():
            point = np.maximum(aim, 0.0)
            reduced = np.where(free, np.inf, matrix @ point + linear - level)
            entering = int(np.argmin(reduced))
            if reduced[entering] >= -1e-13:
                break
            free[entering] = True
        else:  # walk until the first weight reaches zero, and let it go
            falling = free & (aim < point)
            room = np.full(members, np.inf)
            room[falling] = point[falling] / (point[falling] - aim[falling])
            leaving = int(np.argmin(room))
            point = np.maximum(point + min(1.0, float(room[leaving])) * (aim - point), 0.0)
            point[leaving] = 0.0
            free[leaving] = False
    return np.asarray(point / point.sum(), dtype=np.float64)


def _on_face(matrix: NDArray[np.float64], linear: Vector, free: NDArray[np.bool_]) -> tuple[Vector, float]:
    """Where the quadratic is least among points whose other weights are zero and that sum to 1, and the multiplier."""
    inverse = np.linalg.solve(matrix[np.ix_(free, free)], np.column_stack([np.ones(free.sum()), -linear[free]]))
    level = (1 - inverse[:, 1].sum()) / inverse[:, 0].sum()
    aim = np.zeros(len(free))
    aim[free] = inverse[:, 1] + level * inverse[:, 0]
    return aim, float(level)
