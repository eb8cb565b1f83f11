"""What a shell offers after Tab, asked as bash asks it: through the environment, in a process of its own."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ensemble.cli import build_parser
from ensemble.screen import completion
from ensemble.screen.completion import COMPLETIONS, FILE_METAVARS


def offered(line: str, folder: Path) -> list[str]:
    """The words that bash would show for this command line, the cursor at its end."""
    with (folder / "offered").open("wb") as answers:
        environment = {
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": answers.name,
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "COMP_TYPE": "9",
            "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><;|&(:",
        }
        command = [sys.executable, "-m", "ensemble"]
        done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return [word.strip() for word in (folder / "offered").read_text().split("\n") if word.strip()]


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with two runs, a study, a recipe and a described dataset."""
    for name in ("outputs/first/run.json", "outputs/second/run.json", "outputs/second/probs.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("outputs/studies/night/study.json", "recipes/mine.yaml", "recipes/data/trees.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("ens tr", ["train"]),
        ("ens train --recipe mi", ["mine"]),
        ("ens train --recipe quickst", ["quickstart"]),
        ("ens train --data tre", ["trees"]),
        ("ens train --set train.lr", ["train.lr="]),
        ("ens train --set data.cache=enc", ["data.cache=encoded"]),
        ("ens predict fi", ["first"]),
        ("ens tune --study n", ["night"]),
        ("ens tune --sampler cm", ["cmaes"]),
        ("ens blend outputs/se", ["outputs/second/probs.npy", "outputs/second/"]),
        ("ens blend x --method ge", ["geometric"]),
        ("ens predict first --tta fa", ["faces"]),
        ("ens status outp", ["outputs/"]),
        ("ens tune --timeout ", []),
        ("ens train --recipe nope", []),
    ],
)
def test_the_shell_is_offered(line: str, words: list[str], work: Path) -> None:
    assert sorted(offered(line, work)) == sorted(words)


def test_every_option_with_a_free_value_completes_from_a_place_that_exists() -> None:
    """A new option that names a run, a recipe or a file must not be forgotten here."""
    verbs = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    dests = {f"{verb} {option.dest}" for verb, command in verbs.items() for option in command._actions}
    known = {dest for dest in COMPLETIONS if dest not in {d.split()[1] for d in dests} | dests}
    assert known == set()
    assert all(hasattr(completion, f"complete_{kind}") for kind in COMPLETIONS.values())
    metavars = {option.metavar for command in verbs.values() for option in command._actions}
    assert set(FILE_METAVARS) <= metavars
