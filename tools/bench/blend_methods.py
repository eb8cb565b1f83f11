"""How fast weights are found and judged: greedy against AutoGluon's, convex ones against SLSQP on scikit-learn's.

.venv/bin/python tools/bench/blend_methods.py           full size; AutoGluon alone takes a quarter of an hour
.venv/bin/python tools/bench/blend_methods.py --quick   a fifth of the rows
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
from peers.environments import Unavailable, python_of
from side_by_side import row

from ensemble.blending.methods import make_method
from ensemble.blending.options import METHODS
from ensemble.combining.crossfit import Labelled, cross_fit, learn
from ensemble.combining.greedy import Picks, pick_greedily
from ensemble.combining.honest import assess
from ensemble.combining.simplex import least_log_loss
from ensemble.core.metrics import SMALLEST_PROBABILITY

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
_ROUNDS = 25
_WANTED = {"log_loss": 500, "accuracy": 20, "macro_f1": 20, "roc_auc": 3}
_PARTS = ("greedy", "convex", "honest")


def main() -> int:
    """Time each pair in turn, and print a line each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the rows, and two timings instead of five")
    parser.add_argument("--runs", type=int, help="how often to time ours (5); the peer is timed once where it is slow")
    parser.add_argument("--only", choices=_PARTS, help="one part alone")
    parser.add_argument("--metrics", nargs="+", choices=list(_WANTED), help="greedy selection by these alone")
    arguments = parser.parse_args()
    shrink, runs = (5, 2) if arguments.quick else (1, 5)
    runs = arguments.runs or runs
    metrics = arguments.metrics or list(_WANTED)
    greedy = partial(_greedy, metrics)
    parts: dict[str, Callable[[int, int], None]] = {"greedy": greedy, "convex": _convex, "honest": _honest}
    for name, part in parts.items():
        if arguments.only in (None, name):
            part(shrink, runs)
    return 0


