"""Recipes are found, merged with provenance, resolved against their dataset, listed, described and written back."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.core.complaints import Place
from ensemble.errors import InputError
from ensemble.recipe.find import find_recipe, shipped_folder
from ensemble.recipe.layers import Layer, merge_layers
from ensemble.recipe.load import load_recipe, with_values
from ensemble.recipe.recipe import Recipe
from ensemble.recipe.save import list_recipes, recipe_schema, save_recipe_with
from ensemble.recipe.yaml import format_yaml, read_yaml
from tests.support import Write

SHIPPED = sorted(path.stem for path in shipped_folder().glob("*.yaml"))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(name: str, text: str) -> None:
        path = tmp_path / "recipes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    return write


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_that_ships_loads_anywhere_with_every_value_concrete(name: str, tmp_path: Path) -> None:
    resolved = load_recipe(name, folder=tmp_path)
    recipe = resolved.recipe
    assert isinstance(recipe.image.size, int) and recipe.image.mean and recipe.image.std and recipe.metric
    assert recipe.description and 3 <= len(recipe.search) <= 5
    assert Recipe.model_validate(recipe.plain()) == recipe


def test_the_five_fold_recipes_share_one_plan() -> None:
    plans = {load_recipe(name, folder=Path()).recipe.folds for name in SHIPPED if name.endswith("_kfold5")}
    assert len(plans) == 1


def test_values_come_from_the_nearest_file_then_data_then_set(tmp_path: Path, write: Write) -> None:
    write(
        "base",
        "data: {name: digits}\nmodel: {name: a, drop_rate: 0.1}\ntrain: {lr: 1.0, epochs: 3}\nmetric: log_loss\n",
    )
    write("middle", "extends: base\ntrain:\n  lr: 2.0\n  batch_size: 8\n")
    write("r", "extends: ./middle.yaml\ndata: digits\nmodel:\n  name: b\n")
    write("data/mine", "classes: [a, b]\nstd: [1, 2, 3]\ntrain: {table: t, id: i, image: x, label: {value: y}}\n")
    (tmp_path / "files").mkdir()
    resolved = load_recipe("r", folder=tmp_path, data="mine=files", sets=["train.epochs=4", "train.epochs=5"])
    assert (resolved.name, resolved.path) == ("r", tmp_path / "recipes" / "r.yaml")
    assert (resolved.dataset_name, resolved.dataset_path) == ("mine", tmp_path / "files")
    recipe = resolved.recipe
    assert (recipe.model.name, recipe.model.drop_rate, recipe.train.lr, recipe.train.epochs) == ("b", 0.1, 2.0, 5)
    assert {key: origin for key, origin in resolved.origins.items() if origin != "default"} == {
        "data.name": "--data",
        "image.std": "recipes/data/mine.yaml",
        "model.name": "recipes/r.yaml:4",
        "model.drop_rate": "recipes/base.yaml:2",
        "train.epochs": "--set",
        "train.batch_size": "recipes/middle.yaml:4",
        "train.lr": "recipes/middle.yaml:3",
        "metric": "recipes/base.yaml:4",
    }
    assert set(resolved.origins) >= {
        "description",
        "seed",
        "data.bad_images",
        "image.mean",
        "train.optimizer",
        "tta.views",
    }


def test_what_a_recipe_leaves_open_is_the_datasets_else_imagenets(tmp_path: Path, write: Write) -> None:
    write("data/mine", "classes: [a, b]\nmetric: macro_f1\ntrain: {table: t, id: i, image: x, label: {value: y}}\n")
    write("r", "data: mine\nmodel: {name: x}\n")
    recipe = load_recipe("r", folder=tmp_path).recipe
    assert (recipe.image.size, recipe.image.mean, recipe.image.std) == (
        224,
        [0.485, 0.456, 0.406],
        [0.229, 0.224, 0.225],
    )
    assert recipe.metric == "macro_f1"
    digits = load_recipe("r", folder=tmp_path, data="digits").recipe
    assert (digits.image.size, digits.image.mean, digits.metric) == (32, [0.305] * 3, "accuracy")
    assert load_recipe("r", folder=tmp_path, data="digits", sets=["image.size=64"]).recipe.image.size == 64


def test_a_dimension_of_the_search_is_replaced_whole(tmp_path: Path, write: Write) -> None:
    write(
        "base",
        "data: digits\nmodel: {name: x}\nsearch:\n  train.lr: {low: 1e-4, high: 1e-2, log: true}\n"
        "  tta.views: [none]\n",
    )
    write("r", "extends: base\nsearch:\n  train.lr: [1e-3, 2e-3]\n")
    search = load_recipe("r", folder=tmp_path).recipe.search
    assert (search["train.lr"].choices, search["train.lr"].low, search["tta.views"].choices) == (
        [1e-3, 2e-3],
        None,
        ["none"],
    )
    assert (
        load_recipe("r", folder=tmp_path, sets=["search.train.lr={low: 1, high: 2}"]).recipe.search["train.lr"].low == 1
    )
    narrowed = load_recipe("base", folder=tmp_path, sets=["search.train.lr.low=1e-3", "search.augment=[none, light]"])
    assert narrowed.recipe.search["train.lr"].low == 1e-3 and narrowed.recipe.search["train.lr"].high == 1e-2
    assert narrowed.recipe.search["augment"].choices == ["none", "light"]
    assert narrowed.origins["search.train.lr"] == "--set"


def test_a_local_recipe_may_extend_the_shipped_one_of_its_name(tmp_path: Path, write: Write) -> None:
    write("quickstart", "extends: quickstart\ntrain: {epochs: 2}\n")
    resolved = load_recipe("quickstart", folder=tmp_path)
    assert resolved.recipe.train.epochs == 2
    assert resolved.recipe.model.name == load_recipe("quickstart", folder=tmp_path / "elsewhere").recipe.model.name


def test_names_and_paths_are_told_apart(tmp_path: Path, write: Write) -> None:
    write("mine", "extends: quickstart\n")
    assert (
        find_recipe("mine", tmp_path)
        == find_recipe("recipes/mine.yaml", tmp_path)
        == tmp_path / "recipes" / "mine.yaml"
    )
    assert find_recipe("quickstart", tmp_path) == shipped_folder() / "quickstart.yaml"
    with pytest.raises(InputError):
        find_recipe("quickstart.yaml", tmp_path)


PARTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 9),
        "train": st.dictionaries(st.sampled_from(["lr", "epochs"]), st.integers(0, 9)),
        "image": st.fixed_dictionaries({}, optional={"mean": st.none() | st.lists(st.integers(1, 9))}),
        "search": st.dictionaries(
            st.sampled_from(["train.lr", "tta.views"]),
            st.sampled_from([{"low": 1, "high": 2}, {"low": 3, "high": 4, "log": True}, {"choices": [1]}]),
        ),
    },
)


def layer(values: dict[str, Any], source: str) -> Layer:
    def places(value: Any, path: tuple[str, ...]) -> dict[Any, Place]:
        below = [places(item, (*path, key)) for key, item in value.items()] if isinstance(value, dict) else []
        return {path: Place(source), **{key: place for one in below for key, place in one.items()}}

    return Layer(values, places(values, ()))


@given(PARTS, PARTS, PARTS)
@settings(max_examples=150, deadline=None)
def test_merging_is_associative_so_a_chain_has_one_meaning(one: Any, two: Any, three: Any) -> None:
    a, b, c = layer(one, "a"), layer(two, "b"), layer(three, "c")
    left, right = merge_layers([merge_layers([a, b]), c]), merge_layers([a, merge_layers([b, c])])
    assert left == right == merge_layers([a, b, c])
    assert merge_layers([a, a]) == a == merge_layers([Layer(), a])


@given(PARTS, PARTS)
@settings(max_examples=100, deadline=None)
def test_every_merged_value_is_placed_in_the_layer_it_came_from(one: Any, two: Any) -> None:
    a, b = layer(one, "a"), layer(two, "b")
    merged = merge_layers([a, b])
    for path in [
        ("seed",),
        ("train", "lr"),
        ("image", "mean"),
        ("search", "tta.views"),
        ("search", "tta.views", "low"),
    ]:
        if merged.holds(path):
            assert merged.place_of(path).source == ("b" if b.holds(path) else "a")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["low", "train.lr", "k", "name", "x\n"]), inner)
    ),
    max_leaves=5,
)
KEYS = st.sampled_from(["extends", "lr", *Recipe.model_fields])


@given(
    st.dictionaries(KEYS, ANYTHING), st.lists(st.tuples(KEYS, ANYTHING), max_size=2), st.none() | st.text(max_size=4)
)
@settings(max_examples=100, deadline=None)
def test_no_file_makes_loading_fail_with_more_than_lines_for_the_user(
    tmp_path_factory: Any, values: Any, sets: Any, data: str | None
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "r.yaml").write_text(format_yaml({"model": {"name": "x"}} | values), encoding="utf-8")
    items = [f"{key}={json.dumps(value)}" for key, value in sets]
    try:
        load_recipe("r.yaml", folder=folder, sets=items, data=data)
    except InputError as error:
        assert error.messages and not any("\n" in message for message in error.messages)


def test_the_list_of_recipes_survives_a_broken_one(tmp_path: Path, write: Write) -> None:
    write("broken", "data: [\n")
    write("wrong", "extends: quickstart\nlr: 3\n")
    write("quickstart", "extends: r50_kfold5\ndescription: Mine.\n")
    entries = {entry.name: entry for entry in list_recipes(tmp_path)}
    assert {*SHIPPED, "broken", "wrong"} == set(entries)
    assert entries["quickstart"].description == "Mine." and entries["quickstart"].extends == "r50_kfold5"
    assert entries["r50_kfold5"].dataset == "digits" and entries["r50_kfold5"].error is None
    assert (entries["broken"].error or "").startswith("recipes/broken.yaml:2: is not valid YAML")
    assert entries["wrong"].error == "recipes/wrong.yaml:2: lr is unknown; did you mean train.lr?"


def test_with_values_gives_a_trial_that_is_checked_and_resolved(tmp_path: Path) -> None:
    source = load_recipe("quickstart", folder=tmp_path, sets=["train.epochs=4"])
    trial = with_values(source, {"train.lr": 0.5, "image.size": "auto", "tta": "d4"})
    assert (trial.recipe.train.lr, trial.recipe.train.epochs, trial.recipe.tta.views, trial.recipe.image.size) == (
        0.5,
        4,
        "d4",
        32,
    )
    assert trial.origins["train.lr"] == "search" and trial.origins["train.epochs"] == "--set"
    with pytest.raises(InputError, match=r"train\.warmup_epochs is 9, but must be less than epochs, 4"):
        with_values(source, {"train.warmup_epochs": 9})
    with pytest.raises(InputError, match=r"did you mean train\.lr"):
        with_values(source, {"train.lrr": 9})


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "train.lr": st.floats(1e-9, 1e9),
            "train.epochs": st.integers(1, 99),
            "train.clip_norm": st.none() | st.floats(1e-3, 9),
            "augment": st.sampled_from(["none", "light"]),
            "model.name": st.text(
                st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=8
            ),
            "image.size": st.sampled_from([16, "auto"]),
        },
    ),
    st.sampled_from(["quickstart", "own", "own/../own"]),
    st.lists(st.sampled_from(["train.clip_norm=3", "tta=flips", "search.tta.views=[none, d4]", "image.size=auto"])),
)
@settings(max_examples=40, deadline=None)
def test_a_saved_recipe_loads_as_the_same(tmp_path_factory: Any, values: Any, name: str, sets: list[str]) -> None:
    folder = tmp_path_factory.mktemp("with spaces and ü")
    (folder / "recipes" / "own").mkdir(parents=True)
    (folder / "recipes" / "own.yaml").write_text("extends: quickstart\ntrain: {clip_norm: 1.0}\nimage: {size: 48}\n")
    source = load_recipe(f"recipes/{name}.yaml" if "/" in name else name, folder=folder, sets=sets)
    best = folder / "outputs" / "studies" / "s" / "best.yaml"
    save_recipe_with(
        source, values, best, description="Trial 3: the best", comment="Written by ens tune.\nEdit freely."
    )
    again = load_recipe("outputs/studies/s/best.yaml", folder=folder)
    assert again.recipe.description == "Trial 3: the best"
    assert again.recipe.model_copy(update={"description": ""}) == with_values(source, values).recipe.model_copy(
        update={"description": ""}
    )


def test_a_saved_recipe_is_small_and_names_what_it_extends(tmp_path: Path, write: Write) -> None:
    write("own", "extends: quickstart\n")
    write("data/mine", "classes: [a, b]\ntrain: {table: t, id: i, image: x, label: {value: y}}\n")
    best = tmp_path / "outputs" / "studies" / "s" / "best.yaml"
    source = load_recipe("own", folder=tmp_path, data="mine", sets=["train.epochs=3"])
    save_recipe_with(source, {"train.lr": 1e-5}, best, description="Best.", comment="Hello.")
    assert best.read_text(encoding="utf-8").splitlines() == [
        "# Hello.",
        "description: Best.",
        "extends: ../../../recipes/own.yaml",
        "data:",
        "  name: mine",
        "train:",
        "  epochs: 3",
        "  lr: 1e-05",
    ]
    assert load_recipe("outputs/studies/s/best.yaml", folder=tmp_path).dataset_name == "mine"
    save_recipe_with(load_recipe("quickstart", folder=tmp_path), {"train.lr": 1e-5}, best, description="Best.")
    assert read_yaml(best, "best").values == {"description": "Best.", "extends": "quickstart", "train": {"lr": 1e-5}}


def test_a_recipe_is_saved_in_full_when_its_file_was_broken_meanwhile(tmp_path: Path, write: Write) -> None:
    write("own", "extends: quickstart\n")
    source = load_recipe("own", folder=tmp_path)
    write("own", "extends: [\n")
    best = tmp_path / "best.yaml"
    save_recipe_with(source, {"train.lr": 0.25}, best, description="")
    assert (
        load_recipe("./best.yaml", folder=tmp_path).recipe
        == with_values(source, {"train.lr": 0.25, "description": ""}).recipe
    )


@pytest.mark.parametrize("name", SHIPPED)
def test_the_schema_takes_every_recipe_that_ships(name: str) -> None:
    assert schema_faults(read_yaml(shipped_folder() / f"{name}.yaml", name).values) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"lr": 1},
        {"train": {"epoch": 3}},
        {"train": {"lr": 0}},
        {"image": {"size": "big"}},
        {"data": 3},
        {"data": {}},
        {"model": {}},
        {"search": {"train.lrr": [1]}},
        {"search": {"train.lr": 3}},
        {"search": {"train.lr": []}},
        {"tta": None},
    ],
)
def test_the_schema_and_the_loader_refuse_alike(changes: dict[str, Any], tmp_path: Path) -> None:
    values = {"data": "digits", "model": {"name": "x"}} | changes
    assert schema_faults(values)
    (tmp_path / "r.yaml").write_text(json.dumps(values))
    with pytest.raises(InputError):
        load_recipe("r.yaml", folder=tmp_path)


def test_the_schema_asks_for_data_and_model_unless_another_recipe_gives_them() -> None:
    assert schema_faults({}) and schema_faults({"data": "digits"})
    assert schema_faults({"extends": "quickstart", "model": {"pretrained": False}, "data": {}}) == []


def test_every_key_of_the_schema_is_documented() -> None:
    schema = recipe_schema()
    parts = [schema, *schema["$defs"].values()]
    bare = [key for part in parts for key, value in part["properties"].items() if not value.get("description")]
    assert set(bare) <= {"loss", "train"}  # pydantic leaves a docstring out where the part's own class has the same one


def test_reading_recipes_imports_nothing_heavy() -> None:
    code = "import sys, ensemble.recipe.save; print([m for m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not re.search(r"'(torch|pandas|optuna|sklearn|numpy|ruamel)[.']", loaded)


def schema_faults(values: Any) -> list[str]:
    """Validate by the few keywords that the schema uses; an unknown keyword fails the test."""
    top = recipe_schema()
    return list(_faults(values, top, top, "recipe"))


def _faults(value: Any, schema: dict[str, Any], top: dict[str, Any], where: str) -> Any:
    known = {"$schema", "$defs", "title", "description", "default", "then", "properties"}
    for keyword, rule in schema.items():
        if keyword == "$ref":
            yield from _faults(value, top["$defs"][rule.rpartition("/")[2]], top, where)
        elif keyword == "anyOf":
            if all(list(_faults(value, option, top, where)) for option in rule):
                yield f"{where}: no option fits"
        elif keyword == "if":
            if not list(_faults(value, rule, top, where)):
                yield from _faults(value, schema["then"], top, where)
        elif keyword == "not":
            if not list(_faults(value, rule, top, where)):
                yield f"{where}: fits what it must not"
        elif keyword not in known and not _fits(value, keyword, rule, schema):
            yield f"{where}: {keyword} {rule}"
    if isinstance(value, dict):
        for key, item in value.items():
            below = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
            if isinstance(below, dict):
                yield from _faults(item, below, top, f"{where}.{key}")
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from _faults(item, schema["items"], top, f"{where}[]")


def _fits(value: Any, keyword: str, rule: Any, schema: dict[str, Any]) -> bool:
    types: dict[str, Any] = {"object": dict, "array": list, "string": str, "null": type(None), "boolean": bool}
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_whole = is_number and isinstance(value, int)
    checks: dict[str, Callable[[], bool]] = {
        "type": lambda: {"number": is_number, "integer": is_whole}.get(rule, isinstance(value, types.get(rule, ()))),
        "enum": lambda: value in rule,
        "const": lambda: value == rule,
        "required": lambda: not isinstance(value, dict) or set(rule) <= set(value),
        "additionalProperties": lambda: (
            rule is not False or not isinstance(value, dict) or set(value) <= set(schema["properties"])
        ),
        "propertyNames": lambda: not isinstance(value, dict) or set(value) <= set(rule["enum"]),
        "items": lambda: True,
        "minItems": lambda: not isinstance(value, list) or len(value) >= rule,
        "maxItems": lambda: not isinstance(value, list) or len(value) <= rule,
        "minLength": lambda: not isinstance(value, str) or len(value) >= rule,
        "minimum": lambda: not is_number or value >= rule,
        "maximum": lambda: not is_number or value <= rule,
        "exclusiveMinimum": lambda: not is_number or value > rule,
        "exclusiveMaximum": lambda: not is_number or value < rule,
    }
    return checks[keyword]()


@pytest.mark.parametrize(
    ("base", "text", "sets", "seed", "seeds"),
    [
        ("", "", (), 0, None),
        ("seed: 3\n", "seeds: [1, 2]\n", (), 1, [1, 2]),
        ("seeds: [1, 2]\n", "seed: 3\n", (), 3, None),
        ("seeds: [1, 2]\n", "", ("seed=2",), 2, None),
        ("seeds: [1, 2]\n", "", ("seed=2", "seeds=[7, 8]"), 7, [7, 8]),
        ("seeds: [1, 2]\n", "seeds: null\n", (), 0, None),
        ("seed: 3\n", "seeds: null\n", (), 3, None),
        ("", "seed: 1\nseeds: [1, 2]\n", (), 1, [1, 2]),
    ],
)
def test_the_nearest_of_seed_and_seeds_decides(
    tmp_path: Path, write: Write, base: str, text: str, sets: tuple[str, ...], seed: int, seeds: list[int] | None
) -> None:
    write("base", f"data: digits\nmodel: {{name: a}}\nsearch: {{train.lr: [1e-3, 1e-2]}}\n{base}")
    write("r", f"extends: base\n{text}")
    source = load_recipe("r", folder=tmp_path, sets=sets)
    assert (source.recipe.seed, source.recipe.seeds) == (seed, seeds)
    # A trial's recipe, and the best one written, say the same; one of another seed has that seed alone.
    assert with_values(source, {"train.lr": 1e-2}).recipe.seeds == seeds
    save_recipe_with(source, {"train.lr": 1e-2}, tmp_path / "best.yaml", description="best")
    best = load_recipe("./best.yaml", folder=tmp_path).recipe
    assert (best.seed, best.seeds) == (seed, seeds)
    other = with_values(source, {"seed": 9})
    assert (other.recipe.seed, other.recipe.seeds) == (9, None)
    save_recipe_with(source, {"seed": 9}, tmp_path / "best.yaml", description="best")
    best = load_recipe("./best.yaml", folder=tmp_path).recipe
    assert (best.seed, best.seeds) == (9, None)


def test_the_first_of_the_seeds_is_where_the_seed_comes_from(tmp_path: Path, write: Write) -> None:
    write("r", "data: digits\nmodel: {name: a}\nseeds: [4, 5]\n")
    origins = load_recipe("r", folder=tmp_path).origins
    assert origins["seed"] == origins["seeds"] == "recipes/r.yaml:3"


def test_seeds_are_in_the_schema_and_cannot_be_searched(tmp_path: Path, write: Write) -> None:
    schema = recipe_schema()
    assert (
        schema["properties"]["seeds"]["anyOf"][0] | {"minItems": 1, "uniqueItems": True}
        == (schema["properties"]["seeds"]["anyOf"][0])
    )
    assert "seed" in schema["properties"]["search"]["propertyNames"]["enum"]
    assert "seeds" not in schema["properties"]["search"]["propertyNames"]["enum"]
    write("r", "data: digits\nmodel: {name: a}\nsearch: {seeds: [[0], [1]]}\n")
    with pytest.raises(InputError, match=r"search\.seeds: can't be searched"):
        load_recipe("r", folder=tmp_path)
