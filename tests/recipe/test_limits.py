"""What is far too large is refused early: counted is the work that is done before, never the time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.blending.id_files import read_ids, read_truth
from ensemble.core import complaints, schema, text
from ensemble.core.complaints import MOST_COMPLAINTS, closest
from ensemble.core.dataset import MOST_CLASSES, DatasetDescription
from ensemble.core.text import read_text_table
from ensemble.data.rows import fields_reader
from ensemble.data.table import load_table
from ensemble.errors import InputError
from ensemble.recipe import layers, transforms, yaml
from ensemble.recipe.load import MOST_CHOICES, load_recipe, searchable_keys
from ensemble.recipe.recipe import MOST_CONDITIONS, Recipe, SearchDimension
from ensemble.tuning.samplers import MOST_GRID_POINTS, require_sampler
from ensemble.tuning.space import check_space

DOCS = Path(__file__).parents[2] / "docs" / "limits.md"


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many names each search for what was meant looked at."""
    counts: list[int] = []
    real = complaints.difflib.get_close_matches

    def count(word: str, known: Any, **options: Any) -> list[str]:
        counts.append(len(known))
        return real(word, known, **options)

    monkeypatch.setattr(complaints.difflib, "get_close_matches", count)
    return counts


def faults(folder: Path, body: str, **options: Any) -> list[str]:
    """What is wrong with a recipe that ends with `body`."""
    (folder / "recipes").mkdir(exist_ok=True)
    head = "data: digits\nmodel: {name: test_resnet}\n"
    (folder / "recipes" / "big.yaml").write_text(head + body, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_recipe("big", folder=folder, **options)
    return list(caught.value.messages)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (f"augment: [{', '.join(['HorizontalFlop'] * 5_000)}]", "augment has 5,000 transforms, but at most 100"),
        (f"tta: [{', '.join(['HorizontalFlop'] * 5_000)}]", "tta.views has 5,000 transforms, but at most 100"),
        (f"search: {{augment: {[*range(5_000)]}}}", "search has 5,000 choices, but at most 1,000"),
        (f"augment: {[[]] * 30_000}", "holds more than 40,000 keys and values; nothing below this line was read"),
        (f"description: {'a' * 20_000}", "a text has 20,000 characters, but at most 10,000 are allowed"),
        (
            "loss: {plus: {" + ", ".join(f"a:b{n}: 1.0" for n in range(30)) + "}}",
            "must be a mapping of at most 20 keys",
        ),
        ("search: {train.lr: {low: 1, high: 1.0e+300, step: 1.0e-9}}", "makes more than 1,000,000 values"),
        (f"search: {{train.warmup_steps: {{low: 1, high: 1{'0' * 60}}}}}", "whole numbers of a search end at 2^53"),
    ],
    ids=["augment", "tta", "choices", "pieces", "text", "losses", "steps", "whole numbers"],
)
def test_a_list_that_is_far_too_long_is_refused_by_its_length_without_looking_up_its_items(
    body: str, message: str, tmp_path: Path, compared: list[int]
) -> None:
    assert any(message in line for line in faults(tmp_path, body))
    assert compared == []


@pytest.mark.parametrize(
    "body",
    [
        "\n".join(f"epochz{n}: 1" for n in range(5_000)),
        "search: {" + ", ".join(f"train.epochz{n}: [1, 2]" for n in range(5_000)) + "}",
        "augment: [{Affine: {" + ", ".join(f"rotato{n}: 1" for n in range(5_000)) + "}}]",
    ],
    ids=["keys", "search", "arguments"],
)
def test_of_thousands_of_unknown_names_a_few_hundred_are_looked_up_and_told(
    body: str, tmp_path: Path, compared: list[int]
) -> None:
    told = faults(tmp_path, body)
    assert len(told) <= MOST_COMPLAINTS + 2
    assert len(compared) <= 3 * (MOST_COMPLAINTS + 1)


