"""CSV files are text: nothing is guessed, and cells never slip into another column."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.core.text import read_text_table
from ensemble.errors import InputError


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "t.csv"
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return path


def test_nothing_is_taken_for_a_number_or_for_missing(tmp_path: Path) -> None:
    table = read_text_table(written(tmp_path, 'id,label\n001,NA\n1e5,None\n"a, b",\n,nan\n'))
    assert table.columns["id"] == ("001", "1e5", "a, b", "")
    assert table.columns["label"] == ("NA", "None", "", "nan")


def test_a_byte_order_mark_windows_line_ends_and_blank_lines_are_no_content(tmp_path: Path) -> None:
    table = read_text_table(written(tmp_path, b"\xef\xbb\xbfid,x\r\n1,2\r\n\r\n3,4\r\n"))
    assert (table.header, len(table), table.columns["id"]) == (("id", "x"), 2, ("1", "3"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.just("x")), min_size=1)
)
def test_any_text_is_read_as_it_was_written(tmp_path: Path, rows: list[tuple[str, str]]) -> None:
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("a", "b"), *rows])
    assert read_text_table(tmp_path / "t.csv").columns["a"] == tuple(text for text, _ in rows)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ": the table is empty"),
        ("id,label\n", ": the table has no rows"),
        ("id,label\n1,2\n3\n", ":3: 1 cell, the header has 2"),
        ("id,label\n1,2,3\n", ":2: 3 cells, the header has 2"),
        ("id,x,x\n1,2,3\n", ": column 'x' appears twice in the header, id, x, x"),
        ('id,"a\nb"\n1,2\n', "line break"),
        ('id,label\n"1,2\n', "is not a CSV file"),
        ("id,größe\n1,2\n".encode("cp1252"), "not UTF-8 (it contains the byte 0xf6)"),
        ("id\n1\n".encode("utf-16"), "not UTF-8"),
    ],
)
def test_each_fault_has_its_message(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(InputError) as caught:
        read_text_table(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)


def test_many_ragged_lines_are_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_text_table(written(tmp_path, "id,x,x\n" + "1\n" * 9))
    assert len(caught.value.messages) == 5
    assert "6 more lines" in caught.value.messages[-1]


def test_a_table_that_is_not_there_says_what_is(tmp_path: Path) -> None:
    written(tmp_path, "x")
    with pytest.raises(InputError, match=r"no such table; its folder holds t\.csv$"):
        read_text_table(tmp_path / "train.csv")
    with pytest.raises(InputError, match=r"there is no folder .* either"):
        read_text_table(tmp_path / "none" / "train.csv")
    with pytest.raises(InputError, match="can't be read"):
        read_text_table(tmp_path)
