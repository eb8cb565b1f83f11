"""Values of options: from the text a user writes to numbers and names. Imports nothing slow."""

from __future__ import annotations

import argparse

__all__ = ["fold_list", "gpu_list", "natural", "positive", "positive_or_auto"]


def fold_list(text: str) -> list[int]:
    """`0,2` as numbers."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of fold numbers such as 0,2")
    return [int(part) for part in parts]


def gpu_list(text: str) -> list[str] | str:
    """`0,1` as names, `none` as no name, `auto` as itself."""
    names = [part.strip() for part in text.split(",")]
    if text == "auto":
        return text
    if not all(names) or "auto" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of GPUs such as 0,1, each once, nor auto, nor none")
    return [] if names == ["none"] else names


def positive_or_auto(text: str) -> int | str:
    """A whole number from 1, or `auto`."""
    return text if text == "auto" else positive(text)


def positive(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def natural(text: str) -> int:
    """A whole number from 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
