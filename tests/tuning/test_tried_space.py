"""Before the first trial: values that no trial can have are refused, each with its own fault, and no other is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ensemble.errors import InputError
from ensemble.recipe.recipe import Recipe, SearchDimension
from ensemble.training.tasks import prepare_run
from ensemble.tuning.space import check_space, value_at
from ensemble.tuning.trial_runs import PREPARED_ALIKE
from tests.support import Ens

Values = Mapping[str, Any]

ORIGINS = {"search.model.name": "recipes/a.yaml:7"}
SPACE = {
    "model.name": SearchDimension(choices=["small", "large"]),
    "image.size": SearchDimension(choices=[32, 64, 224]),
    "train.lr": SearchDimension(low=1e-4, high=1e-1, log=True),
    "train.optimizer": SearchDimension(choices=["adamw", "sgd"]),
    "train.momentum": SearchDimension(low=0.5, high=0.9, when={"train.optimizer": "sgd"}),
}
START = {"model.name": "small", "image.size": 32, "train.lr": 1e-3, "train.optimizer": "adamw", "train.momentum": None}


def refusals(wrong: Callable[[Values], str], start: Values = START, space: Values = SPACE) -> list[str]:
    """What is refused, where `wrong` gives what is wrong with values."""
    tried: list[Values] = []

    def try_out(points: Sequence[Values]) -> list[tuple[str, ...]]:
        tried.extend(points)
        return [(text,) if (text := wrong(point)) else () for point in points]

    try:
        check_space(space, start, try_out, ORIGINS)
    except InputError as error:
        return list(error.messages)
    for key, dimension in space.items():
        seen = {point[key] for point in tried if key in point}
        assert seen >= set(dimension.choices or (dimension.low, dimension.high))
    return []


def test_every_choice_and_both_ends_of_each_range_are_tried() -> None:
    assert refusals(lambda values: "") == []


def test_a_value_that_no_trial_can_have_is_refused_with_its_file_and_line() -> None:
    assert refusals(lambda values: "no such model" if values["model.name"] == "large" else "") == [
        "recipes/a.yaml:7: search.model.name tries 'large': no such model"
    ]


def test_a_wrong_end_of_a_conditional_key_is_refused() -> None:
    assert refusals(lambda values: "too much" if values.get("train.momentum", 0) > 0.8 else "") == [
        "search: search.train.momentum tries 0.9: too much"
    ]


def test_a_value_that_works_beside_one_value_of_another_key_is_allowed() -> None:
    assert (
        refusals(lambda values: "wants 224" if (values["model.name"], values["image.size"]) == ("large", 32) else "")
        == []
    )
    only = lambda values: "wants 224" if values["model.name"] == "large" and values["image.size"] != 224 else ""  # noqa: E731
    assert refusals(only) == []


def test_a_fault_of_every_trial_is_reported_once_as_the_recipe_s_own() -> None:
    assert refusals(lambda values: "model.pretrained: there is no file w.pth") == [
        "model.pretrained: there is no file w.pth"
    ]


def test_two_wrong_models_are_both_refused_where_the_recipe_has_neither() -> None:
    start = {**START, "model.name": "other"}
    assert refusals(lambda values: f"no model {values['model.name']}", start) == [
        "recipes/a.yaml:7: search.model.name tries 'small': no model small",
        "recipes/a.yaml:7: search.model.name tries 'large': no model large",
    ]


def test_a_recipe_that_is_wrong_by_itself_is_allowed_where_some_trial_is_right() -> None:
    assert refusals(lambda values: "small is wrong" if values["image.size"] == 32 else "") == [
        "search: search.image.size tries 32: small is wrong"
    ]
    assert (
        refusals(lambda values: "not both" if (values["model.name"], values["image.size"]) == ("small", 32) else "")
        == []
    )


@given(st.sets(st.sampled_from(["model.name", "image.size", "train.lr", "train.optimizer"])), st.data())
def test_exactly_the_values_that_are_wrong_by_themselves_are_refused(keys: set[str], data: st.DataObject) -> None:
    wrong = {}
    for key in sorted(keys):
        dimension = SPACE[key]
        ends = dimension.choices or [dimension.low, dimension.high]
        wrong[key] = data.draw(st.sampled_from([end for end in ends if end != START[key]]))
    texts = refusals(lambda values: "; ".join(f"{key} is wrong" for key in wrong if values[key] == wrong[key]))
    assert len(texts) == len(wrong)
    for key in wrong:
        assert any(f"search.{key} tries" in text and f"{key} is wrong" in text for text in texts)


def test_a_model_that_needs_another_image_size_is_searched_together_with_it(workspace: Path, ens: Ens) -> None:
    words = ("--search", "model.options=[{}, {img_size: 32}]", "--search", "model.name=[test_resnet, test_vit]")
    sizes = ("--search", "image.size=[16, 32]", "--search", "train.lr=[1e-3]", "--sampler", "random")
    common = ("tune", "--recipe", "tiny", "--trials", "1", "--engine", "inline", "--set", "train.epochs=1")
    answer = ens(*common, *words, *sizes, "--no-rescore")
    assert answer.code in (0, 3), answer.err
    assert "tries" not in answer.err


@pytest.mark.parametrize("key", PREPARED_ALIKE)
def test_a_worker_decides_the_same_whatever_the_value_of(key: str, tmp_path: Path) -> None:
    first, second = _two_recipes(key)
    assert value_at(first, key) != value_at(second, key)
    facts: dict[str, Any] = {"classes": 3, "parts": [], "code": {}, "weights": None}
    first_decision, second_decision = (
        prepare_run(tmp_path, lambda *_: None, recipe=recipe, **facts) for recipe in (first, second)
    )
    assert first_decision == second_decision


def _two_recipes(key: str) -> list[dict[str, Any]]:
    """Two that are right, and differ in the key alone."""
    part, _, name = key.rpartition(".")
    for optimizer, select in (("sgd", "last"), ("adamw", "best")):
        base: dict[str, Any] = {"data": "digits", "model": {"name": "test_resnet"}, "image": {"size": 16}}
        base |= {"mix": {"kind": "mixup"}, "loss": {"name": "focal"}}
        base |= {"train": {"optimizer": optimizer, "select": select, "epochs": 9}}
        recipes = []
        for value in (1, 2, 3, 0.25, 0.5, 0.75, 0.999):
            changed = {**base, part: {**base.get(part, {}), name: value}} if part else {**base, name: value}
            with suppress(ValidationError):
                recipes.append(Recipe.model_validate(changed).plain())
        if len(recipes) > 1:
            return recipes[:2]
    return pytest.fail(f"{key}: no two values are right")
