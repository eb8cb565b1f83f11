"""What decisions and calibration learned from out-of-fold rows are worth on fresh rows, beside what they replace.

Real models, trained anew for every draw (`designs`), on ordinal tables (a number cut into classes) and uneven ones.
Every figure is measured on thousands of rows that no model and nothing learned has seen.

    .venv/bin/python tools/accuracy/decisions.py --draws 200 --keep FOLDER

`--only members` is about temperatures: test rows get the mean of the folds' models, less sure than each of them alone.
Its constants were chosen on draws 0 to 15; `--first` leaves them out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from designs import INTERVALS, Array, Design, Sample, Table, drawn, patients, three

from ensemble.blending.methods import make_method
from ensemble.blending.options import BlendOptions
from ensemble.blending.verdict import Verdict, judge_rows
from ensemble.combining.calibration import fit_temperature
from ensemble.combining.combine import Combined, logs, soft, softmax
from ensemble.combining.crossfit import Labelled, cross_fit, learn
from ensemble.combining.reliability import _gaps
from ensemble.combining.thresholds import best_cuts, decide_by_cuts
from ensemble.core.metrics import METRICS

_POPULATION = 20_000
_PSEUDO_ROWS = (0, 20, 50, 200, 1_000_000)
_TUNED = ("quadratic_kappa", "kappa", "accuracy", "balanced_accuracy", "macro_f1")


@cache
def diabetes(classes: int) -> Table:
    """The shipped table, its target cut into classes of equal size."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    return Table(np.asarray(bunch.data), _cut(bunch.target, np.arange(1, classes) / classes))


@cache
def graded(kind: str, cuts: tuple[float, ...], noise: float, seed: int = 0) -> Table:
    """A drawn regression, cut at these shares."""
    from sklearn.datasets import make_friedman1, make_regression

    if kind == "friedman":
        inputs, target = make_friedman1(_POPULATION, noise=noise, random_state=seed)
    else:
        inputs, target = make_regression(_POPULATION, 12, n_informative=8, noise=noise, random_state=seed)
    return Table(inputs, _cut(target, np.array(cuts)))


def _cut(target: Array, shares: Array) -> Any:
    return np.searchsorted(np.quantile(target, shares), target).astype(np.int64)


def sure(seed: int) -> dict[str, Any]:
    """Members that are far too sure of themselves."""
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    return {
        "bayes": GaussianNB(),
        "tree": DecisionTreeClassifier(min_samples_leaf=3, random_state=seed),
        "net": MLPClassifier((30,), max_iter=80, learning_rate_init=0.02, alpha=0.0, random_state=seed),
    }


_EVEN5, _RARE5 = (0.2, 0.4, 0.6, 0.8), (0.6, 0.8, 0.9, 0.97)
ORDINAL: Mapping[str, Design] = {
    "diabetes, 5 classes, 100 rows": Design(partial(diabetes, 5), 100, three),
    "friedman, 5 classes, 60 rows": Design(partial(graded, "friedman", _EVEN5, 2.0), 60, three),
    "friedman, 5 uneven, 200 rows": Design(partial(graded, "friedman", _RARE5, 2.0), 200, three),
    "regression, 4 classes, 300 rows": Design(partial(graded, "linear", (0.25, 0.5, 0.75), 80.0, 1), 300, three),
    "regression, 5 uneven, 600 rows": Design(partial(graded, "linear", _RARE5, 80.0, 2), 600, three),
    "friedman, 6 classes, 2,000 rows": Design(
        partial(graded, "friedman", (0.3, 0.5, 0.7, 0.85, 0.95), 3.0, 3), 2000, three
    ),
}
_RARE = (0.5, 0.25, 0.12, 0.07, 0.04, 0.02)
OTHERS: Mapping[str, Design] = {
    "5 classes, 200 rows": Design(partial(drawn, 5, 1.5), 200, three),
    "6 uneven classes, 300 rows": Design(partial(drawn, 6, 1.5, _RARE, seed=1), 300, three),
    "6 uneven classes, 1,000 rows": Design(partial(drawn, 6, 1.5, _RARE, seed=1), 1000, three),
    "25 patients of 12 rows": Design(partial(patients, 12, 4, 0.8), 25, three),
    "sure members, 5 classes, 100 rows": Design(partial(drawn, 5, 1.5), 100, sure),
    "sure members, 5 classes, 500 rows": Design(partial(drawn, 5, 1.5), 500, sure),
}


