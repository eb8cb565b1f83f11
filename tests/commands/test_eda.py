"""`ens eda`: the facts of a dataset for a person, as JSON, as tables and as figures."""

from __future__ import annotations

import csv
import shutil
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support import Ens


@pytest.fixture
def spoilt(squares: Path, tmp_path: Path) -> Path:
    """The tiny dataset with a twin of another class, a test image among the training rows, a file cut off."""
    folder = Path(shutil.copytree(squares, tmp_path / "spoilt" / "squares"))
    images = folder / "images"
    rows = [line.split(",") for line in (folder / "train.csv").read_text().splitlines()[1:]]
    test = (folder / "test.csv").read_text().splitlines()[1]
    (red, *_), (green, *_) = ([row_id for row_id, label in rows if label == name] for name in ("red", "green"))
    shutil.copy(images / f"{red}.png", images / f"{green}.png")
    shutil.copy(images / f"{test}.png", images / f"{rows[5][0]}.png")
    cut = images / f"{rows[8][0]}.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    cv2.imwrite(str(images / f"{rows[11][0]}.png"), np.full((9, 30, 3), 7, dtype=np.uint8))
    return folder


def test_the_facts_are_those_of_the_files(workspace: Path, ens: Ens) -> None:
    facts = ens("eda", "--recipe", "tiny", "--json").document
    assert (facts["dataset"], facts["rows"], facts["test_rows"]) == ("squares", 48, 12)
    assert facts["class_counts"] == {"red": 16, "green": 16, "blue": 16}
    assert facts["images"]["sizes"] == [{"width": 20, "height": 20, "images": 48}]
    assert facts["images"]["states"] == {"ok": 48}
    assert facts["test_images"]["states"] == {"ok": 12}
    assert len(facts["images"]["mean"]) == 3
    assert facts["files"] == []
    assert not list(workspace.glob("outputs/*/run.json"))


def test_what_is_wrong_with_images_is_found(workspace: Path, ens: Ens, spoilt: Path) -> None:
    answer = ens("eda", "--recipe", "tiny", "--data", f"squares={spoilt}", "--json")
    found = {finding["code"]: finding for finding in answer.document["findings"]}
    assert {"label-conflict", "train-test-duplicate", "truncated", "blank"} <= set(found)
    assert found["label-conflict"]["count"] >= 1
    assert found["truncated"]["count"] == 1
    assert answer.document["images"]["states"] == {"blank": 1, "ok": 46, "truncated": 1}


def test_tables_and_figures_are_written_whole(workspace: Path, ens: Ens, spoilt: Path) -> None:
    answer = ens("eda", "--recipe", "tiny", "--data", f"squares={spoilt}", "--out", "look", "--json")
    files = [Path(path) for path in answer.document["files"]]
    assert {path.name for path in files} == {
        *("classes.csv", "images.csv", "findings.csv"),
        *("classes.svg", "widths.svg", "heights.svg", "aspects.svg"),
    }
    for path in files:
        if path.suffix == ".svg":
            ET.parse(path)
    with Path("look/images.csv").open(newline="") as stream:
        images = list(csv.DictReader(stream))
    assert len(images) == 60
    assert sorted({row["state"] for row in images}) == ["blank", "ok", "truncated"]
    assert {row["part"] for row in images} == {"train", "test"}


def test_every_row_of_every_finding_is_in_findings_csv(workspace: Path, ens: Ens, spoilt: Path) -> None:
    answer = ens("eda", "--recipe", "tiny", "--data", f"squares={spoilt}", "--json")
    assert answer.document["files"] == [str(Path("outputs/eda/squares/findings.csv"))]
    with Path(answer.document["files"][0]).open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["level", "code", "path", "partner", "what", "distance", "advice"]
    counts = {(finding["level"], finding["code"]): finding["count"] for finding in answer.document["findings"]}
    assert len(counts) == len(answer.document["findings"]) >= 4
    listed = Counter((row["level"], row["code"]) for row in rows)
    assert listed == counts
    (pair,) = [row for row in rows if row["code"] == "train-test-duplicate"]
    assert (spoilt / pair["path"]).read_bytes() == (spoilt / pair["partner"]).read_bytes()
    assert pair["distance"] == "0" and "delete the rows of those training images" in pair["advice"]
    (cut,) = [row for row in rows if row["code"] == "truncated"]
    assert cut["what"] and not cut["partner"] and not cut["distance"]


