"""Networks of one's own, weights from files and heads for parts, from the recipe to the merged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ensemble.errors import InputError
from ensemble.recipe.own_code import check_code_of_run
from ensemble.training.networks import NetworkSpec, build_network, load_network
from tests.support import Ens

NET = """\
import torch

from parts import width_of


def build(classes: int, image_size: int, factor: int = 1) -> torch.nn.Module:
    width = width_of(factor)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, width, 3, stride=2), torch.nn.BatchNorm2d(width), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(width, classes),
    )


def wrong(classes: int, image_size: int) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(classes + 1))
"""


@pytest.fixture
def own(workspace: Path) -> Path:
    """The working directory with a recipe `own` whose network lies beside it, in two files."""
    recipes = workspace / "recipes"
    (recipes / "net.py").write_text(NET)
    (recipes / "parts.py").write_text("def width_of(factor):\n    return 8 * factor\n")
    (recipes / "own.yaml").write_text(
        "extends: tiny\nmodel: {name: 'net:build', options: {factor: 2}}\ntrain: {epochs: 1}\n"
    )
    return workspace


def record_of(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_an_own_network_trains_and_predicts_from_a_moved_run(own: Path, ens: Ens, engine: str) -> None:
    answer = ens("train", "--recipe", "own", "--engine", engine)
    assert answer.code == 0, answer.err
    run = own / "outputs" / "own"
    record = record_of(run)
    assert list(record["code"]) == ["net:build"]
    assert {path.name for path in (run / "code").iterdir()} == {"net.py", "parts.py"}
    assert record["decided"]["parameters"] == 16 * 27 + 16 + 32 + 16 * 3 + 3
    moved = own / "elsewhere"
    run.rename(moved)
    for path in (own / "recipes").glob("*.py"):
        path.unlink()
    with pytest.raises(InputError, match="net:build"):  # what the folder says of its code is no consent
        load_network(moved / "fold-1")
    model = json.loads((moved / "fold-1" / "model.json").read_text())
    codes = check_code_of_run(moved, model["code"], own / "recipes", allow_code=True)
    network, _ = load_network(moved / "fold-1", codes)
    assert network(torch.rand(2, 3, 16, 16)).shape == (2, 3)


def test_a_changed_source_is_another_run_and_the_old_one_is_not_mixed_into(own: Path, ens: Ens) -> None:
    assert ens("train", "--recipe", "own", "--folds", "0", "--engine", "inline").code == 0
    before = record_of(own / "outputs" / "own")["identity"]
    (own / "recipes" / "parts.py").write_text("def width_of(factor):\n    return 4 * factor\n")
    answer = ens("train", "--recipe", "own", "--engine", "inline")
    assert answer.code == 2
    assert "code.net:build: " in answer.err
    assert ens("train", "--recipe", "own", "--fresh", "--folds", "0", "--engine", "inline").code == 0
    after = record_of(own / "outputs" / "own")
    assert after["identity"] != before
    assert after["decided"]["parameters"] == 8 * 27 + 8 + 16 + 8 * 3 + 3


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (["model.name=net:wrong", "model.options={factor: null}"], "net:wrong gives (2, 4) for 2 images"),
        (["model.options={factr: 2}"], "net:build(classes=3, image_size=16, factor=2, factr=2)"),
        (["model.name=net:biuld"], "recipes/net.py has no function biuld; did you mean build?"),
        (["model.name=nat:build"], "there is no nat.py beside the recipe"),
        (["model.drop_rate=0.3"], "model.drop_rate: is for timm's models"),
        (["model.heads=parts"], "model.heads is parts, but the labels of dataset squares have no parts"),
        (["model.pretrained=true"], "name a file of weights"),
        (["model.pretrained=x.safetensors"], "model.pretrained: there is no file x.safetensors"),
        (["model.freeze=backbone", "model.freeze_epochs=1"], "model.freeze_epochs is 1, but train.epochs is 1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_faulty_own_code_is_refused_before_anything_is_trained(
    own: Path, ens: Ens, sets: list[str], message: str
) -> None:
    words = [word for value in sets for word in ("--set", value)]
    answer = ens("train", "--recipe", "own", "--engine", "inline", *words)
    assert answer.code == 2, answer.err
    assert message in answer.err
    assert not (own / "outputs" / "own").exists()


def test_code_of_a_recipe_from_elsewhere_runs_only_when_allowed(
    own: Path, ens: Ens, tmp_path_factory: pytest.TempPathFactory
) -> None:
    theirs = tmp_path_factory.mktemp("theirs")
    for name in ("net.py", "parts.py"):
        (own / "recipes" / name).rename(theirs / name)
    (theirs / "own.yaml").write_text((own / "recipes" / "own.yaml").read_text())
    words = ("train", "--recipe", str(theirs / "own.yaml"), "--folds", "0", "--engine", "inline")
    answer = ens(*words)
    assert answer.code == 2
    assert "--allow-code" in answer.err
    assert not (own / "outputs").exists()
    assert ens("folds", "--recipe", str(theirs / "own.yaml")).code == 0  # which runs none of it
    assert ens("tune", "--recipe", str(theirs / "own.yaml"), "--trials", "1").code == 2
    assert ens(*words, "--allow-code").code == 0


def test_a_run_starts_from_a_file_of_weights_and_goes_on_only_from_the_same(own: Path, ens: Ens) -> None:
    torch.manual_seed(3)
    weights = own / "recipes" / "start.safetensors"
    source = build_network(NetworkSpec("test_resnet", 9, 16), pretrained=False)
    save_file({name: tensor.contiguous() for name, tensor in source.state_dict().items()}, weights)
    words = ["train", "--recipe", "tiny", "--set", "model.pretrained=start.safetensors", "--set", "train.lr=1e-12"]
    words += ["--set", "train.epochs=1", "--set", "model.freeze=backbone"]
    answer = ens(*words, "--folds", "0")
    assert answer.code == 0, answer.err
    assert "started anew: fc.weight is 9x" in answer.err
    run = own / "outputs" / "tiny"
    network, _ = load_network(run / "fold-0")
    assert torch.equal(network.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"])
    assert len(record_of(run)["decided"]["weights"]["sha256"]) == 64
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    answer = ens(*words)
    assert answer.code == 2
    assert "not the weights that" in answer.err


def test_grey_gradual_and_layer_decay_train_through(own: Path, ens: Ens, fingerprint: Any) -> None:
    sets = ["model.channels=1", "model.freeze=backbone", "model.freeze_epochs=1", "model.unfreeze=gradual"]
    sets += ["model.layer_decay=0.7", "model.head_lr=3", "train.epochs=4", "model.pool=avgmax"]
    words = ["train", "--recipe", "tiny", *(word for value in sets for word in ("--set", value)), "--folds", "0"]
    answer = ens(*words, "--engine", "inline")
    assert answer.code == 0, answer.err
    assert ens(*words, "--name", "again").code == 0
    outputs = own / "outputs"
    assert fingerprint(outputs / "tiny" / "fold-0") == fingerprint(outputs / "again" / "fold-0")
