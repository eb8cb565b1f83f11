"""Reading a dataset's rows: text stays text, and whatever is wrong is said together."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.dataset import DatasetDescription
from ensemble.data.embedded import TEST_LABELS_NAME, draw_digits
from ensemble.data.tables import dataset_folder, load_table
from ensemble.errors import InputError


def describe(**changes: Any) -> DatasetDescription:
    parts: dict[str, Any] = {
        "classes": ["red", "green", "blue"],
        "train": {"table": "train.csv", "id": "{id}", "image": "images/{id}.png", "label": {"value": "{label}"}},
        "test": {"table": "test.csv", "id": "{id}", "image": "images/{id}.png"},
    }
    return DatasetDescription.model_validate({**parts, **changes})


@pytest.fixture
def folder(tmp_path: Path, squares: Path) -> Path:
    """A copy of the tiny dataset, to spoil."""
    return Path(shutil.copytree(squares, tmp_path / "squares"))


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


def test_ids_keep_their_zeros_and_labels_their_places(folder: Path) -> None:
    table = load_table("squares", describe(), folder)
    assert table.train.ids[:2] == ("0000", "0037")
    assert np.array_equal(table.labels[:6], [0, 1, 2, 0, 1, 2])
    assert table.test is not None
    assert len(table.test.ids) == 12


def test_na_none_and_numbers_are_ids_like_any_other(folder: Path) -> None:
    names = ["NA", "None", "1e5", "007"]
    for name in names:
        shutil.copy(folder / "images" / "0000.png", folder / "images" / f"{name}.png")
    edit(folder / "train.csv", lambda text: text + "".join(f"{name},blue\n" for name in names))
    table = load_table("squares", describe(), folder)
    assert table.train.ids[-4:] == ("NA", "None", "1e5", "007")


def test_the_hash_follows_content_and_not_order(folder: Path, tmp_path: Path) -> None:
    before = load_table("squares", describe(), folder)
    edit(folder / "train.csv", lambda text: "\n".join([text.split("\n")[0], *sorted(text.split("\n")[1:-1])]) + "\n")
    reordered = load_table("squares", describe(), folder)
    assert before.train.ids != reordered.train.ids
    assert before.sha256 == reordered.sha256
    shutil.copy(folder / "images" / "0037.png", folder / "images" / "0000.png")
    assert load_table("squares", describe(), folder).sha256 != before.sha256


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda f: (f / "train.csv").unlink(),
            r"train\.csv: there is no such table; its folder holds images, test\.csv",
        ),
        (lambda f: (f / "train.csv").write_text(""), "the table is empty"),
        (lambda f: (f / "train.csv").write_text("id,label\n"), "no rows"),
        (
            lambda f: edit(f / "train.csv", lambda t: t.replace("label", "klass")),
            "names column 'label'; the table has id",
        ),
        (
            lambda f: edit(f / "train.csv", lambda t: t.replace("green", "gren")),
            "16 labels are none of red, green, blue",
        ),
        (lambda f: edit(f / "train.csv", lambda t: t + "0000,red\n"), "1 ids stand more than once: 0000"),
        (lambda f: edit(f / "train.csv", lambda t: t + "../../etc/passwd,red\n"), "lead out of the dataset's folder"),
        (lambda f: edit(f / "train.csv", lambda t: t + ",red\n"), "1 ids are empty"),
        (lambda f: (f / "images" / "0000.png").unlink(), r"1 images are missing: images/0000\.png"),
        (lambda f: edit(f / "test.csv", lambda t: t + "0000\n"), "1 ids are in both tables, train and test: 0000"),
    ],
)
def test_each_fault_of_a_table_has_its_message(folder: Path, spoil: Callable[[Path], Any], words: str) -> None:
    spoil(folder)
    with pytest.raises(InputError, match=words):
        load_table("squares", describe(), folder)


def test_all_faults_are_told_together(folder: Path) -> None:
    edit(folder / "train.csv", lambda text: text.replace("green", "gren") + "0000,red\n")
    (folder / "images" / "0037.png").unlink()
    with pytest.raises(InputError) as raised:
        load_table("squares", describe(), folder)
    assert len(raised.value.messages) == 3


def test_a_dataset_without_a_place_says_how_to_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ENS_DATA_ROOT", raising=False)
    with pytest.raises(InputError, match="pass --data squares=PATH, or set ENS_DATA_ROOT"):
        dataset_folder("squares", describe(), None, tmp_path)
    monkeypatch.setenv("ENS_DATA_ROOT", str(tmp_path))
    with pytest.raises(InputError, match="squares is no folder"):
        dataset_folder("squares", describe(), None, tmp_path)


def test_the_digits_are_drawn_once_and_their_answers_kept_apart(tmp_path: Path) -> None:
    folder = draw_digits(tmp_path / "digits")
    image = folder / "images" / "digit_0000.png"
    before = image.stat().st_mtime_ns
    draw_digits(folder)
    assert image.stat().st_mtime_ns == before
    rows = {name: (folder / name).read_text().split("\n")[1:-1] for name in ("train.csv", "test.csv", TEST_LABELS_NAME)}
    assert [len(lines) for lines in rows.values()] == [1437, 360, 360]
    assert [line.split(",")[0] for line in rows[TEST_LABELS_NAME]] == rows["test.csv"]


def test_half_drawn_digits_are_drawn_again(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "digit_0000.png").write_bytes(b"half")
    draw_digits(folder)
    assert len((folder / "images" / "digit_0000.png").read_bytes()) > 50
