"""From a folder nobody described to a checked submission, with no file edited: `ens init`, and `--data DIR`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from standins.make import LAYOUTS, make_standin
from standins.plan import TEST_LABELS_NAME

import ensemble
from ensemble.recipe.load import load_dataset, load_recipe
from ensemble.runs import describe
from ensemble.runs.devices import Gpu
from tests.support import PROBABILITIES, SAMPLES, Ens, alter_record, read_table

FAST = ("--set", "train.epochs=1", "--set", "folds.k=2", "--set", "image.size=16", "--engine", "inline")


@pytest.fixture(autouse=True)
def folder(empty_place: Path) -> Path:
    """An empty working directory, for every test here."""
    return empty_place


def draw_classes(place: Path, names: Iterable[str] = ("circle", "square", "stripes"), each: int = 10) -> Path:
    """A folder for each class, whose images can be told apart."""
    random = np.random.default_rng(0)
    for label, name in enumerate(names):
        (place / name).mkdir(parents=True)
        for number in range(each):
            pixels = random.integers(0, 90, (24, 32, 3), dtype=np.uint8)
            pixels[4:20, 4:28, label % 3] = 230
            cv2.imwrite(str(place / name / f"{name[0]}{number}.jpg"), pixels)
    return place


def check_submission(name: str, data: Path, submission: Path) -> None:
    """Header, ids and their order as the organiser's sample has them, answers as the kept labels are spelt."""
    header, rows = read_table(submission)
    wanted_header, wanted = read_table(data / SAMPLES[name])
    _, right = read_table(data / TEST_LABELS_NAME)
    assert header == (wanted_header if name != "digits" else ["id", "label"])
    assert [row[0] for row in rows] == [row[0] for row in wanted]
    if name in PROBABILITIES:
        assert all(0 <= float(cell) <= 1 for row in rows for cell in row[1:])
        return
    said, known = ({part for row in part_rows for part in row[1].split("\0")} for part_rows in (rows, right))
    if name == "plant_pathology_2021":
        said, known = ({one for cell in cells for one in cell.split()} for cells in (said, known))
    if name == "mask18":
        known = set(map(str, range(18)))
    if name == "cars":  # kinds are many, and a small test part has not all of them
        known = {row[-1] for row in read_table(data / "train.csv")[1]}
    assert said <= known


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_goes_through_init_to_its_submission_with_no_file_edited(name: str, folder: Path, ens: Ens) -> None:
    make_standin(name, folder / "data" / name, 60)
    answer = ens("init", f"data/{name}")
    assert answer.code == 0, answer.err
    assert f"next: ens train --recipe {name}" in answer.out
    answer = ens("train", "--recipe", name, *FAST)
    assert answer.code == 0, answer.err
    answer = ens("blend", f"outputs/{name}/probs.npy", "--name", "b")
    assert answer.code == 0, answer.err
    check_submission(name, folder / "data" / name, folder / "outputs" / "blends" / "b" / "submission.csv")
    document = ens("score", name, "b", "--json").document
    tested = len(read_table(folder / "data" / name / TEST_LABELS_NAME)[1])
    assert [(item["rows"], item["without_label"]["count"]) for item in document["scored"]] == [(tested, 0)] * 2


@pytest.mark.parametrize("name", ["melanoma", "folders", "row_numbers", "mask18"])
def test_a_layout_goes_from_its_folder_alone_to_its_submission(name: str, folder: Path, ens: Ens) -> None:
    make_standin(name, folder / "raw" / name, 60)
    answer = ens("train", "--data", f"raw/{name}", *FAST)
    assert answer.code == 0, answer.err
    answer = ens("blend", f"outputs/{name}/probs.npy", "--name", "b")
    assert answer.code == 0, answer.err
    check_submission(name, folder / "raw" / name, folder / "outputs" / "blends" / "b" / "submission.csv")
    assert not (folder / "recipes").exists()
    document = ens("score", name, "b", "--json").document
    tested = len(read_table(folder / "raw" / name / TEST_LABELS_NAME)[1])
    assert [item["rows"] for item in document["scored"]] == [tested] * 2 and document["dataset"] == name


def draw_parts(place: Path, parts: Iterable[str] = ("train", "val", "test")) -> Path:
    """Class folders for each part; the same names in all of them."""
    for part in parts:
        draw_classes(place / part)
    return place