def labelled_of(sample: Sample, metric: str) -> Labelled:
    """A draw's out-of-fold rows."""
    is_scale = metric == "quadratic_kappa"
    return Labelled(sample.stack, sample.labels, sample.folds, sample.groups, metric, ordered=is_scale)


def judged(labelled: Labelled, **options: Any) -> Verdict:
    """What is used of members that are all kept."""
    names = [f"m{number}" for number in range(len(labelled.stack))]
    chosen = BlendOptions(**{"method": "soft", "select": "all", "metric": labelled.metric} | options)
    return judge_rows(labelled, names, [None] * len(names), chosen, details=False)


def score(sample: Sample, metric: str, answer: Combined) -> float:
    """On the fresh rows."""
    return float(METRICS[metric](sample.fresh_labels, answer.probs, decisions=answer.decisions))


def true_error(sample: Sample, answer: Combined) -> float:
    """The expected calibration error on the fresh rows, in as many bins as there are always."""
    probs = answer.probs
    right = (probs.argmax(axis=1) == sample.fresh_labels).astype(np.float64)
    shares, gaps, errors = _gaps(probs.max(axis=1), right, np.arange(len(right)))
    squares = np.maximum(np.square(gaps) - np.square(errors), 0)  # less what luck adds even here
    return float(shares @ np.sqrt(squares))


def tuned_row(design: Design, name: str, draws: int, keep: Path | None, metric: str) -> list[float]:
    """Gains over the likeliest class: always, as judged; how often used; how much too good the honest score is."""
    rows = []
    for sample in design.draws(name, draws, keep):
        labelled = labelled_of(sample, metric)
        plain = score(sample, metric, make_method("soft", metric).ready.answer(sample.fresh))  # type: ignore[union-attr]
        always = judged(labelled, tune_classes=True, force=True)
        chosen = judged(labelled, tune_classes=True)
        gains = [score(sample, metric, verdict.answer(sample.fresh)) - plain for verdict in (always, chosen)]
        used = any(key in chosen.fitted.learned for key in ("class_cuts", "class_multipliers"))
        honest = float("nan") if chosen.honest is None else chosen.honest.value
        rows.append([*gains, float(used), honest - plain - gains[1]])
    return _summary(np.array(rows))


def pseudo_row(design: Design, name: str, draws: int, keep: Path | None) -> list[float]:
    """Gains of cuts learned with different numbers of pseudo-rows."""
    rows = []
    for sample in design.draws(name, draws, keep):
        labelled = labelled_of(sample, "quadratic_kappa")
        fitted = learn(make_method("soft", "quadratic_kappa"), labelled)
        here, fresh = fitted.answer(sample.stack), fitted.answer(sample.fresh)
        plain = score(sample, "quadratic_kappa", fresh)
        gains = []
        for count in _PSEUDO_ROWS:
            cuts = best_cuts(here.probs, sample.labels, "quadratic_kappa", count)
            decided = replace(fresh, decisions=decide_by_cuts(fresh.probs, cuts))
            gains.append(score(sample, "quadratic_kappa", decided) - plain)
        rows.append(gains)
    return _summary(np.array(rows))


def calibration_row(design: Design, name: str, draws: int, keep: Path | None) -> list[float]:
    """Log-loss and calibration error on fresh rows: without, after, before, as judged; how often the interval holds."""
    rows = []
    for sample in design.draws(name, draws, keep):
        labelled = labelled_of(sample, "accuracy")
        ways: list[dict[str, Any]] = [
            {},
            {"calibrate": "temperature", "force": True},
            {"calibrate": "temperature", "calibrate_when": "before", "force": True},
            {"calibrate": "temperature"},
        ]
        values: list[float] = []
        for way in ways:
            verdict = judged(labelled, **way)
            answer = verdict.answer(sample.fresh)
            values += [score(sample, "log_loss", answer), true_error(sample, answer)]
            if way in (ways[0], ways[3]):
                assert verdict.calibration is not None
                ece = verdict.calibration.ece
                values += [ece.value - values[-1], float(ece.ci95[0] <= values[-1] <= ece.ci95[1])]
        rows.append(values)
    return _summary(np.array(rows))


