"""What is used in the end: the method asked for where its gain is evident, else the plain mean; and who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.blending.blend import blend
from ensemble.blending.methods import fixed
from ensemble.blending.options import METHODS, BlendOptions, parse_cost, parse_weights
from ensemble.blending.selection import affordable, copies, diversity, frontier, harmless
from ensemble.blending.verdict import Verdict, judge_rows
from ensemble.combining.combine import soft
from ensemble.combining.crossfit import Labelled, Method
from ensemble.combining.honest import EVIDENCE
from ensemble.core.metrics import METRICS
from ensemble.core.predictions import save_predictions
from ensemble.errors import InputError
from tests.support import MakeMember, MakeRun


def _rows(noises: list[float], rows: int = 600, metric: str = "accuracy", seed: int = 0, classes: int = 4) -> Labelled:
    """A member a noise, all looking at the same signal."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    signal = random.normal(size=(rows, classes))
    signal[np.arange(rows), labels] += 2
    scores = np.exp([signal + noise * random.normal(size=signal.shape) for noise in noises])
    stack = list(scores / scores.sum(axis=2, keepdims=True))
    return Labelled(stack, labels, (np.arange(rows) % 5)[None, :], None, metric)


def _judged(labelled: Labelled, method: str = "soft", costs: list[float] | None = None, **wish: Any) -> Verdict:
    names = [f"m{number}" for number in range(len(labelled.stack))]
    return judge_rows(labelled, names, costs or [None] * len(names), BlendOptions(method, labelled.metric, **wish))


@pytest.mark.parametrize("method", ["optimize", "greedy", "stack"])
def test_cautiously_without_an_evident_gain_the_plain_mean_is_used_and_force_overrides(method: str) -> None:
    labelled = _rows([1.5] * 12, rows=150, seed=1)
    verdict, forced = _judged(labelled, method, cautious=True), _judged(labelled, method, force=True)
    assert verdict.used == "soft"
    assert np.ptp(verdict.weights) == 0
    assert verdict.fallback is not None and "no evident gain" in verdict.fallback
    assert verdict.honest is not None and verdict.honest.gain_over_uniform.value == 0
    assert verdict.asked is not None and verdict.asked.gain_over_uniform.p_better < EVIDENCE
    assert (forced.used, forced.fallback) == (method, None)


def test_a_named_method_is_used_from_even_odds_against_the_plain_mean() -> None:
    worse, better = _rows([1.5] * 12, rows=150, seed=1), _rows([1.0, 1.5, 1.6, 1.7], rows=150, metric="log_loss")
    verdict = _judged(worse, "optimize")
    assert verdict.used == "soft" and verdict.asked is not None and verdict.asked.gain_over_uniform.p_better < 0.5
    assert verdict.fallback is not None and "no gain of optimize over the plain mean" in verdict.fallback
    kept = _judged(better, "optimize", select="all")
    assert kept.honest is not None and (kept.used == "optimize") == (kept.honest.gain_over_uniform.p_better >= 0.5)


def test_of_equal_members_auto_weighs_all_alike() -> None:
    (member,) = _rows([1.5], rows=200).stack
    labelled = _rows([1.5] * 4, rows=200)
    same = Labelled([member] * 4, labelled.labels, labelled.folds, None, "log_loss")
    for method in ("auto", "pool", "brier", "optimize"):
        assert _judged(same, method, select="all", force=True).weights == pytest.approx([0.25] * 4, abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "macro_f1"])
def test_auto_never_submits_a_mean_that_is_known_to_be_worse_than_the_best_member(metric: str, seed: int) -> None:
    verdict = _judged(_rows([0.5, *[4.0] * 5], rows=120, metric=metric, seed=seed), "auto", select="all")
    assert verdict.honest is not None
    assert np.ptp(verdict.weights) > 0 or verdict.honest.gain_over_best_single.p_better >= 0.05


