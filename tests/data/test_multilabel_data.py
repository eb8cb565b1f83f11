"""Labels that are sets: read from one column or from many, refused with what is wrong, spread over folds."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ensemble.audit.audit import audit
from ensemble.core.dataset import DatasetDescription
from ensemble.core.foldplan import load_plan, save_plan
from ensemble.data.folds import make_plan
from ensemble.data.table import Rows, Table, load_table
from ensemble.errors import InputError
from ensemble.recipe.parts import FoldsPart


def described(label: dict[str, Any], classes: Any = ("rust", "scab", "spot"), **more: Any) -> DatasetDescription:
    train = {"table": "train.csv", "id": "{id}", "image": "{id}.png", "label": label}
    return DatasetDescription.model_validate({"classes": classes, "train": train, **more})


def read(folder: Path, text: str, label: dict[str, Any], classes: Any = ("rust", "scab", "spot")) -> Table:
    """The table with that content; every image is there."""
    (folder / "train.csv").write_text(text, encoding="utf-8")
    for line in text.splitlines()[1:]:
        (folder / f"{line.split(',')[0]}.png").write_bytes(b"")
    return load_table("leaves", described(label, list(classes) if not isinstance(classes, str) else classes), folder)


@pytest.mark.parametrize(
    ("cells", "label"),
    [
        (["scab rust", "", "spot"], {"value": "{labels}", "separator": " "}),
        (["scab;rust", "", "spot"], {"value": "{labels}", "separator": ";"}),
        (["scab; rust", "fine", "spot"], {"value": "{labels}", "separator": ";", "empty": ["fine", "none"]}),
        (["0 1", "", "2"], {"value": "{labels}", "separator": " ", "kind": "index"}),
    ],
)
def test_one_column_gives_sets(cells: list[str], label: dict[str, Any], tmp_path: Path) -> None:
    table = read(tmp_path, "id,labels\n" + "".join(f"r{row},{cell}\n" for row, cell in enumerate(cells)), label)
    assert table.has_sets
    assert table.labels.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_columns_of_zeros_and_ones_give_sets_and_found_classes_are_all_that_is_named(tmp_path: Path) -> None:
    wide = read(tmp_path, "id,spot,rust,scab\nr0,0,1,1\nr1,0,0,0\n", {"columns": "multi-hot"})
    assert wide.labels.tolist() == [[1, 1, 0], [0, 0, 0]]
    found = read(tmp_path, "id,l\nr0,b a\nr1,c10 c2\n", {"value": "{l}", "separator": " "}, "found")
    assert found.classes == ("a", "b", "c2", "c10") and found.labels.tolist() == [[1, 1, 0, 0], [0, 0, 1, 1]]


def test_names_in_a_cell_are_mapped_one_by_one(tmp_path: Path) -> None:
    label: dict[str, Any] = {"value": "{l}", "separator": " ", "map": {"RUST": "rust", "s": "scab"}}
    assert read(tmp_path, "id,l\nr0,RUST s\nr1,spot\n", label).labels.tolist() == [[1, 1, 0], [0, 0, 1]]
    with pytest.raises(InputError, match="names a class twice"):
        read(tmp_path, "id,l\nr0,RUST rust\nr1,spot\n", label)


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (
            "id,l\nr0,rust\nr1,rsut scab\n",
            {"value": "{l}", "separator": " "},
            "'rsut' (1 row, line 3; did you mean rust?)",
        ),
        (
            "id,l\nr0,rust\nr1,scab scab\n",
            {"value": "{l}", "separator": " "},
            "names a class twice: r1 (line 3: 'scab scab')",
        ),
        ("id,l\nr0,rust\nr1,\n", {"value": "{l}", "separator": " ", "empty": ["fine"]}, None),
        ("id,rust,scab,spot\nr0,1,2,0\n", {"columns": "multi-hot"}, "doesn't have only 0s and 1s"),
        ("id,rust,scab,spot\nr0,1,1,0\n", {"columns": "one-hot"}, "say columns: multi-hot"),
        ("id,rust,scab\nr0,1,0\n", {"columns": "multi-hot"}, "a multi-hot label names column 'spot'"),
    ],
)
def test_faulty_sets_are_refused_with_row_and_remedy(
    text: str, label: dict[str, Any], message: str | None, tmp_path: Path
) -> None:
    if message is None:  # an empty cell without a meaning of its own still names no class
        assert read(tmp_path, text, label).labels.tolist() == [[1, 0, 0], [0, 0, 0]]
        return
    with pytest.raises(InputError) as caught:
        read(tmp_path, text, label)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("label", "more", "message"),
    [
        ({"columns": "one-hot", "separator": " "}, {}, "separator: given together with columns"),
        ({"value": "{l}", "empty": ["x"]}, {}, "empty: is for labels with a separator"),
        ({"columns": "multi-hot"}, {"classes": ["a|b", "c"]}, "a|b contains |"),
        ({"value": "{l}"}, {"submission": {"value": "binary"}}, "binary is for rows with sets"),
        ({"value": "{l}"}, {"submission": {"separator": ";"}}, "submission.separator: is for rows with sets"),
    ],
)
def test_a_description_that_mixes_both_kinds_is_refused(
    label: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        described(label, more.pop("classes", ["rust", "scab"]), **more)
    assert message in str(caught.value)


def made_up(labels: np.ndarray, groups: list[str] | None = None, order: Any = None) -> Table:
    order = np.arange(len(labels)) if order is None else np.array(order)
    ids = tuple(f"id{row}" for row in order)
    return Table(
        dataset="made-up",
        classes=tuple("abcdefgh"[: labels.shape[1]]),
        train=Rows(ids, ids, Path("nowhere")),
        labels=labels[order],
        groups=None if groups is None else tuple(groups[row] for row in order),
        test=None,
    )


@st.composite
def wishes(draw: st.DrawFn) -> tuple[np.ndarray, list[str] | None, FoldsPart, list[int]]:
    """Sets of rows, groups or none, the wish, and another order of the rows."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = draw(st.integers(30, 60))
    labels = (random.random((rows, draw(st.integers(2, 6)))) < draw(st.floats(0.1, 0.6))).astype(np.uint8)
    labels[:2, 0] = 0, 1
    groups = [f"g{row // 2}" for row in range(rows)] if draw(st.booleans()) else None
    scheme = draw(st.sampled_from(["auto", "multilabel-stratified", "holdout", *(["group"] if groups else [])]))
    part = FoldsPart(k=draw(st.integers(2, 5)), scheme=scheme, rare="allow", seed=draw(st.integers(0, 5)))
    return labels, groups, part, random.permutation(rows).tolist()


