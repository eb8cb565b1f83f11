"""Leaks and blends in disguise are recognised, left out and named; honest members are let alone."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.blending.blend import Blend, blend, load_blend
from ensemble.blending.options import BlendOptions
from ensemble.blending.selection import copies, diversity
from ensemble.blending.verdict import Verdict, judge_rows
from ensemble.cli import build_parser
from ensemble.combining.crossfit import Labelled
from ensemble.combining.suspicion import LEAK, find_leaks, find_mixes, leak_scores, suspicious
from ensemble.commands.blend_command import _remarks
from ensemble.core.predictions import save_predictions
from tests.support import MakeMember, MakeRun

Array = np.ndarray[Any, Any]


def _softmax(scores: Array) -> Array:
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))


def _rows(noises: list[float], leaks: int = 0, rows: int = 400, classes: int = 4, seed: int = 0) -> Labelled:
    """Members that see one signal through noise of their own, and at the end some that saw the labels as well."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    truth = np.eye(classes)[labels]
    signal = random.normal(size=(rows, classes)) + 1.8 * truth
    stack = [_softmax(signal + noise * random.normal(size=signal.shape)) for noise in noises]
    stack += [_softmax(2 * signal + random.normal(size=signal.shape) + 12 * truth) for _ in range(leaks)]
    return Labelled(stack, labels, (np.arange(rows) % 5)[None, :])


def _with(labelled: Labelled, *more: Array) -> Labelled:
    return Labelled([*labelled.stack, *more], labelled.labels, labelled.folds, None, labelled.metric)


def _mixes(stack: list[Array], *, sets: bool = False) -> dict[int, tuple[int, ...]]:
    """Of what each mix is made; later members go first."""
    return {member: each.of for member, each in find_mixes(stack, range(len(stack))[::-1], sets=sets).items()}


def _judged(labelled: Labelled, **wish: Any) -> Verdict:
    names = [f"m{number}" for number in range(len(labelled.stack))]
    return judge_rows(labelled, names, [None] * len(names), BlendOptions("soft", **wish), details=False)


@pytest.mark.parametrize("classes", [2, 4, 26])
def test_a_member_that_is_right_where_all_others_fail_is_a_leak(classes: int) -> None:
    assert set(find_leaks(_rows([0.5] * 5, leaks=1, classes=classes))) == {5}


@pytest.mark.parametrize(("noises", "members"), [([0.5] * 10, 10), ([0.3, 0.6, 1.0, 2.0, 4.0], 5)])
def test_honest_members_are_no_leaks(noises: list[float], members: int) -> None:
    scores = leak_scores(_rows(noises))
    assert len(scores) == members and max(scores) < LEAK


def test_one_good_member_of_ten_is_no_leak() -> None:
    assert find_leaks(_rows([0.2] + [4.0] * 9)) == {}


def test_two_leaks_do_not_excuse_each_other() -> None:
    assert set(find_leaks(_rows([0.5] * 8, leaks=2))) == {8, 9}


def test_beside_two_others_or_on_a_few_rows_nothing_is_called_a_leak() -> None:
    assert find_leaks(_rows([0.5, 0.5], leaks=1)) == {}
    assert find_leaks(_rows([0.5] * 5, leaks=1, rows=2)) == {}
    assert find_leaks(_rows([0.0] * 5, rows=1)) == {}


def test_a_leak_among_rows_with_sets_of_classes() -> None:
    random = np.random.default_rng(0)
    labels = (random.random((200, 3)) < 0.4).astype(np.uint8)
    signal = 1.5 * (2.0 * labels - 1) + random.normal(0, 1.2, labels.shape)
    stack = [1 / (1 + np.exp(-signal - 0.5 * random.normal(size=signal.shape))) for _ in range(5)]
    stack.append(1 / (1 + np.exp(-signal - 10 * (2.0 * labels - 1))))
    assert set(find_leaks(Labelled(stack, labels, np.zeros((1, 200), dtype=np.int64)))) == {5}


def test_of_very_many_numbers_a_part_is_looked_at_and_the_leak_is_still_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.combining.suspicion._MOST_NUMBERS", 6 * 4 * 200)
    assert set(find_leaks(_rows([0.5] * 5, leaks=1, rows=5000))) == {5}


