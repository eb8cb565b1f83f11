"""How alike the members of a blend are: heat maps, and for each pair the images on which the two disagree."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble.blending.selection import diversity
from ensemble.combining.combine import Floats, Integers, Matrix
from ensemble.core.complaints import counted
from ensemble.core.files import sha256_file
from ensemble.core.labels import spelled
from ensemble.core.metrics import decide_sets
from ensemble.reporting import figures
from ensemble.reporting.page import Drawing, Panel, Panels, Part, Section, Text, Tile
from ensemble.reporting.predicted_rows import PredictedRows

_ANCHOR = "alike"
_MOST_MEMBERS = 40  # of a heat map: numbers stay readable
_MOST_PANELS = 60  # pairs that open, those that disagree most: about 100 KB
_A_PAIR = 6  # tiles
_SHOWN_CLASSES = 4  # of a set that a tile names


class MemberPairs:
    """Members of a blend two by two, on rows whose labels are known; the pairs that disagree most come first."""

    def __init__(self, rows: PredictedRows, names: Sequence[str], order: Sequence[int]) -> None:
        """`names`: of the members of `rows.labelled`; `order`: their places, those to be shown rather at the front."""
        self._rows = rows
        self._members = sorted(order[:_MOST_MEMBERS])
        self.left_out = len(order) - len(self._members)
        self.names = [names[member] for member in self._members]
        self._stack = [rows.labelled.stack[member] for member in self._members]
        self._decisions = [_decided(matrix, sets=rows.sets) for matrix in self._stack]
        counts = {
            (first, second): int(self._apart(first, second).sum())
            for first, second in itertools.combinations(range(len(self.names)), 2)
        }
        ranked = sorted((pair for pair in counts if counts[pair]), key=lambda pair: (-counts[pair], pair))
        self.pairs = ranked[:_MOST_PANELS]
        self._counts = counts
        self._panels: dict[tuple[int, int], Panel] = {}

    def draw(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Make the panels of some pairs, and ask for their pictures."""
        for first, second in pairs:
            if (first, second) not in self._panels:
                self._panels[first, second] = self._panel(first, second)

    def section(self) -> Section:
        """Both heat maps and all panels."""
        self.draw(self.pairs)
        alike = diversity(self._rows.labelled.with_members(self._members))
        count = len(self._rows.ids)
        share = np.zeros((len(self.names), len(self.names)))
        for (first, second), rows in self._counts.items():
            share[first, second] = share[second, first] = rows / count
        panels = [self._panels[pair] for pair in self.pairs]
        links: dict[tuple[int, int], str] = {}
        for (first, second), panel in zip(self.pairs, panels, strict=True):
            links[first, second] = links[second, first] = f"#{panel.anchor}"
        texts = []
        if self.left_out:
            texts.append(f"{self.left_out} members with less weight are left out here.")
        if self.pairs and len(self.pairs) < sum(map(bool, self._counts.values())):
            texts.append(f"The {len(self.pairs)} pairs that disagree most open their images.")
        return _section(self.names, alike.correlation, share, links, panels, texts)

    def _apart(self, first: int, second: int) -> NDArray[np.bool_]:
        differs = self._decisions[first] != self._decisions[second]
        return np.asarray(differs.any(axis=1) if differs.ndim == 2 else differs)

    def _panel(self, first: int, second: int) -> Panel:
        """The rows on which two members disagree and both are most certain."""
        apart = np.flatnonzero(self._apart(first, second))
        chosen = apart[np.argsort(-self._certainty(first, second, apart), kind="stable")][:_A_PAIR]
        tiles = self._rows.tiles(chosen.tolist())
        shown = [
            Tile(tile.row_id, tile.picture, self._lines(row, first, second), self._level(row, first, second))
            for tile, row in zip(tiles, chosen.tolist(), strict=True)
        ]
        names = f"{self.names[first]} and {self.names[second]}"
        title = f"{names} disagree on {counted(len(apart), 'row')}; those on which both are most certain"
        return Panel(f"pair-{first}-{second}", title, shown, len(apart) - len(shown))

    def _certainty(self, first: int, second: int, rows: Integers) -> Floats:
        """How sure the less certain of both is; of sets, how far both are apart on a class."""
        here, there = (np.asarray(self._stack[member][rows], dtype=np.float64) for member in (first, second))
        if self._rows.sets:
            return np.asarray(np.abs(here - there).max(axis=1))
        return np.asarray(np.minimum(here.max(axis=1), there.max(axis=1)))

    def _level(self, row: int, first: int, second: int) -> str:
        """Marked where one of both is right."""
        label = self._rows.labelled.labels[row]
        is_right = [np.array_equal(self._decisions[member][row], label) for member in (first, second)]
        return "good" if any(is_right) else "bad"

    def _lines(self, row: int, first: int, second: int) -> list[str]:
        classes, label = self._rows.classes, self._rows.labelled.labels[row : row + 1]
        lines = [f"is {spelled(label, classes)[0] or 'nothing'}"]
        for member in (first, second):
            probs, decision = self._stack[member][row], self._decisions[member][row]
            if self._rows.sets:
                other = self._decisions[second if member == first else first][row]
                own = np.flatnonzero((decision != other) & (decision != 0))[:_SHOWN_CLASSES]
                answer = ", ".join(f"{classes[place]} ({probs[place]:.3f})" for place in own.tolist()) or "not so"
            else:
                answer = f"{classes[int(decision)]} ({probs[int(decision)]:.3f})"
            lines.append(f"{self.names[member]}: {answer}")
        return lines


