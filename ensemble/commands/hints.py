"""Next steps that can be copied: with the options that lead to where this command worked."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

__all__ = ["here", "same_command", "shown_path"]


def here(arguments: argparse.Namespace) -> str:
    """The `--outputs` that the next command needs to find what this one left; empty where it is the usual place."""
    usual = os.environ.get("ENS_OUTPUTS") or "outputs"
    return "" if str(arguments.outputs) == usual else f" --outputs {shlex.quote(str(arguments.outputs))}"


def shown_path(path: str) -> str:
    """A path as a person here would write it: relative where it lies below the working directory."""
    try:
        return shlex.quote(str(Path(path).relative_to(Path.cwd())))
    except ValueError:
        return shlex.quote(path)


def same_command(words: Sequence[str], *, without_folds: bool = False) -> str:
    """The words of this command, to be copied; without `--fresh`, which would begin anew, and `--folds` if asked."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word == "--fresh" or (without_folds and word.split("=")[0] == "--folds"):
            skip = not skip and without_folds and word == "--folds"
            continue
        kept.append(word)
    return shlex.join(["ens", *kept])
