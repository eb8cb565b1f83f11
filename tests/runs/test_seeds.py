"""Several seeds of one recipe: runs beside each other in one queue, each as if trained alone; one line of tables."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import ensemble
from ensemble import status
from ensemble.core.schema import MOST_SEEDS
from ensemble.runs.status import next_step, seed_groups
from tests.support import Ens, Fingerprint, alter_record

TINY = ("train", "--recipe", "tiny", "--engine", "inline", "--set", "train.epochs=1")


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def seeds_of(outputs: Path) -> dict[str, int]:
    return {path.parent.name: record_of(path.parent)["recipe"]["seed"] for path in sorted(outputs.glob("*/run.json"))}


def started(answer: Any) -> int:
    return str(answer.err).count(": started")


def give_seeds(workspace: Path, text: str) -> None:
    with (workspace / "recipes" / "tiny.yaml").open("a", encoding="utf-8") as stream:
        stream.write(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Path:
    """A working directory with seeds 0 to 2 of `tiny`, trained together; nobody may change it."""
    from ensemble.cli import main
    from tests.conftest import make_workspace

    with pytest.MonkeyPatch.context() as patch:
        place = make_workspace(tmp_path_factory.mktemp("seeds"), squares, patch)
        assert main([*TINY, "--seeds", "3", "--quiet"]) == 0
    return place


@pytest.fixture
def three(trained: Path, tmp_path: Path, squares: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of its outputs, where their recipe is the copy's own; the process stands beside them."""
    from tests.conftest import stand_in

    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    stand_in(tmp_path, monkeypatch, data_root=squares.parent)
    for run in (tmp_path / "outputs").glob("*/run.json"):
        asked = record_of(run.parent)["asked"]
        alter_record(run, asked={**asked, "recipe": str(tmp_path / "recipes" / "tiny.yaml")})
    return tmp_path / "outputs"


def test_seeds_trained_together_are_the_runs_of_single_commands(
    workspace: Path, trained: Path, ens: Ens, fingerprint: Fingerprint
) -> None:
    runs = {name: record_of(trained / "outputs" / name) for name in ("tiny", "tiny-s1", "tiny-s2")}
    assert seeds_of(trained / "outputs") == {"tiny": 0, "tiny-s1": 1, "tiny-s2": 2}
    assert len({run["folds"]["sha256"] for run in runs.values()}) == 1  # so they can be blended row by row
    assert [run["asked"]["sets"][1:] for run in runs.values()] == [[], ["seed=1"], ["seed=2"]]
    for name, sets in (("tiny", ()), ("tiny-s2", ("--set", "seed=2"))):
        assert ens(*TINY, *sets, "--name", name).code == 0
        assert record_of(workspace / "outputs" / name)["identity"] == runs[name]["identity"]
        assert fingerprint(workspace / "outputs" / name) == fingerprint(trained / "outputs" / name)


