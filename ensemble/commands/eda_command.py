"""`ens eda`: a look at the data before anything is trained on it. `runs/eda.py` looks, this shows the result."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ensemble.audit.findings import finding_lines
from ensemble.core.complaints import counted
from ensemble.errors import InputError
from ensemble.reporting.eda_files import save_look
from ensemble.runs.eda import eda
from ensemble.screen.outcome import Outcome, ShownTable
from ensemble.screen.progress import progress

_BAR = 30  # letters of the longest bar, so that a line fits into 80
_MOST_CLASSES = 24  # a screen of lines; of more classes, the largest and the smallest are shown


def run(arguments: argparse.Namespace) -> Outcome:
    """Look, and show the result; with --out, write tables and figures."""
    with progress(arguments) as on_event:
        look = eda(
            arguments.recipe,
            sets=arguments.sets,
            data=arguments.data,
            outputs=arguments.outputs,
            folder=arguments.folder,
            on_event=on_event,
        )
    facts = look.facts
    place = Path(arguments.out) if arguments.out else arguments.outputs / "eda" / facts["dataset"]
    written = save_look(place, look, everything=bool(arguments.out), augment=arguments.augment)
    findings = [finding.plain(every_row=arguments.all) for finding in look.every_finding]
    document = {**facts, "findings": findings, "files": [str(path) for path in written]}
    shown: list[str | ShownTable] = [_headline(facts), "", _classes(facts), ""]
    shown += _images("training images", facts["images"])
    if facts["test_images"] is not None:
        shown += _images("test images", facts["test_images"])
    shown += [*_normalisation(facts["images"]), *finding_lines(findings, "nothing suspicious was found")]
    shown += [f"written: {path}" for path in written]
    # As `ens train` would exit: a script can look before it trains.
    has_errors = any(finding["level"] == "error" for finding in facts["findings"])
    return Outcome(document, shown, InputError.exit_code if has_errors else 0)


def _headline(facts: Mapping[str, Any]) -> str:
    groups = f", {counted(facts['groups'], 'group')}" if facts["groups"] is not None else ""
    counts = facts["class_counts"].values()
    least, most = min(counts), max(counts)  # least is 0 for a class of the description that has no rows
    ratio = f"; the largest class has {most / least:.1f} times the rows of the smallest" if least else ""
    rows = f"{counted(facts['rows'], 'training row')}, {counted(facts['test_rows'], 'test row')}"
    rows += f", {counted(len(facts['classes']), 'class', 'classes')}"
    if "classes_a_row" in facts:
        rows += f" ({facts['classes_a_row']:.2f} a row, {counted(facts['rows_without_class'], 'row')} without any)"
    return f"{facts['dataset']}: {rows}{groups}{ratio}"


def _classes(facts: Mapping[str, Any]) -> ShownTable:
    """A bar a class; of many classes, the largest and the smallest."""
    counts: dict[str, int] = facts["class_counts"]
    names = list(counts)
    title = ""
    if len(names) > _MOST_CLASSES:
        ranked = sorted(names, key=lambda name: -counts[name])
        half = _MOST_CLASSES // 2
        names = ranked[:half] + ranked[-half:]
        title = f"the {half} largest and the {half} smallest of {len(counts)} classes"
    largest, total = max(1, max(counts.values())), max(1, facts["rows"])  # 1: nothing to divide by in an empty table
    rows = [
        [name, f"{counts[name]:,}", f"{counts[name] / total:.1%}", "#" * round(_BAR * counts[name] / largest)]
        for name in names
    ]
    return ShownTable(["class", "rows", "share", ""], rows, title)


def _images(title: str, images: Mapping[str, Any]) -> Iterator[str | ShownTable]:
    """Sizes, shapes and states of one part."""
    names = ["smallest", "5 %", "middle", "95 %", "largest"]
    rows = [
        [key, *(f"{value:g}" for value in images[key])]
        for key in ("width", "height", "aspect")
        if images[key] is not None
    ]
    yield ShownTable([title, *names], rows)
    states = ", ".join(f"{count:,} {state}" for state, count in images["states"].items())
    channels = ", ".join(f"{count:,} with {number}" for number, count in images["channels"].items())
    common = images["sizes"][0] if images["sizes"] else None
    size = f"; {common['images']:,} are {common['width']} x {common['height']}" if common else ""
    yield f"{states}; channels: {channels or 'none'}; {images['distinct_sizes']:,} sizes{size}"
    yield ""


def _normalisation(images: Mapping[str, Any]) -> list[str]:
    """The lines to copy into a dataset's description."""
    if images["mean"] is None:
        return []
    return ["for the dataset's description:", f"  mean: {images['mean']}", f"  std: {images['std']}", ""]