def test_a_name_is_compared_with_a_thousand_at_most_and_a_very_long_one_with_none(compared: list[int]) -> None:
    known = [f"grenadine{n}" for n in range(30_000)] + ["blueberry"]
    assert closest("bluebery", known) == "blueberry"
    assert closest("grenadine9x", known) is not None
    assert closest("grenadine" * 100, known) is None
    assert max(compared) <= 1_000
    assert len(compared) == 2


def test_conditions_of_every_key_on_all_before_it_are_looked_at_once_each(tmp_path: Path) -> None:
    """There are 2^40 ways from the last key down to the first."""
    keys = [key for key in searchable_keys() if key.startswith("train.")]
    conditions = {key: keys[max(0, at - MOST_CONDITIONS) : at] for at, key in enumerate(keys)}
    lines = [f"  {key}: {{choices: [1, 2], when: {dict.fromkeys(conditions[key], 1)}}}" for key in keys]
    assert faults(tmp_path, "search:\n" + "\n".join(lines).replace("'", ""))
    space = {key: SearchDimension(choices=[1, 2], when=dict.fromkeys(conditions[key], 1) or None) for key in keys}
    check_space(space, {}, lambda values: [()] * len(values), {})


def test_more_conditions_of_one_key_than_are_allowed_are_refused(tmp_path: Path) -> None:
    when = ", ".join(f"{key}: 1" for key in searchable_keys()[: MOST_CONDITIONS + 1])
    told = faults(tmp_path, f"search: {{train.lr: {{choices: [1.0, 2.0], when: {{{when}}}}}}}")
    assert any("must be a mapping of at most 10 keys" in line for line in told)


def test_a_chain_of_files_and_settings_without_end_are_refused(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for number in range(60):
        (tmp_path / "recipes" / f"link{number}.yaml").write_text(f"extends: link{number + 1}\n", encoding="utf-8")
    assert "the chain has more than 50 files" in faults(tmp_path, "extends: link0")[0]
    told = faults(tmp_path, "", sets=[f"train.epochz{n}=1" for n in range(600)])
    assert told == ["--set: stands 600 times, but at most 500 are allowed"]


def test_a_grid_is_refused_by_its_number_of_points_before_any_is_made() -> None:
    space = {key: SearchDimension(choices=list(range(100))) for key in ("train.lr", "train.epochs", "seed")}
    with pytest.raises(InputError, match="1,000,000 combinations, but at most 10,000"):
        require_sampler("grid", space)
    require_sampler("grid", {"train.lr": space["train.lr"]})


def describe(**changes: Any) -> DatasetDescription:
    train = {"table": "train.csv", "id": "{id}", "image": "images/{id}.png", "label": {"value": "{label}"}}
    return DatasetDescription.model_validate({"classes": "found", "train": {**train, **changes}})


def test_parts_of_a_label_are_multiplied_before_their_classes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.core.dataset.product", lambda *parts: pytest.fail("a trillion names"))
    names = [f"c{n}" for n in range(100)]
    parts = [{"name": f"p{n}", "classes": names, "value": "{label}"} for n in range(6)]
    with pytest.raises(ValueError, match="make more than 40,000 classes together"):
        describe(label={"parts": parts})


def write_table(folder: Path, rows: list[str], header: str = "id,label") -> Path:
    (folder / "train.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return folder / "train.csv"


def test_more_classes_in_the_rows_than_a_dataset_may_have_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.data.label_values.MOST_CLASSES", 5)
    write_table(tmp_path, [f"i{n},x{n}" for n in range(9)])
    with pytest.raises(InputError, match="9 classes in the labels, at most 5 are allowed"):
        load_table("big", describe(), tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a" * 5_000, "a row has more than 1,000 characters"),
        ("id,label\n" + '"a\n",' * 5_000, "a row has more than 1,000 characters"),
        (",".join("abcdefghijklmnop"), "16 columns, but at most 10 are allowed"),
    ],
    ids=["line", "many lines", "columns"],
)
def test_a_table_is_read_no_further_than_to_what_is_too_long(
    content: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text, "LONGEST_ROW", 1_000)
    monkeypatch.setattr(text, "MOST_COLUMNS", 10)
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_text_table(tmp_path / "t.csv")


def test_many_rows_may_be_longer_together_than_one_row_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "LONGEST_ROW", 100)
    assert len(read_text_table(write_table(tmp_path, [f'i{n},"a\nb"' for n in range(200)]))) == 200


