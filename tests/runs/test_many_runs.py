"""Several recipes in one `ens train`: one queue, a folder each, the bytes of single commands, all problems together."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensemble
from ensemble.core.locks import folder_lock
from ensemble.errors import InputError
from ensemble.recipe.find import expand_recipes
from ensemble.runs.request import RecipeErrors
from ensemble.runs.work import FoldCost, estimates
from tests.support import Ens, Fingerprint

BOTH = ("--recipe", "tiny", "--recipe", "mine_long")


@pytest.fixture
def several(workspace: Path) -> Path:
    """The workspace with recipes `mine_long`, of more epochs, and `mine_vit`, of another model, beside `tiny`."""
    write(workspace, "mine_long", "extends: tiny\ntrain: {epochs: 4}\n")
    write(workspace, "mine_vit", "extends: tiny\nmodel: {name: test_vit}\n")
    return workspace


def write(workspace: Path, name: str, text: str) -> None:
    (workspace / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    assert record.pop("record_sha256")  # of the file, not of the document
    return record


def test_recipes_trained_together_have_the_bytes_of_single_commands(
    several: Path, ens: Ens, fingerprint: Fingerprint
) -> None:
    for name in ("tiny", "mine_long"):
        assert ens("--outputs", "alone", "train", "--recipe", name).code == 0
    answer = ens("train", *BOTH, "--json")
    assert answer.code == 0, answer.err
    assert [run["run"] for run in answer.document["runs"]] == ["tiny", "mine_long"]
    assert answer.document["runs"][0] == record_of(several / "outputs" / "tiny")
    for name in ("tiny", "mine_long"):
        assert fingerprint(several / "outputs" / name) == fingerprint(several / "alone" / name)
    # What runs share is made once: one plan, one folder of decoded images for each part.
    assert len(list((several / "outputs" / "folds").glob("*.csv"))) == 1
    assert len(list((several / "outputs" / "cache").rglob("pixels.bin"))) == 2
    assert not list(several.glob("outputs/*/.lock"))


def test_the_longest_folds_come_first_and_a_run_is_merged_with_its_own_last_fold(several: Path) -> None:
    events: list[tuple[str, str]] = []

    def listen(event: Any) -> None:
        events.append((event["event"], event.get("run", "")))

    trained = ensemble.train_many(["tiny", "mine_long"], engine="inline", on_event=listen)
    assert [run.state for run in trained] == ["complete", "complete"]
    steps = [event for event in events if event[0] in ("fold-started", "merged")]
    assert steps == [
        *[("fold-started", "mine_long")] * 2,
        ("merged", "mine_long"),
        *[("fold-started", "tiny")] * 2,
        ("merged", "tiny"),
    ]
    assert [name for name, _ in events].count("preparing") == 1


def test_recipes_given_as_mappings_are_kept_each_in_a_run_of_its_own(several: Path) -> None:
    events: list[Any] = []
    slow, fast = ({"extends": "tiny", "train": {"lr": rate, "betas": np.array([0.9, 0.99])}} for rate in (1e-3, 4e-3))
    wanted: dict[str, Any] = {"folds": [0], "sets": {"train.epochs": 1}, "engine": "inline", "on_event": events.append}
    runs = ensemble.train_many([slow, "mine_*", fast, slow], **wanted)
    names = [run.path.name for run in runs]
    assert names[1:3] == ["mine_long", "mine_vit"] and len({*names}) == 4
    assert names[0].startswith("recipe-") and names[3].startswith("recipe-")
    assert [ensemble.load_recipe(run.path / "recipe.yaml").recipe.train.lr for run in (runs[0], runs[3])] == [
        1e-3,
        4e-3,
    ]
    events.clear()
    again = ensemble.train_many([fast, slow], **wanted)  # in another order: still the same runs
    assert [run.path.name for run in again] == [names[3], names[0]]
    assert not [event for event in events if event["event"] == "fold-started"]


def test_wrong_types_and_faults_of_recipes_given_as_mappings_are_told(several: Path) -> None:
    with pytest.raises(ensemble.InputError) as raised:
        ensemble.train_many(["tiny", 3], sets=[1], data={"a": 1})  # type: ignore[list-item, arg-type]
    starts = ("train_many: recipes is ['tiny', 3]", "train_many: sets is [1]", "train_many: data is {'a': 1}")
    assert len(raised.value.messages) == 3
    assert all(map(str.startswith, raised.value.messages, starts))
    with pytest.raises(ensemble.InputError) as raised:
        ensemble.train_many([{"extends": "tiny", "train": {"epoch": 3}}, {"extends": "tinny"}])
    assert "train.epoch is unknown; did you mean train.epochs?" in str(raised.value)
    assert "did you mean tiny?" in str(raised.value)
    assert not (several / "outputs").exists()


def test_a_pattern_names_recipes_and_each_gets_its_own_run(several: Path, ens: Ens) -> None:
    answer = ens("train", "--recipe", "recipes/mine_*.yaml", "--folds", "1")
    assert answer.code == 0, answer.err
    assert {path.parent.name for path in several.glob("outputs/*/run.json")} == {"mine_long", "mine_vit"}
    assert "mine_long fold 1: started" in answer.err
    # Asked for in part: the command without --folds does the rest, and is shown so.
    command = answer.out.split("to go on: ")[1]
    assert command.strip() == "ens train --recipe 'recipes/mine_*.yaml'"
    again = ens(*shlex.split(command)[1:], "--json")
    assert [run["state"] for run in again.document["runs"]] == ["complete", "complete"]
    assert again.err.count("finished earlier, kept") == 2


def test_all_problems_of_all_recipes_are_reported_together_and_nothing_is_written(several: Path, ens: Ens) -> None:
    write(several, "mine_typo", "extends: tiny\ntrain: {epoch: 4, lr: -1}\n")
    write(several, "mine_model", "extends: tiny\nmodel: {name: resnet5O}\n")
    answer = ens("train", "--recipe", "mine_*", "--recipe", "tiny")
    assert answer.code == 2
    assert "did you mean train.epochs" in answer.err
    assert "train.lr" in answer.err
    assert "no model resnet5O" in answer.err
    assert "Traceback" not in answer.err
    assert not list(several.glob("outputs/*/run.json"))
    assert not list(several.glob("outputs/folds/*"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--recipe", "tiny", "--recipe", "mine_long", "--name", "both"), "--name both: several recipes"),
        (("--recipe", "mine_x*"), "no recipe matches; there are "),
        (("--recipe", "recipes/x*.yaml"), "'recipes/x*.yaml': no recipe matches"),
        (("--recipe", "tiny", "--recipe", "tinny"), "there is no recipe 'tinny'"),
        (("--recipe", "tiny", "--recipe", "other/tiny.yaml"), "would both be trained into outputs/tiny"),
        (("--recipe", "tiny", "--recipe", "mine_long", "--folds", "7"), "tiny, mine_long: --folds 7"),
    ],
)
def test_what_cannot_be_trained_together_is_refused(
    several: Path, ens: Ens, words: tuple[str, ...], complaint: str
) -> None:
    (several / "other").mkdir()
    (several / "other" / "tiny.yaml").write_text("extends: ../recipes/tiny.yaml\n", encoding="utf-8")
    answer = ens("train", *words)
    assert (answer.code, answer.out) == (2, "")
    assert complaint in answer.err
    assert not list(several.glob("outputs/*/run.json"))


def test_a_run_that_fails_does_not_stop_the_others_and_is_reported_once(several: Path, ens: Ens) -> None:
    write(several, "mine_bad", "extends: tiny\ntrain: {lr: 1e30}\n")
    words = ("train", "--recipe", "mine_bad", "--recipe", "tiny", "--workers", "1")
    answer = ens(*words)
    assert answer.code == 3
    assert record_of(several / "outputs" / "tiny")["state"] == "complete"
    assert record_of(several / "outputs" / "mine_bad")["state"] == "failed"
    assert answer.out.count("mine_bad: fold 0 failed: ") == 1
    assert "failed: mine_bad: folds 0, 1 are missing; what is finished is kept" in answer.out
    assert "log: outputs/mine_bad/fold-0/log.txt" in answer.out
    assert "Traceback" not in answer.out + answer.err
    assert "Traceback" in (several / "outputs" / "mine_bad" / "fold-0" / "log.txt").read_text()
    assert answer.out.endswith(f"to go on: {shlex.join(['ens', *words])}\n")


def test_one_locked_run_refuses_the_whole_command(several: Path, ens: Ens) -> None:
    with folder_lock(several / "outputs" / "mine_long"):
        for words in (BOTH, ("--recipe", "mine_long", "--recipe", "tiny")):
            answer = ens("train", *words)
            assert answer.code == 2
            assert "outputs/mine_long: another command is at work here" in answer.err
            assert not (several / "outputs" / "tiny").exists()


def test_a_pattern_that_matches_one_recipe_still_answers_as_a_list(several: Path, ens: Ens) -> None:
    document = ens("train", "--recipe", "mine_v*", "--json").document
    assert [run["run"] for run in document["runs"]] == ["mine_vit"]


def test_patterns_are_names_or_paths_and_every_file_counts_once(several: Path) -> None:
    assert expand_recipes(["mine_*", "tiny"], several) == ["mine_long", "mine_vit", "tiny"]
    assert expand_recipes(["tiny", "recipes/*.yaml"], several) == [
        "tiny",
        "recipes/mine_long.yaml",
        "recipes/mine_vit.yaml",
    ]
    assert expand_recipes([str(several / "recipes" / "mine_[lv]*.yaml")], several) == [
        str(several / "recipes" / "mine_long.yaml"),
        str(several / "recipes" / "mine_vit.yaml"),
    ]
    with pytest.raises(InputError) as raised:
        expand_recipes(["nothing*", "tinny"], several)
    assert len(raised.value.messages) == 2


def test_problems_that_recipes_share_are_listed_once() -> None:
    errors = RecipeErrors(several=True)
    for name in ("a", "b"):
        with errors.collect(name):
            raise InputError("data: gone", "  look")
    with errors.collect("c"):
        raise InputError("recipes/c.yaml:1: wrong")
    with pytest.raises(InputError) as raised:
        raise errors.as_one()
    assert raised.value.messages == ("a, b: data: gone", "  look", "recipes/c.yaml:1: wrong")
    with pytest.raises(InputError), RecipeErrors().collect("alone"):
        raise InputError("at once")


@pytest.mark.parametrize(
    ("costs", "lengths", "in_seconds"),
    [
        ([FoldCost(2.0), FoldCost(6.0)], [2.0, 6.0], False),
        ([FoldCost(2.0, 10.0), FoldCost(6.0)], [10.0, 30.0], True),
        ([FoldCost(2.0, 10.0), FoldCost(6.0, 1.0)], [10.0, 1.0], True),
    ],
)
def test_measured_seconds_are_preferred_to_estimated_work(
    costs: list[FoldCost], lengths: list[float], in_seconds: bool
) -> None:
    assert estimates(costs) == (lengths, in_seconds)
