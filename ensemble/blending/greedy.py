"""Greedy ensemble selection (Caruana and others, 2004): the member that helps most is added, again and again.

With replacement; the best beginning of the sequence is kept. Ties go to members that are in already, then to the lower
log-loss, then to the first: a tie must neither enlarge the ensemble nor be decided by a lot.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.candidates import Candidates, LogLossCandidates, make_candidates
from ensemble.blending.labelled import Labelled

__all__ = ["ROUNDS", "Picks", "greedy_weights", "pick_greedily"]

ROUNDS = 25
_DECIMALS = 6  # a gain in the seventh digit is none, and would cost a member
_SAME = 1e-12


@dataclass(frozen=True)
class Picks:
    """Members in the order they were taken, up to the best beginning."""

    order: tuple[int, ...]
    error: float
    """Lower is better; of the score where greater is better, its negative."""
    all_picks: tuple[int, ...]
    """Also those that came after the best beginning."""

    def weights(self, members: int) -> NDArray[np.float64]:
        """How often each was taken, as shares."""
        return np.bincount(self.order, minlength=members) / len(self.order)


def greedy_weights(labelled: Labelled, *, rounds: int = ROUNDS, bags: int = 0) -> NDArray[np.float64]:
    """Weights (members,) by greedy selection from a sorted start; with `bags`, the mean over random halves.

    Each bag may only choose from its own half of the members, so that one lucky member can't take all.
    """
    members = len(labelled.stack)
    if not bags or members < 3:
        return pick_greedily(labelled, rounds=rounds, sorted_start=True).weights(members)
    random = np.random.default_rng([labelled.seed, bags])
    total = np.zeros(members)
    for _ in range(bags):
        half = np.sort(random.permutation(members)[: (members + 1) // 2])
        total += pick_greedily(labelled, rounds=rounds, sorted_start=True, among=half.tolist()).weights(members)
    return total / bags


def pick_greedily(
    labelled: Labelled, *, rounds: int = ROUNDS, sorted_start: bool = False, among: Sequence[int] | None = None
) -> Picks:
    """Add the member that helps most, `rounds` times.

    `sorted_start` begins with the best members by their own score, as many as do best together.
    """
    members = list(range(len(labelled.stack))) if among is None else list(among)
    search = _Search(labelled, members)
    if sorted_start:
        search.start_sorted()
    for _ in range(rounds if len(members) > 1 else 1 - len(search.order)):
        search.take_best()
    return search.picks()


class _Search:
    """An ensemble in the making, and what it was worth after each pick."""

    def __init__(self, labelled: Labelled, members: list[int]) -> None:
        self._labelled, self._members = labelled, members
        self._scores: Candidates = make_candidates(labelled)
        self._rounding = False
        self.order: list[int] = []
        self._errors: list[float] = []

    def take_best(self) -> None:
        """One round."""
        errors = self._compared(self._scores.errors(self._members))
        self._rounding = self._rounding or bool(np.abs(errors).min() > 1e-4)
        errors = self._compared(errors)
        best = np.nanmin(errors) if not np.isnan(errors).all() else np.nan
        ties = [
            member for member, error in zip(self._members, errors, strict=True) if not error > best + _SAME * abs(best)
        ]
        self._take(self._among_ties(ties), float(best))

    def start_sorted(self) -> None:
        """The best members by their own score, as many as are best together."""
        own = self._compared(self._scores.errors(self._members))
        losses = self._losses(self._members)
        ranked = [self._members[index] for index in np.lexsort((losses, own))]
        measure, errors = self._labelled.measure, []
        sign = -1.0 if measure.greater_is_better else 1.0
        total = np.zeros((self._labelled.rows, self._labelled.classes))
        for count, member in enumerate(ranked, start=1):
            total += self._labelled.stack[member]
            errors.append(sign * measure(self._labelled.labels, total / count))
        for member, error in zip(ranked[: int(np.argmin(errors)) + 1], errors, strict=False):
            self._take(member, error)

    def picks(self) -> Picks:
        """The best beginning of what was taken."""
        end = int(np.argmin(self._errors)) + 1
        return Picks(tuple(self.order[:end]), self._errors[end - 1], tuple(self.order))

    def _take(self, member: int, error: float) -> None:
        self._scores.add(member)
        self.order.append(member)
        self._errors.append(error)

    def _compared(self, errors: NDArray[np.float64]) -> NDArray[np.float64]:
        return errors.round(_DECIMALS) if self._rounding else errors

    def _among_ties(self, ties: list[int]) -> int:
        if len(ties) > 1:
            ties = [member for member in ties if member in self.order] or ties
        if len(ties) > 1:
            losses = self._losses(ties)
            ties = [member for member, loss in zip(ties, losses, strict=True) if loss <= losses.min() * (1 + _SAME)]
        return ties[0]

    def _losses(self, among: Sequence[int]) -> NDArray[np.float64]:
        """The log-loss with each of these added."""
        candidates = LogLossCandidates(self._labelled.true_class)
        for member in self.order:
            candidates.add(member)
        return candidates.errors(among)
