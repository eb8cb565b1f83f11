"""What is claimed to be exact, against something slower: convex weights, greedy picks, multipliers, temperatures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from ensemble.combining.calibration import fit_temperature
from ensemble.combining.crossfit import Labelled
from ensemble.combining.greedy import greedy_weights, make_candidates, pick_greedily
from ensemble.combining.pools import Pool, fit_pool
from ensemble.combining.simplex import least_brier, least_log_loss
from ensemble.combining.stacking import fit_regression
from ensemble.combining.thresholds import TUNABLE, best_multipliers
from ensemble.core.metrics import METRICS, decide

Problem = tuple[list[np.ndarray], np.ndarray]


def _draw(seed: int, members: int, rows: int, classes: int, steps: int = 10**6) -> Problem:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    raw = random.integers(1, steps, (members, rows, classes)).astype(float)
    raw[:, np.arange(rows), labels] += steps * random.uniform(0, 1, (members, 1))
    return list(raw / raw.sum(axis=2, keepdims=True)), labels


def _labelled(problem: Problem, metric: str) -> Labelled:
    return Labelled(problem[0], problem[1], np.zeros((1, len(problem[1])), dtype=int), metric=metric)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), members=st.integers(1, 8), rows=st.integers(1, 40))
def test_convex_weights_are_the_least_of_a_general_solver(seed: int, members: int, rows: int) -> None:
    true_class = np.random.default_rng(seed).uniform(1e-6, 1, (members, rows)) ** 2
    found = least_log_loss(true_class)
    assert found.gap <= 1e-6
    assert found.weights.min() >= 0
    assert found.weights.sum() == pytest.approx(1)
    other = minimize(
        lambda weights: -np.log(weights @ true_class).mean(),
        np.full(members, 1 / members),
        jac=lambda weights: -(true_class / (weights @ true_class)).mean(axis=1),
        bounds=[(1e-12, 1)] * members,
        constraints=[{"type": "eq", "fun": lambda weights: weights.sum() - 1}],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert -np.log(found.weights @ true_class).mean() <= other.fun + 1e-7


def test_copies_share_their_weight() -> None:
    true_class = np.random.default_rng(0).uniform(0.1, 1, (2, 50))
    weights = least_log_loss(np.repeat(true_class, 2, axis=0)).weights
    np.testing.assert_allclose(weights[[0, 2]], weights[[1, 3]], atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    members=st.integers(1, 6),
    rows=st.integers(2, 60),
    classes=st.integers(2, 5),
    steps=st.sampled_from([4, 10**6]),
    metric=st.sampled_from(sorted(METRICS)),
)
def test_what_a_member_would_add_is_what_the_metric_says(
    seed: int, members: int, rows: int, classes: int, steps: int, metric: str
) -> None:
    """Also with ties, which a coarse grid makes plenty of."""
    problem = _draw(seed, members, rows, classes, steps)
    candidates = make_candidates(_labelled(problem, metric))
    measure, total = METRICS[metric], np.zeros(problem[0][0].shape)
    sign = -1 if measure.greater_is_better else 1
    for count, taken in enumerate(np.random.default_rng(seed).integers(0, members, 4), start=1):
        wanted = [sign * measure(problem[1], (total + matrix) / count) for matrix in problem[0]]
        np.testing.assert_allclose(candidates.errors(range(members)), wanted, atol=1e-9)
        candidates.add(int(taken))
        total = total + problem[0][taken]


@pytest.mark.parametrize("metric", sorted(METRICS.keys() - {"top5_accuracy"}))  # these are four classes
def test_greedy_picks_are_those_of_a_naive_version(metric: str) -> None:
    stack, labels = _draw(3, 6, 300, 4)
    picks = pick_greedily(_labelled((stack, labels), metric), rounds=8)
    measure, total = METRICS[metric], np.zeros(stack[0].shape)
    sign = -1 if measure.greater_is_better else 1
    for count, taken in enumerate(picks.all_picks, start=1):
        errors = [sign * measure(labels, (total + matrix) / count) for matrix in stack]
        assert errors[taken] <= min(errors) + 1e-6
        total += stack[taken]
    assert picks.order == picks.all_picks[: len(picks.order)]


def test_the_best_beginning_is_kept_and_a_sorted_start_is_no_worse_than_the_best_member() -> None:
    problem = _draw(5, 8, 200, 3)
    labelled = _labelled(problem, "accuracy")
    picks = pick_greedily(labelled, rounds=20, sorted_start=True)
    own = [METRICS["accuracy"](problem[1], matrix) for matrix in problem[0]]
    assert -picks.error >= max(own) - 1e-6
    weights = picks.weights(8)
    assert METRICS["accuracy"](problem[1], np.tensordot(weights, np.stack(problem[0]), 1)) == pytest.approx(
        -picks.error, abs=1e-6
    )


def test_bags_spread_the_weight() -> None:
    """AutoGluon's option of that name changes nothing; ours must."""
    labelled = _labelled(_draw(7, 10, 300, 3), "log_loss")
    alone, bagged = greedy_weights(labelled), greedy_weights(labelled, bags=20)
    assert bagged.sum() == pytest.approx(1)
    assert (bagged > 0).sum() > (alone > 0).sum()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(6, 60), metric=st.sampled_from(sorted(TUNABLE)))
