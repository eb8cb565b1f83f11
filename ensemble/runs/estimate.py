"""How long a fold will take, before it is trained: only to begin the longest first and to guess what remains."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FoldCost", "cost_of", "estimates"]


@dataclass(frozen=True)
class FoldCost:
    """What is known of a run's folds: their work in units that mean something only beside another run's, and the
    seconds that folds of the same recipe took before, if any did."""

    work: float
    seconds: float | None = None


def cost_of(record: Mapping[str, Any], earlier: Mapping[str, Any] | None = None) -> FoldCost:
    """Rows times epochs times pixels times parameters, and the seconds of folds finished now or by `earlier`."""
    recipe = record["recipe"]
    work = record["rows"]["train"] * recipe["train"]["epochs"] * recipe["image"]["size"] ** 2
    work *= record["decided"].get("parameters") or 1
    same = earlier if earlier is not None and earlier["identity"] == record["identity"] else record
    seconds = [
        state["seconds"]
        for known in (record, same)
        for state in known["fold_states"]
        if state["state"] == "complete" and state["seconds"]
    ]
    return FoldCost(float(work), statistics.fmean(seconds) if seconds else None)


def estimates(costs: Sequence[FoldCost]) -> tuple[list[float], bool]:
    """A length for each, comparable with one another; whether they are seconds, which they are once one was measured.

    Work becomes seconds at the median rate of those that were measured.
    """
    rates = [cost.seconds / cost.work for cost in costs if cost.seconds and cost.work > 0]
    rate = statistics.median(rates) if rates else 1.0
    return [cost.seconds if cost.seconds else cost.work * rate for cost in costs], bool(rates)
