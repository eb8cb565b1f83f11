"""What tests of several rooms share: the types of fixtures, each declared once."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from standins.make import LAYOUTS

from ensemble.core.predictions import Predictions
from ensemble.core.records import save_record


@dataclass(frozen=True)
class Answer:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a CSV file."""
    with path.open(encoding="utf-8", newline="") as stream:
        header, *rows = list(csv.reader(stream))
    return header, rows


SAMPLES = {name: "sample_submission.csv" for name in LAYOUTS} | {"mask18": "eval/info.csv", "digits": "test.csv"}
"""Where each stand-in's sample submission lies; `digits` has none, and its test table stands in."""
PROBABILITIES = frozenset({"melanoma", "dog_breeds", "plant_pathology", "leaf_findings"})
"""Stand-ins whose submission holds probabilities."""


class Ens(Protocol):
    """The fixture `ens`: runs a command in this process, `ens("train", "--recipe", "tiny")`."""

    def __call__(self, *words: str) -> Answer: ...


def alter_record(path: Path, **changes: Any) -> None:
    """Change a record's keys and make its hash fit again, so that what is read later is the changed value itself."""
    save_record(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


MODEL_FACTS: dict[str, Any] = {
    "identity": "abc",
    "classes": ["a", "b", "c"],
    "image": {"size": 32, "mean": [0.5], "std": [0.5]},
    "stored": {"size": 32, "is_square": True},
    "class_shares": [0.2, 0.3, 0.5],
}
"""What `model.json` says of a network of three classes beside the network itself."""
Fingerprint = Callable[[Path], dict[str, str]]
"""The fixture `fingerprint`: hashes of all files of a run that must not depend on when or how it was trained."""
MakeMember = Callable[..., Predictions]
"""The fixture `make_member`: a member's rows in memory."""
MakeRun = Callable[..., Path]
"""The fixture `make_run`: a member's files in a folder, as training leaves them."""
Write = Callable[[str, str], None]
"""The fixture `write`: a file of a name with a text, where recipes are looked for."""


class Terminal:
    """Just enough of one: cursor up, erase below, line feeds, wrapping at its width."""

    def __init__(self, columns: int) -> None:
        self.columns, self.rows, self.at = columns, [""], 0

    def resize(self, columns: int) -> None:
        """Wrap what stands there, as terminals do."""
        self.columns = columns
        wrapped: list[str] = []
        for row in self.rows:
            pieces = [row[start : start + columns] for start in range(0, len(row), columns)] or [""]
            wrapped += pieces
        self.rows, self.at = wrapped, len(wrapped) - 1

    def write(self, text: str) -> int:
        for piece in re.findall(r"\x1b\[\d*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text):
            if piece == "\n":
                self.at += 1
                self.rows += [""] * (self.at + 1 - len(self.rows))
            elif piece.endswith("A") and piece[0] == "\x1b":
                self.at -= int(piece[2:-1])
                assert self.at >= 0, "the cursor left the screen"
            elif piece == "\x1b[J":
                self.rows = [*self.rows[: self.at], ""]
            elif piece[0] not in "\x1b\r":
                row = self.rows[self.at] + piece
                pieces = [row[start : start + self.columns] for start in range(0, len(row), self.columns)]
                self.rows[self.at :] = pieces
                self.at += len(pieces) - 1
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""
