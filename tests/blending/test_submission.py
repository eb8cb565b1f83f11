"""`submission.csv` follows the sample file or the dataset's description, letter by letter."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.blending.submission import make_submission, save_submission
from ensemble.combining.combine import Combined
from ensemble.core.dataset import SubmissionSpec
from ensemble.core.metrics import decide
from ensemble.errors import InputError

IDS, CLASSES = ("001", "NA", "1e5"), ("cat", "dog")
PROBS = np.array([[0.25, 0.75], [0.9, 0.1], [1 / 3, 2 / 3]])


def _write(folder: Path, template: str | bytes | None = None, **changes: Any) -> str:
    values: dict[str, Any] = {"ids": IDS, "classes": CLASSES, "fmt": SubmissionSpec(), "probs": PROBS, **changes}
    combined = Combined(values["probs"], decide(values.pop("probs")))
    if template is not None:
        values["template"] = folder / "sample.csv"
        values["template"].write_bytes(template.encode("utf-8") if isinstance(template, str) else template)
    save_submission(folder / "submission.csv", make_submission(combined=combined, **values))
    return (folder / "submission.csv").read_bytes().decode("utf-8")


def _refusal(folder: Path, template: str | bytes | None, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        _write(folder, template, **changes)
    assert not (folder / "submission.csv").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("fmt", "labels", "text"),
    [
        ({}, None, "id,label\n001,dog\nNA,cat\n1e5,dog\n"),
        ({"value": "index", "id": "ImageID", "label": "ans"}, None, "ImageID,ans\n001,1\nNA,0\n1e5,1\n"),
        ({"value": "index"}, "name", "id,label\n001,dog\nNA,cat\n1e5,dog\n"),
        ({"value": "probability"}, None, "id,cat,dog\n001,0.25,0.75\nNA,0.9,0.1\n1e5,{0!r},{1!r}\n"),
        ({"value": "probability"}, "index", "id,label\n001,1\nNA,0\n1e5,1\n"),
    ],
)
def test_without_a_template_the_description_decides(tmp_path: Path, fmt: Any, labels: Any, text: str) -> None:
    assert _write(tmp_path, fmt=SubmissionSpec(**fmt), labels=labels) == text.format(1 / 3, 2 / 3)


ONE = {"value": "probability", "label": "target", "probability_of": "dog"}


def test_the_probability_of_one_class_stands_in_one_column(tmp_path: Path) -> None:
    expected = f"id,target\n001,0.75\nNA,0.1\n1e5,{2 / 3!r}\n"
    assert _write(tmp_path, fmt=SubmissionSpec(**ONE)) == expected
    assert _write(tmp_path, "id,target\n001,0\nNA,0\n1e5,0\n", fmt=SubmissionSpec(**ONE)) == expected


def test_a_template_with_all_classes_gets_all_of_them_though_one_is_described(tmp_path: Path) -> None:
    text = _write(tmp_path, "id,cat,dog\nNA,0,0\n001,0,0\n1e5,0,0\n", fmt=SubmissionSpec(**ONE))
    assert text.splitlines()[1:3] == ["NA,0.9,0.1", "001,0.25,0.75"]


def test_the_probability_of_a_class_that_nobody_predicted_is_refused(tmp_path: Path) -> None:
    message = _refusal(tmp_path, None, fmt=SubmissionSpec(**{**ONE, "probability_of": "fox"}))
    assert "submission.probability_of: 'fox' is none of 'cat', 'dog'" in message


def test_a_template_gives_rows_columns_and_spelling(tmp_path: Path) -> None:
    assert _write(tmp_path, "image,ans\nNA,0\n1e5,0\n001,0\n") == "image,ans\nNA,cat\n1e5,dog\n001,dog\n"


def test_a_template_with_windows_line_ends_bom_quotes_and_blank_lines_is_read(tmp_path: Path) -> None:
    template = b'\xef\xbb\xbf"id","label"\r\n"NA",x\r\n\r\n001,x\r\n1e5,x\r\n\r\n'
    assert _write(tmp_path, template) == "id,label\nNA,cat\n001,dog\n1e5,dog\n"


def test_the_id_column_is_the_described_one_wherever_it_stands(tmp_path: Path) -> None:
    text = _write(tmp_path, "label,key\n0,1e5\n0,001\n0,NA\n", fmt=SubmissionSpec(id="key"))
    assert text == "label,key\ndog,1e5\ndog,001\ncat,NA\n"


def test_labels_index_writes_positions_into_a_template(tmp_path: Path) -> None:
    assert _write(tmp_path, "id,label\n001,0\nNA,0\n1e5,0\n", labels="index") == "id,label\n001,1\nNA,0\n1e5,1\n"


def test_the_datasets_format_decides_names_or_numbers_in_a_template(tmp_path: Path) -> None:
    text = _write(tmp_path, "id,label\n001,0\nNA,0\n1e5,0\n", fmt=SubmissionSpec(value="index"))
    assert text == "id,label\n001,1\nNA,0\n1e5,1\n"


def test_class_columns_of_a_template_get_probabilities_in_its_order(tmp_path: Path) -> None:
    text = _write(tmp_path, "dog,id,cat\n0,001,0\n0,NA,0\n0,1e5,0\n", fmt=SubmissionSpec(id="id"))
    assert text == f"dog,id,cat\n0.75,001,0.25\n0.1,NA,0.9\n{2 / 3!r},1e5,{1 / 3!r}\n"


def test_missing_extra_and_doubled_ids_are_refused_together_with_examples(tmp_path: Path) -> None:
    message = _refusal(tmp_path, "id,label\n001,0\n001,0\n1,0\n")
    assert "1 id appears more than once ('001')" in message
    assert "1 of its ids has no prediction ('1')" in message
    assert "2 predicted ids are not in it ('NA', '1e5')" in message


def test_ids_are_not_guessed_by_number_or_ending(tmp_path: Path) -> None:
    message = _refusal(tmp_path, "image,label\n1.jpg,0\nNaN,0\n100000.0,0\n")
    assert "none of its ids is known; ids are taken from column 'image'" in message


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("", "needs a header and at least one row"),
        ("id,label\n", "needs a header and at least one row"),
        ("id\n001\n", "one column"),
        ("id,x,x\n001,0,0\n", "'x' appears twice"),
        ('id,"x\ny"\n001,0\n', "line break"),
        ("id,label\n001,0\nNA\n", "sample.csv:3: 1 cell"),
        ("id,cat,fox\n001,0,0\n", "1 unknown ('fox') and 1 missing ('dog')"),
        ("id,cat,dog,usage\n001,0,0,0\n", "1 unknown ('usage')"),
        ('id,label\n"001,0\n', "not a CSV file"),
        (b"id,label\n\xff,0\n", "not UTF-8"),
    ],
)
def test_a_template_that_can_not_be_followed_is_refused(tmp_path: Path, template: str | bytes, words: str) -> None:
    assert words in _refusal(tmp_path, template)


def test_a_missing_template_is_refused(tmp_path: Path) -> None:
    combined = Combined(PROBS, decide(PROBS))
    with pytest.raises(InputError, match="there is no such template"):
        make_submission(IDS, CLASSES, combined, SubmissionSpec(), tmp_path / "none.csv")


def test_probabilities_do_not_fit_one_column(tmp_path: Path) -> None:
    message = _refusal(tmp_path, "id,label\n001,0\nNA,0\n1e5,0\n", fmt=SubmissionSpec(value="probability"))
    assert "--labels name or --labels index" in message


@pytest.mark.parametrize("fmt", [{"id": "label"}, {"id": "cat", "value": "probability"}])
def test_a_description_with_one_name_for_two_columns_is_refused(tmp_path: Path, fmt: dict[str, Any]) -> None:
    assert "would be two columns" in _refusal(tmp_path, None, fmt=SubmissionSpec(**fmt))


def test_a_file_that_reads_back_otherwise_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ensemble.blending.submission.csv.reader", lambda stream: iter([["id", "label"], ["001", "cat"]])
    )
    with pytest.raises(RuntimeError, match="row 2 read back"):
        _write(tmp_path)
    assert os.listdir(tmp_path) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_ids_class_names_and_numbers_read_back_as_they_are(tmp_path: Path, data: st.DataObject) -> None:
    text = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1, max_size=6)
    ids = data.draw(st.lists(text, min_size=1, max_size=8, unique=True))
    classes = data.draw(st.lists(text.filter(lambda name: name != "id"), min_size=2, max_size=4, unique=True))
    probs = np.random.default_rng(len(ids)).dirichlet(np.ones(len(classes)), len(ids))
    _write(tmp_path, ids=ids, classes=classes, probs=probs, fmt=SubmissionSpec(value="probability"))
    with (tmp_path / "submission.csv").open(encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    assert header == ["id", *classes]
    assert [row[0] for row in rows] == ids
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], dtype=float), probs)
