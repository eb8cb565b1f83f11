"""Weights of views that make what is true likeliest, from the probability that each view gave to each row's label."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["learn_weights"]

_STEPS = 1000
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
    for _ in range(_STEPS):
        claimed = weights * (shares / (weights @ shares)).sum(axis=1)
        after = (claimed + _PRIOR) / (rows + views * _PRIOR)
        if np.abs(after - weights).max() < _CLOSE:
            return after  # type: ignore[no-any-return]
        weights = after
    return weights