def test_a_list_of_ids_in_one_line_and_a_fold_for_each_row_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_bytes(b"a" * (2 << 20))
    with pytest.raises(InputError, match="a line has over 1,048,576 bytes"):
        read_ids(tmp_path / "ids.txt")
    table = write_table(tmp_path, [f"i{n},x,{n}" for n in range(101)], "id,label,fold")
    with pytest.raises(InputError, match="column 'fold' has 101 folds; at most 100 are possible"):
        read_truth(None, table)


@pytest.mark.parametrize("regex", ["(?P<a>(a+)+)!", "(?P<a>.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)!"])
def test_an_expression_that_would_not_come_to_an_end_is_given_up(regex: str, tmp_path: Path) -> None:
    write_table(tmp_path, [f"{'a' * 200}{n},x" for n in range(3)])
    with pytest.raises(InputError, match="takes too long on 3 names"):
        load_table("big", describe(fields={"value": "{id}", "regex": regex}), tmp_path)


@pytest.mark.parametrize("regex", ["(" * 490 + ")" * 490, "a{1,99999999999999}"])
def test_an_expression_that_python_cannot_compile_is_told(regex: str) -> None:
    with pytest.raises(ValueError, match="is no regular expression"):
        describe(fields={"value": "{id}", "regex": regex})


letters = st.text("ab_-", max_size=12)


@given(
    value=letters,
    pieces=st.lists(st.sampled_from(["", "_", "-", "a_", "ab"]), min_size=2, max_size=5),
)
def test_fields_are_taken_out_of_a_name_as_greedy_groups_would(value: str, pieces: list[str]) -> None:
    names = [f"{{f{n}}}" for n in range(len(pieces) - 1)]
    template = "".join(piece + name for piece, name in zip(pieces, [*names, ""], strict=True))
    match = re.fullmatch("(.+)".join(map(re.escape, pieces)), value)
    assert fields_reader(template)(value) == (match.groups() if match else None)


def test_a_pattern_of_many_fields_is_matched_in_the_time_of_its_length() -> None:
    """As a regular expression it would try some 10^20 ways."""
    take = fields_reader("_".join(f"{{f{n}}}" for n in range(20)) + "!")
    assert take("a_" * 100) is None


LIMITS: list[tuple[Callable[[], int], str]] = [
    (lambda: yaml.MOST_PIECES, "keys and values of a recipe or a description"),
    (lambda: yaml.LONGEST_TEXT, "characters of one text in it"),
    (lambda: transforms.MOST_TRANSFORMS, "transforms in one list"),
    (lambda: layers.MOST_FILES, "files in a chain of `extends`"),
    (lambda: layers.MOST_SETS, "`--set`"),
    (lambda: MOST_CHOICES, "choices"),
    (lambda: MOST_CONDITIONS, "conditions"),
    (lambda: MOST_GRID_POINTS, "combinations of a grid"),
    (lambda: MOST_CLASSES, "classes of a dataset"),
    (lambda: schema.MOST_FOLDS, "folds of a plan"),
    (lambda: text.MOST_COLUMNS, "columns of a table"),
    (lambda: text.LONGEST_ROW, "characters of one row"),
    (lambda: MOST_COMPLAINTS, "faults told at once"),
]


@pytest.mark.parametrize(("value", "what"), LIMITS, ids=[what for _, what in LIMITS])
def test_the_page_of_limits_says_what_the_code_holds(value: Callable[[], int], what: str) -> None:
    row = next((line for line in DOCS.read_text(encoding="utf-8").splitlines() if what in line and "|" in line), "")
    assert f"| {value():,} |" in row


def test_the_recipe_says_how_many_folds_there_may_be() -> None:
    with pytest.raises(ValueError, match="less than or equal to 100"):
        Recipe.model_validate({"data": "digits", "model": {"name": "x"}, "folds": {"k": schema.MOST_FOLDS + 1}})
