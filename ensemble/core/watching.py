"""Where else the epochs of a training may be told: the names, and whether what they need is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from ensemble.errors import InputError

__all__ = ["WATCHERS", "check_watchers", "split_watchers"]

WATCHERS = ("tensorboard", "wandb")
"""By the name of their package, and of the extra that brings it."""


def split_watchers(text: str) -> tuple[str, ...]:
    """`tensorboard,wandb` as names, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def check_watchers(names: Sequence[str], option: str = "--log") -> None:
    """Refuse a name that is not known, or whose package is not there; nothing is imported."""
    problems = []
    for name in names:
        if name not in WATCHERS:
            problems.append(f"{option} {name}: unknown; the names are {', '.join(WATCHERS)}")
        elif importlib.util.find_spec(name) is None:
            problems.append(
                f"{option} {name}: the package {name} is not installed; pip install 'ens[{name}]', or leave it out "
                "(history.csv holds the same numbers)"
            )
    if problems:
        raise InputError(*problems)
