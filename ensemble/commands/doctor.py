"""`ens doctor`: what is installed, which devices there are, what would go wrong, and the fix."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from ensemble.commands.outcome import Outcome, Table
from ensemble.core.cores import usable_cores
from ensemble.core.recipe_files import list_recipes

__all__ = ["run"]

_LITTLE_DISK_GB = 5.0
_PACKAGES = (
    *("torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "ttach", "scikit-learn"),
    *("optuna", "numpy", "numba", "pandas", "joblib", "pydantic", "ruamel.yaml", "safetensors"),
)


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `problem`: something will fail; `note`: worth knowing."""

    what: str
    state: Literal["ok", "note", "problem"]
    found: str
    fix: str = ""


def run(arguments: argparse.Namespace) -> Outcome:
    """Look at everything, and tell; a check that itself fails is a problem, not the end."""
    findings: list[Finding] = []
    for check in _CHECKS:
        try:
            findings += check(arguments)
        except Exception as error:  # a broken installation fails in ways that nobody foresaw
            name = check.__name__.strip("_").replace("_", " ")
            found = f"{type(error).__name__}: {error}"
            findings.append(Finding(name, "problem", found, "install what the constraints file pins"))
    rows = [[item.what, item.state, item.found] for item in findings]
    fixes = [f"{item.what}: {item.fix}" for item in findings if item.fix]
    problems = sum(item.state == "problem" for item in findings)
    closing = "nothing here will go wrong" if not problems else f"{problems} problems"
    document = {"findings": [asdict(item) for item in findings], "problems": problems}
    return Outcome(document, [Table(["what", "state", "found"], rows), "", *fixes, closing])


def _python(arguments: argparse.Namespace) -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    if sys.getfilesystemencoding().lower() != "utf-8":
        found = f"file names are read as {sys.getfilesystemencoding()}"
        yield Finding("locale", "problem", found, "set LC_ALL=C.UTF-8, or PYTHONUTF8=1")


def _packages(arguments: argparse.Namespace) -> Iterator[Finding]:
    yield Finding("ens", "ok", f"in {Path(__file__).parents[1]}")
    for package in _PACKAGES:
        try:
            yield Finding(package, "ok", metadata.version(package))
        except metadata.PackageNotFoundError:
            yield Finding(package, "problem", "not installed", f"pip install {package}")


def _torch(arguments: argparse.Namespace) -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            found = f"{torch.cuda.get_device_name(number)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            yield Finding(f"GPU {number}", "ok", found)
        return
    if shutil.which("nvidia-smi"):
        build = f"torch {torch.__version__} (built for CUDA {torch.version.cuda})"
        yield Finding("GPU", "problem", f"there is a driver, but {build} sees no GPU", "install a torch build for CUDA")
    else:
        yield Finding("GPU", "note", "none: folds train on the CPU")


def _torchvision(arguments: argparse.Namespace) -> Iterator[Finding]:
    from ensemble.training.torchvision_cure import STATE

    importlib.import_module("torchvision.transforms")  # what fails without the cure, which had to come first
    found = {
        "whole": "its compiled operators load",
        "cured": "built for another torch; cured for what timm needs, its compiled operators can't be used",
        "missing": "not installed",
    }[STATE]
    state: Literal["ok", "note", "problem"] = "problem" if STATE == "missing" else "ok" if STATE == "whole" else "note"
    yield Finding("torchvision import", state, found)


def _timm(arguments: argparse.Namespace) -> Iterator[Finding]:
    from ensemble.training.pretrained import choose_pretrained

    choice = choose_pretrained("resnet50", "auto")
    state: Literal["ok", "note"] = "ok" if choice.use else "note"
    fix = "" if choice.use else "where there is a network once, any training with model.pretrained caches its weights"
    yield Finding("pretrained weights", state, f"resnet50: {choice.reason}", fix)


def _machine(arguments: argparse.Namespace) -> Iterator[Finding]:
    yield Finding("CPU", "ok", f"{usable_cores()} usable cores")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield Finding("memory", "ok", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")


def _outputs(arguments: argparse.Namespace) -> Iterator[Finding]:
    place = arguments.outputs.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    state: Literal["ok", "note"] = "ok" if free >= _LITTLE_DISK_GB else "note"
    yield Finding(
        "disk", state, f"{free:.1f} GB free at {place}", "" if state == "ok" else "free some, or move --outputs"
    )
    try:
        with tempfile.TemporaryFile(dir=place):
            yield Finding("outputs", "ok", f"{arguments.outputs} can be written")
    except OSError as error:
        found = f"{place} can't be written: {error.strerror}"
        yield Finding("outputs", "problem", found, "name another folder with --outputs")


def _data(arguments: argparse.Namespace) -> Iterator[Finding]:
    root = os.environ.get("ENS_DATA_ROOT")
    if root is None:
        yield Finding("ENS_DATA_ROOT", "note", "not set: datasets other than embedded ones need --data NAME=PATH")
    elif not Path(root).is_dir():
        yield Finding("ENS_DATA_ROOT", "problem", f"{root} is no folder", "set it to the folder above your datasets")
    else:
        yield Finding("ENS_DATA_ROOT", "ok", root)


def _recipes(arguments: argparse.Namespace) -> Iterator[Finding]:
    entries = list_recipes(arguments.folder)
    broken: list[Any] = [entry for entry in entries if entry.error]
    yield Finding("recipes", "ok", f"{len(entries) - len(broken)} can be used")
    for entry in broken:
        yield Finding(
            f"recipe {entry.name}", "problem", str(entry.error).splitlines()[0], f"ens recipes {entry.name} says all"
        )


_CHECKS: tuple[Callable[[argparse.Namespace], Iterator[Finding]], ...] = (
    _python,
    _packages,
    _machine,
    _torch,
    _torchvision,
    _timm,
    _outputs,
    _data,
    _recipes,
)