@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(7)), rows=st.randoms(use_true_random=False))
def test_neither_the_order_of_members_nor_of_rows_changes_who_is_suspicious(order: list[int], rows: Any) -> None:
    labelled = _rows([0.5] * 5, leaks=1, rows=150)
    labelled = _with(labelled, (labelled.stack[0] + labelled.stack[1]) / 2)
    shuffled = rows.sample(range(150), 150)
    other = Labelled([labelled.stack[member][shuffled] for member in order], labelled.labels[shuffled], labelled.folds)
    kinds = {order[member]: suspicion.kind for member, suspicion in suspicious(other).items()}
    assert kinds == {5: "leak", 6: "mix"}


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    bits=st.sampled_from(["float64", "float32", "float16"]),
    classes=st.sampled_from([2, 3, 10]),
    geometric=st.booleans(),
)
def test_every_mix_is_recognised_in_files_of_any_type_and_its_ingredients_are_not(
    data: st.DataObject, bits: str, classes: int, geometric: bool
) -> None:
    stack = list(_rows([0.3, 0.6, 0.9, 1.2, 1.5], rows=200, classes=classes, seed=data.draw(st.integers(0, 99))).stack)
    of = sorted(data.draw(st.sets(st.integers(0, 4), min_size=2)))
    weights = np.array([data.draw(st.floats(0.1, 1.0)) for _ in of])
    weights /= weights.sum()
    parts = [np.log(stack[member]) if geometric else stack[member] for member in of]
    mixed = np.tensordot(weights, np.stack(parts), 1)
    made = _softmax(mixed) if geometric else mixed
    files = [matrix.astype(bits) for matrix in [*stack, made]]
    read = [matrix.astype(np.float32) if bits == "float16" else matrix for matrix in files]
    found = _mixes(read)
    assert set(found) == {5}
    if bits != "float16":  # of which a small weight is lost in the rounding
        assert found[5] == tuple(of)
    assert _mixes(read[:5]) == {}


def test_a_mix_of_mixes_and_one_with_a_negative_weight_are_recognised() -> None:
    stack = list(_rows([0.3, 0.6, 0.9, 1.2]).stack)
    first = 0.3 * stack[0] + 0.7 * stack[1]
    assert set(_mixes([*stack, first, 0.5 * first + 0.5 * stack[2]])) == {4, 5}
    signed = np.maximum(0.6 * stack[0] + 0.7 * stack[1] - 0.3 * (0.5 * stack[0] + 0.5 * stack[1]), 0)
    assert set(_mixes([*stack, signed])) == {4}


def test_probabilities_that_were_raised_before_the_logarithm_hide_no_mix() -> None:
    stack = [np.round(matrix, 1) for matrix in _rows([0.3, 0.6, 0.9, 1.2]).stack]
    stack = [matrix / matrix.sum(axis=1, keepdims=True) for matrix in stack]
    logs = sum(weight * np.log(np.maximum(stack[member], 1e-12)) for member, weight in ((0, 0.4), (2, 0.6)))
    assert _mixes([*stack, _softmax(np.asarray(logs))]) == {4: (0, 2)}


def test_with_few_rows_and_many_members_nothing_is_called_a_mix() -> None:
    stack = list(_rows([0.5] * 30, rows=20, classes=2).stack)
    assert _mixes([*stack, (stack[0] + stack[1]) / 2]) == {}


def test_members_of_few_different_numbers_are_no_mixes_of_each_other() -> None:
    """Stumps that know each fold's shares alone; among so few numbers any is a mix."""
    random = np.random.default_rng(0)
    yes = [np.repeat(random.random(5), 20) for _ in range(4)]
    assert _mixes([np.stack([1 - one, one], axis=1) for one in yes]) == {}


def test_members_that_differ_in_one_number_of_their_settings_are_no_mixes() -> None:
    """A path of shrinkage is smooth, so that each of its points is nearly a sum of the others."""
    scores = np.random.default_rng(0).normal(size=(300, 5)) * 3
    path = [_softmax(scores * slope).astype(np.float32) for slope in (0.4, 0.6, 0.8, 1.0)]
    other = [matrix + 1e-4 * np.random.default_rng(n).random(matrix.shape) for n, matrix in enumerate(path)]
    assert _mixes([matrix / matrix.sum(axis=1, keepdims=True) for matrix in other]) == {}


