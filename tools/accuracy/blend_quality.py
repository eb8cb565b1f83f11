"""How good blends are on fresh rows, and whether their honest values and intervals hold there.

Members are simulated, or models of scikit-learn; weights are learned from some hundred or thousand labelled rows and
scored on 20,000 others. Peers: AutoGluon's greedy selection, in an environment of its own, and scikit-learn's stacking.

.venv/bin/python tools/accuracy/blend_quality.py --seeds 30        half an hour
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from peers.environments import python_of

from ensemble.blending.options import BlendOptions
from ensemble.blending.verdict import judge_rows
from ensemble.combining.combine import Combined, soft
from ensemble.combining.crossfit import Labelled
from ensemble.combining.greedy import pick_greedily
from ensemble.core.metrics import METRICS

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_FRESH = 20_000
_OURS = ("soft", "optimize", "greedy", "stack", "auto")


@dataclass(frozen=True, eq=False)
class Rows:
    """Members' probabilities and the truth: to learn from, and fresh."""

    stack: list[Array]
    labels: Integers
    fresh: list[Array]
    fresh_labels: Integers
    metric: str


Draw = Callable[[np.random.Generator], Rows]


def main() -> int:
    """Blend every draw of every setting every way, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=30, help="draws of each setting (30)")
    parser.add_argument(
        "--stand-in", action="store_true", help="our greedy, which makes AutoGluon's picks, in its place"
    )
    parser.add_argument("--only", nargs="+", type=int, metavar="N", help="these settings alone, numbered from 1")
    arguments = parser.parse_args()
    numbered = enumerate(SETTINGS.items(), start=1)
    settings = dict(item for number, item in numbered if arguments.only is None or number in arguments.only)
    gains: dict[str, list[dict[str, float]]] = {}
    held: dict[str, list[bool]] = {method: [] for method in _OURS}
    for name, draw in settings.items():
        rows = [draw(np.random.default_rng([seed, 7])) for seed in range(arguments.seeds)]
        theirs = [_same_picks(one) for one in rows] if arguments.stand_in else _autogluon(rows)
        gains[name] = [_compare(one, picks, held) for one, picks in zip(rows, theirs, strict=True)]
        print(_line(name, gains[name]), flush=True)
    print(_summary(gains, held))
    return 0


def _compare(rows: Rows, picks: list[int], held: dict[str, list[bool]]) -> dict[str, float]:
    """What each way gains over the plain mean on fresh rows; notes whether our intervals hold there."""
    measure = METRICS[rows.metric]
    sign = 1.0 if measure.greater_is_better else -1.0
    folds = (np.random.default_rng(0).permutation(len(rows.labels)) % 5)[None, :]
    names = [f"m{number}" for number in range(len(rows.stack))]

    def score(combined: Combined) -> float:
        return sign * measure(rows.fresh_labels, combined.probs, decisions=combined.decisions)

    plain = score(soft(rows.fresh))
    own = [sign * measure(rows.labels, matrix) for matrix in rows.stack]
    best = rows.fresh[int(np.argmax(own))]
    gains = {"best single": score(soft([best])) - plain, "AutoGluon greedy": score(_picked(rows.fresh, picks)) - plain}
    gains["scikit-learn stacking"] = score(_stacked(rows)) - plain
    for method in _OURS:
        labelled = Labelled(rows.stack, rows.labels, folds, None, rows.metric)
        verdict = judge_rows(labelled, names, [None] * len(names), BlendOptions(method, rows.metric), details=False)
        value = score(verdict.answer(rows.fresh))
        gains[f"ens {method}"] = value - plain
        if verdict.honest is not None and verdict.honest.ci95 is not None:
            low, high = verdict.honest.ci95
            held[method].append(low <= sign * value <= high)
    return gains


def _picked(stack: list[Array], picks: list[int]) -> Combined:
    return soft(stack, np.bincount(picks, minlength=len(stack)).tolist())


def _stacked(rows: Rows) -> Combined:
    """What StackingClassifier does: a logistic regression on all members' probabilities."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=2000).fit(np.hstack(rows.stack), rows.labels)
    probs = np.zeros(rows.fresh[0].shape)
    probs[:, model.classes_] = model.predict_proba(np.hstack(rows.fresh))
    return soft([probs])


