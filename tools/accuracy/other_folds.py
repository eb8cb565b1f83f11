"""How much more optimistic a blend's score is when its members have different fold plans (`--other-folds`).

Each draw trains six models on two fold plans of the same rows; up to 3,000 fresh rows tell the truth. What the blend
learns is cross-fitted: of six members of one plan, and of three of each plan, on the plan of the first. Optimism is the
cross-fitted score less that on the fresh rows, positive where the former is better; what other plans add is the
difference of both, in which most of the noise of the draw cancels.

    .venv/bin/python tools/accuracy/other_folds.py --draws 200       half an hour
"""

from __future__ import annotations

import argparse
import sys
import warnings
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from designs import FOLDS, Table, _deal, _probs, drawn, patients

from ensemble.blending.methods import make_method
from ensemble.combining.crossfit import Labelled, cross_fit, learn
from ensemble.core.metrics import METRICS

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
METHODS = ("optimize", "stack")
METRICS_SHOWN = ("accuracy", "log_loss")
_FRESH = 3000


def six(seed: int) -> dict[str, Any]:
    """Six kinds that learn fast."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.tree import DecisionTreeClassifier

    return {
        "extra trees": ExtraTreesClassifier(20, min_samples_leaf=2, random_state=seed),
        "logistic": LogisticRegression(max_iter=60),
        "neighbours": KNeighborsClassifier(9, algorithm="brute"),
        "bayes": GaussianNB(),
        "tree": DecisionTreeClassifier(min_samples_leaf=3, random_state=seed),
        "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
    }


SETTINGS: dict[str, tuple[Any, int]] = {
    "5 classes, 300 rows": (partial(drawn, 5, 1.5), 300),
    "25 patients of 12 rows": (partial(patients, 12, 4, 0.8), 25),
    "2 classes, 150 rows": (partial(drawn, 2, 0.8, noise=0.1, seed=8), 150),
}


def _draw(table: Table, rows: int, random: np.random.Generator) -> tuple[Any, ...]:
    """Out-of-fold and fresh probabilities of every member on both plans, labels, folds, groups."""
    if table.groups is None:
        order = random.permutation(len(table.labels))
        learn_rows, fresh = order[:rows], order[rows : rows + _FRESH]
    else:
        names = random.permutation(int(table.groups.max()) + 1)
        learn_rows, fresh = (
            np.flatnonzero(np.isin(table.groups, part)) for part in (names[:rows], names[rows : rows + _FRESH // 12])
        )
    labels, classes = table.labels[learn_rows], int(table.labels.max()) + 1
    groups = None if table.groups is None else table.groups[learn_rows]
    center, scale = table.inputs[learn_rows].mean(axis=0), table.inputs[learn_rows].std(axis=0) + 1e-9
    inputs, unseen = ((table.inputs[part] - center) / scale for part in (learn_rows, fresh))
    seed = int(random.integers(2**31 - 10))
    plans = [_deal(labels, groups, random) for _ in range(2)]
    stacks = np.zeros((2, 6, len(labels), classes))
    others = np.zeros((2, 6, len(fresh), classes))
    for plan, folds in enumerate(plans):
        for fold in range(FOLDS):
            rest, held = folds != fold, folds == fold
            for member, model in enumerate(six(seed + fold).values()):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    model.fit(inputs[rest], labels[rest])
                stacks[plan, member, held] = _probs(model, inputs[held], classes)
                others[plan, member] += _probs(model, unseen, classes) / FOLDS
    return stacks, others, labels, plans, groups, table.labels[fresh]


def _optimism(draw: tuple[Any, ...], plans_of: list[int], method_name: str) -> Array:
    """A number a metric: the cross-fitted score less that on fresh rows, positive where it is better."""
    stacks, others, labels, plans, groups, fresh_labels = draw
    chosen = [stacks[plan, member] for member, plan in enumerate(plans_of)]
    labelled = Labelled(chosen, labels, plans[0][None], groups)
    method = make_method(method_name, "accuracy")  # both methods learn by log-loss, whatever the metric
    (honest,) = cross_fit(method, labelled)
    fresh = learn(method, labelled).answer([others[plan, member] for member, plan in enumerate(plans_of)])
    gaps = []
    for metric in METRICS_SHOWN:
        measure = METRICS[metric]
        sign = 1 if measure.greater_is_better else -1
        scores = [
            measure(truth, combined.probs, decisions=combined.decisions)
            for truth, combined in ((labels, honest), (fresh_labels, fresh))
        ]
        gaps.append(sign * (scores[0] - scores[1]))
    return np.array(gaps)


def main() -> int:
    """Print, for each setting, metric and method, the optimism with one plan, and what other plans add."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="of each setting (200)")
    arguments = parser.parse_args()
    print("thousandths, with the standard error over draws\n")
    print("| setting | metric | method | optimism, one plan | added by other plans |")
    print("|---|---|---|---|---|")
    added: dict[str, list[float]] = {metric: [] for metric in METRICS_SHOWN}
    for name, (table, rows) in SETTINGS.items():
        pairs: dict[str, list[tuple[Array, Array]]] = {method: [] for method in METHODS}
        for number in range(arguments.draws):
            draw = _draw(table(), rows, np.random.default_rng([number, 11, len(name)]))
            for method in METHODS:
                alone, mixed = (_optimism(draw, plans, method) for plans in ([0] * 6, [0, 1] * 3))
                pairs[method].append((alone, mixed - alone))
        for method, values in pairs.items():
            for column, metric in enumerate(METRICS_SHOWN):
                cells = [_cell(1000 * np.array([pair[part][column] for pair in values])) for part in (0, 1)]
                print(f"| {name} | {metric} | {method} | {cells[0]} | {cells[1]} |", flush=True)
                added[metric].append(1000 * float(np.mean([pair[1][column] for pair in values])))
    for metric, means in added.items():
        print(f"\n{metric}: {np.mean(means):+.1f} added, the mean of all lines")
    return 0


def _cell(values: Array) -> str:
    return f"{values.mean():+.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"


if __name__ == "__main__":
    sys.exit(main())
