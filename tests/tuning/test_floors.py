"""Stopping within a fold: what floors say on made-up curves, and what becomes of a trial that falls below one."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.tuning import queue as fold_queue
from ensemble.tuning.evidence import Comparison
from ensemble.tuning.stopping import LEAST_CHANCE, Course, Floors, _least_gap, at, chance_to_win, floors_of
from tests.support import Ens, alter_record

EPOCHS, K = 10, 5


def curve(final: float) -> tuple[float, ...]:
    """It rises towards its end, faster at first."""
    return tuple(final * (1 - 0.5 ** (epoch / 2)) for epoch in range(1, EPOCHS + 1))


def course(number: int, final: float, folds: int = 1) -> Course:
    pairs = tuple(Comparison(final - 0.95, 0.01**2) for _ in range(folds))
    total = final if folds == K else None
    return Course(number, (final,) * folds, total, pairs, (curve(final),) * folds)


BEST = course(0, 0.95, K)
OTHERS = [BEST, *(course(number, 0.95 - number / 20) for number in range(1, 9))]


def floors(others: list[Course] = OTHERS, done: int = 0, paired: Comparison | None = None) -> Floors:
    known = floors_of(others, K, done, EPOCHS, done, paired)
    assert known is not None
    return known


def test_nothing_stops_before_there_is_something_to_learn_from() -> None:
    assert floors_of([], K, 0, EPOCHS, 0, None) is None
    assert floors_of([BEST], K, 0, EPOCHS, 0, None) is None
    assert floors_of([*OTHERS[1:]], K, 0, EPOCHS, 0, None) is None  # no incumbent
    assert floors_of(OTHERS, K, 0, 1, 0, None) is None  # an epoch alone has no middle


def test_a_floor_lies_below_the_incumbent_and_comes_nearer_to_it_with_every_epoch() -> None:
    known = floors()
    gaps = [
        reference - score for score, reference in zip(known.scores, known.reference, strict=True) if score is not None
    ]
    assert len(known.scores) == EPOCHS - 1
    assert gaps
    assert all(gap > 0 for gap in gaps)
    at_end = [score for score in known.scores[-3:] if score is not None]
    assert at_end == sorted(at_end)


def test_a_trial_that_is_nearly_finished_is_finished() -> None:
    last = floors(done=K - 1, paired=Comparison(-0.3, 0.005**2)).scores
    assert all(score is not None for score in last[EPOCHS // 4 : EPOCHS // 2])
    assert not any(score is not None for score in last[EPOCHS // 2 :])


def test_curves_that_cross_late_keep_trials_alive() -> None:
    random = np.random.default_rng(0)
    crossing = []
    for number in range(1, 30):
        wild = random.permutation(curve(0.95 - number / 100)).tolist()
        wild[-1] = 0.95 - number / 100
        calm = course(number, wild[-1])
        crossing.append(Course(number, calm.folds, None, calm.pairs, (tuple(wild),)))
    loose, tight = floors([BEST, *crossing]), floors()
    for calm_score, wild_score in zip(tight.scores, loose.scores, strict=True):
        assert wild_score is None or (calm_score is not None and wild_score <= calm_score)


def test_a_trial_that_was_ahead_on_its_first_folds_is_given_more_room() -> None:
    behind = floors(done=2, paired=Comparison(-0.01, 0.005**2)).scores[-1]
    ahead = floors(done=2, paired=Comparison(0.01, 0.005**2)).scores[-1]
    assert behind is not None
    assert ahead is None or ahead < behind


@given(
    slope=st.floats(0.05, 1.5),
    doubt=st.floats(0.0, 0.5),
    scale=st.floats(1e-4, 0.1),
    before=st.floats(-0.2, 0.2),
    rest=st.floats(1e-8, 0.1),
)
def test_at_the_gap_the_chance_to_win_is_the_least_one(
    slope: float, doubt: float, scale: float, before: float, rest: float
) -> None:
    def chance(gap: float) -> float:
        return chance_to_win(before - slope * gap, rest + (doubt * (gap + scale)) ** 2)

    gap = _least_gap(slope, doubt, scale, before, rest)
    if gap is None:
        assert chance(1e6) > LEAST_CHANCE - 1e-6
        return
    assert chance(gap) <= LEAST_CHANCE + 1e-6
    assert chance(gap * 1.01 + 1e-6) < LEAST_CHANCE
    if gap > 1e-6:
        assert math.isclose(chance(gap), LEAST_CHANCE, rel_tol=1e-4)


def test_a_share_of_a_curve_lies_between_its_epochs() -> None:
    assert at((1.0, 2.0, 3.0, 4.0), 0.5) == 2.0
    assert at((1.0, 2.0, 3.0, 4.0), 0.625) == 2.5
    assert at((1.0, 2.0), 0.1) == 1.0
    assert at((1.0, 2.0), 1.0) == 2.0


def unreachable_floors(fold_to_stop: int) -> Callable[..., Floors | None]:
    """Floors that no score reaches, in one fold of every trial but the first."""

    def make_floors(others: Any, k: int, fold: int, epochs: int, done: int, paired: Comparison | None) -> Floors | None:
        if not others or fold != fold_to_stop:
            return None
        rest = (epochs - 2) * (None,)
        before = 0.0 if paired is None else paired.difference * done
        return Floors(0, (2.0, *rest), (0.9,) * (epochs - 1), (0.5,) * (epochs - 1), before, done + 1)

    return make_floors


@pytest.mark.parametrize("fold", [0, 1])
def test_a_trial_below_a_floor_ends_there_with_an_estimate_and_does_so_again_after_a_kill(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch, fold: int
) -> None:
    monkeypatch.setattr(fold_queue, "floors_of", unreachable_floors(fold))
    words = ("tune", "--recipe", "tiny", "--trials", "2", "--workers", "1", "--no-rescore", "--json")
    lenient = ("--set", "search.train.lr={low: 2.9e-3, high: 3.1e-3}", "--set", "search.augment=[light]")
    answer = ens(*words, *lenient)
    assert answer.code == 0, answer.err
    trial = answer.document["trials"][1]
    assert trial["state"] == "stopped"
    assert (len(trial["folds"]), trial["part"]) == (fold, 0.5)
    assert trial["estimate"] is not None
    assert "after epoch 1 of 2 of the same fold" in trial["reason"]
    assert answer.document["folds"]["trained"] == 2 + fold + 0.5
    assert f"trial 1: stopped in fold {fold + 1} of 2" in answer.err
    place = workspace / "outputs/studies/tiny/trial-1"
    assert not list(place.glob("fold-*/checkpoint*"))
    assert json.loads((place / "run.json").read_text())["fold_states"][fold]["state"] == "missing"

    path = place / "trial.json"
    alter_record(path, state="running", folds=[], part=0.0, estimate=None, reason=None, of_folds=None)
    again = ens(*words, *lenient).document["trials"][1]
    kept = ("state", "folds", "part", "estimate", "reason", "values")
    assert {key: again[key] for key in kept} == {key: trial[key] for key in kept}


def test_the_curve_of_a_finished_fold_is_kept_in_its_trial(workspace: Path, ens: Ens) -> None:
    answer = ens("tune", "--recipe", "tiny", "--trials", "1", "--no-rescore", "--json")
    assert answer.code == 0, answer.err
    place = workspace / "outputs/studies/tiny/trial-0"
    for fold, note in enumerate(answer.document["trials"][0]["folds"]):
        with (place / f"fold-{fold}/history.csv").open(newline="") as stream:
            assert note["curve"] == [float(row["macro_f1"]) for row in csv.DictReader(stream)]
