"""How honest the numbers are that `ens tune` shows of its winner, by rows that had no say in who wins.

Replayed from the tables of tools/tuning/record.py, where every configuration has out-of-fold rows for five folds in
three repeats. Half of the rows (whole groups) are what the search sees: it stops trials after whole folds by `race`
and picks the best. The other half are fresh rows. Each draw of halves is replayed both ways round, which cancels the
luck of the draw. On the half that the search saw, as `ens tune` shows them:

    best     the winner's own score, which it was picked by
    weights  the same, less the luck of the choice among complete trials
    nested   each fold by the complete trial that is best on the others, as `--nested` does
    again    the same configuration trained with other folds and seeds

The first three are to be the score of the winner's own models on the fresh rows; `again` is to be that of models
trained once more, in the third repeat. Shown is how far each lies above that truth on average, in standard deviations
between folds, with the 95 % interval of that mean; and how often its own 95 % interval holds the truth. There are no
more fresh rows than seen ones, so the truth is as uncertain as the score: intervals are widened by the square root of
2 before they are judged.

    python tools/accuracy/winner.py [--replays 300] [--trials 50]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from tune import TABLES, Table, draw_order, replay

from ensemble.combining.honest import with_intervals
from ensemble.core.metrics import Scorer
from ensemble.tuning.evidence import cost_of_choice, halves_of
from ensemble.tuning.stopping import POLICIES

_NUMBERS = ("best", "weights", "nested", "again")


def main() -> None:
    """Replay, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=300)
    parser.add_argument("--trials", type=int, default=50)
    arguments = parser.parse_args()
    print(f"{'table':7} {'metric':8} {'policy':6} {' '.join(f'{name:>20}' for name in _NUMBERS)}")
    for name in ("digits", "faces"):
        for metric in ("log_loss", "accuracy"):
            table = Table.load(TABLES / f"{name}.npz", metric)
            for policy in ("none", "race"):
                pairs = [
                    [_judge(table, metric, policy, arguments.trials, draw, swapped) for swapped in (False, True)]
                    for draw in range(arguments.replays // 2)
                ]
                replays = np.array(pairs)  # (draws, both ways round, numbers, how far above and whether held)
                above, held = replays[..., 0].mean(axis=1), replays[..., 1].mean(axis=(0, 1))
                errors = 1.96 * above.std(axis=0, ddof=1) / len(above) ** 0.5
                cells = [
                    f"{mean:+7.3f} ±{error:5.3f} {share:6.1%}"
                    for mean, error, share in zip(above.mean(axis=0), errors, held, strict=True)
                ]
                print(f"{name:7} {metric:8} {policy:6} {' '.join(cells)}", flush=True)


def _judge(table: Table, metric: str, policy: str, trials: int, draw: int, swapped: bool) -> list[tuple[float, bool]]:
    """Of each number in one replay: how far it lies above the truth, and whether its interval holds it."""
    random = np.random.default_rng([11, draw])
    sides = _halves(table, random)
    seen, fresh = sides[::-1] if swapped else sides
    repeat, other, third = ((draw + turn) % table.rows.shape[1] for turn in range(3))
    half = table.cut(seen)
    order = draw_order(table, trials, "random", random)
    outcome = replay(half, order, repeat, POLICIES[policy])
    complete = [int(order[course.number]) for course in outcome.courses if course.total is not None]
    choice, gains = outcome.choice, half.rows[complete, repeat]
    names = np.arange(len(seen)) if half.groups is None else half.groups
    units = np.unique(names, return_inverse=True)[1].astype(np.int64)
    masks = halves_of(units)
    cost = cost_of_choice((gains @ masks.T) / masks.sum(axis=1), complete.index(choice))
    sign = -1.0 if metric == "log_loss" else 1.0
    rows = [sign * half.rows[choice, repeat], sign * _nested(half, complete, repeat), sign * half.rows[choice, other]]
    best, nested = with_intervals([_mean_of(each) for each in rows[:2]], units, metrics=[metric] * 2)
    [again] = with_intervals([_mean_of(rows[2])], units, metrics=[metric], retrained=True)
    weights = (best[0] - sign * cost, [end - sign * cost for end in best[1] or ()])
    truth, recipe = (sign * float(table.rows[choice, place, fresh].mean()) for place in (repeat, third))
    spread = float(np.std(half.fold_scores(choice, repeat, table.k), ddof=1))
    return [
        (sign * (value - aim) / spread, _holds(value, interval, aim))
        for (value, interval), aim in ((best, truth), (weights, truth), (nested, truth), (again, recipe))
    ]


def _mean_of(rows: NDArray[np.float64]) -> Scorer:
    return lambda weights: float(weights @ rows / weights.sum())


def _holds(value: float, interval: Sequence[float] | None, truth: float) -> bool:
    """Whether the interval, widened for the uncertainty of the truth itself, holds it."""
    low, high = (value + 2**0.5 * (end - value) for end in interval or (value, value))
    return low <= truth <= high


def _halves(table: Table, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that the search sees, and fresh ones; a group is on one side."""
    rows = table.rows.shape[2]
    groups = np.arange(rows) if table.groups is None else table.groups
    sides = random.permutation(np.arange(groups.max() + 1) % 2)[groups]
    return np.flatnonzero(sides == 0), np.flatnonzero(sides == 1)


def _nested(half: Table, complete: list[int], repeat: int) -> NDArray[np.float64]:
    """Each fold's rows as answered by the trial with the best score on the others."""
    rows, folds = half.rows[complete, repeat], half.folds[repeat]
    answers = np.empty(len(folds))
    for fold in range(half.k):
        best = rows[:, folds != fold].mean(axis=1).argmax()
        answers[folds == fold] = rows[best, folds == fold]
    return answers


if __name__ == "__main__":
    main()
