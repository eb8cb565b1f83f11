"""What `ens tune` itself costs beside training, with 1,000 finished trials: a proposal, a verdict, a restart, a trial.

    python tools/bench/tune_overhead.py [--trials 1000]

The peer is Optuna alone: `ask` and `tell` of its own study in memory with as many trials. Then a real study: one trial
of `quickstart`, cut down, its ledger filled up with copies, and twenty trials more. `a trial` is all the time of the
CPU that the queue of folds takes for one, from the proposal to its end; merging finished trials is part of it. What a
worker does is not: in this process, that is building the network before the first trial of its kind.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from side_by_side import row

from ensemble.recipe.recipe import SearchDimension
from ensemble.runs import work as execute
from ensemble.tuning.evidence import Comparison
from ensemble.tuning.queue import FoldQueue, course_of
from ensemble.tuning.samplers import Proposer, frozen_trial
from ensemble.tuning.space import distributions_of, values_of
from ensemble.tuning.stopping import POLICIES, Course
from ensemble.tuning.trials import FoldNote, Trial, load_trials, save_trial
from ensemble.tuning.tune import tune

SPACE = {
    "train.lr": SearchDimension(low=1e-4, high=1e-1, log=True),
    "train.weight_decay": SearchDimension(low=1e-4, high=0.3, log=True),
    "loss.label_smoothing": SearchDimension(low=0.0, high=0.15),
    "augment": SearchDimension(choices=["none", "light"]),
}


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trials", type=int, default=1000)
    count = parser.parse_args().trials
    trials = _trials(count)
    with tempfile.TemporaryDirectory() as place:
        for trial in trials:
            save_trial(Path(place), trial)
        restart = _median(lambda: _restart(Path(place)), 3)
        proposer = _restart(Path(place))
        saved = _median(lambda: save_trial(Path(place), trials[-1]), 20)
    propose = _median(lambda: proposer.propose(count, trials), 15)
    courses = [course_of(trial, 1) for trial in trials]
    race = POLICIES["race"]
    verdict = _median(
        lambda: race(Course(count, (0.8,)), courses, 5, lambda first, second, folds: Comparison(-0.01, 1e-4)), 20
    )
    alone = _optuna(trials)
    whole, again = _real(trials)
    values = f"{propose * 1e3:.1f} ms", "Optuna alone", f"{alone * 1e3:.1f} ms"
    note = f"restart {restart:.2f} s; verdict {verdict * 1e3:.2f} ms; trial.json {saved * 1e3:.2f} ms"
    print(row(f"a proposal after {count} trials", *values, alone / propose, note=note))
    print(f"a whole study: restart {again:.2f} s; a trial {whole * 1e3:.1f} ms")


def _trials(count: int) -> list[Trial]:
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        params = {
            "train.lr": float(10 ** random.uniform(-4, -1)),
            "train.weight_decay": float(10 ** random.uniform(-4, -0.6)),
            "loss.label_smoothing": float(random.uniform(0, 0.15)),
            "augment": int(random.integers(2)),
        }
        score = float(random.uniform(0.8, 0.95))
        notes = tuple(FoldNote(score, 0, -0.01, 1e-4) for _ in range(5 if number % 3 == 0 else 1))
        value, estimate = (score, None) if number % 3 == 0 else (None, score)
        state = "complete" if number % 3 == 0 else "stopped"
        found.append(
            Trial(number, params, values_of(SPACE, params), state, value, folds=notes, of_folds=5, estimate=estimate)  # type: ignore[arg-type]
        )
    return found


def _restart(study: Path) -> Proposer:
    """What a command does before it can propose: read the ledger, rebuild Optuna's study, ask once."""
    trials = load_trials(study)
    proposer = Proposer(SPACE, {}, sampler="tpe", seed=0, greater_is_better=True)
    proposer.propose(len(trials), trials)
    return proposer


def _real(trials: list[Trial]) -> tuple[float, float]:
    """Seconds of the CPU that a trial takes beside training, and a restart."""
    spent = 0.0

    def timed(owner: Any, name: str, sign: int) -> None:
        inner = getattr(owner, name)

        def outer(*arguments: Any, **named: Any) -> Any:
            nonlocal spent
            started = time.process_time()
            try:
                return inner(*arguments, **named)
            finally:
                spent += sign * (time.process_time() - started)

        setattr(owner, name, outer)

    def study(folder: str, count: int) -> float:
        started = time.process_time()
        sets = ["train.epochs=1", "folds.k=2", "image.size=8", "search.budget=null"]
        tune("quickstart", trials=count, sets=sets, engine="inline", with_rescore=False, folder=folder, outputs=outputs)
        return time.process_time() - started

    with tempfile.TemporaryDirectory() as place:
        outputs = Path(place) / "outputs"
        study(place, 1)
        (path,) = outputs.glob("studies/*")
        (first,) = load_trials(path)
        for trial in trials[1:]:
            params = {**trial.params, "train.lr": 1e-3 + (trial.params["train.lr"] % 0.019), "train.weight_decay": 0.1}
            copy = dataclasses.replace(first, number=trial.number, params=params, state="stopped", value=None)
            save_trial(path, dataclasses.replace(copy, estimate=trial.known_value, folds=first.folds[:1]))
        restart = study(place, len(trials))
        for name in ("take_up", "next_task", "follow"):
            timed(FoldQueue, name, 1)
        timed(execute, "run_tasks", -1)
        study(place, len(trials) + 1)
        once = spent  # with what a command does but once
        study(place, len(trials) + 22)
    return (spent - 2 * once) / 20, restart


def _optuna(trials: list[Trial]) -> float:
    """Ask and tell of Optuna's own."""
    distributions = distributions_of(SPACE)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0, constant_liar=True))
    study.add_trials([frozen_trial(trial.params, trial.known_value, distributions) for trial in trials])
    return _median(lambda: study.tell(study.ask(distributions), 0.5), 15)


def _median(call: Callable[[], object], times: int) -> float:
    spent = []
    for _ in range(times):
        started = time.process_time()
        call()
        spent.append(time.process_time() - started)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
