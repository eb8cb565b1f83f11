"""Fold plans: every row validated once a repeat, no group on two sides, the order of the rows without effect."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.core.foldplan import FoldPlan
from ensemble.data.folds import make_plan, shared_plan
from ensemble.data.label_values import LabelPart
from ensemble.data.table import Rows, Table
from ensemble.errors import InputError
from ensemble.recipe.parts import FoldsPart

SCHEMES = ("stratified", "group", "stratified-group", "multilabel-stratified", "column", "holdout")
GROUPED = ("group", "stratified-group", "multilabel-stratified", "holdout")


def table(
    labels: list[int],
    groups: list[str] | None = None,
    order: list[int] | None = None,
    train_only: list[bool] | None = None,
    folds: list[str] | None = None,
) -> Table:
    """Rows `id0`, `id1`, …, in the given order; four classes, composed of two parts of two."""
    order = order if order is not None else list(range(len(labels)))
    ids = tuple(f"id{row}" for row in order)
    return Table(
        dataset="made-up",
        classes=tuple("abcd"),
        train=Rows(ids, ids, Path("nowhere")),
        labels=np.array([labels[row] for row in order]),
        groups=tuple(groups[row] for row in order) if groups is not None else None,
        test=None,
        parts=(LabelPart("left", ("a", "b")), LabelPart("right", ("a", "b"))),
        train_only=np.array([train_only[row] for row in order]) if train_only is not None else None,
        given_folds=tuple(folds[row] for row in order) if folds is not None else None,
    )


@st.composite
def wishes(draw: st.DrawFn) -> tuple[Table, FoldsPart, list[int]]:
    """A table that a scheme can split, the wish, and another order of the rows."""
    scheme = draw(st.sampled_from(SCHEMES))
    k = draw(st.integers(2, 4))
    per_class = draw(st.integers(k, 12))
    extra = draw(st.lists(st.integers(0, 3), max_size=20))
    labels = [label for label in range(4) for _ in range(per_class)] + extra
    grouped = scheme in ("group", "stratified-group") or (scheme in GROUPED and draw(st.booleans()))
    count = draw(st.integers(k, len(labels)))
    names = [f"g{row % count if row < count else draw(st.integers(0, count - 1))}" for row in range(len(labels))]
    train_only = [draw(st.integers(0, 9)) == 0 for _ in labels] if draw(st.booleans()) else None
    folds = [str(row % k) for row in range(len(labels))] if scheme == "column" else None
    rows = table(labels, names if grouped else None, None, train_only, folds)
    repeats = draw(st.integers(1, 3)) if scheme not in ("column", "holdout") else 1
    wish = FoldsPart(k=k, scheme=scheme, seed=draw(st.integers(0, 3)), repeats=repeats, rare="allow", holdout=0.3)
    order = draw(st.permutations(range(len(labels))))
    return rows, wish, order


def plan_or_none(rows: Table, wish: FoldsPart) -> FoldPlan | None:
    """The plan; None where the draw can't be split at all."""
    try:
        return make_plan(rows, wish)
    except InputError as error:
        assert "only" in str(error)
        return None


