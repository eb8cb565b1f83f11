"""Rows that one side answers right and another wrong: how many, which, and the commonest changes of class."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.combining.combine import Floats, Integers, Matrix
from ensemble.core.labels import Labels, are_sets, likelihoods, spelled

_PAIRS = 10  # the commonest changes of class that a document holds
_ENDS = ("first", "second")


@dataclass(frozen=True, eq=False)
class SideAnswers:
    """What a side answers on the rows that are compared."""

    decisions: Integers
    right: NDArray[np.bool_]
    """(rows,): whether each is decided right; of sets, whether its whole set is."""
    truth: Floats
    """(rows,): the probability of the truth; of sets, the mean over classes."""
    sure: Floats
    """(rows,): the probability of what was decided; of sets, the mean over classes."""

    @classmethod
    def of(cls, probs: Matrix, decisions: Integers, labels: Labels) -> SideAnswers:
        """Of a side's probabilities and decisions."""
        right = np.asarray((decisions == labels).reshape(len(labels), -1).all(axis=1))
        truth, sure = (likelihoods(probs, each).mean(axis=1) for each in (labels, decisions))
        return cls(decisions, right, truth, sure)

    def are_same(self, others: SideAnswers) -> bool:
        """Whether both answer every row alike."""
        return np.array_equal(self.truth, others.truth) and np.array_equal(self.decisions, others.decisions)


@dataclass(frozen=True, eq=False)
class ChangedRows:
    """Two sides on the same rows."""

    first: str
    second: str
    ids: Sequence[str]
    classes: Sequence[str]
    labels: Labels
    here: SideAnswers
    there: SideAnswers

    @cached_property
    def became_right(self) -> Integers:
        """Rows that the second alone has right."""
        return np.flatnonzero(~self.here.right & self.there.right)

    @cached_property
    def became_wrong(self) -> Integers:
        """Rows that the first alone has right."""
        return np.flatnonzero(self.here.right & ~self.there.right)

    def most_certain(self, rows: Integers) -> Integers:
        """The same rows, those at the front on which the less certain of both sides is most certain."""
        sure = np.minimum(self.here.sure[rows], self.there.sure[rows])
        return rows[np.argsort(-sure, kind="stable")]

    def facts(self) -> dict[str, Any]:
        """How many rows became right or wrong, and the commonest changes."""
        here, there, count = self.here.decisions, self.there.decisions, len(self.classes)
        differs = (here != there).reshape(len(here), -1).any(axis=1)
        pairs: list[dict[str, Any]] = []
        if not are_sets(self.labels):
            rows = np.flatnonzero(differs)
            keys = here[rows].astype(np.int64) * count + there[rows]
            for key, number in Counter(keys.tolist()).most_common(_PAIRS):
                before, after = divmod(key, count)
                chosen = rows[keys == key]
                gained = int((self.there.right & ~self.here.right)[chosen].sum())
                names = {"first": self.classes[before], "second": self.classes[after]}
                pairs.append({**names, "rows": number, "became_right": gained})
        right, wrong = len(self.became_right), len(self.became_wrong)
        return {
            "changed": int(differs.sum()),
            "became_right": right,
            "became_wrong": wrong,
            "mcnemar_p": _mcnemar(right, wrong),
            "pairs": pairs,
        }

    def lines(self) -> list[tuple[str, ...]]:
        """A line of text for each row that changed sides: what both decided, how likely each held the truth."""
        rows = np.sort(np.concatenate([self.became_right, self.became_wrong]))
        columns = [
            [self.ids[row] for row in rows],
            spelled(self.labels[rows], self.classes),
            [self.first] * len(rows),
            [self.second] * len(rows),
            *(spelled(side.decisions[rows], self.classes) for side in (self.here, self.there)),
            *([f"{value:.6f}" for value in side.truth[rows]] for side in (self.here, self.there)),
        ]
        return list(zip(*columns, strict=True))


def changed_csv(changed: Sequence[ChangedRows]) -> str:
    """The rows that changed sides, of all comparisons."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    headers = ("decision", "p_truth")
    writer.writerow(["id", "label", "first", "second", *(f"{side}_{key}" for key in headers for side in _ENDS)])
    for rows in changed:
        writer.writerows(rows.lines())
    return stream.getvalue()


def _mcnemar(gained: int, lost: int) -> float:
    """How often rows alone would make as many change to one side, two-sided and exact (McNemar, 1947)."""
    from scipy.special import bdtr  # deferred as in `training_noise`

    total = gained + lost
    return min(1.0, 2 * float(bdtr(min(gained, lost), total, 0.5))) if total else 1.0
