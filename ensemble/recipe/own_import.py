"""Imports code that `own_code` has found: only the bytes that were hashed, in a worker; and metrics of one's own.

A module beside a recipe is imported under its own name, so that it may import the files beside it and be pickled. No
bytecode is written or read. Where one process runs several recipes, a name is imported anew when its source changes.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ensemble.core.metrics import METRICS, SET_METRICS, Metric, custom_metric
from ensemble.errors import InputError
from ensemble.recipe.own_code import installed_source, is_plain_file


def load_function(name: str, codes: Mapping[str, Mapping[str, Any]]) -> Callable[..., Any]:
    """The function that a recipe calls `module:function`; `codes`: what a task knows of its recipe's code."""
    if name not in codes:
        raise InputError(f"{name}: this code was not found when the run was started; start the command again")
    module_name, _, attribute = name.partition(":")
    code = codes[name]
    if code["folder"] is not None:
        if f"{module_name}.py" not in code["files"] or not all(map(is_plain_file, code["files"])):
            raise InputError(f"{name}: is not in its files {', '.join(code['files'])}; start the command again")
        _FINDER.serve(Path(code["folder"]), code["files"])
    elif (installed := installed_source(module_name)) is None:
        raise InputError(f"{module_name}: the package is not installed here, and the run needs it")
    elif installed[1] != code["sha256"]:  # a worker may run on another machine, or after an upgrade
        raise InputError(
            f"{module_name}: another version, or other code, than the run was started with ({installed[0]})"
        )
    try:
        function = getattr(importlib.import_module(module_name), attribute)
    except Exception as error:  # the user's code may raise anything while it is imported: its fault, in one line
        raise InputError(f"{name}: can't be imported: {type(error).__name__}: {error}") from error
    if not callable(function):
        raise InputError(f"{name}: is a {type(function).__name__}, but must be a function or a class")
    return function  # type: ignore[no-any-return]


class _Loader(importlib.abc.SourceLoader):
    """Bytes that were checked, as a module."""

    # No `path_stats`, so its base reads and writes no bytecode: a .pyc that is out of date would run other code than
    # was hashed.
    is_beside_a_recipe = True  # `own_code` asks for it: such a module is not an installed package

    def __init__(self, path: Path, content: bytes) -> None:
        self._path, self._content = path, content

    def get_filename(self, fullname: str) -> str:
        """The file that tracebacks name."""
        return str(self._path)

    def get_data(self, path: str | bytes) -> bytes:
        """The source."""
        return self._content


class _Finder(importlib.abc.MetaPathFinder):
    """Knows the modules beside the recipes that this process runs."""

    def __init__(self) -> None:
        self._loaders: dict[str, _Loader] = {}
        self._hashes: dict[str, str] = {}

    def serve(self, folder: Path, files: Mapping[str, str]) -> None:
        """Make these files importable; when one of them is not what was imported before, forget them all first."""
        if all(self._hashes.get(Path(file).stem) == sha256 for file, sha256 in files.items()):
            return  # importing again would make other classes of the same names, which pickle refuses
        for file, sha256 in files.items():
            path, name = folder / file, Path(file).stem
            content = path.read_bytes()  # once: what is hashed is what runs
            if hashlib.sha256(content).hexdigest() != sha256:
                raise InputError(f"{path}: changed after the run was started; start the command again")
            self._loaders[name], self._hashes[name] = _Loader(path, content), sha256
            sys.modules.pop(name, None)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)  # first: nothing in the working directory may take a module's place

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module that is served."""
        loader = self._loaders.get(fullname)
        return importlib.util.spec_from_loader(fullname, loader) if loader is not None else None


_FINDER = _Finder()  # one per process: `sys.meta_path` must not grow with every function


def own_metrics(
    metric: str | None, codes: Mapping[str, Mapping[str, Any]], classes: int, *, sets: bool = False
) -> dict[str, Metric]:
    """The recipe's metric by its name, if it is the user's own; refused where it gives no number. Else nothing."""
    if metric is None or metric in METRICS or metric in SET_METRICS:
        return {}
    function = load_function(metric, codes)
    # Tried on a few rows, so that a mistake shows before hours of training rather than after them. Every class has two
    # rows and is decided for two others: no count is zero, which would leave many metrics undefined.
    labels = np.arange(2 * classes, dtype=np.int64) % classes
    probs = np.full((2 * classes, classes), 0.5 / classes)
    probs[np.arange(len(labels)), np.roll(labels, classes // 2)] += 0.5
    if sets:
        labels = np.eye(classes, dtype=np.int64)[labels]
    try:
        value: Any = function(labels, probs)
    except Exception as error:  # as above: whatever the user's function raises is a message, not a traceback of ours
        tried = f"labels of shape {labels.shape} and ({len(labels)}, {classes}) probabilities"
        raise InputError(f"metric: {metric} failed on {tried}: {type(error).__name__}: {error}") from error
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise InputError(f"metric: {metric} returned {value!r:.80}, but must return one number for all rows together")
    return {metric: custom_metric(function)}