def in_order(rows: Table, order: list[int]) -> Table:
    """The same rows in another order."""

    def pick(values: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return None if values is None else tuple(values[row] for row in order)

    ids = tuple(rows.train.ids[row] for row in order)
    return dataclasses.replace(
        rows,
        train=Rows(ids, ids, rows.train.folder),
        labels=rows.labels[order],
        groups=pick(rows.groups),
        given_folds=pick(rows.given_folds),
        train_only=None if rows.train_only is None else rows.train_only[order],
    )


@settings(max_examples=120)
@given(case=wishes())
def test_every_row_is_validated_once_a_repeat_but_train_only_ones_never(
    case: tuple[Table, FoldsPart, list[int]],
) -> None:
    rows, wish, _ = case
    plan = plan_or_none(rows, wish)
    if plan is None:
        return
    assert plan.folds.shape == (len(rows.labels), wish.repeats)
    position = {row_id: row for row, row_id in enumerate(rows.train.ids)}
    never = np.zeros(len(rows.labels), dtype=bool) if rows.train_only is None else rows.train_only
    never = never[[position[row_id] for row_id in plan.ids]]
    assert (plan.folds[never] == -1).all()
    for folds in plan.folds.T:
        if plan.scheme == "holdout":
            assert set(folds.tolist()) == {0, -1}
        else:
            assert set(folds[folds >= 0].tolist()) == set(range(plan.k))
    if plan.scheme != "holdout" and plan.groups is None:
        assert (plan.folds[~never] >= 0).all()


@settings(max_examples=120)
@given(case=wishes())
def test_no_group_is_on_two_sides(case: tuple[Table, FoldsPart, list[int]]) -> None:
    plan = plan_or_none(*case[:2])
    if plan is None or plan.groups is None or plan.scheme == "column":
        return
    for folds in plan.folds.T:
        assert len(set(zip(plan.groups, folds.tolist(), strict=True))) == len(set(plan.groups))


@settings(max_examples=120)
@given(case=wishes())
def test_the_order_of_the_table_does_not_change_the_plan(case: tuple[Table, FoldsPart, list[int]]) -> None:
    rows, wish, order = case
    plan = plan_or_none(rows, wish)
    if plan is not None:
        assert make_plan(in_order(rows, order), wish).csv_text == plan.csv_text


@settings(max_examples=60)
@given(case=wishes())
def test_the_first_repeat_is_the_plan_without_repeats(case: tuple[Table, FoldsPart, list[int]]) -> None:
    rows, wish, _ = case
    plan = plan_or_none(rows, wish)
    if plan is not None:
        alone = make_plan(rows, wish.model_copy(update={"repeats": 1}))
        assert np.array_equal(plan.folds[:, :1], alone.folds)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(4, 15), min_size=2, max_size=4),
    k=st.integers(2, 4),
    seed=st.integers(0, 3),
    scheme=st.sampled_from(["stratified", "stratified-group"]),
)
def test_without_larger_groups_each_class_is_spread_evenly(sizes: list[int], k: int, seed: int, scheme: str) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    groups = [f"person{row}" for row in range(len(labels))] if scheme == "stratified-group" else None
    plan = make_plan(table(labels, groups), FoldsPart(k=k, seed=seed, scheme=scheme))
    for name in set(plan.labels):
        counts = np.bincount(plan.folds[np.array(plan.labels) == name, 0], minlength=k)
        assert counts.max() - counts.min() <= 1


