"""A run's identity: what changes a result changes it, nothing else does, and its value is stable over time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemble.recipe.recipe import Identity, Recipe, differing_keys

GOLDEN = Path(__file__).parents[1] / "golden" / "identity.json"
DEFAULTS = GOLDEN.with_name("recipe_defaults.json")
BASE: dict[str, Any] = {"data": "digits", "model": {"name": "resnet50"}}


def identity(**recipe: Any) -> Identity:
    return Identity(Recipe.model_validate({**BASE, **recipe}), "d" * 64, "f" * 64)


def test_identities_of_earlier_versions_are_kept() -> None:
    """A changed value here means that finished runs would be trained again: raise IDENTITY_VERSION on purpose only."""
    for case in json.loads(GOLDEN.read_text()):
        found = Identity(Recipe.model_validate(case["recipe"]), case["dataset"], case["folds"])
        assert found.sha256 == case["identity"], case["recipe"]


def test_defaults_are_what_they_were() -> None:
    """They are not hashed, so that new keys may come; a changed one needs a new IDENTITY_VERSION."""
    found = Recipe.model_validate(BASE).plain()
    for part, values in json.loads(DEFAULTS.read_text()).items():
        if isinstance(values, dict):
            assert found[part] | values == found[part]
        else:
            assert found[part] == values


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("description", "another text"),
        ("search", {"train.lr": {"low": 0.1, "high": 0.2}}),
        ("seeds", [0, 1]),
        ("chosen_by", {"study": "0" * 64}),
    ],
)
def test_what_changes_no_result_is_not_in_the_identity(key: str, other: Any) -> None:
    assert identity().sha256 == identity(**{key: other}).sha256
    assert identity().plain() == identity(**{key: other}).plain()


def test_how_often_a_training_is_saved_is_not_in_the_identity() -> None:
    assert identity().sha256 == identity(train={"checkpoint_steps": 7}).sha256
    assert identity(train={"lr": 0.5}).sha256 == identity(train={"lr": 0.5, "checkpoint_steps": 7}).sha256


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"data": "cassava"},
        {"folds": {"k": 4}},
        {"image": {"size": 64}},
        {"image": {"cache_size": 64}},
        {"image": {"keep_aspect": True}},
        {"augment": "light"},
        {"model": {"name": "resnet18"}},
        {"loss": {"label_smoothing": 0.1}},
        {"train": {"lr": 2e-3}},
        {"metric": "macro_f1"},
        {"tta": "hflip"},
    ],
    ids=str,
)
def test_what_changes_a_result_changes_the_identity(change: dict[str, Any]) -> None:
    assert identity().sha256 != identity(**change).sha256


def test_a_changed_dataset_plan_or_code_changes_the_identity() -> None:
    recipe = identity().recipe
    found = {
        Identity(recipe, "d", "f").sha256,
        Identity(recipe, "e", "f").sha256,
        Identity(recipe, "d", "g").sha256,
        Identity(recipe, "d", "f", (("losses:mine", "0"),)).sha256,
    }
    assert len(found) == 4


def test_differences_name_the_key_and_both_values() -> None:
    lines = differing_keys(identity().plain(), identity(train={"lr": 0.5, "epochs": 3}).plain())
    assert lines == ["train.epochs: 15 there, 3 asked", "train.lr: 0.001 there, 0.5 asked"]
