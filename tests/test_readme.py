"""The README's commands run, in their order; the recipes they name are stood in for by tiny ones of the same names."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conftest import draw_squares

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_command_of_the_readme_runs(workspace: Path, ens: Callable[..., Any]) -> None:
    tiny = (workspace / "recipes" / "tiny.yaml").read_text().replace("epochs: 2", "epochs: 1")
    for name in ("quickstart", "r50_kfold5"):
        (workspace / "recipes" / f"{name}.yaml").write_text(tiny)
    for part, label in (("train", 0), ("train", 2), ("test", 0)):  # what `ens init data/pets` looks at
        draw_squares(workspace / "drawn" / f"{part}{label}", train=12, test=0)
        target = workspace / "data" / "pets" / part / ("cat", "", "dog")[label]
        shutil.copytree(workspace / "drawn" / f"{part}{label}" / "images", target)
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("ens ")]
    assert len(commands) >= 6
    for command in commands:
        words = shlex.split(command)[1:]
        words = [path for word in words for path in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
        enough = ["--patience", "2"] if words[0] == "tune" else []  # fifty trials take a minute, and tell no more
        answer = ens(*words, *enough, "--quiet")
        assert answer.code == 0, f"{command}: {answer.err}"
        assert answer.out


def test_the_notebook_code_of_the_readme_runs(workspace: Path) -> None:
    tiny = (workspace / "recipes" / "tiny.yaml").read_text()
    (workspace / "recipes" / "quickstart.yaml").write_text(tiny)
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["run"].state == "complete"
    assert names["answer"].submission.exists()


def test_the_recipe_of_the_readme_loads(workspace: Path) -> None:
    from ensemble import load_recipe

    (text,) = blocks("yaml")
    path = workspace / text.splitlines()[0].removeprefix("# ")
    (workspace / "recipes" / "data" / "leaves.yaml").write_text(
        (workspace / "recipes" / "data" / "squares.yaml").read_text()
    )
    path.write_text(text)
    recipe = load_recipe(path.stem, folder=workspace).recipe
    assert (recipe.model.name, recipe.train.lr, recipe.data.name) == ("resnet50", 5e-4, "leaves")


def test_the_files_the_readme_links_to_are_there() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [target for target in targets if not (Path(__file__).parents[1] / target).exists()]
    assert targets
    assert not missing
