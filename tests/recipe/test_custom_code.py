"""Code named by a recipe: found, hashed, allowed or refused without running it; imported as it was hashed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemble.errors import InputError
from ensemble.recipe.load import load_recipe
from ensemble.recipe.own_code import (
    ALLOWED_CODE,
    OwnCode,
    check_code_of_run,
    find_code,
    is_code_name,
    is_listed,
    is_plain_file,
    require_allowed,
    save_code,
)
from ensemble.recipe.own_import import load_function

NET = """\
import ens_test_sizes

def build(classes):
    return classes * ens_test_sizes.FACTOR

class Wide: ...
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A working directory with a recipe that names code beside it; running any of it at the wrong time is noticed."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "ens_test_net.py").write_text(NET)
    (tmp_path / "recipes" / "ens_test_sizes.py").write_text("FACTOR = 2\n")
    write_recipe(tmp_path / "recipes" / "mine.yaml", "ens_test_net:build")
    return tmp_path


def write_recipe(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"data: digits\nmodel: {{name: '{name}'}}\n")


def code_of(folder: Path, recipe: str = "mine", *sets: str) -> OwnCode:
    (code,) = find_code(load_recipe(recipe, folder=folder, sets=sets))
    return code


def plain(code: OwnCode, folder: Path | None = None) -> dict[str, Any]:
    return {code.name: code.plain(folder)}


@pytest.mark.parametrize("name", ["net:build", "my_pkg.nets:Wide", "a1:_b"])
def test_module_and_function_is_code(name: str) -> None:
    assert is_code_name(name)


@pytest.mark.parametrize(
    "name", ["resnet50", "hf-hub:timm/resnet50.a1", "hf_hub:timm/x", "a:b:c", "a:", ":b", "1a:b", 3]
)
def test_other_names_are_not_code(name: Any) -> None:
    assert not is_code_name(name)


def test_code_is_found_with_the_files_it_imports_and_is_not_run(here: Path) -> None:
    code = code_of(here)
    assert [name for name, _ in code.files] == ["ens_test_net.py", "ens_test_sizes.py"]
    assert code.is_own
    assert "ens_test_net" not in sys.modules


def test_a_change_in_any_of_the_files_changes_the_hash(here: Path) -> None:
    before = code_of(here).sha256
    (here / "recipes" / "ens_test_sizes.py").write_text("FACTOR = 3\n")
    assert code_of(here).sha256 != before


def test_what_is_imported_is_what_was_hashed_and_is_imported_anew_when_it_changes(here: Path) -> None:
    codes = plain(code_of(here))
    assert load_function("ens_test_net:build", codes)(5) == 10
    (here / "recipes" / "ens_test_sizes.py").write_text("FACTOR = 3\n")
    assert load_function("ens_test_net:build", plain(code_of(here)))(5) == 15
    with pytest.raises(InputError, match="changed after the run was started"):
        load_function("ens_test_net:build", codes)
    assert not list(here.rglob("__pycache__"))


def test_a_copy_in_the_run_is_enough(here: Path, tmp_path: Path) -> None:
    code = code_of(here)
    save_code(tmp_path / "run", [code])
    for path in (here / "recipes").glob("*.py"):
        path.write_text("raise SystemError")
    codes = plain(code, tmp_path / "run" / "code")
    assert load_function("ens_test_net:build", codes)(4) == 8