def test_mended_data_leave_no_old_findings_behind(workspace: Path, ens: Ens, spoilt: Path, squares: Path) -> None:
    ens("eda", "--recipe", "tiny", "--data", f"squares={spoilt}")
    path = Path("outputs/eda/squares/findings.csv")
    assert len(path.read_text().splitlines()) > 4
    ens("eda", "--recipe", "tiny", "--data", f"squares={squares}")
    assert path.read_text() == "level,code,path,partner,what,distance,advice\n"


@pytest.mark.parametrize("command", ["eda", "folds"])
def test_all_lists_every_row_in_json_and_on_the_screen(workspace: Path, ens: Ens, spoilt: Path, command: str) -> None:
    words = (command, "--recipe", "tiny", "--data", f"squares={spoilt}", "--set", "data.bad_images=drop")
    short, long = ens(*words, "--json").document["findings"], ens(*words, "--all", "--json").document["findings"]
    assert all("rows" not in finding for finding in short)
    assert [{key: finding[key] for key in short[0]} for finding in long] == short
    for finding in long:
        assert len(finding["rows"]) == finding["count"]
        assert all(set(row) == {"path", "what", "partner", "distance"} for row in finding["rows"])
    shown = ens(*words, "--all").out
    for finding in long:
        for row in finding["rows"]:
            assert f"  {row['path']}  " in shown and row["partner"] in shown


def test_a_person_sees_bars_sizes_normalisation_and_findings(workspace: Path, ens: Ens, spoilt: Path) -> None:
    shown = ens("eda", "--recipe", "tiny", "--data", f"squares={spoilt}").out
    for words in (
        "48 training rows, 12 test rows, 3 classes",
        "####",
        "width",
        "  mean: [",
        "truncated",
        "label-conflict",
    ):
        assert words in shown
    assert "nothing suspicious was found" in ens("eda", "--recipe", "tiny").out or "note" in shown


def test_a_second_look_opens_no_image(workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ens("eda", "--recipe", "tiny", "--json").document

    def fail(*arguments: object, **options: object) -> None:
        pytest.fail("an image was decoded again")

    monkeypatch.setattr("ensemble.images.scan.decode_image", fail)
    assert ens("eda", "--recipe", "tiny", "--json").document == before


def test_the_contact_sheet_shows_the_image_and_its_changes(workspace: Path, ens: Ens) -> None:
    answer = ens("eda", "--recipe", "tiny", "--augment", "--json")
    assert answer.code == 0, answer.err
    (path,) = answer.document["files"]
    assert path == str(Path("outputs/eda/squares/augment.png"))
    sheet = cv2.imread(path)
    side = 96 + 4
    assert sheet.shape == (8 * side + 4, 8 * side + 8, 3)
    first = [sheet[4:100, 4 + column * side + 4 * (column > 0) :][:, :96] for column in range(8)]
    assert len({tile.tobytes() for tile in first}) == 8
    plain = ens("eda", "--recipe", "tiny", "--augment", "--set", "augment=none", "--out", "plain", "--json")
    sheet = cv2.imread(plain.document["files"][-1])
    tiles = [sheet[4:100, 4 + column * side + 4 * (column > 0) :][:, :96] for column in range(8)]
    assert len({tile.tobytes() for tile in tiles}) == 1


def test_a_dataset_that_no_plan_suits_is_looked_at_all_the_same(workspace: Path, ens: Ens, spoilt: Path) -> None:
    arguments = ("--recipe", "tiny", "--data", f"squares={spoilt}", "--set", "folds.k=40")
    answer = ens("eda", *arguments, "--out", "look", "--augment", "--json")
    found = {finding["code"]: finding for finding in answer.document["findings"]}
    assert answer.code == 2
    assert found["no-plan"]["message"].startswith("folds.k: 40, but class")
    assert {"label-conflict", "train-test-duplicate", "truncated", "blank"} <= set(found)
    assert all(Path(path).exists() for path in answer.document["files"])
    assert not list(workspace.glob("outputs/folds/*"))
    assert "folds.k: 40, but class" in ens("folds", *arguments).err


def test_a_pipe_hears_of_every_tenth_of_looking(workspace: Path, ens: Ens) -> None:
    lines = [line for line in ens("eda", "--recipe", "tiny").err.splitlines() if "train images" in line]
    assert lines[-1] == "looking at train images: 48 of 48"
    assert len(lines) <= 11