@pytest.mark.parametrize("is_described", [True, False])
def test_folders_of_train_val_and_test_lead_to_a_score_with_no_file_edited(
    is_described: bool, folder: Path, ens: Ens
) -> None:
    draw_parts(folder / "pets")
    if is_described:
        answer = ens("init", "pets")
        assert answer.code == 0, answer.err
        assert "validation: test rows in place of 30 images in val/: --test val" in answer.out
        assert "1 fold on this CPU" in answer.out
    answer = ens("train", *(("--recipe", "pets") if is_described else ("--data", "pets")), *FAST)
    assert answer.code == 0, answer.err
    oof = ensemble.load_predictions(folder / "outputs" / "pets" / "oof.npy")
    assert len(oof.ids) == 30 and all(row_id.startswith("val/") for row_id in oof.ids)
    assert ens("blend", "outputs/pets/probs.npy", "--name", "b").code == 0
    document = ens("score", "pets", "b", "--json").document
    assert [item["rows"] for item in document["scored"]] == [30, 30]
    assert document["labels"]["empty"]["count"] == 0 and document["looks"]["looks"] == 1


def test_labels_that_come_after_a_run_are_read_from_its_folder(folder: Path, ens: Ens) -> None:
    draw_parts(folder / "pets", ["train"])
    (folder / "pets" / "test").mkdir()
    for number, path in enumerate(sorted(draw_classes(folder / "more").rglob("*.jpg"))):
        path.rename(folder / "pets" / "test" / f"t{number}.jpg")
    assert ens("train", "--data", "pets", *FAST).code == 0
    answer = ens("score", "pets")
    assert answer.code == 2 and "--data DIR looks at it anew" in answer.err
    lines = [f"t{number}.jpg,{('circle', 'square', 'stripes')[number // 10]}" for number in range(30)]
    (folder / "pets" / "test_answers.csv").write_text("\n".join(["name,kind", *lines]) + "\n", encoding="utf-8")
    answer = ens("score", "pets", "--data", "pets", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["scored"][0]["rows"] == 30
    assert ens("score", "pets", "--data", "./petz").code == 2


def test_persons_on_both_sides_of_an_organisers_split_get_folds_of_all_rows(folder: Path, ens: Ens) -> None:
    random = np.random.default_rng(1)
    for part, persons in (("train", range(8)), ("val", range(6, 10))):
        for name in ("ill", "well"):
            for person in persons:
                (folder / "lungs" / part / name / f"p{person}").mkdir(parents=True)
                for number in range(2):
                    pixels = random.integers(0, 255, (24, 24, 3), dtype=np.uint8)
                    cv2.imwrite(str(folder / "lungs" / part / name / f"p{person}" / f"{number}.jpg"), pixels)
    described = ensemble.init("lungs").described
    assert described.table.has_validation and described.recipe.values["folds.scheme"] == "stratified-group"
    assert ens("folds", "--recipe", "lungs").code == 0
    answer = ens("train", "--recipe", "lungs", *FAST, "--set", "folds.scheme=auto")
    assert answer.code == 2 and "validation rows share groups with training rows" in answer.err
    assert "ask for folds.scheme: stratified-group" in answer.err and "fold column" not in answer.err


def test_five_minutes_from_an_empty_folder_one_command_trains_five_folds(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "pets")
    answer = ens("train", "--data", "pets", "--set", "train.epochs=2", "--engine", "inline")
    assert answer.code == 0, answer.err
    record = json.loads((folder / "outputs" / "pets" / "run.json").read_text(encoding="utf-8"))
    assert [state["state"] for state in record["fold_states"]] == ["complete"] * 5
    assert record["classes"] == ["circle", "square", "stripes"]
    assert record["scores"]["oof"]["accuracy"] > 0.3
    recognised = [line for line in answer.err.splitlines() if "a folder for each class: 30 images of 3 classes" in line]
    assert len(recognised) == 1 and "ens init pets explains it" in recognised[0]


def test_everything_works_on_a_run_of_a_folder_never_described(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "pets")
    draw_classes(folder / "set" / "train")
    (folder / "pets").rename(folder / "set" / "test")
    command = ("train", "--data", "./set", *FAST)
    assert ens(*command, "--folds", "0").code == 0
    first = (folder / "outputs" / "set" / "fold-0" / "fold.json").read_bytes()
    answer = ens(*command)
    assert answer.code == 0, answer.err
    assert (folder / "outputs" / "set" / "fold-0" / "fold.json").read_bytes() == first, "the same command goes on"
    assert ens("predict", "set", "--engine", "inline", "--tta", "hflip").code == 0
    assert ens("predict", "set", "--engine", "inline", "--images", "set/test/circle").code == 0
    assert "set" in ens("status").out
    assert ens("train", "--engine", "inline").code == 0, "the newest run, with nothing said"
    for verb in ("eda", "folds"):
        assert ens(verb, "--data", "set").code == 0
    answer = ens("blend", "outputs/set/probs.npy")
    assert answer.code == 0, answer.err
    answer = ens("train", "--recipe", "quickstart", "--data", "set", *FAST, "--set", "train.batch_size=8")
    assert answer.code == 0, answer.err
    assert ens("blend", "outputs/set/probs.npy", "outputs/quickstart/probs.npy").code == 0


def test_a_description_of_another_version_is_told_and_stops_no_blend(folder: Path, ens: Ens) -> None:
    make_standin("row_numbers", folder / "shapes", 40)
    assert ens("train", "--data", "shapes", *FAST).code == 0
    path = folder / "outputs" / "shapes" / "run.json"
    alter_record(path, described={"of": "the future"})
    answer = ens("train", "--data", "shapes", *FAST)
    assert answer.code == 2 and "can't be read by this version" in answer.err
    assert ens("blend", "outputs/shapes/probs.npy").code == 0


def test_a_folder_never_described_can_be_tuned(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "pets")
    words = ("tune", "--data", "pets", "--trials", "2", "--no-rescore", *FAST, "--set", "search.budget={epochs: 1}")
    answer = ens(*words)
    assert answer.code == 0, answer.err
    best = folder / "outputs" / "studies" / "pets" / "best.yaml"
    answer = ens("train", "--recipe", str(best), "--data", "pets", "--name", "best", "--engine", "inline")
    assert answer.code == 0, answer.err
    assert ens(*words[:4], "3", *words[5:]).code == 0, "the study goes on"


def test_a_study_of_a_folder_never_described_goes_on_where_its_machine_has_changed(
    folder: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_classes(folder / "pets")
    words = ("tune", "--data", "pets", "--no-rescore", *FAST, "--set", "search.budget={epochs: 1}")
    assert ens(*words, "--trials", "1").code == 0
    place = folder / "outputs" / "studies" / "pets"
    trained = {path: path.read_bytes() for path in place.glob("trial-*/*/fold.json")}
    monkeypatch.setattr(describe, "list_gpus", lambda: (Gpu("0"),))
    monkeypatch.setattr(describe, "usable_cores", lambda: 64)
    answer = ens(*words, "--trials", "1", "--json")
    assert answer.code == 0, answer.err
    assert "fold 0: started" not in answer.err and len(answer.document["trials"]) == 1
    assert {path: path.read_bytes() for path in place.glob("trial-*/*/fold.json")} == trained != {}
    assert ens(*words, "--trials", "2").code == 0, "and its next trial has the same recipe"
    answer = ens(*words, "--trials", "2", "--study", "other")
    assert "r50_kfold5 with" in answer.err, "another study is fitted to the machine"
    assert "about a minute, not measured on this card; ens init" in answer.err


def test_a_run_goes_on_where_its_machine_has_changed(folder: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_classes(folder / "pets")
    assert ens("train", "--data", "pets", *FAST, "--folds", "0").code == 0
    monkeypatch.setattr(describe, "list_gpus", lambda: (Gpu("0"),))
    answer = ens("train", "--data", "pets", *FAST)
    assert answer.code == 0, answer.err
    record = json.loads((folder / "outputs" / "pets" / "run.json").read_text(encoding="utf-8"))
    assert record["state"] == "complete" and record["recipe"]["model"]["name"] == "test_resnet"


def test_a_described_dataset_wins_over_a_folder_of_its_name(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "digits")
    answer = ens("folds", "--recipe", "quickstart", "--data", "digits", "--json")
    assert answer.document["rows"] == 1437
    answer = ens("folds", "--recipe", "quickstart", "--data", "./digits", "--json")
    assert answer.document["rows"] == 30


def test_what_is_written_loads_and_says_why(folder: Path, ens: Ens) -> None:
    make_standin("melanoma", folder / "moles", 60)
    answer = ens("init", "moles", "--json")
    document = answer.document
    assert document["files"] == ["recipes/data/moles.yaml", "recipes/moles.yaml"]
    assert {decision["what"] for decision in document["decisions"]} >= {"label", "group", "test rows", "submission"}
    assert document["test_labels"] == {"source": TEST_LABELS_NAME, "label": "target"}
    text = (folder / "recipes" / "data" / "moles.yaml").read_text(encoding="utf-8")
    assert 'value: "{diagnosis}"' in text, "the other reading stands beside the line"
    assert "folder: moles  #" in text
    assert load_dataset("moles", folder).train.group == "{patient_id}"
    assert load_recipe("moles", folder=folder).dataset_name == "moles"


def test_odd_names_of_folders_and_classes_are_written_and_read_back(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "my pets: #1 {x}", ["a\tb", "c # d", "é {y}"], each=5)
    result = ensemble.init("my pets: #1 {x}")
    assert result.name == "my_pets_1_x"
    answer = ens("folds", "--recipe", result.name, "--json")
    assert answer.code == 0, answer.err
    assert answer.document["classes"] == ["a\tb", "c # d", "é {y}"]


def test_nothing_is_overwritten_and_another_name_is_offered(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "pets")
    assert ens("init", "pets").code == 0
    before = {path: path.read_bytes() for path in (folder / "recipes").rglob("*.yaml")}
    answer = ens("init", "pets")
    assert answer.code == 2
    assert "recipes/data/pets.yaml and recipes/pets.yaml: are there" in answer.err and "--name pets2" in answer.err
    assert {path: path.read_bytes() for path in (folder / "recipes").rglob("*.yaml")} == before
    assert ens("init", "pets", "--name", "pets2").code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("init", "nowhere"), "there is no such folder"),
        (("init", "empty"), "no images below it"),
        (("init", "x.zip"), "unzip -q x.zip -d x"),
        (("init", "pets", "--label", "specis"), "the folders are the classes"),
        (("init", "pets", "--name", "a/b"), "a name is letters"),
        (("train", "--data", "./nowhere"), "there is no such folder"),
        (("eda", "--data", "empty"), "no images below it"),
        (("folds", "--data", "petz"), "there is no dataset 'petz'"),
    ],
)
def test_bad_input_is_told_in_words_and_nothing_is_written(
    words: tuple[str, ...], message: str, folder: Path, ens: Ens
) -> None:
    draw_classes(folder / "pets", each=4)
    (folder / "empty").mkdir()
    (folder / "x.zip").write_bytes(b"PK")
    answer = ens(*words)
    assert answer.code == 2
    assert message in answer.err and "Traceback" not in answer.err
    assert not (folder / "recipes").exists() and not (folder / "outputs").exists()


