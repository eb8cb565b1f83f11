"""What is wrong with a dataset's rows, collected so that all of it is told together."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Complaints", "few"]

_SHOWN = 3


class _Messages(list[str]):
    """Messages; empty when nothing is wrong."""

    def add(self, message: str, examples: Sequence[str], advice: str = "") -> None:
        """A message with its first examples, then what to do; nothing when there are no examples.

        `{n}` in the message is their number.
        """
        if examples:
            text = f"{message.replace('{n}', f'{len(examples):,}')}: {few(examples)}"
            self.append(f"{text}; {advice}" if advice else text)


class Complaints(_Messages):
    """The messages that refuse something, and remarks, which are no reason to but belong beside those that are."""

    def __init__(self) -> None:
        super().__init__()
        self.remarks = _Messages()

    @property
    def all(self) -> list[str]:
        """What to tell if there is something to complain of."""
        return [*self, *self.remarks]


def few(names: Sequence[str], most: int = _SHOWN) -> str:
    """The first names, and a mark where there are more."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
