"""Members are joined by id and class name, and what can't stand together is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.blending.align import Aligned, align
from ensemble.core.predictions import Predictions
from ensemble.errors import InputError
from tests.support import MakeMember

FIXTURE_IS_PURE = [HealthCheck.function_scoped_fixture]


def _align(*members: Predictions, **options: Any) -> Aligned:
    return align(members, [f"{member.sidecar.get('run')}.npy" for member in members], **options)


def _refusal(*members: Predictions, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        _align(*members, **options)
    return str(caught.value)


def test_members_in_one_order_stay_the_arrays_they_are(make_member: MakeMember) -> None:
    members = [make_member(0), make_member(1)]
    aligned = _align(*members)
    assert all(matrix is member.probs for matrix, member in zip(aligned.stack, members, strict=True))
    assert aligned.ids == members[0].ids
    assert aligned.classes == members[0].classes


def test_a_common_order_of_rows_and_classes_is_kept(make_member: MakeMember) -> None:
    order = list(range(24))[::-1]
    aligned = _align(*(make_member(seed, order=order, class_order=[2, 0, 1]) for seed in (0, 1)))
    assert aligned.ids[0] == "test-023"
    assert aligned.classes == ("eel", "cat", "dog")


@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURE_IS_PURE)
@given(data=st.data())
def test_permuting_members_rows_or_classes_of_one_member_changes_no_bit(
    make_member: MakeMember, data: st.DataObject
) -> None:
    rows, classes = st.permutations(range(24)), st.permutations(range(3))
    shuffled = [
        make_member(seed, kind="oof", order=data.draw(rows), class_order=data.draw(classes)) for seed in range(3)
    ]
    plain = _align(*(make_member(seed, kind="oof") for seed in range(3)), kind="oof", sort_rows=True)
    other = _align(*data.draw(st.permutations(shuffled)), kind="oof", sort_rows=True, classes=plain.classes)
    assert (plain.ids, plain.classes, plain.names) == (other.ids, other.classes, other.names)
    for here, there in zip(plain.stack, other.stack, strict=True):
        np.testing.assert_array_equal(here, there)
    for field in ("labels", "groups", "folds"):
        np.testing.assert_array_equal(getattr(plain, field), getattr(other, field))


def test_rows_in_different_orders_come_out_sorted_and_classes_in_natural_order(make_member: MakeMember) -> None:
    first = replace(make_member(0), classes=("c10", "c2", "a"))
    second = replace(make_member(1, order=range(23, -1, -1)), classes=("a", "c2", "c10"))
    aligned = _align(first, second)
    assert aligned.ids == tuple(sorted(first.ids))
    assert aligned.classes == ("a", "c2", "c10")
    assert not aligned.classes_agreed
    np.testing.assert_array_equal(aligned.stack[0], first.probs[:, ::-1])
    np.testing.assert_array_equal(aligned.stack[1], second.probs[::-1])


@pytest.mark.parametrize("strange", ["²", "1" * 5000, "", "٣", "a-1b"])
def test_natural_order_takes_any_class_name(make_member: MakeMember, strange: str) -> None:
    names = ("cat", "dog1", strange or "é")
    first, second = replace(make_member(0), classes=names), replace(make_member(1), classes=names[::-1])
    assert set(_align(first, second).classes) == set(names)


def test_the_order_of_classes_can_be_given_and_is_ignored_when_it_names_others(make_member: MakeMember) -> None:
    assert _align(make_member(0), classes=["eel", "dog", "cat"]).classes == ("eel", "dog", "cat")
    assert _align(make_member(0), classes=["eel", "dog"]).classes == ("cat", "dog", "eel")


def test_labels_follow_their_class_name(make_member: MakeMember) -> None:
    aligned = _align(
        make_member(0, kind="oof"), make_member(1, kind="oof", class_order=[1, 2, 0]), kind="oof", sort_rows=True
    )
    np.testing.assert_array_equal(aligned.labels, make_member(0, kind="oof").labels)


@pytest.mark.parametrize(
    ("key", "words"),
    [("dataset", "different datasets"), ("dataset_sha256", "contents"), ("folds_sha256", "different fold plans")],
)
@pytest.mark.parametrize("kind", ["test", "oof"])
def test_another_dataset_or_fold_plan_is_refused_naming_both(
    make_member: MakeMember, key: str, words: str, kind: str
) -> None:
    message = _refusal(make_member(0, kind=kind), make_member(1, kind=kind, **{key: "other"}), kind=kind)
    assert words in message
    assert "run0.npy and run1.npy" in message


@pytest.mark.parametrize("key", ["dataset", "dataset_sha256", "folds_sha256", "run"])
def test_what_a_member_does_not_say_is_not_compared(make_member: MakeMember, key: str) -> None:
    assert len(_align(make_member(0), make_member(1, **{key: None})).stack) == 2


def test_two_members_that_differ_are_found_behind_one_that_says_nothing(make_member: MakeMember) -> None:
    message = _refusal(make_member(0, dataset=None), make_member(1), make_member(2, dataset="cars"))
    assert "run1.npy and run2.npy" in message


def test_different_ids_and_classes_are_counted_and_shown(make_member: MakeMember) -> None:
    other = make_member(1)
    message = _refusal(make_member(0), replace(other, ids=("x", "y", *other.ids[2:]), classes=("cat", "dog", "fox")))
    assert "different classes; 1 only in run0.npy ('eel'), 1 only in run1.npy ('fox')" in message
    assert "2 only in run0.npy ('test-000', 'test-001'), 2 only in run1.npy ('x', 'y')" in message


def test_a_member_with_fewer_rows_is_refused(make_member: MakeMember) -> None:
    assert "1 only in run0.npy ('test-023')" in _refusal(make_member(0), make_member(1, rows=23))


def test_oof_rows_as_a_member_point_to_probs(make_member: MakeMember) -> None:
    assert "give the probs.npy beside it" in _refusal(make_member(0), make_member(1, kind="oof"))


def test_a_blend_as_a_member_points_to_its_members(make_member: MakeMember) -> None:
    message = _refusal(make_member(0), make_member(1, blend_of=["r1", "r2"]))
    assert "is itself a blend" in message
    assert "r1, r2" in message


def test_the_same_predictions_twice_are_refused(make_member: MakeMember) -> None:
    assert "the same predictions twice" in _refusal(make_member(0), make_member(0))


def test_labels_that_contradict_are_refused_with_the_first_row(make_member: MakeMember) -> None:
    other = make_member(1, kind="oof")
    assert other.labels is not None
    wrong = other.labels.copy()
    wrong[5] = (wrong[5] + 1) % 3
    message = _refusal(make_member(0, kind="oof"), replace(other, labels=wrong), kind="oof")
    assert "different labels for 1 row; the first is id 'oof-005'" in message


@pytest.mark.parametrize("folds", [[0] * 24, [[0] * 24, [1] * 24]])
def test_folds_that_contradict_are_refused_where_no_hash_tells(make_member: MakeMember, folds: list[Any]) -> None:
    other = replace(make_member(1, kind="oof", folds_sha256=None), folds=folds)
    assert "different folds" in _refusal(make_member(0, kind="oof"), other, kind="oof")


def test_no_members_are_refused() -> None:
    assert "no probability files" in _refusal()