def member_rows(design: Design, numbers: Iterable[int], name: str, keep: Path | None) -> dict[str, list[float]]:
    """Of blends and of each member alone: the log-loss on fresh rows, and in thousandths what temperatures change."""
    rows: dict[str, list[list[float]]] = {}
    for number in numbers:
        sample = design.draw(name, number, keep)
        count = len(sample.stack)
        for label, method, chosen in (
            ("mean", "soft", range(count)),
            ("pool", "pool", range(count)),
            *((f"member {index}", "soft", (index,)) for index in range(count)),
        ):
            stack, fresh = ([matrices[index] for index in chosen] for matrices in (sample.stack, sample.fresh))
            labelled = Labelled(stack, sample.labels, sample.folds, sample.groups, "log_loss")
            bare = judged(labelled, method=method)  # of a pool that is worse than the mean, the mean
            honest, answer = cross_fit(make_method(bare.used, "log_loss"), labelled)[0], bare.answer(fresh)
            plain = softmax(logs(answer.probs) / fit_temperature(honest.probs, sample.labels))
            verdict = judged(labelled, method=method, calibrate="temperature")
            assert verdict.calibration is not None
            losses = [score(sample, "log_loss", each) for each in (answer, soft([plain]), verdict.answer(fresh))]
            gains = [1000 * (loss - losses[0]) for loss in losses[1:]]
            rows.setdefault(label, []).append([losses[0], *gains, float(verdict.calibration.used)])
    return {label: _summary(np.array(values)) for label, values in rows.items()}


def _summary(rows: Array) -> list[float]:
    """Each mean, then its standard error."""
    means, errors = np.nanmean(rows, axis=0), np.nanstd(rows, axis=0, ddof=1) / np.sqrt(len(rows))
    return [float(number) for pair in zip(means, errors, strict=True) for number in pair]


def _line(name: str, numbers: list[float]) -> None:
    cells = [f"{value:.3f} ± {error:.3f}" for value, error in zip(numbers[::2], numbers[1::2], strict=True)]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def _head(*cells: str) -> None:
    print("\n| " + " | ".join(cells) + " |\n|" + "---|" * len(cells), flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw, of --only members (0)")
    parser.add_argument("--only", choices=("cuts", "tuned", "calibration", "members"))
    arguments = parser.parse_args()
    draws, keep = arguments.draws, arguments.keep
    if arguments.only in (None, "cuts"):
        _head("quadratic kappa: gain by cuts", *(f"{count:,} pseudo-rows" for count in _PSEUDO_ROWS))
        for name, design in ORDINAL.items():
            _line(name, pseudo_row(design, name, draws, keep))
    if arguments.only in (None, "tuned"):
        for metric in _TUNED:
            _head(metric, "gain if always used", "gain as judged", "used", "honest score too good by")
            for name, design in (ORDINAL if metric == "quadratic_kappa" else OTHERS).items():
                _line(name, tuned_row(design, name, draws, keep, metric))
    if arguments.only in (None, "calibration"):
        head = ("without: log-loss", "ECE", "its bias", "95 % held", "after: log-loss", "ECE", "before: log-loss")
        _head("temperature", *head, "ECE", "as judged: log-loss", "ECE", "its bias", "95 % held")
        for name, design in OTHERS.items():
            _line(name, calibration_row(design, name, draws, keep))
    if arguments.only in (None, "members"):
        _head("temperature", "log-loss without", "change in thousandths: always, as fitted", "as judged", "used")
        for name, design in {**OTHERS, **INTERVALS}.items():
            numbers = range(arguments.first, arguments.first + draws)
            for label, cells in member_rows(design, numbers, name, keep).items():
                _line(f"{name}: {label}", cells)


if __name__ == "__main__":
    main()
