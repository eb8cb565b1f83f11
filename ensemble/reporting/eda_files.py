"""The files of `ens eda`: tables as CSV, figures as SVG, a picture of augmentation; replaced together."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.core.files import replaced_together, save_text, settle, sweep_leftovers
from ensemble.images.scan import ImageScan, readable
from ensemble.reporting.figures import bars, histogram
from ensemble.reporting.svg import Figure
from ensemble.runs.eda import Look, draw_augmentation

FINDINGS_NAME = "findings.csv"
_SWAP = "eda"  # what the files go by while they are replaced
_MOST_BARS = 60  # at 22 pixels each a figure stays on a screen and a half


def save_look(folder: Path, look: Look, *, everything: bool, augment: bool) -> list[Path]:
    """Write what was seen into `folder`, all of it or nothing; give back the paths.

    `everything`: `classes`, `images` and `findings` as CSV, figures of classes, sizes and shapes. Else every row of
    every finding; nothing where there are none, and none of an earlier look to put right. `augment`: the picture.
    """
    settle(folder, _SWAP)
    texts: dict[str, str] = {}
    if everything:
        figures = {f"{name}.svg": figure.standalone() for name, figure in look_figures(look).items()}
        texts = {**_tables(look), FINDINGS_NAME: _findings(look), **figures}
    elif look.every_finding or (folder / FINDINGS_NAME).exists():
        texts = {FINDINGS_NAME: _findings(look)}
    if not texts and not augment:
        sweep_leftovers(folder, _SWAP)
        return []
    with replaced_together(folder, _SWAP) as stage:
        for name, text in texts.items():
            save_text(stage / name, text)
        names = [*texts, *([draw_augmentation(look, stage).name] if augment else [])]
    return [folder / name for name in names]


def look_figures(look: Look) -> dict[str, Figure]:
    """Figures of the training images, by the names of their files."""
    counts: dict[str, int] = look.facts["class_counts"]
    names, more = list(counts), ""
    if len(counts) > _MOST_BARS:
        half = _MOST_BARS // 2
        ranked = sorted(counts, key=lambda name: -counts[name])
        names = [*ranked[:half], *ranked[-half:]]  # the rarest too: they are what a run will fail on
        more = f", the {half} largest and the {half} rarest of {len(counts):,}"
    usable = readable(look.train)
    widths = look.train.widths[usable].astype(np.float64)
    heights = look.train.heights[usable].astype(np.float64)
    dataset, rows = look.facts["dataset"], look.facts["rows"]
    class_rows = [counts[name] for name in names]
    return {
        "classes": bars(f"{dataset}: training rows per class{more}", names, class_rows, total=rows),
        "widths": histogram(f"{dataset}: widths", widths, "pixels"),
        "heights": histogram(f"{dataset}: heights", heights, "pixels"),
        "aspects": histogram(f"{dataset}: width to height", widths / np.maximum(heights, 1), "ratio"),
    }


def _tables(look: Look) -> dict[str, str]:
    counts: dict[str, int] = look.facts["class_counts"]
    total = max(1, look.facts["rows"])
    return {
        "classes.csv": _csv(
            ["class", "rows", "share"], ([name, count, round(count / total, 6)] for name, count in counts.items())
        ),
        "images.csv": _csv(["id", "part", "path", "width", "height", "channels", "state", "sha256"], _image_rows(look)),
    }


def _findings(look: Look) -> str:
    """A line an image that a finding is about; one that is about no image has a line of its own."""
    header = ["level", "code", "path", "partner", "what", "distance", "advice"]

    def lines() -> Iterator[Sequence[Any]]:
        for finding in look.every_finding:
            is_empty = True
            for row in finding.rows():
                is_empty = False
                yield [finding.level, finding.code, row.path, row.partner, row.what, row.distance, finding.advice]
            if is_empty:
                yield [finding.level, finding.code, "", "", finding.message, None, finding.advice]

    return _csv(header, lines())


def _image_rows(look: Look) -> Iterable[Sequence[Any]]:
    """A row an image, training rows first."""
    table = look.rows
    parts: list[tuple[str, tuple[str, ...], ImageScan]] = [("train", table.train.paths, look.train)]
    if table.test is not None and look.test is not None:
        parts.append(("test", table.test.paths, look.test))
    for part, paths, scan in parts:
        facts = (scan.ids, paths, scan.widths.tolist(), scan.heights.tolist(), scan.channels.tolist())
        for row_id, path, width, height, channels, state, sha256 in zip(*facts, scan.states, scan.sha256, strict=True):
            yield [row_id, part, path, width, height, channels, state, sha256]


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return buffer.getvalue()
