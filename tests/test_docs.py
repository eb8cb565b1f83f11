"""The pages say what the program does: generated parts, links, commands and recipe keys."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.cli import build_parser
from ensemble.core.schema import leaf_keys
from ensemble.recipe.recipe import Recipe, SearchBudget, SearchDimension

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [page for page in [ROOT / "README.md", *sorted(DOCS.glob("*.md"))] if page.is_file()]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def _make_docs(*options: str, columns: str = "80") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "make_docs.py"), *options]
    environment = {**os.environ, "COLUMNS": columns, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.parametrize("columns", ["40", "200"])
def test_the_generated_parts_are_what_the_code_says(columns: str) -> None:
    """`tools/make_docs.py --check` finds nothing stale, however wide the terminal."""
    done = _make_docs("--check", columns=columns)
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_named_and_then_renewed(tmp_path: Path) -> None:
    """--check exits 1, names the page and leaves it alone; without it the page is as before."""
    for page in DOCS.glob("*.md"):
        shutil.copy(page, tmp_path)
    commands = tmp_path / "commands.md"
    right = commands.read_text(encoding="utf-8")
    wrong = right.replace("--trials", "--tries")
    commands.write_text(wrong, encoding="utf-8")
    done = _make_docs("--check", "--docs", str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"{commands}: stale; python tools/make_docs.py renews it"]
    assert commands.read_text(encoding="utf-8") == wrong
    assert _make_docs("--docs", str(tmp_path)).returncode == 0
    assert commands.read_text(encoding="utf-8") == right


def test_the_index_leads_to_every_page() -> None:
    """No page can be found by listing the folder alone."""
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "index.md").read_text(encoding="utf-8")))
    assert linked == {page.name for page in DOCS.glob("*.md")} - {"index.md"}


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """The file is there; a fragment is a heading of it."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not _leads_somewhere(link, page)]
    assert broken == []


@each_page
def test_every_command_shown_is_one(page: Path) -> None:
    """Each `ens ...` line of a shell block parses; nothing is run."""
    parser = build_parser()
    for line in _shell_lines(page):
        words = [word for word in shlex.split(line, comments=True) if "=" not in word or not word[:1].isupper()]
        if words[:1] == ["ens"]:
            parser.parse_args(words[1:])


def test_every_recipe_key_that_is_named_exists() -> None:
    """A dotted word in backticks on docs/recipes.md that begins like a key of a recipe is one."""
    keys = set(leaf_keys(Recipe))
    keys |= {f"search.{key}" for key in keys}
    keys |= {"search.budget", *(f"search.budget.{key}" for key in SearchBudget.model_fields)}
    keys |= {f"{key}.{bound}" for key in keys for bound in SearchDimension.model_fields if key.startswith("search.")}
    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", text))
    unknown = [name for name in named if name.split(".")[0] in Recipe.model_fields and name not in keys]
    assert "train.lr" in named and unknown == []


def _leads_somewhere(link: str, page: Path) -> bool:
    """Whether a link is to another site, or to a file and heading that are there."""
    if re.match(r"[a-z]+:", link):
        return True
    path, _, fragment = link.partition("#")
    target = (page.parent / path) if path else page
    if not target.exists():
        return False
    return not fragment or fragment in _anchors(target)


def _anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _shell_lines(page: Path) -> list[str]:
    """The lines of a page's `sh` blocks, those that end in a backslash joined with the next."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
