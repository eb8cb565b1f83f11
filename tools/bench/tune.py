"""What each policy of `ens tune` saves and what it costs, replayed from tables of real trainings.

A table (tools/tuning/record.py) holds 96 configurations of a small net, each trained on five folds of a dataset in
three repeats with folds and seeds of their own. A replay draws 50 of them in a random order, sees one repeat, lets a
policy stop trials after folds and, if it does that, after epochs, one after the other. The choice's true score is its
mean over the other two repeats. The constants of `race` were chosen with `digits`; `faces` were recorded afterwards.

    python tools/bench/tune.py [--table digits|faces] [--replays 100] [--trials 50] [--metric log_loss]
                               [--order random|improving] [--whole-folds]

`improving` draws later trials from ever better configurations, as a sampler that learns does: less can be stopped.
Shares are of the fold-trainings that `none` pays for, a fold that was stopped by its epochs. `of wilcoxon` is the
same beside what Optuna's WilcoxonPruner at its defaults pays for. `loss` is how much worse the choice's true score is
than that of `none`'s choice, in standard deviations between folds; `missed` how often the truly best of the 50 was not
chosen.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble.tuning.evidence import Comparison, blocks_of, compare_gains
from ensemble.tuning.stopping import AT_EPOCHS, POLICIES, Compare, Course, Policy, floors_of, incumbent_of

TABLES = Path(__file__).parents[1] / "tuning"


@dataclass
class Table:
    """Gains of every row (configurations, repeats, rows), more is better, and each row's fold in each repeat."""

    rows: NDArray[np.float64]
    folds: NDArray[np.int8]
    curves: NDArray[np.float64]
    """The score after each epoch (configurations, repeats, folds, epochs), more is better."""
    k: int
    groups: NDArray[np.int64] | None = None
    """Each row's; None where every row is one of its own."""
    known: dict[tuple[int, ...], Comparison] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path, metric: str) -> Table:
        """The table as one metric sees it."""
        with np.load(path) as data:
            if metric == "accuracy":
                rows = (data["decided"] == data["labels"]).astype(np.float64)
                curves = data["histories"][..., 0].astype(np.float64)
            else:
                rows = -data["losses"].astype(np.float64)
                curves = -data["histories"][..., 1].astype(np.float64)
            folds = data["folds"]
            groups = data["groups"].astype(np.int64) if "groups" in data else None
        return cls(rows, folds, curves, int(folds.max()) + 1, groups)

    def cut(self, chosen: NDArray[np.int64]) -> Table:
        """Some of the rows alone; the scores after each epoch stay those of all."""
        groups = None if self.groups is None else self.groups[chosen]
        return Table(self.rows[..., chosen], self.folds[:, chosen], self.curves, self.k, groups)

    def fold_scores(self, configuration: int, repeat: int, count: int) -> tuple[float, ...]:
        """The scores of the first folds."""
        mine = self.rows[configuration, repeat]
        return tuple(float(mine[self.folds[repeat] == fold].mean()) for fold in range(count))

    def compare(self, first: int, second: int, repeat: int, folds: range) -> Comparison:
        """Two configurations on the rows of some folds of a repeat."""
        key = (first, second, repeat, folds.start, folds.stop)
        if key not in self.known:
            chosen = (self.folds[repeat] >= folds.start) & (self.folds[repeat] < folds.stop)
            gains = self.rows[first, repeat, chosen] - self.rows[second, repeat, chosen]
            groups = None if self.groups is None else self.groups[chosen]
            self.known[key] = compare_gains(gains, blocks_of(len(gains), groups))
        return self.known[key]


@dataclass(frozen=True)
class Outcome:
    """What a replay came to."""

    trainings: float
    choice: int
    courses: tuple[Course, ...]
    parts: tuple[float, ...]
    """Of each trial: the share of a fold that was trained after its last whole one."""


def replay(table: Table, order: NDArray[np.int64], repeat: int, policy: Policy, *, at_epochs: bool = False) -> Outcome:
    """One search: configurations in order, each stopped when the policy says so, `at_epochs` also within folds."""
    courses: list[Course] = []
    parts = []

    def compare(first: int, second: int, folds: range) -> Comparison:
        return table.compare(int(order[first]), int(order[second]), repeat, folds)

    for number, configuration in enumerate(order):
        scores = table.fold_scores(int(configuration), repeat, table.k)
        curves = table.curves[configuration, repeat]
        done, part = 0, 0.0
        while done < table.k:
            part = _given_up(number, done, curves[done], courses, table.k, compare) if at_epochs else 0.0
            if part:
                break
            done += 1
            if done < table.k and policy(Course(number, scores[:done]), courses, table.k, compare) is not None:
                break
        parts.append(part)
        total = float(table.rows[configuration, repeat].mean()) if done == table.k else None
        best = incumbent_of(courses)
        pairs = [compare(number, best.number, range(fold, fold + 1)) for fold in range(done)] if best else []
        whole = tuple(tuple(curve) for curve in curves[:done].tolist())
        courses.append(Course(number, scores[:done], total, tuple(pairs), whole))
    best = incumbent_of(courses)
    choice = best.number if best is not None else 0
    trainings = sum(len(course.folds) for course in courses) + sum(parts)
    return Outcome(trainings, int(order[choice]), tuple(courses), tuple(parts))


