"""How well blends choose: every way to blend on the draws of `designs.py`, scored on rows that no model has seen.

Printed are, in thousandths over the plain mean, the gain, the mean rank and the regret: by how much the best way of a
design is better, each by its mean over draws; then the mean over designs. "Decisions" are accuracy, macro F1 and
balanced accuracy.

    .venv/bin/python tools/accuracy/choosing.py --draws 200 --keep FOLDER --results FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.blending.methods import make_method
from ensemble.blending.options import METHODS, BlendOptions
from ensemble.blending.verdict import judge_rows
from ensemble.combining import greedy
from ensemble.combining.combine import Combined, geometric, soft
from ensemble.combining.crossfit import Labelled, cross_fit, learn
from ensemble.core.metrics import METRICS

sys.path.insert(0, str(Path(__file__).resolve().parent))
from designs import CHOOSING, Array, Integers, Sample

Score = Callable[[Combined], float]
_DECISIONS = ("accuracy", "macro_f1", "balanced_accuracy")
_SPECS = ("hard", "optimize", "brier", "pool", "greedy", "greedy:20", "stack")
_ANY_METRIC = ("optimize", "brier", "pool", "stack")
"""Learned by the same loss whatever the metric, so learned once a draw: half of the time."""
_SIX = ("plain mean", "best single", "geometric", "optimize", "greedy", "scikit-learn stacking")
_PARTS: dict[str, tuple[slice, tuple[str, ...]]] = {
    "zoo, log-loss": (slice(0, 12), ("log_loss",)),
    "zoo, decisions": (slice(0, 12), _DECISIONS),
    "one good of ten, log-loss": (slice(12, 15), ("log_loss",)),
    "one good of ten, decisions": (slice(12, 15), _DECISIONS),
    "40 equal, log-loss": (slice(15, 17), ("log_loss",)),
    "40 equal, decisions": (slice(15, 17), _DECISIONS),
}


def main() -> int:
    """Blend every draw every way, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="of each design (200)")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw (0)")
    parser.add_argument("--keep", type=Path, help="a folder with the draws of designs.py: its --keep, then choosing")
    parser.add_argument("--results", type=Path, help="a file that keeps the scores, to go on after a stop")
    parser.add_argument("--only", default="", metavar="TEXT", help="designs whose name has this text")
    parser.add_argument("--ways", nargs="+", help="these ways alone, named as in the table")
    arguments = parser.parse_args()
    greedy._COMPILED_FROM = 0  # the same numbers, and with thousands of selections sooner than NumPy has them
    scores: dict[str, dict[str, float]] = {}
    if arguments.results is not None and arguments.results.exists():
        scores = dict(json.loads(line) for line in arguments.results.read_text(encoding="utf-8").splitlines())
    for number in range(arguments.first, arguments.first + arguments.draws):  # all designs at once: a stop harms none
        for name, design in CHOOSING.items():
            keys = {metric: f"{name}/{metric}/{number}" for metric in ("log_loss", *_DECISIONS)}
            if arguments.only not in name or all(key in scores for key in keys.values()):
                continue
            sample = design.draw(name, number, arguments.keep)
            learned: dict[Hashable, Any] = {}
            for metric, key in keys.items():
                scores[key] = _score_all(sample, metric, learned, arguments.ways)
                if arguments.results is not None:
                    with arguments.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([key, scores[key]]) + "\n")
    print(_table(scores))
    return 0


class _Memo(dict[Hashable, Any]):
    """What was learned for one metric; what is the same for all of them is in `common`."""

    def __init__(self, metric: str, common: dict[Hashable, Any]) -> None:
        super().__init__()
        self._names = {make_method(name, metric): name for name in _ANY_METRIC}
        self._common = common

    def _place(self, key: Any) -> Hashable:
        """Under which key it is in `common`; None for what belongs to the metric."""
        if isinstance(key, str):
            return key
        name = self._names.get(key[0]) if len(key) == 2 else None  # a method, and which rows and members
        return None if name is None else (name, key[1])

    def __contains__(self, key: object) -> bool:
        place = self._place(key)
        return super().__contains__(key) if place is None else place in self._common

    def __getitem__(self, key: Hashable) -> Any:
        place = self._place(key)
        return super().__getitem__(key) if place is None else self._common[place]

    def __setitem__(self, key: Hashable, value: Any) -> None:
        place = self._place(key)
        if place is None:
            super().__setitem__(key, value)
        else:
            self._common[place] = value


