"""YAML is read by version 1.2, nothing is converted or expanded behind the user's back, and refusals name the line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensemble.recipe.yaml import YamlError, format_yaml, parse_value, parse_yaml, read_yaml

LETTERS = st.characters(
    codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="\ufeff\ufffe\uffff"
)
TEXTS = st.text(LETTERS | st.sampled_from("\t\n"), max_size=12) | st.sampled_from(
    [
        "no",
        "null",
        "~",
        "1e-3",
        "012",
        "0x1F",
        ".nan",
        "<<",
        "- a",
        "a: b",
        "a #b",
        "'",
        '"',
        "true",
        "&a",
        "*a",
        "!t",
        "%",
        "",
    ]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=12
)


def complaint(content: bytes | str) -> str:
    with pytest.raises(YamlError) as caught:
        parse_yaml(content, "r.yaml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3E+2", 300.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("no", "no"),
        ("on", "on"),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("+3", 3),
        ("-0", 0),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("True", True),
        ("tRUE", "tRUE"),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"null"', "null"),
        ("٣", "٣"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(text: str, value: Any) -> None:
    read = parse_yaml(f"key: {text}\n", "r.yaml").values["key"]
    assert (read, type(read)) == (value, type(value))


@given(st.dictionaries(TEXTS, VALUES, max_size=5))
@settings(max_examples=150, deadline=None)
@example({"a": {"b": {}}, "c": [], "d": -0.0})
def test_plain_values_survive_the_way_to_text_and_back(values: dict[str, Any]) -> None:
    if values:
        read = parse_yaml(format_yaml(values, comment="made\nby: a test"), "r.yaml").values
        assert read == values
        assert repr(read) == repr(values)  # 1 is not 1.0, nor true


@given(
    st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`#,?~<\\x0U. \t\n\r\0\u2028\ufeff1e"), max_size=40)
    | st.text()
    | st.binary()
)
@settings(max_examples=400, deadline=None)
@example('a: "\\U00110000"')
@example("%YAML 1.3\n---\na: 1")
@example("!<tag:\n")
@example("a: 0x" + "f" * 9999)
@example("a: " + "9" * 9999)
def test_no_text_makes_the_reader_fail_in_any_other_way(content: bytes | str) -> None:
    try:
        document = parse_yaml(content, "r.yaml")
    except YamlError as error:
        assert error.messages and all(
            message.startswith("r.yaml") and "\n" not in message for message in error.messages
        )
    else:
        assert all(type(key) is str for key in document.values)


@given(st.text(max_size=20))
@settings(max_examples=200, deadline=None)
def test_no_setting_makes_the_reader_fail_in_any_other_way(text: str) -> None:
    try:
        value = parse_value(text, "--set key")
    except YamlError as error:
        assert str(error).startswith("--set key: ")
    else:
        assert not (isinstance(value, float) and not math.isfinite(value))


def test_lines_are_those_of_each_key_and_item() -> None:
    document = parse_yaml("# head\na:\n  b: 1\n  c: [1,\n    {d: 2}]\n", "r.yaml")
    assert document.lines == {
        (): 2,
        ("a",): 2,
        ("a", "b"): 3,
        ("a", "c"): 4,
        ("a", "c", 0): 4,
        ("a", "c", 1): 5,
        ("a", "c", 1, "d"): 5,
    }


def test_an_alias_bomb_is_refused_at_its_first_anchor() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 10)]
    assert complaint("\n".join(lines)) == (
        "r.yaml:1: anchors (&) and aliases (*) are not supported; write the value out, or use extends"
    )


def test_a_key_given_twice_is_refused_with_both_lines() -> None:
    assert complaint("train:\n  lr: 1\n  epochs: 2\n  lr: 3\n") == (
        "r.yaml:4: train.lr appears a second time; the first is on line 2"
    )


def test_faults_of_keys_and_values_are_told_together_and_the_rest_is_still_read() -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml("1: a\nb: .nan\n<<: {x: 1}\nc: !!str 3\nd: 4\nd: 5\n? [1]\n: 2\nnull: 3\n", "r.yaml")
    assert [complaint.place.line for complaint in caught.value.complaints] == [1, 2, 3, 4, 6, 7, 9]
    assert caught.value.partial is not None
    assert caught.value.partial.values == {"b": ".nan", "c": 3, "d": 4}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1: a", "r.yaml:1: a key must be text, but here it is 1; put it in quotes: '1'"),
        ("a: 1\n<<: {b: 1}", "r.yaml:2: merge keys (<<) are not supported"),
        (
            "a: !!python/name:os.system x",
            "r.yaml:1: the tag 'tag:yaml.org,2002:python/name:os.system' is not supported",
        ),
        ("a: 1\n---\nb: 1", "r.yaml:2: a second document begins here"),
        ("%YAML 1.1\n---\na: no", "r.yaml:2: directives (%YAML, %TAG) are not supported"),
        ("", "r.yaml:1: is empty"),
        ("# only this\n", "r.yaml:1: is empty"),
        ("- a", "r.yaml:1: must be a mapping"),
        ("a: .inf", "r.yaml:1: '.inf' is not a finite number"),
        ("a: 1e999", "r.yaml:1: '1e999' is too large a number"),
        ("a: 1\nb: x\0y", "r.yaml:2: the character U+0000 is not allowed"),
        ('a: "x\\0y"', "r.yaml:1: the character U+0000 is not allowed in a value"),
        (b"a: 1\nb: \xff", "r.yaml:2: is not UTF-8 text"),
        ("a: 1".encode("utf-16"), "r.yaml:1: is not UTF-8 text"),
        ("a: 1\nb:\n\tc: 1", "indent with spaces, not tabs"),
        ("a: [1, 2\nb: 3", "r.yaml:2: is not valid YAML: "),
        ("a: b: c", "text with special characters needs quotes"),
        ("a: " + "[" * 40, "r.yaml:1: is nested deeper than 32 levels"),
        ("#" * 2**20 + "#", "r.yaml: is larger than 1 MiB"),
    ],
)
def test_what_is_refused_names_the_line_and_the_fault(content: bytes | str, expected: str) -> None:
    assert expected in complaint(content)


def test_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert parse_yaml(b"\xef\xbb\xbfa: 1", "r.yaml").values == {"a": 1}


def test_a_file_that_cannot_be_read_is_the_users_error(tmp_path: Path) -> None:
    with pytest.raises(YamlError, match=r"^here\.yaml: can't be read: "):
        read_yaml(tmp_path / "none.yaml", "here.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", "none"),
        ("no", "no"),
        ("3e-4", 3e-4),
        ("[a, 1]", ["a", 1]),
        ("{low: 1}", {"low": 1}),
        ("null", None),
        ('""', ""),
    ],
)
def test_a_setting_is_read_like_a_value_in_a_file(text: str, value: Any) -> None:
    assert parse_value(text, "--set key") == value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the value is empty; write null for none, or '\"\"' for empty text"),
        ("  ", "the value is empty"),
        ("best #1", "the value ends before the text does; put it in quotes"),
        ("a: b", "write a mapping as {key: value}"),
        ("- a", "a list as [a, b]"),
        ("&x 1", "anchors"),
        ("!!int 1", "the tag"),
        ("[1", "is not valid YAML"),
        (".nan", "is not a finite number"),
    ],
)
def test_a_setting_that_would_be_read_otherwise_than_written_is_refused(text: str, expected: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_value(text, "--set key")
    assert str(caught.value).startswith("--set key: ") and expected in str(caught.value)
