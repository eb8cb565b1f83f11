"""`import ensemble` in a notebook: the same names as the command line, nothing imported before it is used."""

from __future__ import annotations

import ast
import inspect
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ensemble
from ensemble.recipe.layers import set_words
from tests.conftest import make_workspace


@pytest.mark.parametrize("name", [name for name in ensemble.__all__ if name != "__version__"])
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    value = getattr(ensemble, name)
    assert callable(value)
    assert value.__doc__
    assert name in dir(ensemble)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ensemble.no_such_name


def test_the_import_brings_nothing_with_it() -> None:
    code = "import sys, ensemble; print([name for name in sys.modules if name.split('.')[0] in ('numpy', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_verbs_work_as_functions(workspace: Path) -> None:
    events: list[Any] = []
    run = ensemble.train("tiny", on_event=events.append)
    assert run.state == "complete"
    assert run.scores is not None
    assert events[-1]["event"] == "merged"
    probs = ensemble.load_predictions(run.path / "probs.npy")
    assert probs.probs.shape == (12, 3)
    blended = ensemble.blend([run.path / "probs.npy"], outputs=workspace / "outputs")
    assert blended.submission.exists()
    assert ensemble.status(workspace / "outputs")["runs"][0]["run"] == "tiny"
    assert ensemble.fold_plan("tiny")["k"] == 2


def test_bad_input_is_an_exception_with_the_same_messages(workspace: Path, ens: Callable[..., Any]) -> None:
    with pytest.raises(ensemble.InputError) as raised:
        ensemble.train("tiny", sets=["train.epoch=3"])
    assert "\n".join(raised.value.messages) == ens("train", "--recipe", "tiny", "--set", "train.epoch=3").err.strip()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, squares: Path) -> Iterator[Path]:
    """A working directory, in which the process stands, with a run of a recipe that was given as a mapping."""
    with pytest.MonkeyPatch.context() as patch:
        place = make_workspace(tmp_path_factory.mktemp("python"), squares, patch)
        ensemble.train(GIVEN, name="given", engine="inline")
        yield place


GIVEN = {"extends": "tiny", "train": {"epochs": np.int64(1), "betas": (0.9, 0.99)}}


def kept_folds(**arguments: Any) -> list[Any]:
    """The folds that a second training takes over from the run `given`."""
    events: list[Any] = []
    ensemble.train(name="given", engine="inline", on_event=events.append, **arguments)
    assert not [event for event in events if event["event"] == "fold-started"]
    return [event["fold"] for event in events if event["event"] == "fold-kept"]


def test_a_recipe_given_as_a_mapping_is_kept_and_continued_as_mapping_file_and_newest(trained: Path) -> None:
    assert kept_folds(recipe=GIVEN) == [0, 1]
    assert kept_folds(recipe="outputs/given/recipe.yaml") == [0, 1]
    assert kept_folds(recipe=Path("outputs", "given", "recipe.yaml")) == [0, 1]
    assert kept_folds() == [0, 1]  # that of the newest run
    record = ensemble.status()["runs"][0]
    assert record["asked"]["recipe"] == str(trained / "outputs" / "given" / "recipe.yaml")


def test_another_mapping_is_no_continuation_and_leaves_the_kept_recipe_alone(trained: Path) -> None:
    kept = (trained / "outputs" / "given" / "recipe.yaml").read_text()
    with pytest.raises(
        ensemble.InputError, match=r"holds a run with other settings[^$]*train\.lr: 0\.003 there, 0\.1 asked"
    ):
        ensemble.train({**GIVEN, "train": {**GIVEN["train"], "lr": 0.1}}, name="given")
    assert (trained / "outputs" / "given" / "recipe.yaml").read_text() == kept


@pytest.mark.parametrize(
    "sets",
    [
        {"train.epochs": 1, "train.betas": [0.9, 0.99]},
        {"train": {"epochs": 1, "betas": (0.9, 0.99)}},
        {"train.epochs": np.float64(1).astype(int), "train": {"betas": np.array([0.9, 0.99])}},
        ["train.epochs=1", "train.betas=[0.9, 0.99]"],
    ],
)
def test_sets_as_a_mapping_dotted_or_nested_are_those_of_the_command_line(trained: Path, sets: Any) -> None:
    assert kept_folds(recipe="tiny", sets=sets) == [0, 1]


def test_what_sets_change_is_kept_as_words_that_a_shell_can_repeat(trained: Path) -> None:
    values = {"augment": [{"HorizontalFlip": {"p": 0.5}}], "loss": {"weights": {"red": 2.0}}, "train.lr": 1e-05}
    words = set_words(values)
    assert words == ("augment=[{HorizontalFlip: {p: 0.5}}]", "loss.weights={red: 2.0}", "train.lr=1e-05")
    recipes = [ensemble.load_recipe("tiny", sets=given).recipe for given in (values, words)]
    assert recipes[0] == recipes[1]
    assert recipes[0].train.lr == 1e-05


