"""How far probabilities are from what they promise: the expected calibration error, with an interval.

Of rows with one class it is that of the largest probability: in bins of equally many rows, the distance between the
mean probability and the share of rows that are right, weighted by rows. Of sets of classes it is the mean over classes
of the same for the probability of each. The plain figure is too large for few rows, as luck alone moves every bin; here
the error is looked for that makes the plain figure what is expected. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ensemble.combining.combine import Combined, Floats, Integers
from ensemble.combining.crossfit import Labelled
from ensemble.core.labels import likelihoods
from ensemble.core.metrics import SMALLEST_PROBABILITY

_BINS = 15  # as Guo and others (2017)
_ROWS_A_BIN = 10  # with fewer, a bin's spread is not known
_SURE = 1.96  # of 95 %
_LARGEST = 50.0  # times the plain figure, where the search for an end of the interval stops
_HALVINGS = 40


@dataclass(frozen=True)
class CalibrationError:
    """The expected calibration error: 0 is best, 1 worst."""

    value: float
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Calibrating:
    """What is known of the calibration of what is used, and of what `--calibrate` has done."""

    ece: CalibrationError
    log_loss: float
    kind: str | None = None  # what was asked for
    when: str | None = None
    used: bool = False
    ece_without: CalibrationError | None = None
    log_loss_without: float | None = None
    log_loss_with: float | None = None


def calibration_error(answers: Sequence[Combined], labelled: Labelled) -> CalibrationError:
    """Of cross-fitted answers, one a repeat of the fold plan; the mean over repeats."""
    errors = [_error(combined.probs, labelled) for combined in answers]
    value = float(np.mean([error.value for error in errors]))
    low, high = (float(np.mean([error.ci95[end] for error in errors])) for end in (0, 1))
    return CalibrationError(value, (low, high))


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows of about one probability: its mean, the share that was right, how many."""

    sure: float
    right: float
    rows: int


def reliability_bins(answers: Sequence[Combined], labelled: Labelled, *, bins: int = 10) -> list[ReliabilityBin]:
    """Rows in the order of their largest probability, in parts of as many rows; of sets, each class of each row."""
    sure, right = [], []
    for combined in answers:
        if labelled.sets:
            sure.append(combined.probs.ravel())
            right.append(labelled.labels.ravel() != 0)
        else:
            sure.append(combined.probs.max(axis=1))
            right.append(combined.probs.argmax(axis=1) == labelled.labels)
    given, hits = np.concatenate(sure).astype(np.float64), np.concatenate(right).astype(np.float64)
    ends = np.sort(given)[(np.arange(1, bins) * len(given)) // bins]
    place = np.unique(np.searchsorted(ends, given, "right"), return_inverse=True)[1]
    count = np.bincount(place)
    means, shares = np.bincount(place, given) / count, np.bincount(place, hits) / count
    return [
        ReliabilityBin(mean, share, rows // len(answers))
        for mean, share, rows in zip(means.tolist(), shares.tolist(), count.tolist(), strict=True)
    ]


def mean_log_loss(answers: Sequence[Combined], labelled: Labelled) -> float:
    """Of cross-fitted answers; the mean over repeats. Of sets, over rows and classes."""
    losses = []
    for combined in answers:
        given = np.maximum(likelihoods(combined.probs, labelled.labels), SMALLEST_PROBABILITY)
        losses.append(-np.log(given).mean())
    return float(np.mean(losses))


def _error(probs: Floats, labelled: Labelled) -> CalibrationError:
    labels, units = labelled.labels, labelled.units
    if labelled.sets:
        columns = [(probs[:, column], labels[:, column] != 0) for column in range(probs.shape[1])]
    else:
        columns = [(probs.max(axis=1), probs.argmax(axis=1) == labels)]
    parts = [_gaps(sure.astype(np.float64), right.astype(np.float64), units) for sure, right in columns]
    shares, gaps, errors = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _without_luck(shares / len(columns), np.abs(gaps), errors)


def _gaps(sure: Floats, right: Floats, units: Integers) -> tuple[Floats, Floats, Floats]:
    """For each bin its share of the rows, the gap between probability and truth, and the gap's standard error."""
    rows = len(sure)
    bins = max(1, min(_BINS, rows // _ROWS_A_BIN))
    ends = np.sort(sure)[(np.arange(1, bins) * rows) // bins]
    place = np.searchsorted(ends, sure, "right")  # equal probabilities are in one bin, whatever the order of rows
    place = np.unique(place, return_inverse=True)[1]
    count = np.bincount(place).astype(np.float64)
    differences = right - sure
    gaps = np.bincount(place, differences) / count
    # The variance of a sum over whole groups; at least that of rows that are right as often as they are expected to be.
    pairs, pair = np.unique(np.stack([place, units]), axis=1, return_inverse=True)
    sums = np.bincount(pair.ravel(), differences - gaps[place])
    clustered = np.bincount(pairs[0], np.square(sums))
    hits = (np.bincount(place, right) + 0.5) / (count + 1)
    variance = np.maximum(clustered, count * hits * (1 - hits)) / np.square(count)
    return count / rows, gaps, np.sqrt(variance)


def _without_luck(shares: Floats, gaps: Floats, errors: Floats) -> CalibrationError:
    """The error that makes the plain figure what is expected, and those that make it just too small or too large."""
    plain = float(shares @ gaps)
    if plain <= 0:
        gaps = errors  # all bins as they should be: an interval needs some direction
        if not float(shares @ gaps) > 0:
            return CalibrationError(0.0, (0.0, 0.0))
    scale = float(shares @ gaps)

    def expected(factor: float, sign: float) -> float:
        """The plain figure if the true gaps were `factor` times those seen, plus `sign` times what luck may add."""
        true = factor * gaps
        means = _folded_mean(true, errors)
        variance = np.square(true) + np.square(errors) - np.square(means)
        return float(shares @ means) + sign * _SURE * float(np.sqrt(np.sum(np.square(shares) * variance)))

    value, low, high = (_root(expected, sign, plain) * scale for sign in (0.0, 1.0, -1.0))
    # Bins may fit too well by luck; then no error at all explains them. One standard error of the whole can't be seen.
    high = max(high, float(np.sqrt(np.sum(np.square(shares * errors)))))
    return CalibrationError(min(value, 1.0), (min(low, value, 1.0), min(max(high, value), 1.0)))


def _root(expected: Callable[[float, float], float], sign: float, plain: float) -> float:
    """The factor at which the figure is what was seen; 0 where even none at all would show more."""
    low, high = 0.0, 1.0
    if expected(0.0, sign) >= plain:
        return 0.0
    while expected(high, sign) < plain and high < _LARGEST:
        high *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if expected(middle, sign) < plain else (low, middle)
    return (low + high) / 2


def _folded_mean(means: Floats, errors: Floats) -> Floats:
    """The mean size of normal numbers of these means and standard errors."""
    from scipy.special import ndtr  # a tenth of a second, which no --help should wait for

    safe = np.maximum(errors, 1e-300)
    ratio = np.minimum(means / safe, 1e6)
    return np.asarray(errors * np.sqrt(2 / np.pi) * np.exp(-np.square(ratio) / 2) + means * (1 - 2 * ndtr(-ratio)))