@settings(max_examples=40, deadline=None)
@given(wishes())
def test_a_plan_of_sets_validates_each_row_once_and_keeps_groups_whole(
    wish: tuple[np.ndarray, list[str] | None, FoldsPart, list[int]],
) -> None:
    labels, groups, part, order = wish
    plan = make_plan(made_up(labels, groups), part)
    assert make_plan(made_up(labels, groups, order), part).csv_text == plan.csv_text
    if plan.scheme != "holdout":
        assert set(plan.folds.ravel()) == set(range(part.k))
    if groups is not None:
        fold_of = dict(zip(plan.ids, plan.folds[:, 0].tolist(), strict=True))
        assert all(fold_of[f"id{row}"] == fold_of[f"id{row - 1}"] for row in range(1, len(labels), 2))
    position = [int(name.removeprefix("id")) for name in plan.ids]
    assert np.array_equal(plan.labels_as(tuple("abcdefgh"[: labels.shape[1]])), labels[position])


def test_each_label_and_the_rows_without_any_are_spread_within_a_row_or_two() -> None:
    random = np.random.default_rng(3)
    labels = (random.random((1003, 8)) < [0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.03]).astype(np.uint8)
    labels[random.random(1003) < 0.3] = 0
    plan = make_plan(made_up(labels), FoldsPart(k=5))
    assert plan.scheme == "multilabel-stratified"
    position = [int(name.removeprefix("id")) for name in plan.ids]
    counts = np.stack([labels[position][plan.folds[:, 0] == fold].sum(axis=0) for fold in range(5)])
    assert (np.abs(counts - labels.sum(axis=0) / 5) <= 2).all()
    empty = [(~labels[position].any(axis=1))[plan.folds[:, 0] == fold].sum() for fold in range(5)]
    assert max(empty) - min(empty) <= 2
    assert np.ptp(np.bincount(plan.folds[:, 0])) <= 4


def test_a_plan_of_sets_is_what_it_was_after_being_saved(tmp_path: Path) -> None:
    labels = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0], [1, 0, 1]] * 5, dtype=np.uint8)
    plan = make_plan(made_up(labels), FoldsPart(k=2))
    save_plan(tmp_path / "plan.csv", plan)
    loaded = load_plan(tmp_path / "plan.csv")
    assert loaded.multilabel and loaded.csv_text == plan.csv_text and loaded.sha256 == plan.sha256
    assert "id0,,a|b," in plan.csv_text and "id1,,," in plan.csv_text


def test_sets_of_one_class_each_are_another_dataset_than_single_classes() -> None:
    single = np.array([0, 1, 2, 1])
    sets = made_up(np.eye(3, dtype=np.uint8)[single])
    assert dataclasses.replace(sets, labels=single).rows_sha256 != sets.rows_sha256


@pytest.mark.parametrize(
    ("part", "groups", "message"),
    [
        (FoldsPart(scheme="stratified"), None, "needs one class a row"),
        (FoldsPart(scheme="stratified-group"), "yes", "which also keeps groups on one side"),
        (FoldsPart(k=5), None, "class b of made-up has only 3 rows"),
    ],
)
def test_a_plan_that_sets_can_not_have_is_refused(part: FoldsPart, groups: str | None, message: str) -> None:
    labels = np.zeros((20, 2), dtype=np.uint8)
    labels[:10, 0], labels[8:11, 1] = 1, 1
    with pytest.raises(InputError) as caught:
        make_plan(made_up(labels, [f"g{row}" for row in range(20)] if groups else None), part)
    assert message in str(caught.value)


def test_rows_that_all_have_the_same_classes_are_nothing_to_learn_from() -> None:
    with pytest.raises(InputError, match="all have the same classes"):
        make_plan(made_up(np.tile(np.array([[1, 0, 1]], dtype=np.uint8), (12, 1))), FoldsPart(k=2))


def test_the_audit_counts_each_class_of_a_set() -> None:
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]] * 3, dtype=np.uint8)
    labels[3:, 1] = 0
    table = made_up(labels)
    plan = make_plan(table, FoldsPart(k=3, rare="allow"))
    table = dataclasses.replace(table, train=dataclasses.replace(table.train, folder=Path("/nowhere")))
    (rare,) = [one for one in audit(table, plan, None, None) if one.code == "rare-class"]
    assert rare.examples == ("b (1 row, not trained on in 1 fold)",)
