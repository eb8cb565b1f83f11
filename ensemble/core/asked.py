"""How a recipe was asked for, as a run's record keeps it: what a later command needs to ask the same."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Asked"]


@dataclass(frozen=True)
class Asked:
    """A recipe's file, `--set` words and `--data`."""

    recipe: str
    sets: tuple[str, ...] = ()
    data: str | None = None

    def words(self) -> list[str]:
        """As options of the command line."""
        sets = [word for value in self.sets for word in ("--set", value)]
        return ["--recipe", self.recipe, *sets, *(["--data", self.data] if self.data else [])]
