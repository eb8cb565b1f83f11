"""How long it will still take, from what was measured. Pure: facts and the time go in, seconds come out."""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["FoldFacts", "fold_remaining", "total_remaining"]


@dataclass
class FoldFacts:
    """What is known of one fold. Times are readings of one clock, in seconds.

    `length` is a guess from before the fold began: seconds where `is_measured`, else only comparable with others'.
    """

    run: str
    state: Literal["waiting", "training", "over"] = "waiting"
    epochs: int = 1
    epoch: int = 0
    """Epochs finished since `started`, those of an earlier attempt left out."""
    length: float | None = None
    is_measured: bool = False
    started: float = 0.0
    heard: float = 0.0
    """When the last epoch ended."""
    told: float | None = None
    """What the fold itself said at `heard` that it needs."""
    skipped: int = 0
    """Epochs that were done before `started`."""
    seconds: float | None = None
    """How long it took, when it is over and did not fail."""


def fold_remaining(fold: FoldFacts, now: float, typical: float | None = None) -> float | None:
    """Seconds until a training fold is over; `typical` is how long one of its kind takes. None: nothing is known."""
    at_heard = _remaining_when_heard(fold)
    if at_heard is not None:
        return max(0.0, at_heard - (now - fold.heard))
    return None if typical is None else max(0.0, typical - (now - fold.started))


def total_remaining(folds: Sequence[FoldFacts], slots: int, now: float) -> float | None:
    """Seconds until all are over, each slot taking the next waiting one as it becomes free. None: nothing is known."""
    typical = _typical_lengths(folds)
    busy: list[float] = []
    for fold in folds:
        if fold.state == "training":
            left = fold_remaining(fold, now, typical.get(fold.run))
            if left is None:
                return None
            busy.append(left)
    free_at = busy + [0.0] * max(0, slots - len(busy))
    heapq.heapify(free_at)
    last = max(busy, default=0.0)
    for fold in folds:
        if fold.state == "waiting":
            length = typical.get(fold.run)
            if length is None:
                return None
            end = heapq.heappop(free_at) + length
            heapq.heappush(free_at, end)
            last = max(last, end)
    return last


def _remaining_when_heard(fold: FoldFacts) -> float | None:
    """What was left when the last epoch ended: as the fold said, or at the pace of its epochs so far."""
    if fold.told is not None:
        return fold.told
    if fold.epoch < 1:
        return None
    pace = (fold.heard - fold.started) / fold.epoch
    return pace * max(0, fold.epochs - fold.skipped - fold.epoch)


def _typical_lengths(folds: Sequence[FoldFacts]) -> dict[str, float]:
    """Seconds that a fold takes, by run: the mean of those measured now, else the guess at the measured ones' rate."""
    measured: dict[str, list[float]] = {}
    for fold in folds:
        total = fold.seconds
        if fold.state == "training" and (left := _remaining_when_heard(fold)) is not None and not fold.skipped:
            total = fold.heard - fold.started + left
        if total is not None:
            measured.setdefault(fold.run, []).append(total)
    lengths = {run: statistics.fmean(totals) for run, totals in measured.items()}
    guesses = {fold.run: fold.length for fold in folds if fold.length}
    rates = [lengths[run] / guess for run, guess in guesses.items() if run in lengths]
    rate = statistics.median(rates) if rates else None
    for fold in folds:
        if fold.run not in lengths and fold.length and (rate is not None or fold.is_measured):
            lengths[fold.run] = fold.length * (1.0 if rate is None else rate)
    return lengths
