"""Templates: filled for all rows at once, letter by letter, and refused when they make no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ensemble.core.dataset import PatternTemplate, Template
from ensemble.core.text import columns_of, fill, natural_key

TEXT = st.text(max_size=5)


@given(rows=st.lists(st.tuples(TEXT, TEXT), max_size=5))
def test_values_stand_where_the_template_names_them_whatever_they_hold(rows: list[tuple[str, str]]) -> None:
    columns = {"a": [a for a, _ in rows], "b.c": [b for _, b in rows]}
    assert fill("x{a}/{{*}}{b.c}{a}", columns, len(rows)) == [f"x{a}/{{*}}{b}{a}" for a, b in rows]


def test_a_star_of_the_template_is_told_from_a_star_in_a_value() -> None:
    assert fill("{a}*", {"a": ["*", "b"]}, 2, star="?") == ["*?", "b?"]


def test_columns_are_named_in_order() -> None:
    assert columns_of("{b}x{a}{{c}}") == ["b", "a"]


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{id", "malformed: expected '}'"),
        ("id}", "malformed: single '}'"),
        ("{}", "names no column"),
        ("{id:>4}", "column's name alone"),
        ("{id!r}", "column's name alone"),
    ],
)
def test_a_malformed_template_is_refused(template: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(Template).validate_python(template)


def test_two_stars_in_a_name_are_refused_and_one_each_is_fine() -> None:
    TypeAdapter(PatternTemplate).validate_python("*/a*{x}/*")
    with pytest.raises(ValidationError, match=r"two \* between slashes"):
        TypeAdapter(PatternTemplate).validate_python("a/*{x}*")


def test_numbers_in_names_count_as_numbers() -> None:
    assert sorted(["c10", "c2", "b", "c02", "10", "9"], key=natural_key) == ["9", "10", "b", "c02", "c2", "c10"]