def _given_up(
    number: int, done: int, curve: NDArray[np.float64], courses: list[Course], k: int, compare: Compare
) -> float:
    """The share of a trial's next fold after which it is stopped; 0 where it is trained whole."""
    best = incumbent_of(courses)
    found = compare(number, best.number, range(done)) if best is not None and done else None
    floors = floors_of(courses, k, done, len(curve), done, found)
    for epoch, floor in enumerate(floors.scores if floors is not None else (), start=1):
        if floor is not None and curve[epoch - 1] < floor:
            return epoch / len(curve)
    return 0.0


def draw_order(table: Table, trials: int, kind: str, random: np.random.Generator) -> NDArray[np.int64]:
    """Configurations in the order in which a search meets them."""
    order = random.permutation(len(table.rows))[:trials]
    if kind == "random":
        return order
    quality = table.rows.mean(axis=(1, 2))[order].argsort().argsort() / trials
    return order[np.argsort(quality + random.normal(0, 0.6, trials))]


def main() -> None:
    """Replay, and print a table for each metric and order."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=100)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--metric", choices=["log_loss", "accuracy"], action="append")
    parser.add_argument("--order", choices=["random", "improving"], action="append")
    parser.add_argument("--policy", choices=sorted(POLICIES), action="append")
    parser.add_argument("--whole-folds", action="store_true", help="stop at no epoch")
    parser.add_argument("--table", choices=["digits", "faces"], action="append")
    arguments = parser.parse_args()
    for name in arguments.table or ["digits", "faces"]:
        for metric in arguments.metric or ["log_loss", "accuracy"]:
            table = Table.load(TABLES / f"{name}.npz", metric)
            for order in arguments.order or ["random", "improving"]:
                print(f"\n{name}, {metric}, {order} order: {arguments.replays} replays of {arguments.trials} trials")
                show(table, order, arguments)


def show(table: Table, kind: str, arguments: argparse.Namespace) -> None:
    """The replays of one table and order, a line a policy."""
    print(f"{'policy':10} {'share':>6} {'loss':>6} {'95 %':>6} {'missed':>7} {'of wilcoxon':>12} {'seconds':>8}")
    names = arguments.policy or list(POLICIES)
    results: dict[str, list[Outcome]] = {}
    orders = [
        draw_order(table, arguments.trials, kind, np.random.default_rng([9, n])) for n in range(arguments.replays)
    ]
    repeats = table.rows.shape[1]
    for name in ["none", "wilcoxon", *(name for name in names if name not in ("none", "wilcoxon"))]:
        started = time.monotonic()
        within = name in AT_EPOCHS and not arguments.whole_folds
        results[name] = [
            replay(table, order, n % repeats, POLICIES[name], at_epochs=within) for n, order in enumerate(orders)
        ]
        losses, missed = [], []
        for n, (order, outcome, whole) in enumerate(zip(orders, results[name], results["none"], strict=True)):
            others = [repeat for repeat in range(repeats) if repeat != n % repeats]
            truth = table.rows[:, others].mean(axis=(1, 2))
            spread = float(np.std(table.fold_scores(whole.choice, n % repeats, table.k), ddof=1))
            losses.append((truth[whole.choice] - truth[outcome.choice]) / spread)
            missed.append(outcome.choice != order[truth[order].argmax()])
        share = sum(outcome.trainings for outcome in results[name]) / (arguments.replays * arguments.trials * table.k)
        peer = sum(outcome.trainings for outcome in results[name]) / sum(
            outcome.trainings for outcome in results.get("wilcoxon", results["none"])
        )
        error = 1.96 * float(np.std(losses)) / len(losses) ** 0.5
        spent = time.monotonic() - started
        print(
            f"{name:10} {share:6.1%} {np.mean(losses):6.3f} {error:6.3f} {np.mean(missed):7.0%} "
            f"{peer:12.0%} {spent:8.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
