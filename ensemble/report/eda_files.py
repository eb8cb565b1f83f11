"""The files of `ens eda --out`: tables as CSV, figures as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.core.files import save_text
from ensemble.images.scan import ImageScan, readable
from ensemble.report.figures import bars, histogram
from ensemble.runs.eda import Look

_MOST_BARS = 60  # at 22 pixels each a figure stays on a screen and a half


def save_eda_files(folder: Path, look: Look) -> list[Path]:
    """Write `classes`, `images` and `findings` as CSV, figures of classes, sizes and shapes; give back the paths."""
    counts: dict[str, int] = look.facts["class_counts"]
    total = max(1, look.facts["rows"])
    tables = {
        "classes.csv": _csv(
            ["class", "rows", "share"], ([name, count, round(count / total, 6)] for name, count in counts.items())
        ),
        "images.csv": _csv(["id", "part", "path", "width", "height", "channels", "state", "sha256"], _image_rows(look)),
        "findings.csv": _csv(
            ["level", "code", "count", "message", "examples"],
            (
                [*(finding[key] for key in ("level", "code", "count", "message")), "; ".join(finding["examples"])]
                for finding in look.facts["findings"]
            ),
        ),
    }
    files = {**tables, **_figures(look)}
    for name, text in files.items():
        save_text(folder / name, text)
    return [folder / name for name in files]


def _figures(look: Look) -> dict[str, str]:
    """Figures of the training images."""
    counts: dict[str, int] = look.facts["class_counts"]
    names = sorted(counts, key=lambda name: -counts[name])[:_MOST_BARS] if len(counts) > _MOST_BARS else list(counts)
    more = f", the {_MOST_BARS} largest of {len(counts)}" if len(names) < len(counts) else ""
    usable = readable(look.train)
    widths = look.train.widths[usable].astype(np.float64)
    heights = look.train.heights[usable].astype(np.float64)
    dataset = look.facts["dataset"]
    return {
        "classes.svg": bars(f"{dataset}: training rows per class{more}", names, [counts[name] for name in names]),
        "widths.svg": histogram(f"{dataset}: widths", widths, "pixels"),
        "heights.svg": histogram(f"{dataset}: heights", heights, "pixels"),
        "aspects.svg": histogram(f"{dataset}: width to height", widths / np.maximum(heights, 1), "ratio"),
    }


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
