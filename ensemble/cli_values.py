"""Words of the command line as values: numbers, lists of folds, seeds and GPUs; what is none is refused."""

from __future__ import annotations

import argparse

from ensemble.core.complaints import show_value

_MOST_NUMBERS = 1000  # in a list; a plan has at most 100 folds
_SHORTEST_S, _LONGEST_S = 0.1, 86_400
_LONGEST_SEED = 10  # digits: seeds end at 2^31 - 1


def fold_list(text: str) -> list[int]:
    """`0,2` as numbers."""
    parts = text.split(",")
    if len(parts) > _MOST_NUMBERS:
        raise argparse.ArgumentTypeError(f"more than {_MOST_NUMBERS:,} fold numbers")
    if not all(_is_number(part.strip()) for part in parts):
        raise argparse.ArgumentTypeError(f"{show_value(text)} is not a list of fold numbers such as 0,2")
    return [int(part) for part in parts]


def seed_words(text: str) -> int | list[int]:
    """`3` as a count of seeds, `0,1,7` as the seeds themselves."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > _MOST_NUMBERS or not all(part.isdecimal() and len(part) <= _LONGEST_SEED for part in parts):
        raise argparse.ArgumentTypeError(
            f"{show_value(text)} is neither a number of seeds such as 3 nor a list of them such as 0,1,7"
        )
    return [int(part) for part in parts] if len(parts) > 1 else int(text)


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


def _is_number(text: str) -> bool:
    """Whether a text is a whole number from 0 of at most nine digits: more are never meant, and int() may refuse."""
    return text.isdecimal() and len(text) <= 9


def positive(text: str) -> int:
    """A whole number from 1."""
    if not _is_number(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{show_value(text)} is not a whole number from 1")
    return int(text)


def interval(text: str) -> float:
    """Seconds from 0.1 to a day."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _SHORTEST_S <= seconds <= _LONGEST_S:  # nan neither
        raise argparse.ArgumentTypeError(
            f"{show_value(text)} is not a number of seconds from {_SHORTEST_S:g} to {_LONGEST_S:,} "
            "(a folder to look at goes before the option)"
        )
    return seconds


def natural(text: str) -> int:
    """A whole number from 0."""
    if not _is_number(text):
        raise argparse.ArgumentTypeError(f"{show_value(text)} is not a whole number from 0")
    return int(text)