def _autogluon(rows: list[Rows]) -> list[list[int]]:
    """The picks of AutoGluon's greedy selection, 25 rounds, for each draw."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number}.npz") for number in range(len(rows))]
        for path, one in zip(paths, rows, strict=True):
            np.savez(path, stack=np.stack(one.stack), labels=one.labels, metric=one.metric, rounds=25)
        script = Path(__file__).resolve().parents[1] / "bench" / "peers" / "autogluon_greedy.py"
        command = [str(python_of("autogluon")), "-W", "ignore", str(script), *paths]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [json.loads(line)["picks"] for line in done.stdout.splitlines() if line.startswith("{")]


def _same_picks(rows: Rows) -> list[int]:
    """What AutoGluon would pick: tools/bench/blend_methods.py shows that the picks are the same."""
    folds = np.zeros((1, len(rows.labels)), dtype=np.int64)
    return list(pick_greedily(Labelled(rows.stack, rows.labels, folds, metric=rows.metric)).order)


def _line(name: str, gains: list[dict[str, float]]) -> str:
    """A setting: what each way gains over the plain mean, in thousandths, and the standard error over draws."""
    cells = []
    for way in gains[0]:
        values = 1000 * np.array([one[way] for one in gains])
        cells.append(f"{way} {values.mean():+.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}")
    return f"{name}: " + ", ".join(cells)


def _summary(gains: dict[str, list[dict[str, float]]], held: dict[str, list[bool]]) -> str:
    """As tables in markdown: gains, mean ranks, and how often intervals hold."""
    ways = ["plain mean", *next(iter(gains.values()))[0]]
    lines = ["", "| setting | " + " | ".join(ways[1:]) + " |", "|---" * len(ways) + "|"]
    ranks = []
    for name, draws in gains.items():
        table = np.array([[0.0, *one.values()] for one in draws])
        lines.append(f"| {name} | " + " | ".join(_cell(table[:, column]) for column in range(1, len(ways))) + " |")
        ranks.append(np.mean([_ranks(-row) for row in table], axis=0))
    mean_ranks = np.mean(ranks, axis=0)
    lines += ["", "| way | mean rank |", "|---|---|"]
    lines += [f"| {ways[index]} | {mean_ranks[index]:.2f} |" for index in np.argsort(mean_ranks, kind="stable")]
    lines += ["", "| method | 95 % intervals that hold on fresh rows |", "|---|---|"]
    lines += [f"| {method} | {np.mean(known):.1%} of {len(known)} |" for method, known in held.items() if known]
    return "\n".join(lines)


def _cell(values: Array) -> str:
    thousandths = 1000 * values
    return f"{thousandths.mean():+.1f} ± {thousandths.std(ddof=1) / np.sqrt(len(values)):.1f}"


def _ranks(values: Array) -> Array:
    """Ranks from 1; equal ones share theirs."""
    rounded = np.round(values, 9)
    below = (rounded[None, :] < rounded[:, None]).sum(axis=1)
    return np.asarray(below + ((rounded[None, :] == rounded[:, None]).sum(axis=1) + 1) / 2)


def _simulated(
    rows: int,
    metric: str,
    noises: Callable[[np.random.Generator], Any],
    *,
    classes: int = 6,
    skill: float = 2.0,
    sharpness: tuple[float, float] = (1.0, 1.0),
    shares: Any = None,
) -> Draw:
    """Members that see the same signal through noise of their own, each surer or less sure than it should be."""

    def draw(random: np.random.Generator) -> Rows:
        labels = random.choice(classes, rows + _FRESH, p=shares)
        signal = random.normal(size=(len(labels), classes))
        signal[np.arange(len(labels)), labels] += skill
        if shares is not None:
            signal += np.log(shares) / skill
        stack = []
        for noise in noises(random):
            scores = signal + noise * random.normal(size=signal.shape)
            scores *= skill / (1 + noise**2) * random.uniform(*sharpness)
            scores = np.exp(scores - scores.max(axis=1, keepdims=True))
            stack.append(scores / scores.sum(axis=1, keepdims=True))
        return Rows([one[:rows] for one in stack], labels[:rows], [one[rows:] for one in stack], labels[rows:], metric)

    return draw


def _models(metric: str, rows: int) -> Draw:
    """Seven kinds of scikit-learn models, trained on 1,000 rows, blended by `rows` others."""

    def draw(random: np.random.Generator) -> Rows:
        from sklearn.datasets import make_classification
        from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
        from sklearn.ensemble import ExtraTreesClassifier, RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
        from sklearn.naive_bayes import GaussianNB
        from sklearn.neighbors import KNeighborsClassifier
        from sklearn.neural_network import MLPClassifier

        seed = int(random.integers(2**31))
        inputs, labels = make_classification(
            1000 + rows + _FRESH,
            20,
            n_informative=10,
            n_classes=5,
            n_clusters_per_class=2,
            class_sep=1.2,
            random_state=seed,
        )
        train, learn, fresh = slice(0, 1000), slice(1000, 1000 + rows), slice(1000 + rows, None)
        models = [
            LogisticRegression(max_iter=500),
            GaussianNB(),
            QuadraticDiscriminantAnalysis(reg_param=0.1),
            KNeighborsClassifier(15),
            RandomForestClassifier(60, random_state=seed),
            ExtraTreesClassifier(60, random_state=seed),
            MLPClassifier((32,), max_iter=60, random_state=seed),
        ]
        for model in models:
            model.fit(inputs[train], labels[train])
        learned, other = ([model.predict_proba(inputs[part]) for model in models] for part in (learn, fresh))
        return Rows(learned, labels[learn], other, labels[fresh], metric)

    return draw


def _equal(count: int) -> Callable[[np.random.Generator], Any]:
    return lambda _: np.full(count, 1.5)


def _different(count: int) -> Callable[[np.random.Generator], Any]:
    return lambda random: np.exp(random.uniform(np.log(0.5), np.log(4.0), count))


_RARE = np.array([0.5, 0.25, 0.12, 0.07, 0.04, 0.02])

SETTINGS: dict[str, Draw] = {
    "40 equal members, 500 rows, accuracy": _simulated(500, "accuracy", _equal(40)),
    "40 equal members, 500 rows, log-loss": _simulated(500, "log_loss", _equal(40)),
    "12 different members, 2,000 rows, accuracy": _simulated(2000, "accuracy", _different(12)),
    "12 different members, 2,000 rows, log-loss": _simulated(2000, "log_loss", _different(12)),
    "12 different members, 2,000 rows, macro F1, rare classes": _simulated(
        2000, "macro_f1", _different(12), shares=_RARE
    ),
    "8 members too sure or unsure, 2,000 rows, log-loss": _simulated(
        2000, "log_loss", _different(8), sharpness=(0.5, 3.0)
    ),
    "1 good and 9 poor members, 1,000 rows, accuracy": _simulated(1000, "accuracy", lambda _: [0.5, *[4.0] * 9]),
    "7 scikit-learn models, 1,500 rows, accuracy": _models("accuracy", 1500),
    "7 scikit-learn models, 1,500 rows, log-loss": _models("log_loss", 1500),
}


if __name__ == "__main__":
    sys.exit(main())