def draw(members: int, rows: int, classes: int, seed: int = 0) -> tuple[list[Array], Integers]:
    """Members of different skill that err together in part: about 60 to 95 % of the rows right."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    shared = random.normal(size=(rows, classes))
    shared[np.arange(rows), labels] += 4.5
    stack = []
    for _ in range(members):
        scores = shared + random.normal(size=shared.shape) * random.uniform(0.5, 2)
        scores = np.exp(scores * random.uniform(0.6, 1.4))
        stack.append(scores / scores.sum(axis=1, keepdims=True))
    return stack, labels


def _greedy(metrics: list[str], shrink: int, runs: int) -> None:
    print(f"greedy selection, {_ROUNDS} rounds, 50 members; AutoGluon 1.6 EnsembleSelection in its own environment")
    for metric in metrics:
        rows, classes = 50_000 // shrink, 100 if metric == "log_loss" else 20
        rounds = 3 if metric == "roc_auc" else _ROUNDS
        stack, labels = draw(50, rows, classes)
        seconds, ours = _timed(lambda: _pick(stack, labels, metric, rounds), runs)  # noqa: B023
        name = f"{metric}, 50 x {rows:,} x {classes}, {rounds} rounds"
        try:
            theirs = _autogluon(stack, labels, metric, rounds)
        except Unavailable as error:
            print(f"{name:<44} {seconds:12.3f} s   AutoGluon can't be had here: {error}", flush=True)
            continue
        slow = theirs["seconds"]
        values = f"{seconds:.3f} s", "AutoGluon", f"{slow:.2f} s"
        print(row(name, *values, slow / seconds, _WANTED[metric], _same(ours, theirs["picks"])), flush=True)


def _pick(stack: list[Array], labels: Integers, metric: str, rounds: int) -> Picks:
    """Ours, with nothing prepared; AutoGluon has no sorted start, whatever its options say."""
    return pick_greedily(
        Labelled(stack, labels, np.zeros((1, len(labels)), dtype=np.int64), metric=metric), rounds=rounds
    )


def _autogluon(stack: list[Array], labels: Integers, metric: str, rounds: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "problem.npz"
        np.savez(path, stack=np.stack(stack), labels=labels, metric=metric, rounds=rounds)
        script = Path(__file__).resolve().parent / "peers" / "autogluon_greedy.py"
        command = [str(python_of("autogluon")), "-W", "ignore", str(script), str(path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _same(ours: Picks, theirs: list[int]) -> str:
    """Whether both took the same members in the same order."""
    if list(ours.order) == theirs:
        return f"the same {len(theirs)} picks"
    pairs = zip(ours.all_picks, theirs, strict=False)
    first = next((number for number, (own, other) in enumerate(pairs) if own != other), None)
    if first is None:
        return f"the same picks, ours end after {len(ours.order)}, theirs after {len(theirs)}"
    return f"OTHER PICKS from round {first + 1} on: {ours.all_picks[first:][:3]} and {theirs[first:][:3]}"


def _convex(shrink: int, runs: int) -> None:
    from scipy.optimize import minimize
    from sklearn.metrics import log_loss

    rows = 50_000 // shrink
    stack, labels = draw(30, rows, 10)
    start = np.full(len(stack), 1 / len(stack))
    stacked = np.stack(stack)
    names = np.arange(10)

    def loss(weights: Array) -> float:
        mixed = np.tensordot(weights, stacked, axes=1)
        return float(log_loss(labels, mixed / mixed.sum(axis=1, keepdims=True), labels=names))

    def theirs() -> Any:
        sums_to_one = {"type": "eq", "fun": lambda weights: weights.sum() - 1}
        return minimize(loss, start, method="SLSQP", bounds=[(0, 1)] * len(start), constraints=[sums_to_one])

    def ours() -> Any:
        every = np.arange(rows)
        return least_log_loss(np.array([np.maximum(matrix[every, labels], SMALLEST_PROBABILITY) for matrix in stack]))

    seconds, best = _timed(ours, runs)
    slow, peer = _timed(theirs, 1)
    note = f"log-loss {loss(best.weights):.9f} (gap {best.gap:.1e}) against {peer.fun:.9f}"
    values = f"{seconds:.3f} s", "SLSQP on scikit-learn's log_loss", f"{slow:.2f} s"
    print(row(f"convex weights, 30 x {rows:,} x 10", *values, slow / seconds, 50, note), flush=True)


def _honest(shrink: int, runs: int) -> None:
    """Every method cross-fitted, fitted on everything, judged; `auto` chooses among the others inside of each fold."""
    rows = 20_000 // shrink
    stack, labels = draw(20, rows, 18)
    folds = (np.arange(rows) % 5)[None, :]
    specs = ["power:2" if name == "power" else name for name in METHODS if name != "weighted"]
    for metric in ("accuracy", "macro_f1", "log_loss"):
        labelled = Labelled(
            [matrix.astype(np.float32) for matrix in stack], labels, folds, np.arange(rows) // 2, metric
        )
        started, busy = time.perf_counter(), time.process_time()
        for spec in specs:
            method = make_method(spec, metric)
            everything = learn(method, labelled).answer(labelled.stack)
            judged = assess(labelled, cross_fit(method, labelled), optimistic=everything)
        seconds, busy = time.perf_counter() - started, time.process_time() - busy
        print(
            f"honest evaluation of {len(specs)} methods by {metric}, 20 x {rows:,} x 18, 1000 resamples each: "
            f"{seconds:.1f} s (wanted 20), {busy:.1f} s of all cores; auto {judged.value if judged else 0:.4f}",
            flush=True,
        )


def _timed(work: Callable[[], Any], runs: int) -> tuple[float, Any]:
    """The median of `runs` timings, and what came out. Processor time, which a busy machine changes least."""
    seconds = []
    for _ in range(runs):
        started = time.process_time()
        answer = work()
        seconds.append(time.process_time() - started)
    return median(seconds), answer


if __name__ == "__main__":
    sys.exit(main())