def test_a_choice_that_is_known_to_be_worse_gives_way_to_the_better_of_mean_and_single(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labelled = _rows([0.3, *[4.0] * 5], rows=400)
    poor = fixed("auto", soft, [0.0, *[0.2] * 5], step={"do": "soft"})
    learning = Method("auto", lambda _: poor.ready)  # type: ignore[arg-type,return-value]
    monkeypatch.setattr("ensemble.blending.verdict.method_of", lambda *_, **__: learning)
    verdict = _judged(labelled, "auto", select="all")
    assert (verdict.used, verdict.weights[0]) == ("single", 1.0)
    assert verdict.fallback is not None and "auto is worse than the best single member" in verdict.fallback


def test_auto_of_one_member_is_that_member_and_of_a_handful_of_rows_the_mean() -> None:
    alone, few = _rows([1.5]), _rows([0.3, 4.0, 4.0], rows=6)
    np.testing.assert_array_equal(_judged(alone, "auto").answer(alone.stack).probs, soft(alone.stack).probs)
    assert _judged(few, "auto").used == "soft"
    assert _judged(_rows([1.0, 2.0], rows=2), "auto").used == "soft"


@pytest.mark.parametrize("method", ["optimize", "greedy", "stack", "auto"])
def test_where_members_differ_what_was_learned_is_used(method: str) -> None:
    verdict = _judged(_rows([0.3, 4, 4, 4, 4], rows=800), method, select="all")
    assert (verdict.fallback, verdict.asked) == (None, None)
    assert verdict.used in ({"pool", "single", "optimize", "brier", "greedy"} if method == "auto" else {method})
    assert verdict.honest is not None and verdict.honest.gain_over_uniform.p_better >= EVIDENCE
    assert verdict.honest.optimistic is not None
    assert verdict.weights[0] == max(verdict.weights)


@pytest.mark.parametrize("method", ["hard", "geometric", "power:3", "rank"])
def test_a_method_that_learns_nothing_is_used_even_where_it_is_worse(method: str) -> None:
    verdict = _judged(_rows([1.5] * 3, rows=100), method)
    assert (verdict.used, verdict.fallback) == (method, None)
    assert verdict.honest is not None and verdict.honest.optimistic is None


def test_near_copies_are_left_out_the_dearer_one_first() -> None:
    labelled = _rows([1.0, 1.5])
    twin = labelled.stack[0] * 0.999 + 0.001 / 4
    rows = Labelled([*labelled.stack, twin], labelled.labels, labelled.folds, None, "accuracy")
    verdict = _judged(rows, costs=[3.0, 1.0, 2.0])
    assert verdict.dropped == {0: "a near copy of m2"}
    assert verdict.weights == (0.0, 0.5, 0.5)
    assert _judged(rows, costs=[3.0, 1.0, 2.0], select="all").weights == pytest.approx([1 / 3] * 3)
    assert copies(diversity(rows), [None, None, None]) == {2: 0}


def test_good_members_that_agree_are_no_copies() -> None:
    """Members right on 99 % of the rows agree nearly everywhere; what counts is what they get wrong."""
    labelled = _rows([0.1, 0.1], rows=3000)
    sharp = [matrix**4 / (matrix**4).sum(axis=1, keepdims=True) for matrix in labelled.stack]
    labels = np.where(np.arange(3000) % 100 == 0, labelled.labels, sharp[0].argmax(axis=1))
    flipped = [matrix.copy() for matrix in sharp]
    for number, matrix in enumerate(flipped):
        matrix[number * 20 : number * 20 + 20] = matrix[number * 20 : number * 20 + 20, ::-1]
    assert copies(diversity(Labelled(flipped, labels, labelled.folds)), [None, None]) == {}


def test_a_member_that_does_harm_is_left_out_and_one_that_helps_a_little_is_not() -> None:
    labelled = _rows([1.0, 1.0, 1.2], rows=2000)
    chance = np.random.default_rng(0).dirichlet(np.full(4, 0.05), 2000)
    rows = Labelled([*labelled.stack, chance], labelled.labels, labelled.folds, None, "accuracy")
    assert harmless(rows) == [0, 1, 2]
    verdict = _judged(rows)
    assert verdict.dropped == {3: "the plain mean is better without it"}
    assert verdict.weights[3] == 0
    assert verdict.worth[0] > 0


def test_the_matrices_are_what_they_say() -> None:
    labelled = _rows([1.0, 2.0, 2.0])
    found = diversity(labelled)
    errors = [matrix - np.eye(4)[labelled.labels] for matrix in labelled.stack]
    cosine = (errors[0] * errors[1]).sum() / np.sqrt((errors[0] ** 2).sum() * (errors[1] ** 2).sum())
    assert found.correlation[0, 1] == pytest.approx(cosine, abs=1e-5)
    decided = [matrix.argmax(axis=1) for matrix in labelled.stack]
    assert found.disagreement[0, 2] == pytest.approx((decided[0] != decided[2]).mean())
    right = [one == labelled.labels for one in decided]
    both, neither = (right[0] & right[1]).sum(), (~right[0] & ~right[1]).sum()
    crossed = (right[0] & ~right[1]).sum() * (~right[0] & right[1]).sum()
    assert found.q_statistic[0, 1] == pytest.approx((both * neither - crossed) / (both * neither + crossed))
    np.testing.assert_allclose(np.diag(found.q_statistic), 1)


def test_a_budget_is_kept_and_the_best_pair_is_found() -> None:
    labelled = _rows([0.5, 3.0, 0.6, 3.0], metric="log_loss")
    costs = [2.0, 1.0, 2.0, 1.0]
    assert affordable(labelled, costs, 4.0) == [0, 2]
    verdict = _judged(labelled, costs=costs, max_cost="2x", select="all")
    assert np.flatnonzero(verdict.weights).tolist() == [0, 2]
    assert set(verdict.dropped) == {1, 3}
    for method in ("optimize", "hard", "stack"):
        weights = _judged(labelled, method, costs=costs, max_cost="1x", select="all", force=True).weights
        assert sum(cost for cost, weight in zip(costs, weights, strict=True) if weight) <= 2.0


def test_a_budget_that_everything_fits_into_leaves_everything_in() -> None:
    """Even a member that log-loss could do without; and the frontier ends with the mean of all."""
    labelled, costs = _rows([0.5, 3.0, 3.0]), [2.0, 1.0, 1.0]
    assert affordable(labelled, costs, 4.0) == [0, 1, 2]
    with_budget, without = (
        _judged(labelled, costs=costs, select="all", **wish) for wish in ({"max_cost": "2x"}, {"max_cost": None})
    )
    assert with_budget.weights == without.weights
    assert (0, 1, 2) in {point.members for point in frontier(labelled, costs)}


def test_a_handful_of_rows_is_no_evidence() -> None:
    """Of three rows, which all are better, every resample is."""
    labelled = _rows([0.3, 4.0, 4.0], rows=3, metric="log_loss")
    assert harmless(labelled) == [0, 1, 2]
    verdict = _judged(labelled, "optimize", cautious=True)
    assert verdict.used == "soft"
    assert verdict.fallback == "no evidence for optimize: 3 rows are too few, 10 are needed"


def test_the_frontier_rises_and_its_points_are_honest() -> None:
    labelled = _rows([1.0, 1.5, 2.0, 2.5], rows=1500)
    points = frontier(labelled, [4.0, 3.0, 2.0, 1.0])
    best = [point for point in points if point.best]
    assert [point.cost for point in best] == sorted(point.cost for point in best)
    assert [point.value for point in best] == sorted(point.value for point in best)
    for point in points:
        if len(point.members) == 1:
            own = METRICS["accuracy"](labelled.labels, labelled.stack[point.members[0]])
            assert point.value == pytest.approx(own)
    assert {point.members for point in points} >= {(0,), (1,), (2,), (3,)}


def test_worth_is_what_the_score_falls_by() -> None:
    labelled = _rows([1.0, 1.5, 2.0])
    verdict = _judged(labelled, select="all")
    rest = (labelled.stack[1] + labelled.stack[2]) / 2
    mean = (labelled.stack[0] + labelled.stack[1] + labelled.stack[2]) / 3
    fall = METRICS["accuracy"](labelled.labels, mean) - METRICS["accuracy"](labelled.labels, rest)
    assert verdict.worth[0] == pytest.approx(fall)


def test_weights_are_the_users_and_must_name_every_member() -> None:
    labelled = _rows([1.0, 1.5, 2.0])
    verdict = _judged(labelled, "weighted", weights={"m0": 2.0, "m1": 2.0, "m2": 0.0})
    assert verdict.weights == (0.5, 0.5, 0.0)
    with pytest.raises(InputError) as caught:
        _judged(labelled, "weighted", weights={"m0": 1.0, "x": 1.0})
    assert "x is no member" in str(caught.value) and "none for m1, m2" in str(caught.value)


def test_calibration_helps_log_loss_and_class_multipliers_macro_f1() -> None:
    labelled = _rows([0.5, 0.5, 0.7], rows=1500, metric="log_loss")
    sure = [matrix**5 / (matrix**5).sum(axis=1, keepdims=True) for matrix in labelled.stack]
    rows = Labelled(sure, labelled.labels, labelled.folds, None, "log_loss")
    for when in ("before", "after"):
        for kind in ("temperature", "vector"):
            verdict = _judged(rows, calibrate=kind, calibrate_when=when)
            assert verdict.fallback is None
            assert verdict.honest is not None and verdict.honest.gain_over_uniform.ci95[0] > 0  # type: ignore[index]
    assert _judged(_rows([1.0, 1.0]), tune_classes=True).honest is not None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "weighted"}, "--weights and --method weighted belong together"),
        ({"weights": {"run0": 1.0}}, "--weights and --method weighted belong together"),
        ({"calibrate": "platt"}, "--calibrate platt"),
        ({"calibrate_when": "later"}, "--calibrate-when later"),
        ({"select": "best"}, "--select best"),
        ({"max_cost": "2y"}, "--max-cost '2y'"),
        ({"max_cost": "0x"}, "--max-cost '0x'"),
        ({"max_cost": "0.1"}, "the cheapest member alone takes"),
        ({"tune_classes": True, "metric": "log_loss"}, "does not look at decisions"),
        ({"method": "power:nan"}, "--method power:nan"),
    ],
)
def test_options_without_meaning_are_refused(
    make_run: MakeRun, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError) as caught:
        blend([make_run(0), make_run(1)], outputs=tmp_path / "outputs", **options)
    assert words in str(caught.value)
    assert not (tmp_path / "outputs" / "blends").exists()


