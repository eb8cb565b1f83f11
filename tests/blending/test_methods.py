"""The contract of every method: it learns from what it is given and from nothing else, whatever comes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from ensemble.blending.methods import fixed, make_method
from ensemble.blending.options import METHOD_WORDS, METHODS, Calibration, method_problem
from ensemble.blending.selection import chosen_first, harmless
from ensemble.cli import build_parser
from ensemble.combining.calibration import CALIBRATIONS, calibrated_after, calibrated_before
from ensemble.combining.combine import soft
from ensemble.combining.crossfit import Labelled, Method, choice, cross_fit, learn
from ensemble.combining.thresholds import class_tuned

SPECS = ["power:2" if name == "power" else name for name in METHODS]
WRAPPED = {
    "temperature after": lambda metric: calibrated_after(make_method("optimize", metric), "temperature"),
    "vector after": lambda metric: calibrated_after(make_method("soft", metric), "vector"),
    "temperature before": lambda metric: calibrated_before(make_method("greedy", metric), "temperature"),
    "vector before": lambda metric: calibrated_before(make_method("geometric", metric), "vector"),
    "classes": lambda metric: class_tuned(make_method("soft", metric)),
    "harmless": lambda metric: chosen_first(make_method("optimize", metric), harmless),
}


def labelled_rows(
    rows: int = 60, members: int = 4, classes: int = 3, seed: int = 0, metric: str = "accuracy", **options: Any
) -> Labelled:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    scores = random.normal(size=(members, rows, classes)) * random.uniform(0.5, 2, (members, 1, 1))
    scores[:, np.arange(rows), labels] += 1.0
    stack = np.exp(scores)
    stack /= stack.sum(axis=2, keepdims=True)
    folds = options.pop("folds", (np.arange(rows) % 3)[None, :])
    return Labelled(list(stack.astype(np.float32)), labels, folds, options.pop("groups", None), metric, **options)


@pytest.fixture(params=[*SPECS, *WRAPPED])
def method(request: pytest.FixtureRequest) -> Method:
    """Every method there is, and every wrapping."""
    return WRAPPED[request.param]("accuracy") if request.param in WRAPPED else make_method(request.param, "accuracy")


class TestEveryMethod:
    """What holds whatever is learned."""

    def test_rows_sum_to_one_in_float64_and_decisions_are_classes(self, method: Method) -> None:
        labelled = labelled_rows()
        for combined in [learn(method, labelled).answer(labelled.stack), *cross_fit(method, labelled)]:
            assert combined.probs.dtype == np.float64
            np.testing.assert_allclose(combined.probs.sum(axis=1), 1, atol=1e-6)
            assert (combined.probs >= 0).all()
            assert ((combined.decisions >= 0) & (combined.decisions < 3)).all()

    def test_inputs_stay_as_they_are_and_may_be_read_only(self, method: Method) -> None:
        labelled = labelled_rows()
        before = [matrix.copy() for matrix in labelled.stack]
        labels = labelled.labels.copy()
        for array in [*labelled.stack, labelled.labels, labelled.folds]:
            array.flags.writeable = False
        cross_fit(method, labelled)
        learn(method, labelled).answer(labelled.stack)
        for matrix, copy in zip(labelled.stack, before, strict=True):
            np.testing.assert_array_equal(matrix, copy)
        np.testing.assert_array_equal(labelled.labels, labels)

    def test_a_folds_answers_do_not_depend_on_its_labels(self, method: Method) -> None:
        """The law that makes values honest: for choices, penalties and selections too."""
        here = labelled_rows(seed=3)
        labels = here.labels.copy()
        held_out = here.folds[0] == 1
        labels[held_out] = np.random.default_rng(9).permutation((labels[held_out] + 1) % 3)
        there = Labelled(here.stack, labels, here.folds, None, "accuracy")
        one, other = (cross_fit(method, rows)[0] for rows in (here, there))
        np.testing.assert_array_equal(one.probs[held_out], other.probs[held_out])
        np.testing.assert_array_equal(one.decisions[held_out], other.decisions[held_out])

    def test_what_was_learned_answers_for_any_rows_without_labels(self, method: Method) -> None:
        labelled, others = labelled_rows(), labelled_rows(rows=7, seed=5)
        assert learn(method, labelled).answer(others.stack).probs.shape == (7, 3)

    def test_the_same_rows_give_the_same_bits(self, method: Method) -> None:
        one, other = (cross_fit(method, labelled_rows(seed=2))[0] for _ in range(2))
        np.testing.assert_array_equal(one.probs, other.probs)

    @pytest.mark.parametrize(
        "options",
        [
            {"members": 1},
            {"rows": 2, "folds": np.array([[0, 1]])},
            {"classes": 2},
            {"classes": 1},
            {"rows": 30, "classes": 40},  # classes that no label is of
            {"folds": np.zeros((1, 60), dtype=int)},  # a hold-out: one fold is all there is
            {"folds": np.array([np.arange(60) % 3, np.arange(60) // 20])},  # a repeated plan
            {"groups": np.arange(60) // 6},
            {"groups": np.zeros(60, dtype=int), "folds": np.zeros((1, 60), dtype=int)},  # nothing can be left out
        ],
        ids=["one member", "two rows", "binary", "one class", "unseen", "hold-out", "repeats", "groups", "one group"],
    )
    def test_small_and_odd_data_work(self, method: Method, options: dict[str, Any]) -> None:
        labelled = labelled_rows(**options)
        answers = cross_fit(method, labelled)
        assert len(answers) == (1 if method.ready is not None else len(labelled.splits))
        for combined in [*answers, learn(method, labelled).answer(labelled.stack)]:
            assert np.isfinite(combined.probs).all()


@pytest.mark.parametrize("spec", ["optimize", "brier", "pool", "single", "greedy", "stack"])
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "log_loss", "roc_auc"])
def test_the_order_of_members_and_rows_is_not_what_is_learned(spec: str, metric: str) -> None:
    here = labelled_rows(rows=200, seed=4, metric=metric)
    members, rows = np.array([2, 0, 3, 1]), np.random.default_rng(1).permutation(200)
    stack = [here.stack[member][rows] for member in members]
    there = Labelled(stack, here.labels[rows], here.folds[:, rows], None, metric)
    one, other = (learn(make_method(spec, metric), labelled) for labelled in (here, there))
    answers = one.answer(here.stack).probs[rows], other.answer(stack).probs
    np.testing.assert_allclose(*answers, atol=1e-9 if spec != "stack" else 1e-3)


def test_many_classes_work() -> None:
    labelled = labelled_rows(rows=300, members=3, classes=1000)
    for spec in ("optimize", "greedy", "geometric", "rank"):
        assert learn(make_method(spec, "accuracy"), labelled).answer(labelled.stack).probs.shape == (300, 1000)


def test_a_better_member_gets_the_weight_and_stacking_mends_a_biased_one() -> None:
    labelled = labelled_rows(rows=2000, seed=6, metric="log_loss")
    exact = np.eye(3)[labelled.labels] * 0.9 + 0.1 / 3
    swapped = exact[:, [1, 0, 2]]  # names two classes the wrong way round: no weight helps, a slope below zero does
    good = Labelled([*labelled.stack, exact], labelled.labels, labelled.folds, None, "log_loss")
    for spec in ("optimize", "greedy"):
        weights = learn(make_method(spec, "log_loss"), good).weights
        assert weights is not None and weights[-1] > 0.9
    odd = Labelled([swapped], labelled.labels, labelled.folds, None, "log_loss")
    answer = learn(make_method("stack", "log_loss"), odd).answer(odd.stack)
    assert (answer.decisions == odd.labels).mean() > (soft([swapped]).decisions == odd.labels).mean()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("power", "a number must follow"),
        ("power:", "a number must follow"),
        ("power:x", "is not a number"),
        ("power:nan", "is not a number"),
        ("power:99", "is not a number from -20 to 20"),
        ("soft:2", "takes nothing"),
        ("greedy:0", "bags"),
        ("greedy:1.5", "bags"),
        ("caruana", "known are auto, soft, hard"),
    ],
)
def test_words_that_are_no_method_are_refused(spec: str, words: str) -> None:
    assert words in method_problem(spec)


def test_help_and_docs_list_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["blend", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert all(word in shown for word in METHOD_WORDS)
    page = (Path(__file__).parents[2] / "docs" / "blending.md").read_text(encoding="utf-8")
    for name in METHODS:
        assert f"| `{name}" in page, name


def test_every_calibration_that_can_be_named_exists() -> None:
    assert set(get_args(Calibration)) == set(CALIBRATIONS)


def test_a_choice_stays_with_the_first_until_another_is_better_beyond_doubt() -> None:
    labelled = labelled_rows(rows=400, members=3, seed=8)
    first, second = labelled.stack[0], labelled.stack[0].copy()
    wrong = np.flatnonzero(first.argmax(axis=1) != labelled.labels)
    second[wrong[0]] = np.eye(3)[labelled.labels[wrong[0]]]
    third = second.copy()
    third[wrong[:40]] = np.eye(3)[labelled.labels[wrong[:40]]]
    alone = [fixed(name, soft, weights) for name, weights in zip("abc", np.eye(3).tolist(), strict=True)]
    rows = Labelled([first, second, third], labelled.labels, labelled.folds, None, "accuracy")
    assert learn(choice("of two", alone[:2]), rows).learned["chosen"] == "a"
    assert learn(choice("of three", alone), rows).learned["chosen"] == "c"
    assert learn(choice("of three", alone[::-1]), rows).learned["chosen"] == "c"


def test_a_power_of_one_is_the_mean_and_of_zero_the_geometric_mean() -> None:
    stack = labelled_rows().stack
    for spec, twin in (("power:1", "soft"), ("power:0", "geometric")):
        answers = [learn(make_method(name, "accuracy"), labelled_rows()).answer(stack).probs for name in (spec, twin)]
        np.testing.assert_allclose(*answers, atol=1e-6)


def test_the_geometric_mean_survives_a_veto_of_every_class() -> None:
    stack = [np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])]
    np.testing.assert_allclose(learn(make_method("geometric", "accuracy"), labelled_rows()).answer(stack).probs, 0.5)


def test_ranks_of_one_member_are_its_own_probabilities() -> None:
    stack = labelled_rows(members=1).stack
    answer = learn(make_method("rank", "roc_auc"), labelled_rows()).answer(stack)
    np.testing.assert_allclose(answer.probs, stack[0], atol=1e-6)
