"""What the shell completes after `ens`: recipes, datasets, runs, studies and the keys of `--set`.

`argcomplete` calls these while a person waits for the Tab key, so each imports no more than it needs, and an outputs
folder that can't be read completes to nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

COMPLETIONS = {
    "recipe": "recipe",
    "recipe_name": "recipe",
    "data": "dataset",
    "sets": "setting",
    "searches": "setting",
    "points": "setting",
    "study": "study",
    "warm_from": "study",
    "predict run": "source",
    "pack source": "source",
    "train name": "run",
    "blend name": "blend_name",
    "probs": "member",
    "scored": "scored",
    "compared": "scored",
    "reviewed": "reviewed",
    "reported": "reported",
    "tta": "view_policy",
    "method": "method",
    "metric": "metric",
}
"""Where an option's values come from when a shell completes them, by its `dest`, with the command before it where
commands differ: a `complete_…` of this module. Options that name files complete from files, others to
nothing."""

FILE_METAVARS = ("DIR", "F", "FILE", "SOURCE", "OLD.csv", "OUTPUTS", "STEM")
"""The placeholders of options that name a file or a folder."""


def complete(parser: argparse.ArgumentParser, kinds: Mapping[str, str], file_metavars: Collection[str]) -> None:
    """Answer the shell, and end this process. `eval "$(register-python-argcomplete ens)"` makes a shell ask.

    `kinds`: what completes an option, by its `dest`; `file_metavars`: placeholders of options that name files.
    """
    import argcomplete

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, command in action.choices.items():
                for option in (option for option in command._actions if option.choices is None):
                    option.completer = _completer(verb, option, kinds, file_metavars)
        else:
            action.completer = _completer("", action, kinds, file_metavars)  # type: ignore[attr-defined]
    # Without this argcomplete offers files for every option that has no completer.
    argcomplete.autocomplete(parser, default_completer=argcomplete.completers.SuppressCompleter())


def _completer(verb: str, option: argparse.Action, kinds: Mapping[str, str], file_metavars: Collection[str]) -> Any:
    """The function that completes an option's value, as argcomplete calls it."""
    kind = kinds.get(f"{verb} {option.dest}") or kinds.get(option.dest)
    if kind is None:
        kind = "file" if option.metavar in file_metavars else "nothing"
    function = globals()[f"complete_{kind}"]
    return lambda prefix, parsed_args, **_: function(parsed_args, prefix)


def complete_recipe(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of recipes; a path is completed from files."""
    from ensemble.recipe.find import is_path, recipes_by_name

    return _files(prefix) if is_path(prefix) else recipes_by_name(_folder(arguments))


def complete_dataset(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of described datasets, folders of images, and after `NAME=` the folders that may hold its files."""
    from ensemble.recipe.find import datasets_by_name

    name, separator, path = prefix.partition("=")
    if separator:
        return [f"{name}={folder}" for folder in _files(path) if Path(folder).is_dir()]
    folders = [path for path in _files(prefix) if Path(path).is_dir()] if os.sep in prefix else []
    return [*datasets_by_name(_folder(arguments)), *folders]


def complete_run(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of the runs in the outputs folder; what has a slash is completed from files."""
    return _files(prefix) if "/" in prefix else _folders_with(_outputs(arguments), "run.json")


def complete_source(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of runs and blends in the outputs folder; what has a slash, a pack too, is completed from files."""
    runs = complete_run(arguments, prefix)
    return runs if "/" in prefix else [*runs, *complete_blend_name(arguments, prefix)]


def complete_study(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of the studies in the outputs folder."""
    return _folders_with(_outputs(arguments) / "studies", "study.json")


def complete_blend_name(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of the blends in the outputs folder."""
    return _folders_with(_outputs(arguments) / "blends", "blend.json")


def complete_member(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Finished runs' and blends' probability files as paths, and whatever files begin with what was typed."""
    outputs = _outputs(arguments)
    runs = [str(outputs / name / "probs.npy") for name in _folders_with(outputs, "probs.npy")]
    return [*runs, *_files(prefix)]


def complete_scored(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of runs, blends and studies, and whatever files begin with what was typed."""
    names = [*complete_run(arguments, ""), *complete_blend_name(arguments, ""), *complete_study(arguments, "")]
    return [*names, *_files(prefix)]


def complete_reviewed(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of runs and blends, and whatever files begin with what was typed."""
    return [*complete_run(arguments, ""), *complete_blend_name(arguments, ""), *_files(prefix)]


def complete_reported(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of runs, blends, studies and datasets, and whatever files begin with what was typed."""
    return [*complete_scored(arguments, prefix), *complete_dataset(arguments, prefix)]


def complete_setting(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Keys that `--set` takes, with their `=`, and after it the values of a closed list."""
    from ensemble.core.schema import choices_of, leaf_keys
    from ensemble.recipe.recipe import Recipe

    keys = leaf_keys(Recipe)
    key, separator, _ = prefix.partition("=")
    if not separator:
        return [f"{key}=" for key in keys]
    return [f"{key}={choice}" for choice in choices_of(keys[key].annotation)] if key in keys else []


def complete_view_policy(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of test-time views."""
    from ensemble.recipe.transforms import POLICIES

    return [*POLICIES, "auto"]


def complete_method(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of blending methods."""
    from ensemble.blending.options import METHODS

    return METHODS


def complete_metric(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Names of metrics."""
    from ensemble.core.metrics import METRICS

    return METRICS


def complete_file(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """Files and folders."""
    return _files(prefix)


def complete_nothing(arguments: argparse.Namespace, prefix: str) -> Iterable[str]:
    """For a free word or a number: the shell must not offer files there."""
    return ()


def _outputs(arguments: argparse.Namespace) -> Path:
    where = getattr(arguments, "outputs", None) or os.environ.get("ENS_OUTPUTS") or "outputs"
    return _folder(arguments) / where


def _folder(arguments: argparse.Namespace) -> Path:
    """The working directory, or what `-C` makes of it."""
    return Path(getattr(arguments, "directory", None) or ".")


def _folders_with(folder: Path, name: str) -> list[str]:
    try:
        return sorted(path.parent.name for path in folder.glob(f"*/{name}"))
    except OSError:
        return []


def _files(prefix: str) -> Iterable[str]:
    from argcomplete.completers import FilesCompleter

    return FilesCompleter()(prefix)