def test_a_mix_among_sets_of_classes() -> None:
    random = np.random.default_rng(0)
    stack = [random.random((80, 3)) for _ in range(4)]
    odds = sum(weight * np.log(stack[member] / (1 - stack[member])) for member, weight in ((0, 0.5), (1, 0.5)))
    assert _mixes([*stack, 0.2 * stack[1] + 0.8 * stack[3]], sets=True) == {4: (1, 3)}
    assert _mixes([*stack, 1 / (1 + np.exp(-np.asarray(odds)))], sets=True) == {4: (0, 1)}


def test_the_mix_goes_and_its_ingredients_stay_even_where_it_is_their_copy_and_cheaper() -> None:
    labelled = _rows([0.5, 0.9, 1.4])
    mix = 0.95 * labelled.stack[0] + 0.05 * labelled.stack[1]
    rows = _with(labelled, mix)
    names = ["a", "b", "c", "mix"]
    assert copies(diversity(rows), [4.0, 1.0, 1.0, 1.0]) == {0: 3}, "else this proves nothing"
    verdict = judge_rows(rows, names, [4.0, 1.0, 1.0, 1.0], BlendOptions("soft"), details=False)
    assert verdict.dropped == {3: "a mean of a (0.95), b (0.05): a blend in disguise"}
    assert verdict.weights[3] == 0 and verdict.weights[0] > 0


def test_a_leak_is_left_out_unless_all_are_kept_and_is_named_in_both() -> None:
    labelled = _rows([0.5, 0.6, 0.7, 0.8, 0.9], leaks=1)
    useful, everyone = _judged(labelled), _judged(labelled, select="all")
    assert useful.weights[5] == 0 and "may have seen the rows they predict" in useful.dropped[5]
    assert everyone.weights[5] > 0 and 5 not in everyone.dropped
    assert set(useful.suspicious) == set(everyone.suspicious) == {5}


@pytest.fixture
def blended(make_run: MakeRun, make_member: MakeMember, tmp_path: Path) -> Any:
    """A blend of three runs, and of a fourth that is the mean of the first two."""
    paths = [make_run(seed, rows=60) for seed in range(4)]
    for kind, stem in (("test", "probs"), ("oof", "oof")):
        first, second, own = (make_member(seed, kind=kind, rows=60) for seed in (0, 1, 3))
        save_predictions(paths[3].with_name(stem), replace(own, probs=(first.probs + second.probs) / 2))

    def run(**options: Any) -> Blend:
        return blend(paths, outputs=tmp_path / "outputs", name="b", **options)

    return run


def test_suspicious_members_are_in_the_record_and_on_the_screen(blended: Any) -> None:
    useful = blended()
    (entry,) = load_blend(useful.folder / "blend.json")["suspicious"]
    assert (entry["run"], entry["kind"], entry["of"]) == ("run3", "mix", ["run0", "run1"])
    assert entry["message"] == "a mean of run0 (0.5), run1 (0.5): a blend in disguise"
    assert f"left out: run3: {entry['message']}" in _remarks(useful)
    everyone = blended(select="all")
    assert everyone.document["suspicious"] == [entry]
    assert f"suspicious, yet kept: run3: {entry['message']}" in _remarks(everyone)


def test_a_suspicious_member_is_not_recommended_alone(blended: Any) -> None:
    done = blended(select="all")
    gain = {"value": -0.1, "ci95": None, "p_better": 0.0}
    best = {"best_single": {"run": "run3", "value": 1.0}, "gain_over_best_single": gain}
    shown = replace(done, document={**done.document, "honest": {**done.document["honest"], **best}})
    assert not any("consider submitting" in str(line) for line in _remarks(shown))
    honest = {**shown.document["honest"], "best_single": {"run": "run0", "value": 1.0}}
    assert any(
        "consider submitting run0" in str(line)
        for line in _remarks(replace(shown, document={**shown.document, "honest": honest}))
    )


def test_an_earlier_blend_has_no_suspicious_members(blended: Any) -> None:
    from ensemble.core.records import save_record

    done = blended()
    document = {key: value for key, value in done.document.items() if key not in ("suspicious", "other_folds")}
    save_record(done.folder / "blend.json", document)
    read = load_blend(done.folder / "blend.json")
    assert (read["suspicious"], read["other_folds"]) == ([], None)


def test_the_command_line_knows_the_option() -> None:
    arguments: Namespace = build_parser().parse_args(["blend", "x", "--other-folds"])
    assert arguments.other_folds is True