def test_a_full_disk_leaves_no_half_of_a_pair(folder: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_classes(folder / "pets")
    save = describe.save_text

    def fail(path: Path, text: str) -> None:
        if path.parent.name == "recipes":
            raise OSError(28, "No space left on device")
        save(path, text)

    monkeypatch.setattr(describe, "save_text", fail)
    assert ens("init", "pets").code == 3
    assert list(folder.rglob("*.yaml")) == []


def test_the_recipe_fits_the_machine(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_classes(folder / "pets")
    on_cpu = ensemble.init("pets", name="on_cpu")
    assert (on_cpu.described.recipe.base, on_cpu.described.recipe.device) == ("quickstart", "cpu")
    monkeypatch.setattr(describe, "list_gpus", lambda: (Gpu("0"),))
    on_gpu = ensemble.init("pets", name="on_gpu")
    assert (on_gpu.described.recipe.base, on_gpu.described.recipe.device) == ("r50_kfold5", "gpu")
    assert load_recipe("on_gpu", folder=folder).recipe.model.name == "resnet50"


def test_a_class_with_fewer_images_than_folds_can_be_trained(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "pets")
    draw_classes(folder / "more", ["rare"], each=2)
    (folder / "more" / "rare").rename(folder / "pets" / "rare")
    result = ensemble.init("pets")
    assert result.described.recipe.values["folds.rare"] == "allow"
    assert ens("folds", "--recipe", "pets").code == 0


def test_a_description_is_found_where_its_folder_says(
    folder: Path, ens: Ens, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = draw_classes(tmp_path_factory.mktemp("elsewhere") / "cats dogs")
    assert ens("init", str(elsewhere)).code == 0
    answer = ens("folds", "--recipe", "cats_dogs", "--json")
    assert answer.code == 0, answer.err
    assert answer.document["rows"] == 30


def test_an_init_that_was_killed_between_its_two_files_goes_on_and_overwrites_nothing(folder: Path, ens: Ens) -> None:
    draw_classes(folder / "shapes")
    assert ens("init", "shapes").code == 0
    recipe, description = folder / "recipes" / "shapes.yaml", folder / "recipes" / "data" / "shapes.yaml"
    texts = recipe.read_bytes(), description.read_bytes()
    recipe.unlink()
    assert ens("init", "shapes").code == 0
    assert (recipe.read_bytes(), description.read_bytes()) == texts
    assert "are there, and nothing is overwritten" in ens("init", "shapes").err
    recipe.unlink()
    description.write_bytes(texts[1] + b"# mine\n")
    answer = ens("init", "shapes")
    assert answer.code == 2 and "is there, and nothing is overwritten" in answer.err
    assert description.read_bytes() == texts[1] + b"# mine\n" and not recipe.exists()
