"""Decisions learned for a score: cuts of ordered classes, multipliers for kappa, and how blends use them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.blending.formula import Formula
from ensemble.blending.methods import make_method
from ensemble.blending.options import BlendOptions
from ensemble.blending.verdict import Verdict, judge_rows
from ensemble.combining.crossfit import Labelled, learn
from ensemble.combining.thresholds import (
    best_cuts,
    best_multipliers,
    class_tuned,
    decide_by_cuts,
    expected_class,
    tune_problem,
)
from ensemble.core.metrics import METRICS, decide
from ensemble.errors import InputError

CUT_METRICS = ["accuracy", "balanced_accuracy", "kappa", "macro_f1", "quadratic_kappa"]


def _draw(seed: int, rows: int, classes: int, steps: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Few `steps`: plenty of equal rows."""
    random = np.random.default_rng(seed)
    raw = random.integers(1, steps + 1, (rows, classes)).astype(float)
    return raw / raw.sum(axis=1, keepdims=True), random.integers(0, classes, rows)


def graded(rows: int, seed: int = 0, metric: str = "quadratic_kappa", members: int = 2) -> Labelled:
    """Grades of very different size, seen by members that lean to the middle."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=rows)
    labels = np.searchsorted([0.2, 0.8, 1.3, 1.8], truth)
    stack = []
    for _ in range(members):
        seen = truth + 0.7 * random.normal(size=rows)
        scores = -2 * np.square(seen[:, None] - np.array([-0.6, 0.5, 1.05, 1.5, 2.2])) + np.log([6, 2, 1, 0.5, 0.3])
        stack.append(np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True))
    return Labelled(stack, labels, (np.arange(rows) % 5)[None], None, metric, ordered=True)


def judged(labelled: Labelled, method: str = "soft", **options: object) -> Verdict:
    names = [f"m{number}" for number in range(len(labelled.stack))]
    chosen = BlendOptions(method=method, metric=labelled.metric, select="all", **options)  # type: ignore[arg-type]
    return judge_rows(labelled, names, [None] * len(names), chosen, details=False)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 50),
    classes=st.integers(2, 6),
    steps=st.sampled_from([2, 1000]),
    metric=st.sampled_from(CUT_METRICS),
)
def test_cuts_ascend_and_do_not_depend_on_the_order_of_rows(
    seed: int, rows: int, classes: int, steps: int, metric: str
) -> None:
    probs, labels = _draw(seed, rows, classes, steps)
    cuts = best_cuts(probs, labels, metric)
    assert len(cuts) == classes - 1 and (np.diff(cuts) >= 0).all() and np.isfinite(cuts).all()
    order = np.random.default_rng(seed).permutation(rows)
    np.testing.assert_allclose(best_cuts(probs[order], labels[order], metric), cuts, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(2, 60),
    classes=st.integers(2, 5),
    steps=st.sampled_from([3, 1000]),
    metric=st.sampled_from(CUT_METRICS),
)
def test_cuts_score_no_worse_than_rounding_on_the_rows_they_learned_from(
    seed: int, rows: int, classes: int, steps: int, metric: str
) -> None:
    probs, labels = _draw(seed, rows, classes, steps)
    rounded = decide_by_cuts(probs, np.arange(classes - 1) + 0.5)
    found = decide_by_cuts(probs, best_cuts(probs, labels, metric, pseudo_rows=0))
    before, after = (METRICS[metric](labels, probs, decisions=each) for each in (rounded, found))
    assert np.isnan(before) or after >= before - 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(4, 40), metric=st.sampled_from(CUT_METRICS))
def test_the_cut_of_two_classes_is_the_best_there_is(seed: int, rows: int, metric: str) -> None:
    probs, labels = _draw(seed, rows, 2)
    labels[:2] = [0, 1]
    score = METRICS[metric](labels, probs, decisions=decide_by_cuts(probs, best_cuts(probs, labels, metric, 0)))
    for cut in np.linspace(-0.01, 1.01, 300):
        other = METRICS[metric](labels, probs, decisions=decide_by_cuts(probs, np.array([cut])))
        assert np.isnan(other) or other <= score + 1e-9


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(6, 60))
def test_multipliers_of_two_classes_are_the_best_for_kappa(seed: int, rows: int) -> None:
    probs, labels = _draw(seed, rows, 2)
    labels[:2] = [0, 1]
    tuned = best_multipliers(probs, labels, "kappa")
    score = METRICS["kappa"](labels, probs, decisions=decide(probs * tuned))
    for odds in np.exp(np.linspace(-3.9, 3.9, 200)):
        assert METRICS["kappa"](labels, probs, decisions=decide(probs * [1, odds])) <= score + 1e-9


def test_equal_rows_are_decided_alike_whatever_was_added_in_which_order() -> None:
    probs = np.array([[0.1, 0.2, 0.7], [0.7, 0.2, 0.1]])
    expected = expected_class(probs)
    for shift in (-1e-13, 0.0, 1e-13):
        assert decide_by_cuts(probs, expected[[1, 0]] + shift).tolist() == [2, 1]


@pytest.mark.parametrize("missing", [0, 2, 4])
def test_a_class_without_labels_does_no_harm(missing: int) -> None:
    labelled = graded(200)
    rows = np.flatnonzero(labelled.labels != missing)
    part = replace(labelled, stack=[each[rows] for each in labelled.stack], labels=labelled.labels[rows])
    part = replace(part, folds=labelled.folds[:, rows])
    fitted = learn(class_tuned(make_method("soft", "quadratic_kappa")), part)
    cuts = np.array(fitted.learned["class_cuts"])
    assert len(cuts) == 4 and (np.diff(cuts) >= 0).all()


def test_auto_learns_cuts_for_quadratic_kappa_by_itself_and_soft_stays_what_it_is() -> None:
    labelled = graded(800)
    verdict, plain = judged(labelled, "auto"), judged(labelled, "soft")
    assert "class_cuts" in verdict.fitted.learned and "class_cuts" not in plain.fitted.learned
    assert verdict.honest is not None and plain.honest is not None
    assert verdict.honest.value > plain.honest.value
    fresh = graded(5000, seed=1)
    tuned = verdict.answer(fresh.stack)
    kappa = METRICS["quadratic_kappa"](fresh.labels, tuned.probs, decisions=tuned.decisions)
    assert kappa > METRICS["quadratic_kappa"](fresh.labels, tuned.probs)
    assert kappa == pytest.approx(verdict.honest.value, abs=0.04)


def test_without_a_known_order_of_classes_cuts_are_neither_learned_nor_to_be_had() -> None:
    labelled = replace(graded(300), ordered=False)
    assert "class_cuts" not in judged(labelled, "auto").fitted.learned
    with pytest.raises(InputError, match="needs the classes' order"):
        judged(labelled, tune_classes=True)


@pytest.mark.parametrize("rows", [2, 3, 12])
@pytest.mark.parametrize("members", [1, 2])
def test_few_rows_and_a_single_member_give_an_answer(rows: int, members: int) -> None:
    labelled = graded(rows, members=members)
    verdict = judged(labelled, "auto", tune_classes=True)
    assert verdict.answer(labelled.stack).decisions.shape == (rows,)


def test_groups_stay_together_when_cuts_are_judged() -> None:
    """Each row four times: with groups the verdict is that of the single rows, no surer."""
    labelled = graded(150)
    four = np.tile(np.arange(150), 4)
    grouped = replace(
        labelled,
        stack=[each[four] for each in labelled.stack],
        labels=labelled.labels[four],
        folds=labelled.folds[:, four],
        groups=four,
    )
    verdict = judged(grouped, "auto")
    assert verdict.honest is not None and verdict.honest.units == 150


@pytest.mark.parametrize("metric", CUT_METRICS)
def test_a_formula_read_from_json_decides_by_the_same_cuts(metric: str) -> None:
    labelled = graded(400, metric=metric)
    verdict = judged(labelled, tune_classes=True, force=True)
    assert {"class_cuts", "class_multipliers"} & set(verdict.fitted.learned)
    formula = Formula(verdict.fitted.step, verdict.kept, verdict.fitted.weights, False)
    document = {
        "apply": formula.plain(),
        "members": [{"run": "m0"}, {"run": "m1"}],
        "classes": list("abcde"),
        "method": "soft",
        "name": "b",
    }
    again = Formula.of(json.loads(json.dumps(document)), "blend.json")
    expected, answer = verdict.answer(labelled.stack), again.answer(labelled.stack)
    np.testing.assert_allclose(answer.probs, expected.probs, atol=1e-12)
    assert np.array_equal(answer.decisions, expected.decisions)
    document["apply"]["step"] = {"do": "cut", "class_cuts": [0.5, 1.5], "of": {"do": "soft"}}  # type: ignore[index]
    with pytest.raises(InputError, match="2 cuts for 5 classes"):
        Formula.of(document, "blend.json")


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_f1", "kappa", "accuracy"])
def test_tuned_decisions_that_lose_on_other_folds_are_not_used(metric: str) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 120)
    scores = random.normal(size=(2, 120, 4))
    scores[:, np.arange(120), labels] += 1
    probs = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
    labelled = Labelled(list(probs), labels, (np.arange(120) % 5)[None], None, metric)
    verdict, forced = judged(labelled, tune_classes=True), judged(labelled, tune_classes=True, force=True)
    assert verdict.honest is not None and forced.honest is not None
    assert verdict.honest.value >= forced.honest.value


def test_what_can_be_tuned() -> None:
    assert all(tune_problem(metric) == "" for metric in CUT_METRICS)
    assert "does not look at decisions" in tune_problem("log_loss")
    assert tune_problem("mcc")