def pairs_of_record(folder: Path, document: Mapping[str, Any]) -> Section | None:
    """Both heat maps as they were written beside `blend.json`; None where they are gone or altered."""
    path = folder / "diversity.csv"
    names = [str(member["run"]) for member in document["members"]][:_MOST_MEMBERS]
    try:
        if sha256_file(path) != document["files"].get(path.name):
            return None
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
        correlation, share = np.eye(len(names)), np.zeros((len(names), len(names)))
        place = {name: number for number, name in enumerate(names)}
        for line in lines:
            first, second = place.get(line["member"]), place.get(line["other"])
            if first is not None and second is not None:
                correlation[first, second] = correlation[second, first] = float(line["correlation_of_errors"])
                share[first, second] = share[second, first] = float(line["disagreement"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return _section(names, correlation, share, {}, [], ["As they were when they were blended."])


def _section(
    names: Sequence[str],
    correlation: Floats,
    disagreement: Floats,
    links: Mapping[tuple[int, int], str],
    panels: Sequence[Panel],
    texts: Sequence[str],
) -> Section:
    places = range(len(names))
    addresses = [[links.get((first, second)) for second in places] for first in places]
    opens = " A cell opens images on which the two disagree." if links else ""
    parts: list[Part] = [
        Drawing(
            figures.heat_map(
                "Rows that two members decide differently",
                names,
                names,
                disagreement,
                [[f"{100 * value:.1f}" if math.isfinite(value) else "" for value in line] for line in disagreement],
                addresses,
            ),
            f"Per cent of the rows.{opens}",
        ),
        Drawing(
            figures.heat_map("Correlation of errors", names, names, correlation, links=addresses, diverging=True),
            "Of probabilities less the truth: 1 makes the same errors, 0 unrelated ones. The lower, the more two "
            "members can help each other.",
        ),
        *(Text(text, "note") for text in texts),
    ]
    if panels:
        parts.append(Panels(panels, _ANCHOR))
    return Section(_ANCHOR, "How alike members are", parts)


def _decided(matrix: Matrix, *, sets: bool) -> Integers:
    """A member's own answers: the first of equal probabilities."""
    return np.asarray(decide_sets(matrix) if sets else matrix.argmax(axis=1), dtype=np.int64)