def test_a_run_that_is_there_is_one_of_the_seeds_and_the_machine_is_looked_at_once(
    workspace: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.runs import work

    assert ens(*TINY).code == 0
    before = record_of(workspace / "outputs" / "tiny")
    queues: list[list[str]] = []
    run_tasks = work.run_tasks
    monkeypatch.setattr(
        work,
        "run_tasks",
        lambda tasks, *words: queues.append([task.name for task in tasks]) or run_tasks(tasks, *words),
    )
    answer = ens(*TINY, "--seeds", "3")
    assert answer.code == 0, answer.err
    assert queues == [
        ["tiny-s1/prepare"],
        [f"tiny-s{seed}/fold-{fold}" for seed in (1, 2) for fold in (0, 1)],
    ]
    assert record_of(workspace / "outputs" / "tiny") == before


def test_the_same_command_trains_whatever_is_missing_to_the_same_bytes(
    three: Path, ens: Ens, fingerprint: Fingerprint
) -> None:
    before = {run: fingerprint(three / run) for run in ("tiny", "tiny-s1", "tiny-s2")}
    shutil.rmtree(three / "tiny-s1" / "fold-0")
    shutil.rmtree(three / "tiny-s2")
    answer = ens(*TINY, "--seeds", "3")
    assert (answer.code, started(answer)) == (0, 3)
    assert {run: fingerprint(three / run) for run in before} == before


def test_some_folds_of_all_seeds_are_continued_by_the_command_that_status_prints(workspace: Path, ens: Ens) -> None:
    answer = ens(*TINY, "--seeds", "2,0", "--folds", "1", "--name", "mine")
    assert (answer.code, seeds_of(workspace / "outputs")) == (0, {"mine": 0, "mine-s2": 2})
    assert answer.out.split("to go on: ")[1].strip().endswith("--seeds 2,0 --name mine")
    command, continued = ens("status").out.split("next: ")[1].strip().split(" continues ")
    assert continued == "mine, mine-s2"
    assert "--seeds 0,2 --name mine" in command
    again = ens(*shlex.split(command)[1:], "--engine", "inline")
    assert (again.code, started(again)) == (0, 2)
    assert {run["state"] for run in status()["runs"]} == {"complete"}


def test_one_seed_that_is_left_is_continued_by_itself(three: Path, ens: Ens) -> None:
    record = record_of(three / "tiny-s1")
    record["fold_states"][1].update(state="missing", scores=None)
    alter_record(three / "tiny-s1" / "run.json", state="partial", fold_states=record["fold_states"])
    shutil.rmtree(three / "tiny-s1" / "fold-1")
    command, continued = next_step(status()).split(" continues ")
    assert continued == "tiny-s1"
    again = ens(*shlex.split(command)[1:], "--engine", "inline")
    assert (again.code, started(again), status()["seeds"][0]["state"]) == (0, 1, "complete")


def test_without_a_recipe_all_seeds_of_the_newest_run_go_on(three: Path, ens: Ens) -> None:
    shutil.rmtree(three / "tiny-s1" / "fold-0")
    answer = ens("train", "--engine", "inline", "--json")
    assert (answer.code, started(answer)) == (0, 1)
    assert [run["run"] for run in answer.document["runs"]] == ["tiny", "tiny-s1", "tiny-s2"]
    # The newest is now `tiny-s1`, but the names and the count are those of the run it stands beside.
    more = ens("train", "--seeds", "4", "--engine", "inline", "--folds", "0", "--json")
    assert [run["run"] for run in more.document["runs"]] == ["tiny", "tiny-s1", "tiny-s2", "tiny-s3"]
    assert ens("train", "--set", "seed=7").err.startswith("outputs/tiny: holds a run with other settings")


@pytest.mark.parametrize(
    ("recipe", "words", "runs"),
    [
        ("seed: 5\n", ("--seeds", "3"), {"tiny": 5, "tiny-s6": 6, "tiny-s7": 7}),
        ("", ("--seeds", "7,1"), {"tiny-s1": 1, "tiny-s7": 7}),
        ("", ("--seeds", "1"), {"tiny": 0}),
        ("", ("--set", "seed=4", "--seeds", "2"), {"tiny": 4, "tiny-s5": 5}),
        ("", ("--set", "seed=4", "--seeds", "4,0"), {"tiny": 4, "tiny-s0": 0}),
        ("seeds: [3, 1]\n", (), {"tiny": 3, "tiny-s1": 1}),
        ("seeds: [3, 1]\n", ("--seeds", "2"), {"tiny": 3, "tiny-s4": 4}),
        ("seeds: [3, 1]\n", ("--seeds", "9,8"), {"tiny-s8": 8, "tiny-s9": 9}),
        ("seeds: [3, 1]\n", ("--set", "seeds=[5, 6]", "--seeds", "7,8"), {"tiny-s7": 7, "tiny-s8": 8}),
        ("seeds: [3, 1]\n", ("--set", "seed=4"), {"tiny": 4}),
        ("seeds: [3, 1]\n", ("--set", "seeds=[6, 3]"), {"tiny": 6, "tiny-s3": 3}),
    ],
    ids=str,
)
def test_the_recipe_s_own_seed_has_its_name_and_others_are_named_by_their_value(
    workspace: Path, ens: Ens, recipe: str, words: tuple[str, ...], runs: dict[str, int]
) -> None:
    give_seeds(workspace, recipe)
    assert ens(*TINY, *words, "--folds", "0", "--quiet").code == 0
    assert seeds_of(workspace / "outputs") == runs
    assert all(record_of(workspace / "outputs" / run)["recipe"]["seeds"] is None for run in runs)


def test_fresh_moves_every_seed_aside(three: Path, ens: Ens) -> None:
    answer = ens(*TINY, "--seeds", "2", "--fresh", "--folds", "0")
    assert (answer.code, started(answer)) == (0, 2)
    assert {path.name for path in (three / ".old").iterdir()} == {"tiny-1", "tiny-s1-1"}
    assert record_of(three / "tiny-s2")["state"] == "complete"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--seeds", "0"), "--seeds: asks for 0 seeds, but must be 1 to 100"),
        (("--seeds", "x"), "'x' is neither a number of seeds such as 3 nor a list of them such as 0,1,7"),
        (("--seeds", "1,"), "'1,' is neither"),
        (("--seeds", "-1"), "'-1' is neither"),
        (("--seeds", "1,2,1"), "--seeds 1,2,1: has a seed twice"),
        (("--seeds", str(MOST_SEEDS + 1)), "--seeds: asks for 101 seeds"),
        (("--seeds", "0,2147483648"), "2147483648 is not a whole number from 0 to 2147483647"),
        (("--seeds", "2", "--set", "seed=2147483647"), "from seed 2147483647 on they end at 2147483648"),
        (("--seeds", "1,2", "--set", "seed=3"), "--set seed=3: is none of --seeds 1,2"),
        (("--set", "seeds=[]"), "seeds is [], but must be a list of 1 to 100 values"),
        (("--set", "seeds=3"), "seeds is 3, but must be a list of 1 to 100 values"),
        (("--set", "seeds=[1, 1]"), "seeds: 1 stands there twice"),
        (("--set", "seeds=[1, x]"), "seeds[1] is 'x'"),
        (("--seed", "3"), "did you mean --set seed=3?"),
        (("--seeds", "2", "--name", "n" * 128), "a name is letters"),
        (("--seeds", "2", "--folds", "7"), "tiny, tiny-s1: --folds 7"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_wrong_seeds_exit_with_2_and_nothing_is_written(
    workspace: Path, ens: Ens, words: tuple[str, ...], complaint: str
) -> None:
    answer = ens("train", "--recipe", "tiny", *words)
    assert (answer.code, answer.out) == (2, "")
    assert complaint in answer.err
    assert "Traceback" not in answer.err
    assert not list(workspace.glob("outputs/*/run.json")) and not list(workspace.glob("outputs/folds/*"))


def test_all_seeds_whose_folder_holds_something_else_are_told_together(three: Path, ens: Ens) -> None:
    shutil.rmtree(three / "tiny-s2")
    (three / "tiny-s2").mkdir()
    (three / "tiny-s2" / "notes.txt").write_text("mine")
    answer = ens(*TINY, "--set", "train.lr=1e-2", "--seeds", "3")
    assert answer.code == 2
    for start in (
        "outputs/tiny: holds a run",
        "outputs/tiny-s1: holds a run",
        "outputs/tiny-s2: has files (notes.txt)",
    ):
        assert start in answer.err


def test_the_screen_shows_a_line_of_all_seeds_below_theirs(three: Path, ens: Ens) -> None:
    lines = [line for line in ens(*TINY, "--seeds", "3").out.splitlines() if line.startswith("tiny")]
    assert [line.split("  ")[0] for line in lines] == ["tiny", "tiny-s1", "tiny-s2", "tiny (3 seeds)"]
    assert "6/6" in lines[3] and "2/2" in lines[2]
    group = ens(*TINY, "--seeds", "3", "--json").document["seeds"][0]
    assert f"{group['mean']:.4f} ± {group['sd']:.4f}" in lines[3]


def test_status_shows_runs_that_differ_in_the_seed_alone_as_a_line_by_what_they_recorded(three: Path, ens: Ens) -> None:
    shutil.move(three / "tiny-s2", three / "renamed")
    alter_record(three / "renamed" / "run.json", run="renamed")
    shutil.copytree(three / "tiny-s1", three / "once_more")  # the same seed again is no seed more
    alter_record(three / "once_more" / "run.json", run="once_more")
    assert ens(*TINY, "--set", "train.lr=1e-2", "--set", "seed=3", "--name", "tiny-s3").code == 0
    for name, score in (("tiny", 0.5), ("tiny-s1", 0.7), ("renamed", 0.6), ("once_more", 0.9), ("tiny-s3", 0.1)):
        alter_record(three / name / "run.json", scores={"oof": {"macro_f1": score, "log_loss": 1.0}})
    report = status()
    assert [run["run"] for run in report["runs"]] == ["once_more", "tiny-s1", "renamed", "tiny", "tiny-s3"]
    (group,) = report["seeds"]
    assert (group["run"], group["runs"], group["seeds"]) == ("tiny", ["tiny", "tiny-s1", "renamed"], [0, 1, 2])
    assert (group["state"], group["folds"]) == ("complete", {"complete": 6, "all": 6})
    assert (group["mean"], group["sd"]) == (pytest.approx(0.6), pytest.approx(0.1))
    lines = ens("status").out.splitlines()[3:]
    assert [line.split("  ")[0] for line in lines[:3]] == ["once_more", "tiny (3 seeds)", "tiny-s3"]
    assert "0.6000 ± 0.1000" in lines[1] and "6/6" in lines[1]
    table = report.table()
    assert list(table["name"]) == ["once_more", "tiny (3 seeds)", "tiny-s3"]
    assert table["sd"][1] == pytest.approx(0.1)


def test_a_copied_folder_with_the_record_of_the_first_is_still_shown(three: Path, ens: Ens) -> None:
    shutil.copytree(three / "tiny-s1", three / "copy")
    assert [line.split("  ")[0] for line in ens("status").out.splitlines() if line.startswith("tiny")] in (
        ["tiny-s1", "tiny (3 seeds)"],
        ["tiny (3 seeds)", "tiny-s1"],
    )
    assert len(status().table()) == 2


def test_a_line_of_seeds_has_the_worst_state_and_says_how_many_have_a_score(three: Path, ens: Ens) -> None:
    states = record_of(three / "tiny-s1")["fold_states"]
    states[1].update(state="missing", scores=None)
    alter_record(three / "tiny-s1" / "run.json", state="partial", fold_states=states, scores={"oof": None}, files={})
    line = next(line for line in ens("status").out.splitlines() if line.startswith("tiny (3 seeds)"))
    assert "partial" in line and "5/6" in line and " of 2 " in line


def test_unreadable_runs_and_records_without_parts_make_no_group(three: Path) -> None:
    (three / "tiny" / "run.json").write_text("{")
    alter_record(three / "tiny-s2" / "run.json", identity_of={})
    report = status()
    assert report["seeds"] == []
    assert len(report["runs"]) == len(report.table()) == 3
    assert seed_groups([]) == []


def test_seeds_are_blended_as_members_under_their_names(three: Path, ens: Ens) -> None:
    files = sorted(map(str, three.glob("tiny*/probs.npy")))
    answer = ens("blend", *files, "--method", "soft", "--select", "all", "--json")
    assert answer.code == 0, answer.err
    assert [member["run"] for member in answer.document["members"]] == ["tiny", "tiny-s1", "tiny-s2"]


def test_in_python_train_many_takes_seeds_and_train_gives_back_one_run(workspace: Path) -> None:
    give_seeds(workspace, "seeds: [4, 2]\n")
    words: dict[str, Any] = {"sets": {"train.epochs": 1}, "engine": "inline", "folds": [0]}
    with pytest.raises(ensemble.InputError, match=r"has 2 seeds, and train gives back one run; take train_many"):
        ensemble.train("tiny", **words)
    assert not (workspace / "outputs" / "tiny").exists()
    assert ensemble.train("tiny", **words | {"sets": {"seed": 4}}).path.name == "tiny"
    words["sets"] = {"train.epochs": 2}
    assert [run.path.name for run in ensemble.train_many(["tiny"], **words)] == ["tiny", "tiny-s2"]
    assert [run.path.name for run in ensemble.train_many("tiny", seeds=[0], **words)] == ["tiny-s0"]
    with pytest.raises(ensemble.InputError, match=r"seeds is 1\.5, but must be"):
        ensemble.train_many(["tiny"], seeds=1.5)  # type: ignore[arg-type]


def test_seeds_of_a_mapping_are_kept_each_with_its_own_recipe(workspace: Path, ens: Ens) -> None:
    mapping = {"extends": "tiny", "train": {"epochs": 1}}
    words: dict[str, Any] = {"seeds": [1, 2], "engine": "inline", "folds": [0]}
    runs = ensemble.train_many([mapping, mapping], **words)
    assert [run.path.name.partition("-s")[2] for run in runs] == ["1", "2"]
    assert [ensemble.load_recipe(run.path / "recipe.yaml").recipe.seed for run in runs] == [1, 2]
    assert sorted(path.name for path in (workspace / "outputs").glob("recipe-*")) == [run.path.name for run in runs]
    command = next_step(status()).split(" continues ")[0]
    again = ens(*shlex.split(command)[1:], "--engine", "inline")
    assert (again.code, started(again)) == (0, 1)


def test_seeds_on_a_folder_without_a_description_go_on_like_one_run(workspace: Path, squares: Path, ens: Ens) -> None:
    for row in (squares / "train.csv").read_text().split()[1:]:
        row_id, label = row.split(",")
        (workspace / "leaves" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(squares / "images" / f"{row_id}.png", workspace / "leaves" / label)
    words = ("train", "--data", "leaves", "--set", "train.epochs=1", "--set", "folds.k=2", "--engine", "inline")
    assert ens(*words, "--seeds", "2", "--folds", "0").code == 0
    assert seeds_of(workspace / "outputs") == {"leaves": 0, "leaves-s1": 1}
    command, continued = next_step(status()).split(" continues ")
    again = ens(*shlex.split(command)[1:], "--engine", "inline")
    assert (again.code, started(again), continued) == (0, 2, "leaves, leaves-s1"), again.err
    assert started(ens(*words, "--seeds", "2")) == 0
