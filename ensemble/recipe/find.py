"""Where recipes and descriptions of datasets lie: in the working directory's `recipes/`, then with the package."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.core.complaints import closest
from ensemble.errors import InputError

_MOST_UNKNOWN = 20  # names that are no recipe's: for each, all folders are searched for one like it
Given = Mapping[str, Any]
"""A recipe that was given as a mapping, in Python."""


def shipped_folder() -> Path:
    """The recipes that ship: inside the installed package, or beside it in a checkout."""
    # not importlib.resources: recipes are files that messages name, and that others extend by path
    package = Path(__file__).resolve().parents[1]
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def find_recipe(name_or_path: str, folder: Path) -> Path:
    """The file of a recipe's name, or of a path relative to `folder`."""
    if is_path(name_or_path):
        return _existing_file(name_or_path, folder, folder)
    return _named_file("recipe", name_or_path, _recipe_places(folder), folder)


def is_pattern(word: str) -> bool:
    """Whether a user's word for recipes may stand for several, as `mine_*` does."""
    return glob.has_magic(word)


def expand_recipes(words: Sequence[str | Given], folder: Path) -> list[str | Given]:
    """Names and paths in the order given, each pattern as what it matches, by name; each file once."""
    # by file: `r50` and `recipes/r50.yaml` are one recipe, which must not be trained twice at once
    recipes: dict[Path | int, str | Given] = {}
    complaints: list[str] = []
    for number, word in enumerate(words):
        if len(complaints) >= _MOST_UNKNOWN:
            complaints.append(f"and perhaps more: {len(words):,} recipes are named")
            break
        try:
            if not isinstance(word, str):
                recipes[number] = word
                continue
            for name in _matches(word, folder) if is_pattern(word) else [word]:
                recipes.setdefault(find_recipe(name, folder).absolute(), name)
        except InputError as error:
            complaints += error.messages
    if complaints:
        raise InputError(*dict.fromkeys(complaints))
    return list(recipes.values())


def find_parent(extends: str, child: Path, folder: Path) -> Path:
    """The file that `child` extends: a path relative to it, or a name, looked up beside it first.

    A recipe that extends its own name means the next one of that name: a local `r50` can build on the one that ships.
    """
    if is_path(extends):
        return _existing_file(extends, child.parent, folder)
    return _named_file("recipe", extends, [child.parent, *_recipe_places(folder)], folder, but_not=child)


def find_dataset(name: str, folder: Path) -> Path:
    """The description of a dataset, by its name."""
    return _named_file("dataset", name, [place / "data" for place in _recipe_places(folder)], folder)


def recipes_by_name(folder: Path) -> dict[str, Path]:
    """Every recipe that has a name seen from `folder`, by name."""
    return _files_in(_recipe_places(folder))


def datasets_by_name(folder: Path) -> dict[str, Path]:
    """Every dataset described, by name."""
    return _files_in([place / "data" for place in _recipe_places(folder)])


def is_path(name_or_path: str) -> bool:
    """Whether a user's word for a recipe is a path rather than a name."""
    return "/" in name_or_path or os.sep in name_or_path or name_or_path.endswith((".yaml", ".yml"))


def is_same_file(path: Path, other: Path) -> bool:
    """Whether both are one file; of one that isn't there, as of a recipe given as a mapping, the path decides."""
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.abspath(path) == os.path.abspath(other)


def shown_path(path: Path, folder: Path) -> str:
    """A path as messages name it: relative when it lies below `folder`."""
    # abspath, not resolve: a link is shown as the user wrote it
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return (absolute.relative_to(base) if absolute.is_relative_to(base) else absolute).as_posix()


def _matches(pattern: str, folder: Path) -> list[str]:
    """The recipes that a pattern stands for: names, or paths relative to `folder`; a file of that very name wins."""
    if not is_path(pattern):
        names = list(recipes_by_name(folder))
        matches = [pattern] if pattern in names else fnmatch.filter(names, pattern)
    elif os.path.isfile(folder / os.path.expanduser(pattern)):  # expanduser: a quoted ~ reaches us as it is
        matches = [pattern]
    else:
        root = "" if os.path.isabs(os.path.expanduser(pattern)) else str(folder)
        matches = sorted(glob.glob(os.path.expanduser(pattern), root_dir=root or None))  # glob's order is the disk's
        matches = [match for match in matches if match.endswith((".yaml", ".yml"))]
    if not matches:
        known = "" if is_path(pattern) else f"; there are {', '.join(recipes_by_name(folder)) or 'none'}"
        raise InputError(f"--recipe {pattern!r}: no recipe matches{known}")
    return matches


def _recipe_places(folder: Path) -> list[Path]:
    return [folder / "recipes", shipped_folder()]


def _files_in(places: Sequence[Path]) -> dict[str, Path]:
    """Files by name, in the order of their names; an earlier place hides a later one."""
    # reversed: of one name, the last put in stays
    by_name = {path.stem: path for place in reversed(places) for path in place.glob("*.yaml") if os.path.isfile(path)}
    return dict(sorted(by_name.items()))


def _named_file(kind: str, name: str, places: Sequence[Path], folder: Path, *, but_not: Path | None = None) -> Path:
    for place in places:
        path = place / f"{name}.yaml"
        if os.path.isfile(path) and not (but_not is not None and is_same_file(path, but_not)):
            return path
    if but_not is not None and but_not.stem == name:
        shown = shown_path(but_not, folder)
        raise InputError(
            f"{name} is this very recipe, so it goes in a circle: {shown} -> {shown}; to build on another recipe of "
            "this name, give its path"
        )
    names = list(_files_in(places))
    near = closest(name, names)
    looked_in = dict.fromkeys(shown_path(place, folder) for place in places)  # each once: a child may lie in recipes/
    there_are = f"did you mean {near}? There are" if near else "there are"
    known = f"{', '.join(names) or 'none'} (looked in {', '.join(looked_in)})"
    raise InputError(f"there is no {kind} {name!r}; {there_are} {known}")


def _existing_file(name: str, base: Path, folder: Path) -> Path:
    path = Path(os.path.normpath(base / os.path.expanduser(name)))
    if os.path.isfile(path):
        return path
    beside = sorted(other.name for other in path.parent.glob("*.y*ml")) if os.path.isdir(path.parent) else []
    near = closest(path.name, beside)
    advice = f"; did you mean {shown_path(path.parent / near, folder)}?" if near else ""
    raise InputError(f"there is no file {shown_path(path, folder)}{advice}")
