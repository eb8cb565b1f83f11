"""How honest the numbers are that `ens tune` shows of its winner, by rows that had no say in who wins.

Replayed from the tables of tools/tuning/record.py, where every configuration has out-of-fold rows for five folds in
three repeats. Half of the rows (whole groups), drawn anew for each replay, are what the search sees: it stops trials
after whole folds by `race` and picks the best. The other half are fresh rows for the winner: its score on them, in the
same repeat, is the truth. Beside it, on the half that the search saw:

    winner   its own score, which it was picked by
    again    the same configuration trained with other folds and seeds, as `ens tune` does at its end
    nested   each fold by the complete trial that is best on the others, as `--nested` does

Shown is how far each lies above the truth on average, in standard deviations between folds, with the 95 % interval of
that mean.

    python tools/accuracy/winner.py [--replays 300] [--trials 50]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
from tune import TABLES, Table, draw_order, replay

from ensemble.tuning.stopping import POLICIES


def main() -> None:
    """Replay, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=300)
    parser.add_argument("--trials", type=int, default=50)
    arguments = parser.parse_args()
    print(f"{'table':8} {'metric':9} {'policy':7} {'winner':>14} {'again':>14} {'nested':>14}")
    for name in ("digits", "faces"):
        for metric in ("log_loss", "accuracy"):
            table = Table.load(TABLES / f"{name}.npz", metric)
            for policy in ("none", "race"):
                found = np.array([_one(table, policy, arguments.trials, n) for n in range(arguments.replays)])
                errors = 1.96 * found.std(axis=0) / len(found) ** 0.5
                cells = (f"{mean:+7.3f} ±{error:5.3f}" for mean, error in zip(found.mean(axis=0), errors, strict=True))
                print(f"{name:8} {metric:9} {policy:7} {' '.join(cells)}", flush=True)


def _one(table: Table, policy: str, trials: int, number: int) -> tuple[float, float, float]:
    """How far the three lie above the truth in one replay."""
    random = np.random.default_rng([11, number])
    seen, fresh = _halves(table, random)
    repeats = table.rows.shape[1]
    repeat, other = number % repeats, (number + 1) % repeats
    half = table.cut(seen)
    order = draw_order(table, trials, "random", random)
    outcome = replay(half, order, repeat, POLICIES[policy])
    truth = float(table.rows[outcome.choice, repeat, fresh].mean())
    own, again = (float(half.rows[outcome.choice, one].mean()) for one in (repeat, other))
    complete = [int(order[course.number]) for course in outcome.courses if course.total is not None]
    spread = float(np.std(half.fold_scores(outcome.choice, repeat, table.k), ddof=1))
    return (own - truth) / spread, (again - truth) / spread, (_nested(half, complete, repeat) - truth) / spread


def _halves(table: Table, random: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows that the search sees, and fresh ones; a group is on one side."""
    rows = table.rows.shape[2]
    groups = np.arange(rows) if table.groups is None else table.groups
    sides = random.permutation(np.arange(groups.max() + 1) % 2)[groups]
    return np.flatnonzero(sides == 0), np.flatnonzero(sides == 1)


def _nested(half: Table, complete: list[int], repeat: int) -> float:
    """Each fold's rows by the trial with the best score on the others."""
    rows, folds = half.rows[complete, repeat], half.folds[repeat]
    total = 0.0
    for fold in range(half.k):
        best = rows[:, folds != fold].mean(axis=1).argmax()
        total += float(rows[best, folds == fold].sum())
    return total / len(folds)


if __name__ == "__main__":
    main()
