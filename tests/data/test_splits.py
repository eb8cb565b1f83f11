"""Fold plans: every row validated once, no group on two sides, the same plan for the same rows in any order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.core.recipe import FoldsPart
from ensemble.data.splits import make_plan, shared_plan
from ensemble.data.tables import Rows, Table
from ensemble.errors import InputError


def table(labels: list[int], groups: list[str] | None = None, order: list[int] | None = None) -> Table:
    """Rows `id0`, `id1`, …, in the given order."""
    order = order if order is not None else list(range(len(labels)))
    ids = tuple(f"id{row}" for row in order)
    return Table(
        dataset="made-up",
        classes=tuple("abcd"[: max(labels) + 1]),
        train=Rows(ids, ids, Path("nowhere")),
        labels=np.array([labels[row] for row in order]),
        groups=tuple(groups[row] for row in order) if groups is not None else None,
        test=None,
    )


@st.composite
def labelled(draw: st.DrawFn, k: int = 4) -> list[int]:
    """Labels with at least `k` rows in each of 2 to 4 classes."""
    classes = draw(st.integers(2, 4))
    extra = draw(st.lists(st.integers(0, classes - 1), max_size=30))
    labels = [label for label in range(classes) for _ in range(k)] + extra
    return draw(st.permutations(labels))


@settings(max_examples=40)
@given(labels=labelled(), k=st.integers(2, 4), seed=st.integers(0, 3))
def test_every_row_is_validated_once_and_classes_are_spread_evenly(labels: list[int], k: int, seed: int) -> None:
    plan = make_plan(table(labels), FoldsPart(k=k, seed=seed))
    folds = plan.folds[:, 0]
    assert set(folds.tolist()) == set(range(k))
    for name in set(plan.labels):
        counts = np.bincount(folds[np.array(plan.labels) == name], minlength=k)
        assert counts.max() - counts.min() <= 1


@settings(max_examples=40)
@given(data=st.data(), labels=labelled())
def test_the_order_of_the_table_does_not_change_the_plan(data: st.DataObject, labels: list[int]) -> None:
    order = data.draw(st.permutations(range(len(labels))))
    folds = FoldsPart(k=3)
    assert make_plan(table(labels), folds).csv_text == make_plan(table(labels, order=order), folds).csv_text


@settings(max_examples=40)
@given(data=st.data(), labels=labelled(k=8))
def test_no_group_is_on_two_sides(data: st.DataObject, labels: list[int]) -> None:
    count = data.draw(st.integers(6, len(labels)))
    groups = [f"g{data.draw(st.integers(0, count - 1))}" for _ in labels]
    if len(set(groups)) < 3:
        return
    plan = make_plan(table(labels, groups), FoldsPart(k=3))
    assert plan.scheme == "stratified-group"
    assert plan.groups is not None
    pairs = set(zip(plan.groups, plan.folds[:, 0].tolist(), strict=True))
    assert len(pairs) == len(set(groups))


def test_another_seed_gives_another_plan() -> None:
    rows = table([0, 1] * 20)
    assert make_plan(rows, FoldsPart(seed=0)).sha256 != make_plan(rows, FoldsPart(seed=1)).sha256


def test_recipes_that_ask_the_same_share_one_file(tmp_path: Path) -> None:
    rows = table([0, 1] * 20)
    first = shared_plan(rows, FoldsPart(k=5), tmp_path)
    again = shared_plan(rows, FoldsPart(k=5, scheme="stratified"), tmp_path)
    other = shared_plan(rows, FoldsPart(k=4), tmp_path)
    assert first.sha256 == again.sha256 != other.sha256
    assert len(list(tmp_path.glob("folds/made-up-*.csv"))) == 2


def test_a_plan_once_made_is_kept_even_if_it_would_be_made_otherwise_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table([0, 1] * 20)
    before = shared_plan(rows, FoldsPart(), tmp_path)

    def fail(*arguments: object) -> None:
        pytest.fail("the plan was made again")

    monkeypatch.setattr("ensemble.data.splits.make_plan", fail)
    assert shared_plan(rows, FoldsPart(), tmp_path).sha256 == before.sha256


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "words"),
    [
        ([0, 0, 0, 1, 1], None, FoldsPart(k=3), "class b of made-up has only 2 rows; use folds.k=2"),
        ([0] * 9, None, FoldsPart(k=3), "only one class"),
        ([0, 1] * 6, list("aaaaaabbbbbb"), FoldsPart(k=3), "only 2 groups"),
        ([0, 1] * 6, list("aaaabbbbcccc"), FoldsPart(k=3, scheme="stratified"), "both sides"),
        ([0, 1] * 6, None, FoldsPart(k=3, scheme="stratified-group"), "names no group"),
    ],
)
def test_a_plan_that_can_not_be_made_is_refused(
    labels: list[int], groups: list[str] | None, folds: FoldsPart, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_plan(table(labels, groups), folds)