@pytest.mark.parametrize("options", [{"method": "greedy"}, {"max_cost": "2x"}, {"calibrate": "temperature"}])
def test_what_learns_needs_out_of_fold_rows(make_run: MakeRun, tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="learns from out-of-fold rows: no out-of-fold rows beside run1"):
        blend([make_run(0), make_run(1, oof=False)], outputs=tmp_path / "outputs", **options)


def test_a_budget_needs_costs(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run1 has no cost in its file"):
        blend([make_run(0), make_run(1, cost=None)], outputs=tmp_path / "outputs", max_cost="2x")


def test_a_template_that_does_not_fit_is_told_before_anything_is_learned(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "sample.csv"
    template.write_text("id,label\nx,0\n", encoding="utf-8")
    monkeypatch.setattr("ensemble.blending.blend.judge", lambda *_: pytest.fail("learned"))
    with pytest.raises(InputError, match="none of its ids is known"):
        blend([make_run(0)], outputs=tmp_path / "outputs", template=template)


@pytest.mark.parametrize(
    "method", [name for name in METHODS if name not in ("weighted", "power")] + ["power:2", "greedy:4"]
)
def test_neither_the_order_of_members_nor_of_rows_changes_a_byte(
    make_run: MakeRun, make_member: MakeMember, tmp_path: Path, method: str
) -> None:
    paths = [make_run(seed, skill=0.3 * seed) for seed in range(4)]
    options: dict[str, Any] = {"outputs": tmp_path / "outputs", "method": method, "force": True, "name": "b"}
    contents = []
    for _ in range(2):
        folder = blend(paths, **options).folder
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
        shuffled = np.random.default_rng(0).permutation(24).tolist()
        cost = {"cost": {"seconds_per_1000_images": 3.5, "parameters": 100}}
        save_predictions(paths[2].with_name("oof"), make_member(2, kind="oof", skill=0.6, order=shuffled, **cost))
        paths = [paths[index] for index in (3, 1, 0, 2)] if len(contents) == 1 else paths
    assert contents[0] == contents[1]


def test_words_become_weights_and_costs() -> None:
    assert parse_weights("a=1,b@x=0.5,c=d=2") == {"a": 1.0, "b@x": 0.5, "c=d": 2.0}
    for text, words in (("a", "run=weight"), ("a=-1", "at least 0"), ("a=1,a=2", "twice"), ("a=0", "above 0")):
        with pytest.raises(InputError, match=words):
            parse_weights(text)
    assert parse_cost("2x", 3.0) == 6.0
    assert parse_cost("2.5", 3.0) == 2.5
