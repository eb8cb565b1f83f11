"""What docs/architecture.md says about adding things, done: one line in one place, seen in help, checks and docs.

Each is added to a copy of the package, by the edit that the page describes, and looked for by commands of that copy.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, its recipes, docs and tools, in a folder of their own."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("ensemble", "recipes", "docs", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def add(house: Path, file: str, before: str, line: str) -> None:
    """Put a line after the one that opens a table."""
    path = house / file
    text = path.read_text(encoding="utf-8")
    assert text.count(before) == 1, f"{file} has no one {before!r}"
    path.write_text(text.replace(before, f"{before}\n{line}"), encoding="utf-8")


def python(house: Path, *words: str) -> str:
    """What a command of the copy prints, on either stream."""
    environment = {**os.environ, "PYTHONPATH": str(house), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": "300"}
    done = subprocess.run(
        [sys.executable, *words], cwd=house, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


def ens(house: Path, *words: str) -> str:
    return python(house, "-m", "ensemble", *words)


def docs(house: Path, page: str) -> str:
    """A page, its generated part made anew."""
    assert "Traceback" not in (said := python(house, "tools/make_docs.py", page)), said
    return (house / "docs" / page).read_text(encoding="utf-8")


def test_a_sampler(copied: Path) -> None:
    add(copied, "ensemble/tuning/choices.py", "SAMPLERS = {", '    "dowser": "a hazel twig",')
    assert "dowser: a hazel twig" in ens(copied, "tune", "--help")
    assert "dowser" in ens(copied, "tune", "--sampler", "nope")
    assert "dowser: a hazel twig" in docs(copied, "commands.md")


def test_a_policy_that_stops_trials(copied: Path) -> None:
    add(copied, "ensemble/tuning/choices.py", "POLICIES = {", '    "gut": "whatever feels wrong",')
    assert "gut: whatever feels wrong" in ens(copied, "tune", "--help")
    assert "gut" in ens(copied, "tune", "--policy", "nope")
    assert "gut: whatever feels wrong" in docs(copied, "commands.md")


def test_a_view_policy(copied: Path) -> None:
    add(copied, "ensemble/recipe/transforms.py", "POLICIES: dict[str, Views] = {", '    "upside": ["VerticalFlip"],')
    assert "upside" in ens(copied, "predict", "--help")
    assert "upside" in ens(copied, "folds", "--recipe", "quickstart", "--set", "tta=nope")
    assert "upside" in ens(copied, "recipes", "--schema")
    assert "upside" in docs(copied, "recipes.md")


def test_a_metric(copied: Path) -> None:
    line = '    "luck": Metric(accuracy),'
    add(copied, "ensemble/core/metrics.py", "\nMETRICS: dict[str, Metric] = {", line)
    add(copied, "ensemble/core/schema.py", "MetricName = Literal[", '    "luck",')
    assert "luck" in ens(copied, "folds", "--recipe", "quickstart", "--set", "metric=nope")
    assert "luck" in ens(copied, "recipes", "--schema")
    assert "luck" in docs(copied, "recipes.md")


def test_a_way_to_blend(copied: Path) -> None:
    line = '    "loudest": MethodKind("whoever is surest", combiner="soft"),'
    add(copied, "ensemble/blending/options.py", "METHODS: dict[str, MethodKind] = {", line)
    assert "loudest" in ens(copied, "blend", "--help")
    assert "loudest" in ens(copied, "blend", "x.npy", "--method", "nope")
    assert "loudest" in docs(copied, "commands.md")


def test_an_engine(copied: Path) -> None:
    line = '    "barge": ("ensemble.engine.scheduler:InlineEngine", "slowly down the river"),'
    add(copied, "ensemble/engine/__init__.py", "ENGINES: dict[str, tuple[str, str]] = {", line)
    assert "barge: slowly down the river" in ens(copied, "train", "--help")
    assert "barge" in ens(copied, "train", "--engine", "nope")
    assert "barge: slowly down the river" in docs(copied, "commands.md")