def _score_all(
    sample: Sample, metric: str, learned: dict[Hashable, Any], ways: list[str] | None = None
) -> dict[str, float]:
    """The score of each way on fresh rows; greater is better. `learned`: by other metrics, of the same draw."""
    measure = METRICS[metric]
    sign = 1.0 if measure.greater_is_better else -1.0

    def score(combined: Combined) -> float:
        return sign * measure(sample.fresh_labels, combined.probs, decisions=combined.decisions)

    own = [sign * measure(sample.labels, matrix) for matrix in sample.stack]
    results = {"plain mean": score(soft(sample.fresh))}
    results["best single"] = score(soft([sample.fresh[int(np.argmax(own))]]))
    results["geometric"] = score(geometric(sample.fresh))
    names = [f"m{number}" for number in range(len(sample.stack))]
    memo = _Memo(metric, learned)
    labelled = Labelled(sample.stack, sample.labels, sample.folds, sample.groups, metric, memo=memo)
    for spec in _SPECS:
        if spec.partition(":")[0] in METHODS and (ways is None or spec in ways):
            results[spec] = score(learn(make_method(spec, metric), labelled).answer(sample.fresh))
    for way, options in {"ens auto": BlendOptions("auto", metric), "ens default": BlendOptions(metric=metric)}.items():
        if way == "ens default" and options.method == "auto" and "ens auto" in results:
            results[way] = results["ens auto"]
        elif ways is None or way in ways:  # all that the command does: members left out, judged, perhaps a fallback
            verdict = judge_rows(labelled, names, [None] * len(names), options, details=False)
            results[way] = score(verdict.answer(sample.fresh))
    if ways is None or "scikit-learn stacking" in ways:
        stacked = labelled.remembered("stacked", lambda: _stacked(sample.stack, sample.labels, sample.fresh))
        results["scikit-learn stacking"] = score(stacked)
    if ways is None:
        results["best of six by cross-validation"] = results[_best_of_six(sample, labelled, own)]
    return results


def _stacked(stack: list[Array], labels: Integers, fresh: list[Array]) -> Combined:
    """What StackingClassifier does: a logistic regression on all members' probabilities."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=300).fit(np.hstack(stack), labels)
    probs = np.zeros(fresh[0].shape)
    probs[:, model.classes_] = model.predict_proba(np.hstack(fresh))
    return soft([probs])


def _best_of_six(sample: Sample, labelled: Labelled, own: list[float]) -> str:
    """Which of six ways scores best when each is learned without a fold and scored on it."""
    measure = METRICS[labelled.metric]
    sign = 1.0 if measure.greater_is_better else -1.0

    def score(combined: Combined) -> float:
        return sign * measure(sample.labels, combined.probs, decisions=combined.decisions)

    scores = {"plain mean": score(soft(sample.stack)), "best single": max(own)}
    scores["geometric"] = score(geometric(sample.stack))
    for spec in ("optimize", "greedy"):
        scores[spec] = score(cross_fit(make_method(spec, labelled.metric), labelled)[0])

    def stacked() -> Combined:
        probs = np.empty(sample.stack[0].shape)
        for fold in np.unique(sample.folds[0]):
            rest, held = sample.folds[0] != fold, sample.folds[0] == fold
            learned = [matrix[rest] for matrix in sample.stack]
            probs[held] = _stacked(learned, sample.labels[rest], [matrix[held] for matrix in sample.stack]).probs
        return soft([probs])

    scores["scikit-learn stacking"] = score(labelled.remembered("stacked, cross-fitted", stacked))
    return max(_SIX, key=lambda way: scores[way])


def _table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """A line a way: gain over the plain mean / mean rank / regret, in thousandths, for each part."""
    by_setting: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for key, values in scores.items():
        name, metric, _ = key.rsplit("/", 2)
        by_setting.setdefault((name, metric), []).append(values)
    ways = list(next(iter(scores.values())))
    cells: dict[str, list[str]] = {way: [] for way in ways}
    counts = [len(draws) for draws in by_setting.values()]
    for names, metrics in _PARTS.values():
        parts = [(name, metric) for name in list(CHOOSING)[names] for metric in metrics if (name, metric) in by_setting]
        tables = [np.array([[draw[way] for way in ways] for draw in by_setting[part]]) for part in parts]
        gains = np.mean([1000 * (table - table[:, :1]).mean(axis=0) for table in tables], axis=0)
        regrets = np.mean([1000 * (table.mean(axis=0).max() - table.mean(axis=0)) for table in tables], axis=0)
        ranks = np.mean([np.mean([_ranks(-row) for row in table], axis=0) for table in tables], axis=0)
        for index, way in enumerate(ways):
            cells[way].append(f"{gains[index]:.1f} / {ranks[index]:.2f} / {regrets[index]:.1f}")
    lines = [f"{min(counts)} to {max(counts)} draws a design; gain / mean rank / regret"]
    lines += ["| way | " + " | ".join(_PARTS) + " |", "|---" * (len(_PARTS) + 1) + "|"]
    return "\n".join(lines + [f"| {way} | " + " | ".join(cells[way]) + " |" for way in ways])


def _ranks(values: Array) -> Array:
    """Ranks from 1; equal ones share theirs."""
    rounded = np.round(values, 9)
    below = (rounded[None, :] < rounded[:, None]).sum(axis=1)
    return np.asarray(below + ((rounded[None, :] == rounded[:, None]).sum(axis=1) + 1) / 2)


if __name__ == "__main__":
    sys.exit(main())
