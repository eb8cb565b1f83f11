"""The CSV files beside a blend: how alike members are, and what each budget buys. Text only; writes nothing."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from ensemble.blending.frontier import Point
from ensemble.blending.selection import Diversity

__all__ = ["diversity_csv", "frontier_csv"]


def diversity_csv(found: Diversity, names: Sequence[str]) -> str:
    """A line a pair of members."""
    pairs = [(one, other) for one in range(len(names)) for other in range(one + 1, len(names))]
    rows = [
        [
            names[one],
            names[other],
            *(f"{matrix[one, other]:.6f}" for matrix in (found.correlation, found.disagreement, found.q_statistic)),
        ]
        for one, other in pairs
    ]
    return _csv(["member", "other", "correlation_of_errors", "disagreement", "q_statistic"], rows)


def frontier_csv(points: Sequence[Point], names: Sequence[str], metric: str) -> str:
    """A line a point, the cheapest first."""
    rows = [
        [
            f"{point.cost:.6g}",
            repr(point.value),
            "yes" if point.best else "no",
            str(len(point.members)),
            "+".join(names[member] for member in point.members),
        ]
        for point in points
    ]
    return _csv(["seconds_per_1000_images", metric, "on_the_frontier", "count", "members"], rows)


def _csv(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
