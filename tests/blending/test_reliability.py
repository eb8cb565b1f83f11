"""Calibration: judged by log-loss whatever the metric, and the expected calibration error with its interval."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.blending.options import BlendOptions
from ensemble.blending.verdict import Verdict, judge_rows
from ensemble.combining.calibration import fit_temperature
from ensemble.combining.combine import decided, logs, softmax
from ensemble.combining.crossfit import Labelled
from ensemble.combining.reliability import calibration_error
from ensemble.commands.blend_command import calibration_lines
from ensemble.core.metrics import METRICS


def _rows(
    count: int, sharpness: float, seed: int = 0, metric: str = "accuracy", classes: int = 4, folds: int = 5
) -> Labelled:
    """Labels are drawn from probabilities, which are then raised to a power: 1 is calibrated, more is too sure."""
    random = np.random.default_rng(seed)
    scores = 1.5 * random.normal(size=(count, classes))
    probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = (random.random((count, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=classes - 1)
    sharp = probs**sharpness
    sharp /= sharp.sum(axis=1, keepdims=True)
    return Labelled([sharp, sharp.copy()], labels, (np.arange(count) % folds)[None], None, metric)


def _judged(labelled: Labelled, **options: object) -> Verdict:
    chosen = BlendOptions(metric=labelled.metric, select="all", **options)  # type: ignore[arg-type]
    return judge_rows(labelled, ["a", "b"], [None, None], chosen, details=False)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
@pytest.mark.parametrize("kind", ["temperature", "vector"])
def test_calibration_that_lowers_log_loss_is_used_whatever_the_metric(metric: str, kind: str) -> None:
    verdict = _judged(_rows(1500, 3.0, metric=metric, folds=1), method="soft", calibrate=kind)
    known = verdict.calibration
    assert known is not None and known.used and verdict.fallback is None
    assert verdict.used == f"soft+{kind}"
    assert known.log_loss_with is not None and known.log_loss_without is not None and known.ece_without is not None
    assert known.log_loss == known.log_loss_with < known.log_loss_without
    assert known.ece.value < 0.04 < known.ece_without.value


def test_calibration_that_raises_log_loss_is_not_used_and_force_overrides() -> None:
    rows = _rows(60, 1.0, seed=4)
    verdict = _judged(rows, method="soft", calibrate="vector")
    known = verdict.calibration
    assert known is not None and known.log_loss_with is not None and known.log_loss_without is not None
    assert known.log_loss_with > known.log_loss_without == known.log_loss
    assert not known.used and verdict.used == "soft"
    forced = _judged(rows, method="soft", calibrate="vector", force=True)
    assert forced.used == "soft+vector" and forced.calibration is not None and forced.calibration.used


def test_where_models_are_averaged_less_sure_probabilities_need_two_standard_errors_and_surer_ones_none() -> None:
    for sharpness, folds, used in ((1.3, 5, False), (1.3, 1, True), (0.7, 5, True)):
        verdict = _judged(_rows(400, sharpness, folds=folds), method="soft", calibrate="temperature")
        known = verdict.calibration
        assert known is not None and known.log_loss_with is not None and known.log_loss_without is not None
        assert known.log_loss_with < known.log_loss_without and known.used == used
        assert verdict.used == ("soft+temperature" if used else "soft")


def test_the_screen_says_why_a_lower_log_loss_is_not_used() -> None:
    error = {"value": 0.05, "ci95": [0.0, 0.1]}
    known = {"ece": error, "kind": "temperature", "when": "after", "used": False, "log_loss_without": 0.5}
    why = "lower by less than two standard errors"
    assert why in " ".join(calibration_lines({**known, "log_loss_with": 0.49}))
    assert why not in " ".join(calibration_lines({**known, "log_loss_with": 0.51}))
    assert why not in " ".join(calibration_lines({**known, "used": True, "ece_without": error, "log_loss_with": 0.4}))


def _temperature(rows: Labelled) -> float:
    forced = _judged(rows, method="soft", calibrate="temperature", force=True)
    return float(forced.fitted.learned["calibration"]["temperature"])


def test_a_third_of_a_temperature_above_1_is_used_where_test_rows_get_the_mean_of_several_models() -> None:
    for sharpness in (2.0, 0.5):
        alone, averaged = (_temperature(_rows(800, sharpness, folds=folds)) for folds in (1, 5))
        assert (alone > 1) == (sharpness > 1)
        assert averaged == pytest.approx(alone ** (1 / 3) if sharpness > 1 else alone)


@pytest.mark.parametrize("folds", [1, 2, 5])
def test_what_is_learned_without_a_fold_knows_how_many_models_there_are(folds: int) -> None:
    # A hold-out's rows are dealt anew, and of two folds one is left: the numbers of the folds that are left mislead.
    rows = _rows(60, 1.0, folds=folds)
    parts = [rest for splits in rows.splits for rest, _ in splits]
    assert parts and all(part.is_averaged == rows.is_averaged == (folds > 1) for part in parts)


def test_calibration_of_single_models_harms_their_mean_less_than_half_as_much_as_their_own_temperature() -> None:
    # Five models that are right on average and noisy each: alone too sure, their mean is not.
    random = np.random.default_rng(3)
    scores = random.normal(size=(4000, 3)) * 1.5
    probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = (random.random((4000, 1)) > probs.cumsum(axis=1)).sum(axis=1).clip(max=2)
    noisy = np.exp(scores + random.normal(size=(5, 4000, 3)) * 1.2)
    noisy /= noisy.sum(axis=2, keepdims=True)
    folds = np.arange(4000) % 5
    own = noisy[folds, np.arange(4000)]
    rows = Labelled([own, own.copy()], labels, folds[None], None, "accuracy")
    verdict = _judged(rows, method="soft", calibrate="temperature")
    mean = noisy.mean(axis=0)
    loss = METRICS["log_loss"]
    full = softmax(logs(mean) / fit_temperature(own, labels))
    answers = (full, verdict.answer([mean, mean]).probs)
    plain, ours = (loss(labels, probs) - loss(labels, mean) for probs in answers)
    assert verdict.calibration is not None and verdict.calibration.used
    assert plain > 0.02 and ours < plain / 2


def test_zeros_of_a_tree_count_as_small_probabilities_of_any_size() -> None:
    rows = _rows(300, 3.0)
    zeros, small = (np.where(rows.stack[0] < 1e-3, value, rows.stack[0]) for value in (0.0, 1e-4))
    temperatures = [_temperature(replace(rows, stack=[matrix, matrix], memo={})) for matrix in (zeros, small)]
    assert temperatures[0] == pytest.approx(temperatures[1])


def test_rows_that_are_all_right_do_not_make_probabilities_sure_without_limit() -> None:
    labels = np.arange(30) % 3
    rows = Labelled([np.eye(3)[labels] * 0.4 + 0.2] * 2, labels, (np.arange(30) % 5)[None], None, "accuracy")
    assert 0.1 < _temperature(rows) < 0.5


def test_the_error_of_calibrated_probabilities_is_less_than_half_of_the_plain_figure() -> None:
    errors, plain = [], []
    for seed in range(60):
        rows = _rows(100, 1.0, seed)
        errors.append(calibration_error([decided(rows.stack[0], sets=False)], rows))
        order = np.argsort(rows.stack[0].max(axis=1))
        gaps = rows.stack[0].max(axis=1) - (rows.stack[0].argmax(axis=1) == rows.labels)
        plain.append(np.mean([abs(part.mean()) for part in np.array_split(gaps[order], 10)]))
    # It can't be below zero, so luck that is not taken away is left: 0.043 of 0.117 over 300 draws.
    assert np.mean([error.value for error in errors]) < np.mean(plain) / 2
    assert np.mean([error.ci95[0] <= 0.005 for error in errors]) >= 0.9


def test_the_error_of_sure_probabilities_is_what_many_rows_show() -> None:
    many = _rows(200_000, 2.0, 99)
    truth = calibration_error([decided(many.stack[0], sets=False)], many).value
    held, values = [], []
    for seed in range(60):
        rows = _rows(200, 2.0, seed)
        error = calibration_error([decided(rows.stack[0], sets=False)], rows)
        held.append(error.ci95[0] <= truth <= error.ci95[1])
        values.append(error.value)
    assert np.mean(held) >= 0.88
    assert np.mean(values) == pytest.approx(truth, abs=0.02)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 80), steps=st.sampled_from([2, 1000]), sets=st.booleans())
def test_the_error_does_not_depend_on_the_order_of_rows_and_lies_in_its_interval(
    seed: int, rows: int, steps: int, sets: bool
) -> None:
    random = np.random.default_rng(seed)
    probs = random.integers(1, steps + 1, (rows, 3)).astype(float)
    probs /= probs.sum(axis=1, keepdims=True)
    labels = random.integers(0, 2, (rows, 3)).astype(np.uint8) if sets else random.integers(0, 3, rows)
    labelled = Labelled([probs], labels, np.zeros((1, rows), dtype=int))
    error = calibration_error([decided(probs, sets=sets)], labelled)
    assert 0 <= error.ci95[0] <= error.value <= error.ci95[1] <= 1
    order = random.permutation(rows)
    mixed = Labelled([probs[order]], labels[order], np.zeros((1, rows), dtype=int))
    again = calibration_error([decided(probs[order], sets=sets)], mixed)
    assert again.value == pytest.approx(error.value, abs=1e-9)
    assert again.ci95 == pytest.approx(error.ci95, abs=1e-9)


def test_rows_of_one_group_prove_less_than_as_many_rows_of_their_own() -> None:
    rows = _rows(100, 2.0)
    four = np.tile(np.arange(100), 4)
    alone = replace(rows, stack=[each[four] for each in rows.stack], labels=rows.labels[four])
    grouped = replace(alone, groups=four)
    answer = [decided(alone.stack[0], sets=False)]
    wide, narrow = (calibration_error(answer, each).ci95 for each in (grouped, alone))
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(10, 400), sharpness=st.sampled_from([0.5, 1.0, 3.0]))
def test_the_interval_of_the_calibration_error_never_has_zero_width(seed: int, rows: int, sharpness: float) -> None:
    labelled = _rows(rows, sharpness, seed=seed)
    error = calibration_error([decided(np.asarray(labelled.stack[0]))], labelled)
    low, high = error.ci95
    assert 0 <= low <= error.value <= high and low < high