def test_parts_of_composed_labels_are_spread_evenly_one_by_one() -> None:
    labels = [0] * 6 + [1] * 3 + [2] * 9 + [3] * 6
    plan = make_plan(table(labels), FoldsPart(k=3, scheme="multilabel-stratified"))
    numbers = np.array(["abcd".index(label) for label in plan.labels])
    for part in (numbers // 2, numbers % 2):
        counts = np.array([np.bincount(part[plan.folds[:, 0] == fold], minlength=2) for fold in range(3)])
        assert (counts.max(axis=0) - counts.min(axis=0) <= 1).all()


def test_groups_of_one_size_make_folds_of_one_size() -> None:
    groups = [f"g{row % 12}" for row in range(48)]
    plan = make_plan(table([0, 1] * 24, groups), FoldsPart(k=4, scheme="group"))
    assert np.bincount(plan.folds[:, 0]).tolist() == [12] * 4


def test_a_hold_out_validates_its_share_of_every_class() -> None:
    plan = make_plan(table([0] * 60 + [1] * 40), FoldsPart(scheme="holdout", holdout=0.25))
    assert (plan.k, plan.repeats) == (1, 1)
    validated = np.array(plan.labels)[plan.folds[:, 0] == 0].tolist()
    assert (validated.count("a"), validated.count("b")) == (15, 10)


@pytest.mark.parametrize(
    ("values", "expected", "k"),
    [
        (["0", "1", "2", "0"], [0, 1, 2, 0], 3),
        (["1", "2", "10", "1"], [0, 1, 2, 0], 3),
        (["a", "b", "-1", ""], [0, 1, -1, -1], 2),
        (["train", "valid", "Train", "valid"], [-1, 0, -1, 0], 1),
    ],
)
def test_a_fold_column_is_taken_as_it_is(values: list[str], expected: list[int], k: int) -> None:
    rows = table([0, 1, 0, 1], folds=values)
    plan = make_plan(rows, FoldsPart())
    assert (plan.scheme, plan.k) == ("column", k)
    assert plan.folds[:, 0].tolist() == expected


def test_a_group_with_train_only_rows_is_never_validated() -> None:
    groups = [f"g{row // 2}" for row in range(40)]
    train_only = [row == 6 for row in range(40)]
    plan = make_plan(table([0, 0, 1, 1] * 10, groups, train_only=train_only), FoldsPart(k=3))
    fold_of = plan.fold_by_id()
    assert [row_id for row_id in plan.ids if fold_of[row_id] == -1] == ["id6", "id7"]


def test_duplicates_that_are_kept_together_join_the_groups_they_touch() -> None:
    labels = [0, 1] * 20
    clusters = np.arange(40)
    clusters[[3, 10]] = 3
    clusters[[11, 30]] = 11
    rows = table(labels, [f"g{row // 2:02d}" for row in range(40)])
    plan = make_plan(rows, FoldsPart(k=3, keep_together="duplicates"), lambda: clusters)
    group_of = dict(zip(plan.ids, plan.groups or (), strict=True))
    chained = [2, 3, 10, 11, 30, 31]  # g01 touches g05 by a copy, g05 touches g15 by another
    assert {group_of[f"id{row}"] for row in chained} == {"g01"}
    assert len(set(group_of.values())) == 18


def test_duplicates_are_kept_together_where_there_are_no_groups() -> None:
    clusters = np.arange(40)
    clusters[[0, 1, 2]] = 0
    wish = FoldsPart(k=3, keep_together="duplicates")
    plan = make_plan(table([0, 1] * 20), wish, lambda: clusters)
    assert plan.scheme == "stratified-group"
    assert len({plan.fold_by_id()[f"id{row}"] for row in (0, 1, 2)}) == 1


def test_duplicates_that_chain_through_half_the_rows_are_refused() -> None:
    clusters: npt.NDArray[np.int64] = np.where(np.arange(40) < 20, 0, np.arange(40))
    with pytest.raises(InputError, match=r"20 of the 40 rows .* lower folds\.near_distance"):
        make_plan(table([0, 1] * 20), FoldsPart(k=3, keep_together="duplicates"), lambda: clusters)


def test_another_seed_and_another_repeat_give_another_plan() -> None:
    rows = table([0, 1] * 20)
    assert make_plan(rows, FoldsPart(seed=0)).sha256 != make_plan(rows, FoldsPart(seed=1)).sha256
    for groups in (None, [f"g{row // 2}" for row in range(40)]):
        folds = make_plan(table([0, 1] * 20, groups), FoldsPart(repeats=2)).folds
        assert not np.array_equal(folds[:, 0], folds[:, 1])


def test_a_stratified_plan_is_the_one_of_earlier_versions() -> None:
    """Plans that lie in somebody's outputs must be made again to the same bytes."""
    plan = make_plan(table([0, 1] * 6), FoldsPart(k=3))
    assert plan.folds[:, 0].tolist() == [2, 0, 1, 1, 0, 2, 1, 0, 0, 1, 2, 2]


def test_recipes_that_ask_the_same_share_one_file(tmp_path: Path) -> None:
    rows = table([0, 1] * 20)
    first = shared_plan(rows, FoldsPart(k=5), tmp_path)
    again = shared_plan(rows, FoldsPart(k=5, scheme="stratified"), tmp_path)
    other = shared_plan(rows, FoldsPart(k=4), tmp_path)
    repeated = shared_plan(rows, FoldsPart(k=5, repeats=2), tmp_path)
    assert first.sha256 == again.sha256
    assert len({first.sha256, other.sha256, repeated.sha256}) == 3
    assert len(list(tmp_path.glob("folds/made-up-*.csv"))) == 3


def test_a_plan_once_made_is_kept_even_if_it_would_be_made_otherwise_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = table([0, 1] * 20)
    before = shared_plan(rows, FoldsPart(), tmp_path)

    def fail(*arguments: object) -> None:
        pytest.fail("the plan was made again")

    monkeypatch.setattr("ensemble.data.folds.make_plan", fail)
    assert shared_plan(rows, FoldsPart(), tmp_path).sha256 == before.sha256


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "words"),
    [
        ([0, 0, 0, 1, 1], None, FoldsPart(k=3), "class b of made-up has only 2 rows; use folds.k=2"),
        ([0] * 5 + [1] * 2 + [2] * 4, None, FoldsPart(), r"2 rows \(also c 4\); use folds.k=2 or fewer, or folds.rare"),
        ([0] * 9, None, FoldsPart(k=3), "only one class"),
        ([0, 1] * 6, list("aaaaaabbbbbb"), FoldsPart(k=3), "only 2 groups"),
        ([0, 0, 0, 1] * 4, list("aaaabbbbccccdddd"), FoldsPart(k=5), "only 4 groups"),
        ([0] * 9 + [1] * 9, list("abcabcabcdddeeeddd"), FoldsPart(k=3), "class b of made-up has only 2 groups"),
        ([0, 1] * 6, list("aaaabbbbcccc"), FoldsPart(k=3, scheme="stratified"), "both sides"),
        ([0, 1] * 6, None, FoldsPart(k=3, scheme="stratified-group"), "names no group"),
        ([0, 1] * 6, None, FoldsPart(k=3, scheme="column"), "names no fold column"),
        ([0, 0, 0, 1], None, FoldsPart(scheme="holdout"), "class b of made-up has only 1 row;"),
    ],
)
def test_a_plan_that_can_not_be_made_is_refused(
    labels: list[int], groups: list[str] | None, folds: FoldsPart, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_plan(table(labels, groups), folds)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["", "-1", "train", ""], "names no fold"),
        (["0", "0", "0", "0"], "all rows into one fold"),
    ],
)
def test_a_fold_column_that_gives_no_split_is_refused(values: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_plan(table([0, 1, 0, 1], folds=values), FoldsPart())


def test_validation_rows_that_are_for_training_only_are_refused_by_their_name() -> None:
    rows = table([0, 1, 0, 1], train_only=[False, False, True, True], folds=["train", "train", *["validation"] * 2])
    with pytest.raises(InputError, match="all of its validation rows are train-only"):
        make_plan(dataclasses.replace(rows, has_validation=True), FoldsPart())


@pytest.mark.parametrize("k", [5, 40])
@pytest.mark.parametrize("grouped", [False, True])
def test_rare_classes_are_split_where_that_is_allowed(k: int, grouped: bool) -> None:
    labels = [0] * 30 + [1] * 30 + [2] * 2
    groups = [f"g{row}" for row in range(62)] if grouped else None
    plan = make_plan(table(labels, groups), FoldsPart(k=k, rare="allow"))
    rare = plan.folds[np.array(plan.labels) == "c", 0].tolist()
    assert len(set(rare)) == 2
    assert set(plan.folds[:, 0].tolist()) == set(range(k))


@pytest.mark.parametrize(
    "values",
    [
        {"scheme": "holdout", "repeats": 2},
        {"scheme": "column", "repeats": 2},
        {"scheme": "column", "keep_together": "duplicates"},
        {"repeats": 21},
        {"near_distance": 13},
        {"holdout": 0.0},
    ],
    ids=str,
)
def test_wishes_that_contradict_themselves_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"repeats|keep_together|near_distance|holdout"):
        FoldsPart.model_validate(values)
