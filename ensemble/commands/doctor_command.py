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

from ensemble.core.parallel import usable_cores
from ensemble.recipe.save import list_recipes
from ensemble.screen.outcome import Outcome, ShownTable

_LITTLE_DISK_GB = 5.0  # a decoded cache of 100,000 images of 128 pixels
_PACKAGES = (
    *("torch", "torchvision", "timm", "albumentations", "opencv-python-headless", "ttach", "scikit-learn"),
    *("optuna", "numpy", "numba", "pandas", "joblib", "pydantic", "ruamel.yaml", "safetensors", "rich", "argcomplete"),
)


@dataclass(frozen=True)
class CheckResult:
    """One thing looked at. `problem`: something will fail; `note`: worth knowing."""

    what: str
    state: Literal["ok", "note", "problem"]
    found: str
    fix: str = ""


def run(arguments: argparse.Namespace) -> Outcome:
    """Look at everything; a check that itself fails is a problem, not the end."""
    findings: list[CheckResult] = []
    for check in _CHECKS:
        try:
            findings += check(arguments)
        except Exception as error:  # a broken installation fails in ways that nobody foresaw
            name = check.__name__.strip("_").replace("_", " ")
            text = f"{type(error).__name__}: {error}"
            findings.append(CheckResult(name, "problem", text, "install what the constraints file pins"))
    rows = [[item.what, item.state, item.found] for item in findings]
    fixes = [f"{item.what}: {item.fix}" for item in findings if item.fix]
    problems = sum(item.state == "problem" for item in findings)
    closing = "nothing here will go wrong" if not problems else f"{problems} problems"
    document = {"findings": [asdict(item) for item in findings], "problems": problems}
    return Outcome(document, [ShownTable(["what", "state", "found"], rows), "", *fixes, closing])


def _python(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    yield CheckResult("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    if sys.getfilesystemencoding().lower() != "utf-8":
        text = f"file names are read as {sys.getfilesystemencoding()}"
        yield CheckResult("locale", "problem", text, "set LC_ALL=C.UTF-8, or PYTHONUTF8=1")


def _packages(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    yield CheckResult("ens", "ok", f"in {Path(__file__).parents[1]}")
    for package in _PACKAGES:
        try:
            yield CheckResult(package, "ok", metadata.version(package))
        except metadata.PackageNotFoundError:
            yield CheckResult(package, "problem", "not installed", f"pip install {package}")


def _torch(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    import torch  # here: two seconds, and a broken one must be one problem of several

    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(number)
            text = f"{torch.cuda.get_device_name(number)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            yield CheckResult(f"GPU {number}", "ok", text)
        return
    if shutil.which("nvidia-smi"):
        build = f"torch {torch.__version__} (built for CUDA {torch.version.cuda})"
        yield CheckResult(
            "GPU", "problem", f"there is a driver, but {build} sees no GPU", "install a torch build for CUDA"
        )
    else:
        yield CheckResult("GPU", "note", "none: folds train on the CPU")


def _torchvision(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    from ensemble.training.timm_import import STATE

    importlib.import_module("torchvision.transforms")  # what fails without the cure, which had to come first
    text = {
        "whole": "its compiled operators load",
        "cured": "built for another torch; cured for what timm needs, its compiled operators can't be used",
        "missing": "not installed",
    }[STATE]
    state: Literal["ok", "note", "problem"] = "problem" if STATE == "missing" else "ok" if STATE == "whole" else "note"
    yield CheckResult("torchvision import", state, text)


def _timm(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    from ensemble.training.pretrained import choose_pretrained  # the very code that a run asks, with its patience

    choice = choose_pretrained("resnet50", "auto")
    state: Literal["ok", "note"] = "ok" if choice.use else "note"
    fix = "" if choice.use else "where there is a network once, any training with model.pretrained caches its weights"
    yield CheckResult("pretrained weights", state, f"resnet50: {choice.reason}", fix)


def _machine(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    yield CheckResult("CPU", "ok", f"{usable_cores()} usable cores")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        yield CheckResult("memory", "ok", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")


def _outputs(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    place = arguments.outputs.absolute()
    while not place.exists():  # a folder that is yet to be made lies on its parent's disk
        place = place.parent
    free = shutil.disk_usage(place).free / 1e9
    state: Literal["ok", "note"] = "ok" if free >= _LITTLE_DISK_GB else "note"
    fix = "" if state == "ok" else "free some, or move --outputs"
    yield CheckResult("disk", state, f"{free:.1f} GB free at {place}", fix)
    try:
        with tempfile.TemporaryFile(dir=place):
            yield CheckResult("outputs", "ok", f"{arguments.outputs} can be written")
    except OSError as error:
        text = f"{place} can't be written: {error.strerror}"
        yield CheckResult("outputs", "problem", text, "name another folder with --outputs")


def _data(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    root = os.environ.get("ENS_DATA_ROOT")
    if root is None:
        yield CheckResult("ENS_DATA_ROOT", "note", "not set: datasets other than embedded ones need --data NAME=PATH")
    elif not Path(root).is_dir():
        yield CheckResult(
            "ENS_DATA_ROOT", "problem", f"{root} is no folder", "set it to the folder above your datasets"
        )
    else:
        yield CheckResult("ENS_DATA_ROOT", "ok", root)


def _recipes(arguments: argparse.Namespace) -> Iterator[CheckResult]:
    entries = list_recipes(arguments.folder)
    broken: list[Any] = [entry for entry in entries if entry.error]
    yield CheckResult("recipes", "ok", f"{len(entries) - len(broken)} can be used")
    for entry in broken:
        yield CheckResult(
            f"recipe {entry.name}", "problem", str(entry.error).splitlines()[0], f"ens recipes {entry.name} says all"
        )


Check = Callable[[argparse.Namespace], Iterator[CheckResult]]
# What may be broken comes in the order in which it breaks what follows: without torch there is no torchvision.
_CHECKS: tuple[Check, ...] = (
    *(_python, _packages, _machine),
    *(_torch, _torchvision, _timm),
    *(_outputs, _data, _recipes),
)
