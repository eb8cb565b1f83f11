"""Code that somebody planted, in a run, a pack, a study or the working directory, is not run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemble.core.files import sha256_file
from ensemble.core.machine import PACKAGE_FOLDER
from ensemble.core.records import SEAL, save_record
from ensemble.recipe.own_code import ALLOWED_CODE, CODE_FOLDER, installed_source
from tests.runs.conftest import TRAIN, blend, predict, refusal
from tests.support import Ens

MARK = "import pathlib; pathlib.Path({mark!r}).touch()\n"
BUILD = """
import torch

def build(classes, image_size, **options):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * image_size**2, classes))
"""
HUB = "torch.hub:load"  # of an installed package, and runs a file of its caller's choice
PLANTED = ["numpy", "signal", "torch", "timm", "numba", "cv2", "albumentations", "multiprocessing", "sitecustomize"]
PLANTED += ["usercustomize", "cupy", "pyarrow", "tensorboard"]  # which libraries try to import, there or not


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once planted code has run."""
    return tmp_path / "it-ran"


@pytest.fixture
def evil(place: Path, mark: Path) -> Path:
    """Somebody else's run, copied into `outputs/`, with a file that must not run."""
    run = place / "outputs" / "first"
    (run / CODE_FOLDER).mkdir()
    for folder in (run, run / CODE_FOLDER):
        (folder / "net.py").write_text(MARK.format(mark=str(mark)) + BUILD)
        (folder / "hubconf.py").write_text(MARK.format(mark=str(mark)) + BUILD)
    return run


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a JSON file; of a fold's network, what was recorded of it too, as who means harm would."""
    document = json.loads(path.read_text())
    change(document)
    if SEAL in document:  # whoever means harm makes the record's own hash fit
        save_record(path, document)
    else:
        path.write_text(json.dumps(document))
    if path.name == "model.json":
        rewrite(path.with_name("fold.json"), lambda fold: fold["files"].update({"model.json": sha256_file(path)}))


def name_code(run: Path, name: str, files: dict[str, str], options: dict[str, Any], folds: str = "fold-*") -> None:
    """Have a run's folds name a function as their network."""
    source = installed_source(name.partition(":")[0])

    def change(model: dict[str, Any]) -> None:
        model["network"].update(name=name, options=options, drop_rate=0.0, drop_path_rate=0.0, pool=None)
        model["code"] = {name: {"files": files, "sha256": source[1] if source else "0" * 64}}

    for fold in run.glob(folds):
        rewrite(fold / "model.json", change)


def hub_options(run: Path) -> dict[str, Any]:
    return {"repo_or_dir": str(run), "model": "build", "source": "local"}


