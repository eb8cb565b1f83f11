"""How often "95 %" intervals hold, and what "better with a probability of 60 %" is worth, where models are retrained.

Every draw of `designs.py` trains its members anew and keeps what each fold's models say of thousands of rows they never
saw. So the truth about an out-of-fold score is known: of this training (the mean over its fold models), of the same
training done again (the mean of the former over all draws), and of the submission (the mean over folds, which is
better, as it is an ensemble).

    .venv/bin/python tools/accuracy/intervals.py --keep FOLDER --draws 200 --first 100

The constants of `ensemble/combining/intervals.py` were chosen on draws 0 to 99, which the default leaves out. It asks
nothing of the package but `judge_rows`, so it measures other versions too: PYTHONPATH=OTHER_CHECKOUT.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from designs import INTERVALS, Array, Design, Sample

from ensemble.blending.methods import make_method
from ensemble.blending.options import BlendOptions
from ensemble.blending.verdict import judge_rows
from ensemble.combining.combine import soft
from ensemble.combining.crossfit import Labelled, learn
from ensemble.core.metrics import METRICS

_METRICS = ("accuracy", "log_loss", "macro_f1", "balanced_accuracy", "roc_auc")
_METHODS = ("soft", "optimize", "greedy")
_TRUTHS = ("truth", "again", "submitted")
_ADVICE = 0.25  # as in `ensemble/combining/honest.py`


@dataclass
class Row:
    """One judgement: what was said, and what is true on fresh rows."""

    metric: str
    what: str  # the score of a method, or its gain over something
    value: float
    ends: tuple[float, float] | None
    truth: float  # of this training
    submitted: float  # of the mean over folds
    better: float | None = None
    again: float = field(default=float("nan"))  # of the same training done again; known after all draws


Judged = Mapping[str, Mapping[tuple[str, str], list[Row]]]
"""By design, then by metric and question."""


def judge_draw(sample: Sample, metric: str, methods: Sequence[str]) -> list[Row]:
    """Every method of one draw by one metric."""
    labelled = Labelled(sample.stack, sample.labels, sample.folds, sample.groups, metric)
    measure, sign, members = METRICS[metric], labelled.sign, range(len(sample.stack))
    names = [f"m{member}" for member in members]

    def score(probs: Array, decisions: npt.NDArray[Any] | None = None) -> float:
        return measure(sample.fresh_labels, probs, decisions=decisions)

    plain = np.array([score(soft(fold).probs) for fold in sample.by_fold])
    plain_submitted = score(soft(sample.fresh).probs)
    single = np.array([[score(fold[member]) for member in members] for fold in sample.by_fold])
    scorers = [measure.scorer(sample.labels, matrix) for matrix in sample.stack]

    def best(rows: Array) -> int:
        return int(np.argmax(np.nan_to_num([sign * scorer(rows) for scorer in scorers], nan=-np.inf)))

    folds = sample.folds[0]
    picks = [best((folds != fold).astype(np.float64)) for fold in np.unique(folds)]
    crossed = np.array([single[fold, pick] for fold, pick in enumerate(picks)])
    final = best(np.ones(len(folds)))
    rows = []
    for name in methods:
        options = BlendOptions(name, metric, select="all", force=True)
        honest = judge_rows(labelled, names, [None for _ in members], options, details=False).honest
        if honest is None:
            continue
        truths, submitted = plain, plain_submitted
        if name != "soft":
            method = make_method(name, metric)
            rests = [rest for rest, _ in labelled.splits[0]]
            answers = [learn(method, rest).answer(fold) for rest, fold in zip(rests, sample.by_fold, strict=True)]
            truths = np.array([score(answer.probs, answer.decisions) for answer in answers])
            answer = learn(method, labelled).answer(sample.fresh)
            submitted = score(answer.probs, answer.decisions)
        rows.append(Row(metric, name, honest.value, _ends(honest.ci95), float(truths.mean()), submitted))
        lone = score(sample.fresh[final])
        pairs = [("best, cross-fitted", honest.gain_over_best_single, crossed, lone)]
        pairs.append(("best of all rows", honest.gain_over_best_single, single[:, final], lone))
        if name != "soft":
            pairs.append(("mean", honest.gain_over_uniform, plain, plain_submitted))
        for other, gain, theirs, theirs_submitted in pairs:
            true = float(sign * (truths - theirs).mean())
            ends, gap = _ends(gain.ci95), sign * (submitted - theirs_submitted)
            rows.append(Row(metric, f"{name} over {other}", gain.value, ends, true, gap, gain.p_better))
    return rows


def _ends(interval: list[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])


def judge_design(name: str, design: Design, arguments: argparse.Namespace) -> list[list[Row]]:
    """A list of judgements a draw; those of before are read where `--numbers` kept them."""
    path = None
    if arguments.numbers is not None:
        arguments.numbers.mkdir(parents=True, exist_ok=True)
        path = arguments.numbers / f"{name.replace(' ', '_').replace(',', '')}.pickle"
    done: dict[int, list[Row]] = {}
    if path is not None and path.exists():
        done = pickle.loads(path.read_bytes())  # written by this script
    wanted = range(arguments.first, arguments.first + arguments.draws)
    for count, number in enumerate(number for number in wanted if number not in done):
        sample = design.draw(name, number, arguments.keep)
        done[number] = [row for metric in _METRICS for row in judge_draw(sample, metric, arguments.methods)]
        if path is not None and count % 20 == 19:
            path.write_bytes(pickle.dumps(done))
    if path is not None:
        path.write_bytes(pickle.dumps(done))
    return [done[number] for number in wanted if number in done]


def _columns(draws: Iterable[list[Row]]) -> Mapping[tuple[str, str], list[Row]]:
    """All draws of each metric and question, with the truth of training again."""
    columns: dict[tuple[str, str], list[Row]] = {}
    for row in (row for draw in draws for row in draw):
        columns.setdefault((row.metric, row.what), []).append(row)
    for rows in columns.values():
        again = float(np.mean([row.truth for row in rows]))
        for row in rows:
            row.again = again
    return columns


def _held(rows: list[Row], truth: str) -> float:
    inside = [row.ends is not None and row.ends[0] <= getattr(row, truth) <= row.ends[1] for row in rows]
    return float(np.mean(inside))


def _width(rows: list[Row]) -> float:
    """The median width against that of an oracle, which knows how far the value lies from the truth."""
    ends = [row.ends for row in rows if row.ends is not None]
    oracle = 2 * 1.96 * float(np.std([row.value - row.truth for row in rows]))
    return float(np.median([high - low for low, high in ends])) / oracle if oracle > 0 else float("nan")


def print_coverage(title: str, whats: Iterable[str], columns: Judged) -> None:
    """A line a design: held of this training / trained again / the submission, and the width."""
    for what in whats:
        every = [rows for of_design in columns.values() for (_, name), rows in of_design.items() if name == what]
        if not every:
            continue
        print(f"\n{title}: {what}\n\n| design | draws | " + " | ".join(_METRICS) + " |")
        print("|---" * (2 + len(_METRICS)) + "|")
        for design, of_design in columns.items():
            cells = []
            for metric in _METRICS:
                rows = of_design.get((metric, what), [])
                held = " / ".join(f"{100 * _held(rows, truth):.1f}" for truth in _TRUTHS) if rows else "-"
                cells.append(f"{held} ({_width(rows):.2f})" if rows else held)
            draws = max((len(rows) for rows in of_design.values()), default=0)
            print(f"| {design} | {draws} | " + " | ".join(cells) + " |")
        none = np.mean([row.ends is None or row.ends[0] == row.ends[1] for rows in every for row in rows])
        low = " / ".join(f"{100 * min(_held(rows, truth) for rows in every):.1f}" for truth in _TRUTHS)
        print(f"\nlowest {low}; of zero width or none {none:.1%}")


def print_calibration(columns: Judged) -> None:
    """What is said to be better with some probability, against how often it is."""
    questions = ("soft over best, cross-fitted", "optimize over mean", "greedy over mean")
    said: dict[str, list[tuple[str, Row]]] = {}
    for design, of_design in columns.items():
        for (_, what), rows in of_design.items():
            if what in questions:
                said.setdefault(what, []).extend((design, row) for row in rows)
    everything = [pair for pairs in said.values() for pair in pairs]
    print('\n"Better with a probability of": said, and how often it is so (of the submission); ties count half\n')
    print("| said | judgements | all | lowest and highest without one design | " + " | ".join(said) + " |")
    print("|---" * (4 + len(said)) + "|")
    for low in np.arange(0, 1, 0.1):
        pairs = [pair for pair in everything if _is_in(pair[1], low)]
        if not pairs:
            continue
        without = [_share([row for other, row in pairs if other != design]) for design in columns]
        cells = [f"{_share([row for _, row in part if _is_in(row, low)]):.2f}" for part in said.values()]
        own = [row for _, row in pairs]
        mean = np.mean([row.better for row in own])
        ends = f"{np.nanmin(without):.2f} to {np.nanmax(without):.2f}"
        shares = f"{_share(own):.2f} ({_share(own, 'submitted'):.2f})"
        print(
            f"| {low:.1f} to {low + 0.1:.1f}: {mean:.2f} | {len(own)} | {shares} | {ends} | " + " | ".join(cells) + " |"
        )


def _is_in(row: Row, low: float) -> bool:
    return row.better is not None and low <= min(row.better, 0.9999) < low + 0.1


def _share(rows: list[Row], truth: str = "truth") -> float:
    """How often it is better; ties count half."""
    if not rows:
        return float("nan")
    return float(np.mean([(getattr(row, truth) > 0) + 0.5 * (getattr(row, truth) == 0) for row in rows]))


def print_advice(columns: Judged) -> None:
    """How often the best member alone is advised, by both rules, and how often it is better on fresh rows."""
    print("\n| the best member alone is advised | how often | right of this training | of the submission |")
    print("|---|---|---|---|")
    rows = [
        row
        for of_design in columns.values()
        for (_, what), part in of_design.items()
        if what.endswith("over best of all rows")
        for row in part
    ]
    rules = {
        f"where the blend is better with {_ADVICE:.0%} or less": [row for row in rows if (row.better or 0) <= _ADVICE],
        "where the gain is below 0": [row for row in rows if row.value < -0.00005],
    }
    for rule, said in rules.items():
        right = [1 - _share(said), 1 - _share(said, "submitted")]
        print(f"| {rule} | {len(said)} of {len(rows)} | {right[0]:.1%} | {right[1]:.1%} |")


def main() -> int:
    """Judge all draws and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=200, help="of each design (200)")
    parser.add_argument("--first", type=int, default=100, help="the number of the first (100)")
    parser.add_argument("--keep", type=Path, help="the folder of draws that were made before")
    parser.add_argument("--numbers", type=Path, help="a folder to keep judgements in, to go on later")
    parser.add_argument("--only", default="", metavar="TEXT", help="designs whose name has this text")
    parser.add_argument("--methods", nargs="+", choices=_METHODS, default=list(_METHODS), help="only these")
    arguments = parser.parse_args()
    columns = {}
    for name, design in INTERVALS.items():
        if arguments.only in name:
            columns[name] = _columns(judge_design(name, design, arguments))
            print(f"judged: {name}", file=sys.stderr, flush=True)
    print("Held of this training / trained again / the submission (median width against an oracle's).")
    print_coverage("scores", _METHODS, columns)
    gains = ["soft over best, cross-fitted", "soft over best of all rows", "optimize over mean", "greedy over mean"]
    print_coverage("gains", gains, columns)
    print_calibration(columns)
    print_advice(columns)
    return 0


if __name__ == "__main__":
    sys.exit(main())