def test_all_faults_of_a_mapping_are_told_together_by_their_keys(workspace: Path) -> None:
    wrong = {"extends": "tiny", "train": {"epoch": 3, "lr": float("nan"), 4: 1}, "seed": object(), "metric": "f1"}
    with pytest.raises(ensemble.InputError) as raised:
        ensemble.train(wrong)
    assert all(message.startswith("recipe: ") for message in raised.value.messages)
    text = "\n".join(raised.value.messages)
    for fault in (
        "train.epoch is unknown; did you mean train.epochs?",
        "train.lr is nan, but must be a finite number",
        "train.4: a key must be text",
        "seed is of type object, but must be text, a number,",
        "metric is 'f1'",
    ):
        assert fault in text
    assert not (workspace / "outputs").exists()


def test_a_mapping_extends_a_path_from_the_working_directory_and_not_itself(workspace: Path) -> None:
    inner = workspace / "mine"
    inner.mkdir()
    (inner / "base.yaml").write_text("extends: tiny\ntrain: {lr: 0.5}\n", encoding="utf-8")
    recipe = ensemble.load_recipe({"extends": "mine/base.yaml"}, home="outputs/x")
    assert recipe.recipe.train.lr == 0.5
    assert recipe.text is not None and f"extends: {inner / 'base.yaml'}" in recipe.text
    with pytest.raises(ensemble.InputError, match=r"extends: there is no file outputs/x/recipe\.yaml"):
        ensemble.load_recipe({"extends": "outputs/x/recipe.yaml"}, home="outputs/x")
    (workspace / "outputs" / "x").mkdir(parents=True)
    (workspace / "outputs" / "x" / "recipe.yaml").write_text("extends: tiny\n", encoding="utf-8")
    with pytest.raises(ensemble.InputError, match="extends goes in a circle"):
        ensemble.load_recipe({"extends": "outputs/x/recipe.yaml"}, home="outputs/x")


def test_a_study_of_a_mapping_is_continued_and_its_best_recipe_builds_on_it(trained: Path) -> None:
    wanted: dict[str, Any] = {"study": "s", "engine": "inline", "with_rescore": False, "on_event": lambda event: None}
    wanted |= {"search": {"train.lr": [0.001, 0.002]}, "points": [{"train.lr": 0.002, "augment": "none"}]}
    study = ensemble.tune(GIVEN, trials=1, **wanted)
    assert ensemble.tune(GIVEN, trials=2, **wanted).trials[1].values == {"train.lr": 0.002, "augment": "none"}
    assert "extends: ./recipe.yaml" in study.best_recipe.read_text()
    assert ensemble.load_recipe(study.best_recipe).recipe.train.epochs == 1
    assert list(study.table().columns[:3]) == ["number", "state", "value"] and "train.lr" in study.table()


def test_paths_are_text_or_path_and_one_may_stand_alone(trained: Path) -> None:
    probs = "outputs/given/probs.npy"
    assert ensemble.load_predictions(probs).probs.shape == (12, 3)
    ensemble.save_predictions("copy/probs", replace(ensemble.load_predictions(probs), path=None))
    assert ensemble.load_predictions(Path("copy", "probs.npy")).ids == ensemble.load_predictions(probs).ids
    assert len(ensemble.blend(probs).document["members"]) == 1
    assert len(ensemble.blend(Path("outputs").glob("given/probs.npy")).document["members"]) == 1
    folder = Path(os.environ["ENS_DATA_ROOT"]) / "squares" / "images"
    for images in (str(folder), folder, [folder]):
        assert ensemble.predict("given", images=images, engine="inline").document["rows"] == 60


def test_wrong_types_are_told_together_and_nothing_is_written(workspace: Path) -> None:
    with pytest.raises(ensemble.InputError) as raised:
        ensemble.train(3, folds="0,1", sets=5, workers=True, outputs=7, on_event="x")  # type: ignore[arg-type]
    assert raised.value.messages == (
        "train: recipe is 3, but must be a recipe's name, its path, or a mapping of its keys",
        "train: folds is '0,1', but must be a list of whole numbers",
        "train: sets is 5, but must be a mapping such as {'train.lr': 1e-3}, or a list such as ['train.lr=1e-3']",
        "train: workers is True, but must be a whole number",
        "train: outputs is 7, but must be a path",
        "train: on_event is 'x', but must be a function",
    )
    assert not (workspace / "outputs").exists()
    with pytest.raises(ensemble.InputError, match="load_predictions: path is None, but must be a path"):
        ensemble.load_predictions(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in ensemble.__all__ if name[0].islower() and name[0] != "_"])
