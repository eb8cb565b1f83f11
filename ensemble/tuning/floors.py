"""When a fold stops before its last epoch: the score that it must have after each, or its trial can hardly win.

Said before the fold begins, as a list of numbers that its worker compares its own scores with. Scores are turned so
that more is better; numpy only.

The trial's curve, its score after each epoch, is set beside the incumbent's in the same fold, at the same share of the
training. How far behind it will be in the end is foreseen from how far behind it is: D = b * d + e, where b and the
size of e, which grows with d, are learnt for each epoch from the folds that earlier trials have trained to their end.
What is foreseen of the fold goes into the same question as `race` asks after a fold (see `policies`), and its doubt is
added to what the rows and the other folds leave open. While few trials are known, b and e are a guess by which only
what is far behind towards the end is stopped.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.tuning.evidence import Comparison
from ensemble.tuning.policies import LEAST_CHANCE, Course, incumbent_of, noise_of, unseen_variance

__all__ = ["Floors", "floors_of"]

_FEWEST = 4
_GUESS_WEIGHT = 4.0
_DOUBT_GUESS = 0.5
_LEAST_SAVED = 0.5  # of a fold: for less a trial is not left unfinished, since finished ones can be blended
_Z = statistics.NormalDist().inv_cdf(1 - LEAST_CHANCE)

Curve = Sequence[float]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Floors:
    """For each epoch of one fold of one trial: where its trial stops, and what that would say of all folds."""

    against: int
    """The incumbent's number."""
    scores: tuple[float | None, ...]
    """Below this score the trial stops; None where it goes on whatever its score."""
    reference: tuple[float, ...]
    """The incumbent's score."""
    slopes: tuple[float, ...]
    """How much of a difference is left at the end."""
    before: float
    """The sum of the differences on the folds that are done."""
    folds: int
    """How many those and this one are."""

    def foreseen(self, epoch: int, score: float) -> float:
        """The difference to the incumbent that is to be expected of these folds, from the score after an epoch."""
        return (self.before + self.slopes[epoch - 1] * (score - self.reference[epoch - 1])) / self.folds


def floors_of(
    others: Sequence[Course], k: int, fold: int, epochs: int, done: int, found: Comparison | None
) -> Floors | None:
    """The floors of a trial's next fold, after `done` folds on which it compares with the incumbent as `found`.

    `others` have folds of the same rows. None where too little is known.
    """
    best = incumbent_of(others)
    if best is None or epochs < 2 or done + 1 > k or len(best.curves) <= fold:
        return None
    known = [
        (curve, reference)
        for other in others
        if other.number != best.number
        for curve, reference in zip(other.curves, best.curves, strict=False)
        if curve and reference
    ]
    variances = [pair.variance for other in others for pair in other.pairs if math.isfinite(pair.variance)]
    mine = best.curves[fold]
    if len(known) < _FEWEST or not variances or not mine or (found is not None and math.isnan(found.difference)):
        return None
    of_fold = statistics.fmean(variances)
    before = 0.0 if found is None else found.difference * done
    variance = (of_fold if found is None else found.variance * done) / (done + 1)
    rest = unseen_variance(variance, done + 1, k, noise_of(others), best)
    finals = np.array([curve[-1] - reference[-1] for curve, reference in known])
    scores: list[float | None] = []
    references, slopes = [], []
    for epoch in range(1, epochs):
        share = epoch / epochs
        behind = np.array([at(curve, share) - at(reference, share) for curve, reference in known])
        slope, doubt = _foresight(behind, finals, share, math.sqrt(of_fold))
        reference = at(mine, share)
        gap = _least_gap(slope, doubt, math.sqrt(of_fold), before, rest * (done + 1) ** 2)
        references.append(reference)
        slopes.append(slope)
        is_worth_it = k - done - share >= _LEAST_SAVED
        scores.append(reference - gap if gap is not None and is_worth_it else None)
    return Floors(best.number, tuple(scores), tuple(references), tuple(slopes), before, done + 1)


def at(curve: Curve, share: float) -> float:
    """A curve's score after a share of its epochs, between two of them in proportion."""
    place = share * len(curve) - 1
    low = min(max(0, math.floor(place)), len(curve) - 1)
    high = min(low + 1, len(curve) - 1)
    return curve[low] + (curve[high] - curve[low]) * min(1.0, max(0.0, place - low))


def _foresight(behind: Floats, finals: Floats, share: float, scale: float) -> tuple[float, float]:
    """Slope and doubt: D = slope * d + e, where e has the standard deviation doubt * (|d| + scale)."""
    weights = 1 / np.square(np.abs(behind) + scale) if scale > 0 else np.ones(len(behind))
    slope = float(
        ((weights * behind * finals).sum() + _GUESS_WEIGHT * share)
        / ((weights * behind * behind).sum() + _GUESS_WEIGHT)
    )
    missed = float((weights * np.square(finals - slope * behind)).sum())
    return slope, math.sqrt((missed + _GUESS_WEIGHT * _DOUBT_GUESS**2) / (len(behind) + _GUESS_WEIGHT))


def _least_gap(slope: float, doubt: float, scale: float, before: float, rest: float) -> float | None:
    """The gap x from which on (slope * x - before)^2 > z^2 * (rest + doubt^2 * (x + scale)^2); None if there is none.

    That is: as far behind, the chance to win is below `LEAST_CHANCE`.
    """
    doubt2, rest2 = (_Z * doubt) ** 2, _Z**2 * rest
    square = slope**2 - doubt2
    if slope <= 0 or square <= 0:
        return None
    linear = slope * before + doubt2 * scale
    constant = before**2 - rest2 - doubt2 * scale**2
    inside = linear**2 - square * constant
    gap = (linear + math.sqrt(inside)) / square if inside > 0 else 0.0
    return max(0.0, gap)
