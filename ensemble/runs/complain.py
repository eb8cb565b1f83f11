"""Problems of several recipes, collected so that all are told together, each with the recipe it is of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ensemble.errors import InputError

__all__ = ["Together"]


class Together:
    """Collects `InputError`s where there are `several` recipes; with one, the first is raised as it is."""

    def __init__(self, *, several: bool = False) -> None:
        self._several = several
        self._found: dict[tuple[str, ...], list[str]] = {}

    @contextmanager
    def of(self, recipe: str) -> Iterator[None]:
        """Take up what the block finds wrong with a recipe; the block ends there."""
        try:
            yield
        except InputError as error:
            if not self._several:
                raise
            self._found.setdefault(error.messages, []).append(recipe)

    def raise_any(self) -> None:
        """Raise everything that was collected, if anything was; what several recipes share stands once."""
        lines: list[str] = []
        for messages, recipes in self._found.items():
            named = len(recipes) == 1 and recipes[0] in messages[0]
            lines += [messages[0] if named else f"{', '.join(recipes)}: {messages[0]}", *messages[1:]]
        if lines:
            raise InputError(*lines)
