"""A blend from files to files: the whole walk, what it writes, and that it writes nothing when it refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.blending.blend import Blend, blend, load_blend
from ensemble.cli import build_parser
from ensemble.commands.blend_command import run
from ensemble.core.dataset import DatasetDescription
from ensemble.core.metrics import METRICS
from ensemble.core.predictions import load_predictions, save_predictions
from ensemble.errors import InputError, PartialFailure
from ensemble.screen.outcome import ShownTable
from tests.support import MakeMember, MakeRun, alter_record

FILES = {"submission.csv", "blend.json", "probs.npy", "probs.json", "probs.ids.txt"}
SIDE_FILES = {"diversity.csv", "frontier.csv"}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _refusal(paths: list[Path], outputs: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        blend(paths, outputs=outputs, **options)
    assert not (outputs / "blends").exists(), "something was written"
    return str(caught.value)


def _description(**submission: Any) -> DatasetDescription:
    return DatasetDescription.model_validate(
        {
            "classes": ["dog", "cat", "eel"],
            "train": {"table": "t.csv", "id": "{id}", "image": "{id}", "label": {"value": "{label}"}},
            "submission": submission,
        }
    )


def test_a_blend_leaves_its_files_and_nothing_else(make_run: MakeRun, outputs: Path) -> None:
    done = blend([make_run(seed) for seed in range(3)], outputs=outputs)
    assert done.folder == outputs / "blends" / "auto-3"
    assert set(_contents(done.folder)) == FILES | SIDE_FILES
    written = load_blend(done.folder / "blend.json")
    assert written.is_verified and {key: written[key] for key in done.document} == done.document


def test_blend_json_tells_what_the_contract_asks(make_run: MakeRun, make_member: MakeMember, outputs: Path) -> None:
    document = blend(
        [make_run(seed, metric="macro_f1") for seed in (1, 0)], outputs=outputs, name="b", method="soft"
    ).document
    assert [member["run"] for member in document["members"]] == ["run0", "run1"]
    assert [member["weight"] for member in document["members"]] == [0.5, 0.5]
    oofs = [make_member(seed, kind="oof") for seed in (0, 1)]
    scores = [METRICS["macro_f1"](one.labels, one.probs) for one in oofs]  # type: ignore[arg-type]
    assert [member["oof_score"] for member in document["members"]] == pytest.approx(scores)
    assert document["metric"] == "macro_f1"
    assert document["cost"] == {"seconds_per_1000_images": 4.0, "parameters": 200}
    assert (document["format"], document["method"], document["fallback"]) == (2, "soft", None)
    assert (document["rows"], document["classes"]) == (24, ["cat", "dog", "eel"])
    honest = document["honest"]
    assert honest["best_single"] == {"run": f"run{scores.index(max(scores))}", "value": pytest.approx(max(scores))}
    gains = {"gain_over_best_single", "gain_over_uniform"}
    own = {"value", "ci95", "best_single", "uniform", "optimistic", *gains}
    assert set(honest) == {*own, "units", "independent", "trusted", "doubt", "evidence"}
    assert all(set(honest[gain]) == {"value", "ci95", "p_better"} for gain in gains)
    assert document["honest"]["independent"] == "groups"
    assert document["honest_reason"] is None
    assert set(document["files"]) == (FILES | SIDE_FILES) - {"blend.json"}


def test_the_probabilities_are_the_mean_and_are_marked_as_a_blend(
    make_run: MakeRun, make_member: MakeMember, outputs: Path
) -> None:
    done = blend([make_run(seed) for seed in (0, 1)], outputs=outputs, method="soft")
    written = load_predictions(done.folder / "probs.npy")
    mean = (make_member(0).probs.astype(float) + make_member(1).probs) / 2
    np.testing.assert_array_equal(written.probs, mean)
    assert written.sidecar["blend_of"] == ["run0", "run1"]
    assert written.sidecar["folds_sha256"] == "f1"
    lines = done.submission.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "id,label"
    assert lines[1:] == [
        f"{name},{written.classes[row.argmax()]}" for name, row in zip(written.ids, written.probs, strict=True)
    ]


def test_neither_the_order_of_members_nor_of_oof_rows_nor_the_place_changes_a_byte(
    make_run: MakeRun, outputs: Path, make_member: MakeMember
) -> None:
    paths = [make_run(seed) for seed in range(3)]
    first = _contents(blend(paths, outputs=outputs, method="hard").folder)
    shuffled = np.random.default_rng(0).permutation(24).tolist()
    cost = {"cost": {"seconds_per_1000_images": 2.5, "parameters": 100}}
    save_predictions(paths[1].with_name("oof"), make_member(1, kind="oof", order=shuffled, **cost))
    moved = outputs.parent / "else where"
    shutil.move(paths[2].parent, moved / "x")
    again = blend([moved / "x", paths[1].parent, paths[0]], outputs=outputs, method="hard")
    assert _contents(again.folder) == first


def test_a_second_blend_of_that_name_replaces_the_first(make_run: MakeRun, outputs: Path) -> None:
    paths = [make_run(seed) for seed in range(3)]
    blend(paths, outputs=outputs, name="b", method="hard")
    (outputs / "blends" / "b" / ".probs.npy.1.0a.ens-tmp").write_bytes(b"left by a killed writer")
    for path in paths[:2]:
        path.with_name("oof.json").unlink()
        path.with_name("oof.npy").unlink()
        path.with_name("oof.ids.txt").unlink()
    done = blend(paths[:2], outputs=outputs, name="b")
    assert set(_contents(done.folder)) == FILES
    assert (done.document["method"], done.document["used"]) == ("auto", "soft")  # no row says anything else
    assert len(load_predictions(done.folder / "probs.npy").sidecar["blend_of"]) == 2


def test_a_write_that_fails_leaves_the_old_blend_whole(
    make_run: MakeRun, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make_run(0), make_run(1)]
    before = _contents(blend(paths, outputs=outputs, name="b").folder)

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ensemble.blending.blend.save_predictions", die)
    with pytest.raises(KeyboardInterrupt):
        blend(paths, outputs=outputs, name="b", method="hard", out=outputs / "copy.csv")
    assert _contents(outputs / "blends" / "b") == before and not (outputs / "copy.csv").exists()


def test_a_copy_that_cannot_be_written_leaves_the_old_blend_whole(
    make_run: MakeRun, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [make_run(0), make_run(1)]
    before = _contents(blend(paths, outputs=outputs, name="b").folder)
    copy = outputs.parent / "elsewhere" / "copy.csv"

    def write(path: Path, table: Any) -> None:
        if path.parent == copy.parent:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ensemble.blending.blend.write_submission", write)
    with pytest.raises(PartialFailure, match=r"copy\.csv: No space left"):
        blend(paths, outputs=outputs, name="b", method="hard", out=copy)
    assert _contents(outputs / "blends" / "b") == before and not list(copy.parent.iterdir())


def test_without_out_of_fold_rows_there_is_a_blend_but_no_honest_score(make_run: MakeRun, outputs: Path) -> None:
    document = blend([make_run(0), make_run(1, oof=False)], outputs=outputs).document
    assert document["honest"] is None
    assert "run1" in document["honest_reason"]
    assert [member["oof_score"] for member in document["members"]] == [None, None]


def test_folders_of_different_folds_are_blended_without_an_honest_score(
    make_run: MakeRun, make_member: MakeMember, outputs: Path
) -> None:
    """No row has out-of-fold predictions of both."""
    paths = [make_run(fold, folder=f"run0/fold-{fold}", oof=False, identity="i", run="run0") for fold in (0, 1)]
    for fold, path in enumerate(paths):
        oof = make_member(fold, kind="oof", identity="i", run="run0")
        rows = [row for row in range(24) if row % 3 == fold]
        assert oof.labels is not None
        part = replace(
            oof,
            ids=tuple(oof.ids[row] for row in rows),
            probs=oof.probs[rows],
            labels=oof.labels[rows],
            folds=[fold] * len(rows),
            groups=None,
        )
        save_predictions(path.with_name("oof"), part)
    done = blend(paths, outputs=outputs)
    assert done.document["honest"] is None
    assert "of different folds" in done.document["honest_reason"]
    with pytest.raises(InputError, match="of different folds; --method soft needs none"):
        blend(paths, outputs=outputs, method="stack")


def test_out_of_fold_rows_lie_beside_a_file_by_another_name_as_well(
    make_member: MakeMember, outputs: Path, tmp_path: Path
) -> None:
    for seed in (0, 1):
        save_predictions(tmp_path / f"probs_{seed}", make_member(seed))
        save_predictions(tmp_path / f"oof_{seed}", make_member(seed, kind="oof"))
    paths = [tmp_path / f"probs_{seed}.npy" for seed in (0, 1)]
    assert blend(paths, outputs=outputs).document["honest"] is not None


def test_one_member_makes_a_submission_too(make_run: MakeRun, outputs: Path) -> None:
    document = blend([make_run(0)], outputs=outputs).document
    assert document["honest"]["gain_over_best_single"]["value"] == 0


def test_members_of_one_name_are_told_apart_by_their_folder(make_run: MakeRun, outputs: Path) -> None:
    paths = [make_run(seed, run="r50", folder=f"team{seed}") for seed in (0, 1)]
    runs = [member["run"] for member in blend(paths, outputs=outputs).document["members"]]
    assert sorted(runs) == ["r50@team0", "r50@team1"]


def test_a_member_without_a_run_is_called_by_its_folder(make_run: MakeRun, outputs: Path) -> None:
    document = blend([make_run(0, run=None, folder="mate")], outputs=outputs).document
    assert document["members"][0]["run"] == "mate"


@pytest.mark.parametrize(
    ("metrics", "given", "used"),
    [
        (("macro_f1", "macro_f1"), None, "macro_f1"),
        (("macro_f1", None), None, "macro_f1"),
        (("macro_f1", "log_loss"), None, "accuracy"),
        (("own:metric", "own:metric"), "macro_f1", "macro_f1"),
        (("macro_f1", "macro_f1"), "log_loss", "log_loss"),
    ],
)
def test_the_metric_is_the_given_one_else_the_common_one(
    make_run: MakeRun, outputs: Path, metrics: tuple[str | None, str | None], given: str | None, used: str
) -> None:
    paths = [make_run(seed, metric=metric) for seed, metric in enumerate(metrics)]
    assert blend(paths, outputs=outputs, metric=given).document["metric"] == used


def test_a_metric_that_is_code_of_a_recipe_is_not_run_and_others_are_offered(make_run: MakeRun, outputs: Path) -> None:
    with pytest.raises(InputError, match=r"own:metric, is code .* --metric: accuracy, .*roc_auc"):
        blend([make_run(seed, metric="own:metric") for seed in (0, 1)], outputs=outputs)
    assert not (outputs / "blends").exists()


def test_out_gets_a_copy_of_the_submission(make_run: MakeRun, outputs: Path, tmp_path: Path) -> None:
    done = blend([make_run(0)], outputs=outputs, out=tmp_path / "new folder" / "s.csv")
    assert done.copy is not None
    assert done.copy.read_bytes() == done.submission.read_bytes()


def test_the_datasets_description_decides_format_and_class_order(make_run: MakeRun, outputs: Path) -> None:
    asked = []

    def find(name: str) -> DatasetDescription:
        asked.append(name)
        return _description(id="ImageID", label="ans", value="index")

    done = blend([make_run(0), make_run(1, class_order=[2, 1, 0])], outputs=outputs, find_dataset=find)
    assert asked == ["pets"]
    assert done.document["classes"] == ["dog", "cat", "eel"]
    probs = load_predictions(done.folder / "probs.npy").probs
    assert done.submission.read_text(encoding="utf-8").splitlines()[1] == f"test-000,{probs[0].argmax()}"


def test_class_numbers_are_refused_when_nobody_knows_their_order(make_run: MakeRun, outputs: Path) -> None:
    paths = [make_run(0), make_run(1, class_order=[2, 1, 0])]
    assert "class numbers mean nothing" in _refusal(paths, outputs, labels="index")


def test_rows_divided_by_their_sum_are_counted(make_run: MakeRun, outputs: Path) -> None:
    path = make_run(0, oof=False)
    probs = np.load(path)
    probs[3] *= 0.9
    np.save(path, probs)
    alter_record(path.with_suffix(".json"), npy_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert "--renormalize" in _refusal([path, make_run(1)], outputs)
    document = blend([path, make_run(1)], outputs=outputs, renormalize=True).document
    assert document["renormalized_rows"] == 1


def test_the_faults_of_all_files_are_one_error_and_nothing_is_written(make_run: MakeRun, outputs: Path) -> None:
    first, second, third = (make_run(seed) for seed in range(3))
    first.write_bytes(b"")
    second.with_name("oof.ids.txt").unlink()
    message = _refusal([first, second, third, outputs / "none.npy"], outputs)
    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "softest"}, "--method softest: unknown; known are auto, soft, hard"),
        ({"metric": "auc"}, "--metric auc: unknown"),
        ({"name": "../x"}, "--name '../x'"),
        ({"name": ""}, "--name ''"),
    ],
)
def test_unknown_words_are_refused(make_run: MakeRun, outputs: Path, options: dict[str, Any], words: str) -> None:
    assert words in _refusal([make_run(0)], outputs, **options)


def test_inputs_are_not_written_over(make_run: MakeRun, outputs: Path, tmp_path: Path) -> None:
    template = tmp_path / "sample.csv"
    template.write_text("id,label\n" + "".join(f"test-{row:03},0\n" for row in range(24)), encoding="utf-8")
    path = make_run(0)
    assert "overwrite an input" in _refusal([path], outputs, template=template, out=template)
    assert "overwrite an input" in _refusal([path], outputs, out=path.with_name("probs.ids.txt"))
    assert "is a folder" in _refusal([path], outputs, out=tmp_path)
    assert "is a file, not a folder" in _refusal([path], outputs, out=template / "s.csv")


def test_a_blend_does_not_vote_in_the_next(make_run: MakeRun, outputs: Path) -> None:
    paths = [make_run(0), make_run(1)]
    done = blend(paths, outputs=outputs)
    with pytest.raises(InputError, match="name its members instead: run0, run1"):
        blend([*paths, done.folder / "probs.npy"], outputs=outputs)


def test_out_of_fold_rows_of_another_model_are_refused(make_run: MakeRun, outputs: Path) -> None:
    here, there = make_run(0), make_run(1)
    for suffix in (".npy", ".ids.txt", ".json"):
        shutil.copy(there.with_name(f"oof{suffix}"), here.with_name(f"oof{suffix}"))
    message = _refusal([here], outputs)
    assert "not of the same model" in message
    assert "run differs (run1 and run0)" in message


def test_a_template_with_other_ids_writes_nothing(make_run: MakeRun, outputs: Path, tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text("id,label\nx,0\n", encoding="utf-8")
    assert "none of its ids is known" in _refusal([make_run(0)], outputs, template=tmp_path / "sample.csv")


def _arguments(paths: list[Path], folder: Path, **changes: Any) -> Namespace:
    arguments = build_parser().parse_args(["blend", *map(str, paths)])
    return Namespace(**{**vars(arguments), "outputs": folder / "outputs", "folder": folder, **changes})


def test_the_command_shows_members_honest_scores_and_where_the_submission_lies(
    make_run: MakeRun, tmp_path: Path
) -> None:
    outcome = run(_arguments([make_run(0), make_run(1)], tmp_path, method="soft", out=str(tmp_path / "s.csv")))
    assert outcome.exit_code == 0
    tables = [part for part in outcome.shown if isinstance(part, ShownTable)]
    assert [row[0] for row in tables[0].rows] == ["run0", "run1", "soft-2"]
    assert all(len(row) == len(table.headers) for table in tables for row in table.rows)
    assert [row[0].split()[0] for row in tables[1].rows] == ["best", "plain", "this"]
    assert any(str(tmp_path / "s.csv") in part for part in outcome.shown if isinstance(part, str))
    assert outcome.document["paths"]["submission"].endswith("submission.csv")
    json.dumps(outcome.document, allow_nan=False)


def test_the_command_says_why_there_is_no_honest_score(make_run: MakeRun, tmp_path: Path) -> None:
    outcome = run(_arguments([make_run(0, oof=False, cost=None)], tmp_path))
    assert any("no honest score: no out-of-fold rows" in part for part in outcome.shown if isinstance(part, str))


def test_the_command_takes_the_format_from_the_datasets_description(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    (tmp_path / "recipes" / "data" / "pets.yaml").write_text(
        "classes: [cat, dog, eel]\n"
        'train: {table: t.csv, id: "{id}", image: "{id}", label: {value: "{label}"}}\n'
        "submission: {id: ImageID, label: ans, value: index}\n",
        encoding="utf-8",
    )
    outcome = run(_arguments([make_run(0)], tmp_path))
    text = Path(outcome.document["paths"]["submission"]).read_text(encoding="utf-8")
    assert text.startswith("ImageID,ans\n")


def test_a_broken_description_is_an_error_and_an_unknown_dataset_is_none(make_run: MakeRun, tmp_path: Path) -> None:
    path = make_run(0)
    run(_arguments([path], tmp_path))
    (tmp_path / "recipes" / "data").mkdir(parents=True)
    (tmp_path / "recipes" / "data" / "pets.yaml").write_text("classes: [cat]\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"pets\.yaml"):
        run(_arguments([path], tmp_path))


def test_no_number_of_a_blend_is_nan(make_run: MakeRun, outputs: Path) -> None:
    def numbers(value: Any) -> list[float]:
        if isinstance(value, dict | list):
            return [one for part in (value.values() if isinstance(value, dict) else value) for one in numbers(part)]
        return [value] if isinstance(value, float) else []

    done: Blend = blend([make_run(0), make_run(1)], outputs=outputs, metric="roc_auc")
    assert all(math.isfinite(one) for one in numbers(done.document))


def test_members_are_shown_in_the_order_of_their_names(make_run: MakeRun, tmp_path: Path) -> None:
    outcome = run(_arguments([make_run(seed) for seed in (10, 9, 2)], tmp_path))
    table = next(part for part in outcome.shown if isinstance(part, ShownTable))
    assert [row[0] for row in table.rows] == ["run2", "run9", "run10", "auto-3"]
    weighted = run(
        _arguments([make_run(seed) for seed in (10, 2)], tmp_path, method="weighted", weights="run10=1,run2=3")
    )
    table = next(part for part in weighted.shown if isinstance(part, ShownTable))
    assert [row[:2] for row in table.rows][:2] == [["run2", "0.750"], ["run10", "0.250"]]


@pytest.mark.parametrize(("better", "is_said"), [(0.5, False), (0.3, False), (0.01, True)])
def test_a_member_alone_is_advised_only_where_it_is_probably_better(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, better: float, is_said: bool
) -> None:
    done = blend([make_run(seed) for seed in (0, 1)], outputs=tmp_path / "outputs")
    done.document["honest"]["gain_over_best_single"].update(value=-0.01, p_better=better)
    monkeypatch.setattr("ensemble.commands.blend_command.run_blend", lambda *_, **__: done)
    outcome = run(_arguments([Path("a")], tmp_path))
    assert any("consider submitting" in str(part) for part in outcome.shown) == is_said
