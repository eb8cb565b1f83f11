"""The project's own files agree with each other: pins, versions, changelog, Makefile."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PINS = {
    canonicalize_name(line.partition("==")[0]): line.partition("==")[2]
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
}


def test_constraints_pin_all_that_the_project_names() -> None:
    """Dependencies, the dev group and the build backend have one exact pin each, inside their open range."""
    named = [
        *PROJECT["project"]["dependencies"],
        *PROJECT["dependency-groups"]["dev"],
        *PROJECT["build-system"]["requires"],
    ]
    wrong = []
    for requirement in map(Requirement, named):
        pin = PINS.get(canonicalize_name(requirement.name))
        if not pin or not requirement.specifier.contains(pin, prereleases=True):
            wrong.append(f"{requirement}: pinned to {pin}")
    assert not wrong, "\n".join(wrong)


def test_constraints_hold_exact_pins_that_fit_every_build_of_torch() -> None:
    """One `name==version` a line, sorted, none twice, without local suffixes or CUDA libraries."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [line for line in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    assert pins == sorted(pins, key=str.lower)
    assert len(PINS) == len(pins)
    assert [name for name in PINS if name.startswith(("nvidia-", "triton"))] == []


def test_the_version_is_the_same_everywhere() -> None:
    """pyproject.toml, CITATION.cff, the package's own constant, and what is installed."""
    version = PROJECT["project"]["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    import ensemble

    assert getattr(ensemble, "__version__", version) == version
    try:
        installed = importlib.metadata.version(PROJECT["project"]["name"])
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the source is on the path without being installed")
    assert installed == version


def test_the_changelog_has_a_place_for_what_comes_next() -> None:
    """Its first section is Unreleased, with at least one entry."""
    sections = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sections[1].startswith("[Unreleased]")
    assert re.search(r"^- \S", sections[1], flags=re.MULTILINE)


def test_every_make_target_is_phony_and_explained() -> None:
    """`make help` lists all of them; none is shadowed by a file of its name."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, flags=re.MULTILINE))
    explained = set(re.findall(r"^([a-z][a-z-]*):.* ## \S", makefile, flags=re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    assert phony and targets == explained == set(phony[1].split())


def test_ci_runs_the_very_commands_of_the_makefile() -> None:
    """.ci/run has no second spelling of lint, test or wheel check that could drift away."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert [target for target in ("lint", "test", "wheel-check") if f"make {target}\n" not in script] == []
    assert "pytest " not in script and "mypy ." not in script


def test_the_pictures_of_the_docs_are_those_of_real_plans() -> None:
    """Each is drawn again from plans made now; every page that shows one says in words what there is to see."""
    command = [sys.executable, str(ROOT / "tools" / "make_pictures.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "".join(page.read_text(encoding="utf-8") for page in pages)
    shown = re.findall(r"!\[([^\]]+)\]\((?:docs/)?(pictures/[^)]+)\)", text)
    assert {path for _, path in shown} == {f"pictures/{path.name}" for path in (ROOT / "docs" / "pictures").iterdir()}
    assert all(len(words.split()) > 10 for words, _ in shown)


def test_the_set_up_tells_an_old_python_in_a_sentence() -> None:
    """Exit code 2, the version that is needed, and no traceback."""
    code = (
        "import runpy, sys; sys.version_info = (3, 10, 4, 'final', 0); "
        f"sys.argv = ['setup_env.py']; runpy.run_path({str(ROOT / 'tools' / 'setup_env.py')!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("setup: Python 3.11 or newer is needed;") and "is 3.10" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_every_benchmark_is_in_their_readme() -> None:
    """Which question it answers, against whom."""
    folder = ROOT / "tools" / "bench"
    listed = set(re.findall(r"`(\w+\.py)`", (folder / "README.md").read_text(encoding="utf-8")))
    assert {path.name for path in folder.glob("*.py")} - listed == set()
