"""Laws of intervals: where they lie, what widens them, and what must not change them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.combining.intervals import (
    FEWEST,
    FEWEST_OF_A_CLASS,
    Support,
    compare,
    doubt_about,
    unseen_difference,
    unseen_loss,
    with_intervals,
)
from ensemble.core.metrics import METRICS, custom_metric, shared_scorers

KNOWN = [name for name in METRICS if name != "top5_accuracy"]  # these are three classes
Ends = tuple[float, float, float]


def _case(rows: int, seed: int = 0, skill: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    raw = random.random((rows, 3))
    raw[np.arange(rows), labels] += skill
    return labels, raw / raw.sum(axis=1, keepdims=True)


def _interval(
    metric: str, labels: np.ndarray, probs: np.ndarray, units: np.ndarray | None = None, *, retrained: bool = False
) -> Ends:
    units = np.arange(len(labels)) if units is None else units
    scorer = METRICS[metric].scorer(labels, probs)
    ((value, ends),) = with_intervals([scorer], units, metrics=[metric], labels=labels, retrained=retrained)
    assert ends is not None, metric
    return ends[0], value, ends[1]


def _gain(metric: str, labels: np.ndarray, ours: np.ndarray, theirs: np.ndarray, **options: bool) -> Ends:
    kind = METRICS[metric]
    gain = compare(
        kind.scorer(labels, ours),
        kind.scorer(labels, theirs),
        np.arange(len(labels)),
        greater_is_better=kind.greater_is_better,
        metric=metric,
        labels=labels,
        **options,
    )
    assert gain.ci95 is not None
    assert (gain.p_better > 0.5) == (gain.value > 0)
    return gain.ci95[0], gain.value, gain.ci95[1]


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(KNOWN), st.integers(4, 40), st.integers(0, 99), st.sampled_from([0.0, 0.5, 3.0]), st.booleans())
def test_an_interval_holds_its_score_has_a_width_and_stays_on_the_scale(
    metric: str, rows: int, seed: int, skill: float, retrained: bool
) -> None:
    labels, probs = _case(rows, seed, skill)
    low, value, high = _interval(metric, labels, probs, retrained=retrained)
    assert low <= value <= high and low < high
    least = -1 if metric in ("kappa", "quadratic_kappa", "mcc") else 0
    assert low >= least and (high <= 1 or metric == "log_loss")


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(KNOWN), st.integers(4, 150), st.integers(0, 99))
def test_the_order_of_rows_changes_nothing(metric: str, rows: int, seed: int) -> None:
    labels, probs = _case(rows, seed)
    order = np.random.default_rng(seed).permutation(rows)
    assert _interval(metric, labels[order], probs[order]) == pytest.approx(_interval(metric, labels, probs), abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(["accuracy", "log_loss"]), st.integers(10, 150), st.integers(2, 5), st.integers(0, 99))
def test_copies_of_rows_inside_their_groups_change_nothing(metric: str, rows: int, copies: int, seed: int) -> None:
    labels, probs = _case(rows, seed)
    groups = np.repeat(np.arange(rows), copies)
    copied = _interval(metric, np.repeat(labels, copies), np.repeat(probs, copies, axis=0), groups)
    assert copied == pytest.approx(_interval(metric, labels, probs), rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(20, 200), st.integers(2, 5), st.integers(0, 99))
def test_groups_are_never_surer_than_their_rows(units: int, rows_of_each: int, seed: int) -> None:
    labels, probs = _case(units * rows_of_each, seed)
    groups = np.arange(len(labels)) % units
    low, _, high = _interval("accuracy", labels, probs, groups)
    alone = _interval("accuracy", labels, probs)
    assert high - low >= 0.95 * (alone[2] - alone[0])  # rows added right and wrong weigh a little more among few units


@pytest.mark.parametrize("metric", KNOWN)
def test_more_rows_of_the_same_kind_are_surer(metric: str) -> None:
    labels, probs = _case(30)
    widths = []
    for times in (1, 2, 4):  # each row is its own here
        low, _, high = _interval(metric, np.tile(labels, times), np.tile(probs, (times, 1)))
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True) and widths[0] > 1.5 * widths[2]


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy", "roc_auc", "kappa", "mcc"])
def test_all_right_leaves_room_below(metric: str) -> None:
    labels = np.arange(60) % 3
    low, value, high = _interval(metric, labels, np.eye(3)[labels])
    assert value == high == 1.0 and 0.5 < low < 0.99


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy"])
def test_all_wrong_leaves_room_above(metric: str) -> None:
    labels = np.arange(60) % 3
    low, value, high = _interval(metric, labels, np.eye(3)[(labels + 1) % 3])
    assert low == value == 0.0 and 0.01 < high < 0.3


def test_all_right_is_wilsons_interval() -> None:
    labels = np.arange(60) % 3
    low, _, _ = _interval("accuracy", labels, np.eye(3)[labels])
    assert low == pytest.approx(60 / (60 + 2.0010**2), abs=1e-3)  # Student's quantile of 59


def test_a_rare_class_makes_a_mean_over_classes_unsure() -> None:
    even, uneven = np.arange(300) % 3, np.minimum(np.arange(300) // 147, 2)
    widths = []
    for labels in (even, uneven):
        low, _, high = _interval("macro_f1", labels, np.eye(3)[labels])
        widths.append(high - low)
    assert np.bincount(uneven).tolist() == [147, 147, 6]
    assert widths[1] > 3 * widths[0]


@pytest.mark.parametrize("metric", KNOWN)
def test_two_rows_have_an_interval_and_one_has_none(metric: str) -> None:
    labels, probs = np.array([0, 1]), np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])
    low, _, high = _interval(metric, labels, probs)
    assert math.isfinite(low) and math.isfinite(high)
    scorer = METRICS[metric].scorer(labels, probs)
    assert with_intervals([scorer], np.zeros(2, dtype=np.int64), metrics=[metric])[0][1] is None


@pytest.mark.parametrize("metric", KNOWN)
def test_rows_of_several_trainings_are_less_sure_than_those_of_one_model(metric: str) -> None:
    labels, probs = _case(90)
    other = _case(90, seed=1)[1]
    plain, retrained = _interval(metric, labels, probs), _interval(metric, labels, probs, retrained=True)
    assert retrained[2] - retrained[0] > plain[2] - plain[0]
    narrow, wide = _gain(metric, labels, probs, other), _gain(metric, labels, probs, other, retrained=True)
    assert wide[2] - wide[0] > narrow[2] - narrow[0]


@settings(deadline=None, max_examples=25)
@given(st.sampled_from(KNOWN), st.integers(4, 60), st.integers(0, 99))
def test_a_difference_turned_round_is_its_negative_and_never_of_zero_width(metric: str, rows: int, seed: int) -> None:
    labels, ours = _case(rows, seed)
    theirs = _case(rows, seed + 100)[1]
    low, value, high = _gain(metric, labels, ours, theirs)
    assert low < value < high
    assert _gain(metric, labels, theirs, ours) == pytest.approx((-high, -value, -low), abs=1e-12)
    low, value, high = _gain(metric, labels, ours, ours)
    assert low < value == 0 < high


def test_differences_are_paired() -> None:
    labels, probs = _case(400)
    better = probs.copy()
    better[np.flatnonzero(probs.argmax(axis=1) != labels)[:10]] = 1 / 3
    low, _, high = _gain("accuracy", labels, better, probs)
    alone = _interval("accuracy", labels, probs)
    assert high - low < 0.5 * (alone[2] - alone[0])


def test_what_no_row_shows_yet_widens_a_difference_of_losses() -> None:
    """One member is far too sure and was lucky on these rows."""
    labels = np.arange(30) % 2
    sure, unsure = (np.where(np.eye(2)[labels] > 0, right, 1 - right) for right in (1 - 1e-9, 0.9))
    unseen = unseen_difference(sure, unsure)
    assert unseen == pytest.approx(np.log(1e9) - np.log(10), rel=1e-3)
    scorers = [METRICS["log_loss"].scorer(labels, probs) for probs in (sure, unsure)]
    gains = [
        compare(*scorers, np.arange(30), greater_is_better=False, metric="log_loss", unseen=each)
        for each in (0.0, unseen)
    ]
    assert gains[0].p_better > 0.99 and gains[1].p_better < 0.7


def test_who_is_far_too_sure_has_an_upper_end_for_the_first_row_that_is_wrong() -> None:
    labels = np.arange(30) % 2
    random = np.random.default_rng(0).uniform(1e-9, 1e-6, 30)[:, None]
    sure = np.where(np.eye(2)[labels] > 0, 1 - random, random)
    scorer = METRICS["log_loss"].scorer(labels, sure)
    ((_, blind), (_, warned)) = (
        with_intervals([scorer], np.arange(30), metrics=["log_loss"], labels=labels, probs=probs)[0]
        for probs in (None, sure)
    )
    assert blind is not None and warned is not None
    assert blind[1] < 1e-5 and 0.3 < warned[1] < 3
    assert unseen_loss(np.full((4, 2), 0.5), sets=True) == pytest.approx(np.log(2) / 2)


def test_a_metric_of_ones_own_has_an_interval_too() -> None:
    labels, probs = _case(60)
    own = custom_metric(lambda truth, given: float(np.mean(given[np.arange(len(truth)), truth])))
    ((value, ends),) = with_intervals([own.scorer(labels, probs)], np.arange(60))
    assert ends is not None and ends[0] < value < ends[1]


def test_many_units_are_left_out_in_blocks_to_nearly_the_same_interval() -> None:
    labels, probs = _case(5000)
    low, value, high = _interval("accuracy", labels, probs)
    error = math.sqrt(value * (1 - value) / 5000)
    assert (high - low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.2)


def test_scores_that_share_their_counts_have_the_intervals_of_single_ones() -> None:
    labels, probs = _case(50)
    known = {name: METRICS[name] for name in ("accuracy", "macro_f1", "kappa")}
    shared = with_intervals(
        list(shared_scorers(known, labels, probs).values()), np.arange(50), metrics=list(known), labels=labels
    )
    for name, (value, ends) in zip(known, shared, strict=True):
        assert ends is not None
        assert (ends[0], value, ends[1]) == pytest.approx(_interval(name, labels, probs))


def test_too_few_units_and_too_few_rows_of_a_class_are_doubted() -> None:
    labels = np.repeat([0, 1], [100, FEWEST_OF_A_CLASS - 1])
    rows = Support(np.arange(len(labels)), labels)
    assert doubt_about("accuracy", rows) is None
    assert doubt_about("macro_f1", rows) == "19 rows of the rarest class are too few for macro_f1, 20 are needed"
    groups = Support(np.arange(len(labels)) % (FEWEST - 1), labels)
    assert doubt_about("accuracy", groups) == "9 groups are too few, 10 are needed"


def test_unequal_groups_count_as_fewer_equal_ones() -> None:
    even, uneven = np.repeat(np.arange(10), 10), np.concatenate([np.zeros(91, dtype=np.int64), np.arange(1, 10)])
    assert Support(even).independent == pytest.approx(10)
    assert Support(uneven).independent < 1.3