def test_every_public_function_answers_wrong_types(name: str) -> None:
    """`outputs=3.5` for most, the first argument of the others."""
    verb = getattr(ensemble, name)
    parameters = inspect.signature(verb).parameters
    wrong = "outputs" if "outputs" in parameters else next(iter(parameters))
    needed = {key: "x" for key, value in parameters.items() if value.default is value.empty}
    with pytest.raises(ensemble.InputError, match=f"{name}: {wrong} is 3.5, but must be "):
        verb(**{**needed, wrong: 3.5})


def test_what_comes_back_is_short_as_text_and_a_table_in_a_notebook(trained: Path) -> None:
    run = ensemble.train(GIVEN, name="given", engine="inline")
    values = {
        "run": run,
        "blend": ensemble.blend(run.path, name="one"),
        "status": ensemble.status(),
        "predictions": ensemble.load_predictions(run.path / "oof.npy"),
        "recipe": ensemble.load_recipe("tiny"),
        "look": ensemble.eda("tiny"),
    }
    for name, value in values.items():
        assert len(repr(value)) < 200 and "\n" not in repr(value), name
        assert value._repr_html_().split("<tbody>")[1].count("<tr") == min(20, len(value.table())), name
    assert repr(run).startswith("<TrainedRun given: complete, 2/2 folds, macro_f1 0.")
    assert list(run.table()["fold"]) == [0, 1]
    assert list(values["blend"].table()["run"]) == ["given"]
    assert {"given", "one"} <= set(values["status"].table()["name"])
    assert "… and 28 more rows" in values["predictions"]._repr_html_()
    assert dict(zip(*(values["look"].table()[key] for key in ("class", "rows")), strict=True)) == dict(
        red=16, green=16, blue=16
    )


def test_a_name_with_markup_is_shown_as_text_in_a_notebook() -> None:
    """Names come from files of others."""
    import pandas as pd

    from ensemble.core.notebook import html_of

    page = html_of("<script>", pd.DataFrame({"<b>": ["<i>"]}), 1)
    assert "<script>" not in page and "<b>" not in page and "<i>" not in page


TRAIN = "import ensemble; ensemble.train('tiny', engine='inline', folds=[0], sets={'train.epochs': 1})"


def test_a_script_whose_output_goes_to_a_file_is_silent(workspace: Path) -> None:
    done = subprocess.run([sys.executable, "-c", TRAIN], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_terminal_shows_progress_unless_something_else_listens(workspace: Path) -> None:
    shown = on_a_terminal(TRAIN)
    assert "fold 0" in shown and "1 fold: 1 done" in shown
    assert on_a_terminal(TRAIN.replace("folds=[0]", "on_event=lambda event: None")) == ""


def on_a_terminal(code: str) -> str:
    """What a Python process writes to a terminal on its stderr."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment) as process:
        os.close(theirs)
        parts = []
        while part := _read(ours):
            parts.append(part)
        assert process.wait() == 0
    os.close(ours)
    return b"".join(parts).decode()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # Linux says so when the last writer has gone
        return b""


@pytest.mark.parametrize("name", [name for name in ensemble.__all__ if name != "__version__"])
def test_every_public_name_has_its_place_on_the_page(name: str) -> None:
    assert f"\n## {name}\n" in (Path(__file__).resolve().parents[1] / "docs" / "api.md").read_text(encoding="utf-8")


def test_the_names_for_type_checkers_are_those_that_are_imported() -> None:
    """The table of homes, and the imports beside it, name the same place for each name."""
    tree = ast.parse(Path(ensemble.__file__).read_text(encoding="utf-8"))
    named = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ensemble.")
        for alias in node.names
        if alias.asname
    }
    assert named == ensemble._HOMES


def test_an_unknown_word_of_a_closed_list_is_refused_with_what_else_is_wrong(trained: Path) -> None:
    with pytest.raises(ensemble.InputError, match="--kind tests: unknown; known are test and oof"):
        ensemble.adopt("outputs/given/probs.npy", kind="tests")  # type: ignore[arg-type]
    with pytest.raises(ensemble.InputError) as raised:
        ensemble.blend("outputs/given", select="best", metric="f1")  # type: ignore[arg-type]
    assert [message.split(":")[0] for message in raised.value.messages] == ["--metric f1", "--select best"]
    with pytest.raises(ensemble.InputError, match="train: per_gpu is 'all', but must be a whole number or 'auto'"):
        ensemble.train("tiny", per_gpu="all")  # type: ignore[arg-type]