def test_multipliers_of_two_classes_are_the_best_there_are(seed: int, rows: int, metric: str) -> None:
    (probs, *_), labels = _draw(seed, 1, rows, 2)
    labels[:2] = [0, 1]
    found = best_multipliers(probs, labels, metric)
    score = METRICS[metric](labels, probs, decisions=decide(probs * found))
    for odds in np.exp(np.linspace(-3.9, 3.9, 400)):
        assert METRICS[metric](labels, probs, decisions=decide(probs * [1, odds])) <= score + 1e-9


def test_multipliers_help_rare_classes_and_leave_probabilities_alone() -> None:
    random = np.random.default_rng(0)
    labels = random.choice(3, 3000, p=[0.9, 0.08, 0.02])
    scores = random.normal(size=(3000, 3)) + np.log([0.9, 0.08, 0.02])
    scores[np.arange(3000), labels] += 1.5
    probs = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    found = best_multipliers(probs, labels, "macro_f1")
    assert found[2] > found[0]
    tuned = METRICS["macro_f1"](labels, probs, decisions=decide(probs * found))
    assert tuned > METRICS["macro_f1"](labels, probs) + 0.02


@pytest.mark.parametrize("more", [0.0, 1.0, 40.0])
@pytest.mark.parametrize("sharpness", [0.3, 0.6, 1.0])
def test_the_temperature_is_the_one_of_least_log_loss(sharpness: float, more: float) -> None:
    (probs, *_), labels = _draw(1, 1, 400, 3)
    probs = probs**sharpness / (probs**sharpness).sum(axis=1, keepdims=True)

    def loss(logarithm: float) -> float:
        sharp = probs ** np.exp(-logarithm)
        sharp /= sharp.sum(axis=1, keepdims=True)
        return METRICS["log_loss"](labels, sharp) - more / 400 * np.log(sharp).mean()

    best = minimize_scalar(loss, bounds=(-2.9, 2.9), method="bounded", options={"xatol": 1e-9})
    assert np.log(fit_temperature(probs, labels, more=more)) == pytest.approx(best.x, abs=1e-4)


def test_a_regression_is_the_least_of_its_penalised_loss() -> None:
    stack, labels = _draw(2, 2, 120, 3)
    features = np.log(np.stack(stack)).transpose(2, 0, 1)
    (found,) = fit_regression(features, labels, [0.1])

    def value(parameters: np.ndarray) -> float:
        slopes, offsets = parameters[:6].reshape(2, 3), parameters[6:]
        scores = np.einsum("cmr,mc->rc", features, slopes) + offsets
        loss = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(120), labels]
        return float(loss.mean() + 0.1 / 6 * (((slopes - 0.5) ** 2).sum() + (offsets**2).sum()))

    ours = value(np.concatenate([found.slopes.ravel(), found.offsets]))
    assert ours <= minimize(value, np.concatenate([np.full(6, 0.5), np.zeros(3)])).fun + 1e-6


def test_rows_of_probability_zero_do_not_break_a_fit() -> None:
    labels = np.array([0, 1, 0, 1])
    wrong = np.eye(2)[1 - labels]
    assert np.isfinite(fit_temperature(wrong, labels))
    labelled = _labelled(([wrong, np.full((4, 2), 0.5)], labels), "log_loss")
    assert least_log_loss(labelled.true_class).weights[1] == pytest.approx(1)


@pytest.mark.parametrize("sets", [False, True], ids=["one class a row", "sets"])
def test_no_other_slopes_and_no_other_weights_score_better(sets: bool) -> None:
    """The pool's penalised log-loss, and the Brier score of a mean, at their optimum and around it."""
    random = np.random.default_rng(2)
    labels = (random.random((60, 3)) < 0.4).astype(np.int64) if sets else random.integers(0, 3, 60)
    truth = labels if sets else np.eye(3)[labels]
    scores = truth * 2 * random.uniform(0.2, 1, (4, 1, 1)) + random.normal(size=(4, 60, 3))
    probs = 1 / (1 + np.exp(-scores)) if sets else np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    labelled = Labelled(list(probs), labels, (np.arange(60) % 5)[None], None, "log_loss")

    def loss(slopes: np.ndarray) -> float:
        given = Pool(slopes, sets=sets).answer(labelled.stack).probs
        right = np.where(truth != 0, given, 1 - given) if sets else given[np.arange(60), labels]
        return float(-np.log(right).sum() / (3 if sets else 1) + 0.1 * 4 * ((slopes - 0.25) ** 2).sum() / 2)

    def brier(weights: np.ndarray) -> float:
        mixed = np.tensordot(weights, probs, 1) - truth
        mean = float(((probs - truth) ** 2).sum() / 4)
        return float((mixed**2).sum() / mean + 4 / 60 * ((weights - 0.25) ** 2).sum())

    slopes, weights = fit_pool(labelled).slopes, least_brier(labelled.stack, labels)
    whole = ({"type": "eq", "fun": lambda given: given.sum() - 1},)
    for function, here, limits in ((loss, slopes, ()), (brier, weights, whole)):
        there = minimize(function, np.full(4, 0.25), bounds=[(0, None)] * 4, constraints=limits, method="SLSQP").fun
        assert function(here) <= there + 1e-6