def test_a_run_calls_no_function_of_an_installed_package_unasked(
    evil: Path, mark: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    name_code(evil, HUB, {}, hub_options(evil))
    words = ("predict", "first", "--images", "new", "--engine", "inline")
    assert f"{HUB} of an installed package would be run for this run; read it, then pass --allow-code" in refusal(
        ens, *words
    )
    assert not mark.exists()
    for listed in ("torch", "torch.hub", HUB):
        monkeypatch.setenv(ALLOWED_CODE, f"other, {listed}")
        ens(*words)
        assert mark.exists()  # as the user said; and so the attack is a real one
        mark.unlink()
    monkeypatch.setenv(ALLOWED_CODE, "torchvision,torch.hu,hub")
    refusal(ens, *words)
    assert not mark.exists()


def test_a_member_of_a_blend_calls_none_either(evil: Path, mark: Path, ens: Ens) -> None:
    blend(ens)
    name_code(evil, HUB, {}, hub_options(evil))
    assert "--allow-code" in refusal(ens, "predict", "b", "--images", "new", "--engine", "inline")
    assert not mark.exists()


@pytest.mark.parametrize("consent", [(), ("--allow-code",)], ids=["unasked", "allowed"])
def test_names_that_lead_back_into_the_run_do_not_make_its_code_the_users(
    consent: tuple[str, ...], evil: Path, mark: Path, ens: Ens
) -> None:
    name = "../outputs/first/code/net.py"  # beside recipes/ it is there, and from the run's code/ too
    nested = evil / "outputs" / "first" / "code"
    nested.mkdir(parents=True)
    shutil.copy(evil / "net.py", nested)
    name_code(evil, "net:build", {name: sha256_file(evil / "net.py")}, {})
    words = ("predict", "first", "--images", "new", "--engine", "inline", *consent)
    assert f"code.net:build.files.{name}.[key]" in refusal(ens, *words)
    assert not mark.exists()


def test_a_link_that_leads_out_of_the_run_is_not_followed(evil: Path, place: Path, mark: Path, ens: Ens) -> None:
    (evil / CODE_FOLDER / "net.py").unlink()
    (evil / CODE_FOLDER / "net.py").symlink_to(place / "elsewhere.py")
    shutil.copy(evil / "net.py", place / "elsewhere.py")
    name_code(evil, "net:build", {"net.py": sha256_file(evil / "net.py")}, {})
    words = ("predict", "first", "--images", "new", "--engine", "inline", "--allow-code")
    assert "code/net.py: leads out of the run's folder, to" in refusal(ens, *words)
    assert not mark.exists()


def test_files_of_the_users_own_do_not_cover_a_function_from_elsewhere(
    evil: Path, place: Path, mark: Path, ens: Ens
) -> None:
    for folder in (place / "recipes", evil / CODE_FOLDER):
        (folder / "net.py").write_text("from torch.hub import load\n" + BUILD)
    files = {"net.py": sha256_file(place / "recipes" / "net.py")}
    words = ("predict", "first", "--images", "new", "--engine", "inline")
    name_code(evil, HUB, files, hub_options(evil))
    assert f"{HUB} is not in the files that it is said to be in: net.py" in refusal(ens, *words)
    name_code(evil, "net:load", files, hub_options(evil))
    assert "recipes/net.py: does not define load, which this run names" in refusal(ens, *words)
    assert not mark.exists()


def test_every_fold_is_looked_at_and_code_of_a_folds_own_folder_is_never_run(
    evil: Path, place: Path, mark: Path, ens: Ens
) -> None:
    planted = sha256_file(evil / "net.py")
    shutil.copytree(evil / CODE_FOLDER, evil / "fold-0" / CODE_FOLDER)
    for folder in (place / "recipes", evil / CODE_FOLDER):
        (folder / "net.py").write_text(BUILD)
    own = sha256_file(place / "recipes" / "net.py")
    name_code(evil, "net:build", {"net.py": planted}, {}, "fold-0")
    name_code(evil, "net:build", {"net.py": own}, {}, "fold-1")
    words = ("predict", "first", "--images", "new", "--engine", "inline")
    assert "net:build is other code than in the folds before" in refusal(ens, *words)
    assert not mark.exists()


def test_recipes_of_the_run_itself_are_not_the_users(
    evil: Path, mark: Path, ens: Ens, monkeypatch: pytest.MonkeyPatch
) -> None:
    (evil / "recipes").mkdir()
    shutil.copy(evil / "net.py", evil / "recipes")
    name_code(evil, "net:build", {"net.py": sha256_file(evil / "net.py")}, {})
    monkeypatch.chdir(evil)
    assert "--allow-code" in ens("predict", ".", "--images", "../../new", "--engine", "inline").err
    assert not mark.exists()


@pytest.mark.parametrize("key", ["model.name", "metric", "loss.name", "loss.plus"])
def test_words_of_a_runs_record_name_no_code_unasked(key: str, evil: Path, place: Path, mark: Path, ens: Ens) -> None:
    recorded = [f"{key}={{'{HUB}': 1}}" if key == "loss.plus" else f"{key}={HUB}"]
    if key == "model.name":
        recorded.append(f"model.options={json.dumps(hub_options(evil))}")
    own = str(place / "recipes" / "tiny.yaml")  # of the user's recipes, so that only the words are somebody else's
    rewrite(evil / "run.json", lambda record: record["asked"].update(recipe=own, sets=recorded))
    os.utime(evil / "run.json", (2e9, 2e9))  # the newest run: commands without --recipe go on with its recipe
    for words in (("train", "--name", "n"), ("tune", "--trials", "1", "--study", "n"), ("predict", "first")):
        error = refusal(ens, *words, "--engine", "inline")
        assert f"{HUB} of an installed package is named by the record of outputs/first" in error, words
    assert not mark.exists()


def test_a_recipe_in_a_run_is_the_word_of_whoever_made_that_run(evil: Path, place: Path, mark: Path, ens: Ens) -> None:
    base = (place / "recipes" / "tiny.yaml").read_text()
    (evil / "recipe.yaml").write_text(base.replace("name: test_resnet", "name: 'net:build'"))
    rewrite(evil / "run.json", lambda record: record["asked"].update(recipe=str(evil / "recipe.yaml"), sets=[]))
    os.utime(evil / "run.json", (2e9, 2e9))
    for words in ((), ("--recipe", "outputs/first/recipe.yaml")):
        error = refusal(ens, "train", "--name", "n", "--engine", "inline", *words)
        assert "net:build would run outputs/first/net.py for" in error
    (evil / "recipe.yaml").write_text(base.replace("name: test_resnet", f"name: '{HUB}'"))
    assert "named by outputs/first/recipe.yaml" in refusal(ens, "train", "--recipe", "outputs/first/recipe.yaml")
    assert not mark.exists()


def test_a_record_that_points_beside_its_run_is_not_believed_either(
    evil: Path, place: Path, mark: Path, ens: Ens
) -> None:
    download = place / "download"
    download.mkdir()
    shutil.copy(evil / "net.py", download)
    (download / "r.yaml").write_text("extends: tiny\nmodel: {name: 'net:build'}\n")
    rewrite(evil / "run.json", lambda record: record["asked"].update(recipe="download/r.yaml", sets=[]))
    os.utime(evil / "run.json", (2e9, 2e9))
    assert "net:build would run download/net.py for the record of outputs/first" in refusal(ens, "train", "--name", "n")
    assert not mark.exists()


def test_a_run_with_ones_own_code_goes_on_without_asking(place: Path, ens: Ens) -> None:
    (place / "recipes" / "net.py").write_text(BUILD)
    words = ("--engine", "inline", "--set", "train.epochs=1")
    own = ("--recipe", "tiny", "--name", "own", "--set", "model.name=net:build", "--folds", "0")
    assert ens("train", *own, *words).code == 0
    record = place / "outputs" / "own" / "run.json"
    os.utime(record, (2e9, 2e9))
    answer = ens("train", "--name", "own", "--engine", "inline")  # --set is taken from the record
    assert answer.code == 0, answer.err
    for more in ((), ("--images", "new")):
        answer = predict(ens, "own", *more)
        assert answer.code == 0, answer.err


def test_a_trial_with_values_that_were_not_searched_is_refused(evil: Path, place: Path, mark: Path, ens: Ens) -> None:
    words = ("tune", "--recipe", "tiny", "--engine", "inline", "--set", "train.epochs=1", "--no-rescore")
    assert ens(*words, "--trials", "1").code == 0
    trial = place / "outputs" / "studies" / "tiny" / "trial-0" / "trial.json"
    code = {"model.name": HUB, "model.options": hub_options(evil)}
    rewrite(trial, lambda document: document["values"].update(code))
    refused = "trial-0/trial.json: values: not what its params stand for"
    assert refused in ens(*words, "--trials", "2").err
    rewrite(trial, lambda document: document.update(values={"augment": HUB, "train.lr": 0.001}))
    assert refused in ens(*words, "--trials", "2").err
    rewrite(trial, lambda document: document.update(params={"model.name": HUB}, values={"model.name": HUB}))
    assert "params: model.name is not searched" in ens(*words, "--trials", "2").err
    assert not mark.exists()


def test_status_does_not_hand_out_a_command_that_runs_somebodys_code(evil: Path, ens: Ens) -> None:
    def change(record: dict[str, Any]) -> None:
        record["asked"]["sets"] = [f"model.name={HUB}"]
        record["state"], record["fold_states"][0]["state"] = "partial", "missing"

    rewrite(evil / "run.json", change)
    assert f"only if {HUB} is code that you know: ens train" in ens("status").err + ens("status").out


@pytest.mark.parametrize(
    "options", [{"checkpoint_path": "x.pth"}, {"pretrained_cfg": {"file": "x.pth"}}, {"pretrained": True}]
)
def test_a_timm_network_is_told_no_files(options: dict[str, Any], evil: Path, ens: Ens) -> None:
    (name,) = options
    error = refusal(ens, *TRAIN, "--name", "n", "--set", f"model.options={json.dumps(options)}")
    assert f"options names files by {name}; say pretrained: FILE" in error
    for fold in evil.glob("fold-*"):
        rewrite(fold / "model.json", lambda model: model["network"].update(options=options))
    error = refusal(ens, "predict", "first", "--images", "new", "--engine", "inline")
    assert f"model.options: {name}: would have timm load a file" in error


@pytest.mark.parametrize("start", ["script", "module", "notebook"])
def test_nothing_in_the_working_directory_is_imported_by_a_training(
    start: str, workspace: Path, mark: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    noted = f"import sys\nwith open({str(mark)!r}, 'a') as mark:\n    print(__name__, *sys.argv, file=mark)\n"
    for name in PLANTED if start == "module" else [*PLANTED, "ensemble"]:  # `-m ensemble` would be that very file
        (workspace / f"{name}.py").write_text(f"{noted}raise ImportError('planted')\n")
    words = ["train", "--recipe", "tiny", "--folds", "0", "--set", "train.epochs=1", "--set", "augment=medium"]
    call = f"from ensemble.cli import main\nsys.exit(main({words!r}))\n"
    script = tmp_path_factory.mktemp("bin") / "ens"
    script.write_text(f"import sys\n{call}")
    # What the notebook itself imports is its own affair, so it has imported that before.
    notebook = "import sys\ndel sys.path[0]\nimport ensemble.tuning.tune, ensemble.engine.local\nsys.path[:0] = ['']\n"
    commands = {"module": ["-m", "ensemble", *words], "notebook": ["-c", notebook + call]}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    environment["PYTHONPATH"] = str(PACKAGE_FOLDER)
    command = [sys.executable, *commands.get(start, [str(script)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=workspace, env=environment)
    assert done.returncode == 0, done.stderr
    assert not mark.exists(), mark.read_text()
    assert (workspace / "outputs" / "tiny" / "fold-0" / "fold.json").exists()