def test_a_file_that_changes_between_reading_and_copying_is_noticed(here: Path, tmp_path: Path) -> None:
    code = code_of(here)
    (here / "recipes" / "ens_test_sizes.py").write_text("FACTOR = 3\n")
    with pytest.raises(InputError, match="changed while"):
        save_code(tmp_path / "run", [code])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ens_test_nte:build", r"mine\.yaml:2: there is no ens_test_nte\.py beside .*did you mean ens_test_net\?"),
        ("zzz:build", r"no installed package zzz; the \.py files there are: ens_test_net, ens_test_sizes"),
        ("ens_test_net:biuld", r"mine\.yaml:2: recipes/ens_test_net\.py has no function biuld; did you mean build\?"),
        ("ens_test_net:zzz", r"has no function zzz; it has build, Wide"),
        ("json.encoder:zzz", r"encoder\.py has no function zzz; it has"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(here: Path, name: str, message: str) -> None:
    write_recipe(here / "recipes" / "mine.yaml", name)
    with pytest.raises(InputError, match=message):
        code_of(here)


def test_a_package_that_may_make_names_out_of_sight_is_not_refused(here: Path) -> None:
    assert code_of(here, "mine", "model.name=timm.layers:zzzzz9").folder is None


def test_a_file_that_is_no_python_is_told_with_its_line(here: Path) -> None:
    (here / "recipes" / "ens_test_sizes.py").write_text("FACTOR = 2\ndef broken(:\n")
    with pytest.raises(InputError, match=r"recipes/ens_test_sizes\.py:2: is not valid Python: invalid syntax"):
        code_of(here)


def test_a_file_with_the_name_of_an_installed_module_is_refused(here: Path) -> None:
    (here / "recipes" / "numpy.py").write_text("def build(): ...\n")
    write_recipe(here / "recipes" / "mine.yaml", "numpy:build")
    with pytest.raises(InputError, match=r"recipes/numpy\.py has the name of an installed package"):
        code_of(here)


def test_a_recipe_from_elsewhere_needs_to_be_allowed(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("download")
    write_recipe(elsewhere / "theirs.yaml", "ens_test_net:build")
    (elsewhere / "ens_test_net.py").write_text("def build(classes): ...\n")
    write_recipe(elsewhere / "package.yaml", "json.encoder:JSONEncoder")
    (here / "recipes" / "child.yaml").write_text(f"extends: {elsewhere / 'theirs.yaml'}\n")
    for recipe in (str(elsewhere / "theirs.yaml"), str(elsewhere / "package.yaml"), "child"):
        code = code_of(here, recipe)
        assert not code.is_own
        with pytest.raises(InputError, match="--allow-code"):
            require_allowed([code], False)
        require_allowed([code], True)


def test_a_recipe_that_ships_can_be_given_code_of_the_working_directory(here: Path) -> None:
    code = code_of(here, "quickstart", "model.name=ens_test_net:build")
    assert code.is_own
    assert code.folder == here / "recipes"


def test_code_is_looked_for_beside_the_recipe_that_is_extended(here: Path) -> None:
    (here / "deep").mkdir()
    (here / "deep" / "best.yaml").write_text("extends: ../recipes/mine.yaml\nseed: 3\n")
    assert code_of(here, "deep/best.yaml").folder == here / "recipes"


def test_an_installed_package_is_known_by_its_version_and_file(here: Path) -> None:
    code = code_of(here, "mine", "model.name=json.encoder:JSONEncoder")
    assert code.folder is None
    assert code.files == ()
    assert load_function(code.name, plain(code)).__name__ == "JSONEncoder"
    with pytest.raises(InputError, match="another version"):
        load_function(code.name, {code.name: {**code.plain(), "sha256": "0"}})


def test_code_of_a_run_is_run_where_one_has_it_oneself_or_allows_it(here: Path, tmp_path: Path) -> None:
    code = code_of(here)
    run = tmp_path / "run"
    save_code(run, [code])
    check_code_of_run(run, plain(code), here / "recipes", allow_code=False)
    with pytest.raises(InputError, match="--allow-code"):
        check_code_of_run(run, plain(code), here / "elsewhere", allow_code=False)
    check_code_of_run(run, plain(code), here / "elsewhere", allow_code=True)
    assert check_code_of_run(run, plain(code), here / "recipes", allow_code=False)[code.name]["folder"].endswith("code")
    (run / "code" / "ens_test_sizes.py").write_text("FACTOR = 9\n")
    with pytest.raises(InputError, match="is not the code that the run was trained with"):
        check_code_of_run(run, plain(code), here / "recipes", allow_code=True)


NAMES = st.lists(st.sampled_from(["..", ".", "", "net", "net.py", "\\\\", "\0", "~"]), min_size=1, max_size=4)


@given(NAMES.map("/".join), st.booleans())
def test_only_bare_names_of_modules_are_files_of_a_runs_code(name: str, allow_code: bool) -> None:
    """Whatever lies there, and whatever was allowed; the worker checks it once more."""
    codes = {"net:build": {"folder": "/", "files": {name: "0" * 64}, "sha256": "0" * 64}}
    if name == "net.py":
        assert is_plain_file(name)
        return
    with pytest.raises(InputError, match="leads out of the run's folder"):
        check_code_of_run(Path("run"), codes, Path("recipes"), allow_code=allow_code)
    with pytest.raises(InputError, match="is not in its files"):
        load_function("net:build", codes)


def test_the_users_list_names_packages_modules_and_functions_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOWED_CODE, raising=False)
    assert not is_listed("a.b:c")
    for entry, listed in {"a": True, "a.b": True, "a.b:c": True, "a.b:d": False, "a.bb": False, "b": False}.items():
        monkeypatch.setenv(ALLOWED_CODE, f"x , {entry},")
        assert is_listed("a.b:c") is listed, entry


def test_the_list_is_of_installed_code_and_covers_no_file_of_its_name(
    here: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOWED_CODE, "ens_test_net,json")
    elsewhere = tmp_path_factory.mktemp("download")
    write_recipe(elsewhere / "theirs.yaml", "ens_test_net:build")
    (elsewhere / "ens_test_net.py").write_text("def build(classes): ...\n")
    assert not code_of(here, str(elsewhere / "theirs.yaml")).is_own
    write_recipe(elsewhere / "package.yaml", "json.encoder:JSONEncoder")
    assert code_of(here, str(elsewhere / "package.yaml")).is_own


def test_a_module_that_is_not_among_the_files_is_not_imported_in_their_place(here: Path) -> None:
    codes = {"json.encoder:JSONEncoder": code_of(here).plain()}
    with pytest.raises(InputError, match="is not in its files"):
        load_function("json.encoder:JSONEncoder", codes)
