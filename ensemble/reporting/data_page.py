"""The page of a dataset: what `ens eda` knows of it, with pictures. Nothing is measured here: `runs/eda.py` does."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.audit.findings import with_examples
from ensemble.core.complaints import counted
from ensemble.core.foldplan import FoldPlan
from ensemble.core.labels import class_counts
from ensemble.errors import InputError
from ensemble.images.scan import readable
from ensemble.recipe.find import datasets_by_name, is_same_file
from ensemble.recipe.yaml import format_yaml
from ensemble.reporting.data_pictures import (
    BAD_CODES,
    WITH_PICTURES,
    RowImages,
    bad_images,
    conflicts,
    contact_sheet,
    copies,
    samples,
    without_advice,
)
from ensemble.reporting.eda_files import look_figures
from ensemble.reporting.figures import heat_map
from ensemble.reporting.page import (
    Cell,
    Code,
    Drawing,
    Facts,
    Grid,
    More,
    Page,
    Part,
    ReportJob,
    Row,
    Section,
    Text,
)
from ensemble.runs.describe import undescribed_folder
from ensemble.runs.eda import Look, eda, fold_class_counts
from ensemble.runs.request import newest_run

_LISTED = 20  # rows of a finding in a table
_COUNTS_ROWS = ("unlisted-file", "rare-class")  # codes whose count is of their rows; others count groups or classes
_CLASSES_LISTED = 200  # lines of a table of classes: 30 KB of the page
_MOST_UNEVEN = 40  # lines of the heat map of folds: what it holds


def data_page(places: Sequence[str], job: ReportJob) -> Page:
    """The page of what `--data` would take: a dataset's name, `NAME=PATH`, its description or a folder of images."""
    named = _NamedData.of(places[0], job)
    look = eda(named.recipe, data=named.data, outputs=job.outputs, folder=job.folder, on_event=job.on_event)
    images = RowImages(look, job)
    # Pictures are taken in this order until there is no more room: what is wrong first, then what is usual.
    of_labels, of_bytes, bad = conflicts(images), copies(images), bad_images(images)
    classes = _classes(images)
    sections = [
        Section("findings", "Findings", _findings(look, named.command("eda", job.outputs))),
        Section("conflicts", "Contradictions", of_labels),
        Section("copies", "Duplicates", of_bytes),
        Section("bad", "Bad images", bad),
        Section("classes", "Classes", classes),
        Section("sizes", "Sizes and shapes", _sizes(look)),
        Section("augmentation", "Augmentation", contact_sheet(images)),
        Section("folds", "Folds", _folds(look)),
        Section("description", "Description", _description(look)),
    ]
    return Page(
        kind="data",
        title=look.facts["dataset"],
        verdict=_verdict(look),
        sections=[section for section in sections if section.parts],
        pictures=job.pictures,
        next_command=_next_command(look, named, job.outputs),
        head=[_head(look)],
    )


@dataclass(frozen=True)
class _NamedData:
    """What the words of `ens eda` for the dataset are."""

    data: str
    recipe: str | None
    """None: the newest run's, which is of this dataset, or one that fits a folder without a description."""

    @classmethod
    def of(cls, word: str, job: ReportJob) -> _NamedData:
        is_file = word.endswith((".yaml", ".yml"))
        data = _described_in(job.folder / os.path.expanduser(word), job.folder) if is_file else word
        if undescribed_folder(data, job.folder) is not None or _newest_dataset(job.outputs) == data.partition("=")[0]:
            return cls(data, None)
        # The newest run's recipe was made for other classes and sizes; folds of the usual one are at least usual.
        return cls(data, "quickstart")

    def command(self, verb: str, outputs: Path) -> str:
        """A command on this dataset, to be copied."""
        recipe = "" if self.recipe is None else f" --recipe {self.recipe}"
        usual = os.environ.get("ENS_OUTPUTS") or "outputs"
        where = "" if str(outputs) == usual else f" --outputs {shlex.quote(str(outputs))}"
        return f"ens {verb}{recipe} --data {shlex.quote(self.data)}{where}"


def _described_in(path: Path, folder: Path) -> str:
    """The name of the dataset that a file describes: commands know datasets by their names alone."""
    for name, place in datasets_by_name(folder).items():
        if is_same_file(place, path):
            return name
    raise InputError(
        f"{path}: is no dataset's description here; they lie in recipes/data/ of the working directory, and ens init "
        "writes them (docs/datasets.md)"
    )


def _newest_dataset(outputs: Path) -> str | None:
    """The dataset of the newest run whose recipe is still there."""
    run = newest_run(outputs)
    try:
        record = run.load_record() if run is not None else None
    except InputError:  # the run's own page says what is wrong with it
        return None
    if not record or not Path(record["asked"]["recipe"]).exists():
        return None
    return str(record["dataset"])


def _codes(look: Look, level: str) -> list[str]:
    """The code of each finding of a level; training and test rows may have findings of one code."""
    return [finding.code for finding in look.every_finding if finding.level == level]


def _verdict(look: Look) -> str:
    facts = look.facts
    rows = counted(facts["rows"], "training image")
    start = f"{rows} in {counted(len(facts['classes']), 'class', 'classes')}"
    errors, warnings = _codes(look, "error"), _codes(look, "warning")
    if errors:
        return f"{start}; {counted(len(errors), 'error stops', 'errors stop')} training: {', '.join(errors)}"
    with_warnings = f", with {counted(len(warnings), 'warning')}: {', '.join(warnings)}" if warnings else ""
    return f"{start}; ready to train{with_warnings}"


def _next_command(look: Look, named: _NamedData, outputs: Path) -> str:
    """What to do next: train, with the remedy that a setting is, or look at what no setting mends."""
    errors = set(_codes(look, "error"))
    if errors - set(BAD_CODES) or not readable(look.train).any():
        return f"{named.command('eda', outputs)} --all"
    command = named.command("train", outputs)
    if errors:
        command += " --set data.bad_images=drop"
    split = {"exact-duplicate", "near-duplicate"}.intersection(_codes(look, "warning"))
    if split and look.plan is not None and look.plan.scheme != "column":
        command += " --set folds.keep_together=duplicates"
    return command


def _head(look: Look) -> Facts:
    facts, images = look.facts, look.facts["images"]
    pairs = [
        ("training rows", f"{facts['rows']:,}"),
        ("test rows", f"{facts['test_rows']:,}"),
        ("classes", f"{len(facts['classes']):,}"),
    ]
    if "classes_a_row" in facts:
        pairs.append(("classes a row", f"{facts['classes_a_row']:.2f}; {facts['rows_without_class']:,} rows have none"))
    if facts["groups"] is not None:
        pairs.append(("groups", f"{facts['groups']:,}"))
    if images["sizes"]:
        common = images["sizes"][0]
        share = common["images"] / max(1, images["images"])
        pairs.append(("usual size", f"{common['width']} x {common['height']} pixels ({share:.0%} of training images)"))
    if look.rows.corrections is not None:
        changed, dropped = len(look.rows.corrected_rows()), len(look.rows.train.dropped)
        pairs.append(("corrections", f"{changed:,} labels changed, {dropped:,} rows left out"))
    return Facts(pairs)


def _findings(look: Look, command: str) -> list[Part]:
    """Every finding with its advice; the first rows of those that have no section of their own. `command` has all."""
    findings = look.every_finding
    if not findings:
        return [Text("Nothing suspicious was found: no bad image, no copies across folds, no contradiction.")]
    parts: list[Part] = []
    for finding in findings:
        what = with_examples(without_advice(finding), finding.count, finding.examples)
        advice = f"\n{finding.advice[:1].upper()}{finding.advice[1:]}." if finding.advice else ""
        parts.append(Text(f"{finding.level}: {finding.code}: {what}{advice}", finding.level))
    for finding in findings:
        if finding.code not in WITH_PICTURES and (rows := list(islice(finding.rows(), _LISTED))):
            left_out = max(0, finding.count - len(rows)) if finding.code in _COUNTS_ROWS else 0
            lines = [[row.path, row.partner, row.what] for row in rows]
            first = "the first " if len(rows) == _LISTED else ""
            grid = Grid(finding.code, ["image", "partner", "what"], lines, left_out)
            parts.append(More(f"{finding.code}: {first}{counted(len(rows), 'row')}", [grid]))
    return [*parts, Code(command, "writes every row of each finding to findings.csv")]


def _classes(images: RowImages) -> list[Part]:
    """Rows of each class as bars, table and pictures."""
    facts = images.look.facts
    counts: dict[str, int] = facts["class_counts"]
    ranked = sorted(counts, key=lambda name: -counts[name])
    least, most = counts[ranked[-1]], counts[ranked[0]]
    ratio = f"The largest class has {most / least:,.1f} times the rows of the smallest." if least else ""
    empty = sum(count == 0 for count in counts.values())
    if empty:
        ratio = f"{counted(empty, 'class has', 'classes have')} no row."
    names = ranked
    if len(ranked) > _CLASSES_LISTED:
        names = [*ranked[: _CLASSES_LISTED // 2], *ranked[-_CLASSES_LISTED // 2 :]]
    total = max(1, facts["rows"])
    lines: list[Row] = [
        [name, counts[name], Cell(f"{counts[name] / total:.2%}", counts[name] / total)] for name in names
    ]
    grid = Grid("Training rows of each class", ["class", "rows", "share"], lines, len(ranked) - len(names))
    drawing = Drawing(look_figures(images.look)["classes"], ratio)
    return [drawing, More(f"{counted(len(names), 'class', 'classes')} as a table", [grid]), *samples(images)]


def _sizes(look: Look) -> list[Part]:
    """Widths, heights and shapes; test rows beside training rows."""
    train, test = look.facts["images"], look.facts["test_images"]
    parts: list[Part] = [Facts(_image_facts(train))]
    figures = look_figures(look)
    if train["distinct_sizes"] > 1:
        parts += [Drawing(figures[name]) for name in ("widths", "heights", "aspects")]
    elif train["sizes"]:
        only = train["sizes"][0]
        parts.append(Text(f"Every training image is {only['width']} x {only['height']} pixels."))
    lines: list[Row] = []
    for key in ("width", "height", "aspect"):
        for part, images in (("training", train), ("test", test)):
            if images is not None and images[key] is not None:
                lines.append([f"{key}, {part}", *(Cell(f"{value:g}", value) for value in images[key])])
    columns = ["of", "smallest", "5 %", "middle", "95 %", "largest"]
    if lines:
        parts.append(Grid("Pixels, and width to height, of training and test images", columns, lines))
    if test is not None:
        parts += [Text(text, "note") for text in _differences(look)]
    return parts


def _image_facts(images: dict[str, Any]) -> list[tuple[str, str]]:
    kinds = {"1": "grey", "2": "grey with alpha", "3": "colour", "4": "four channels"}
    channels = [f"{count:,} {kinds.get(number, number)}" for number, count in images["channels"].items()]
    pairs = [
        ("states", ", ".join(f"{count:,} {state}" for state, count in images["states"].items())),
        ("channels", ", ".join(channels) or "none"),
        ("different sizes", f"{images['distinct_sizes']:,}"),
    ]
    if images["mean"] is not None:
        pairs += [(key, ", ".join(f"{value:g}" for value in images[key])) for key in ("mean", "std")]
    return pairs


def _differences(look: Look) -> Iterator[str]:
    """In what test images are unlike the training images."""
    if look.test is None:
        return
    sides = [np.minimum(scan.widths, scan.heights) for scan in (look.train, look.test)]
    known, new = sides[0][sides[0] > 0], sides[1][sides[1] > 0]
    if not len(known) or not len(new):
        return
    outside = int(((new < known.min()) | (new > known.max())).sum())
    if outside:
        yield (
            f"{counted(outside, 'test image')} of {len(new):,} {'has' if outside == 1 else 'have'} a shorter side that "
            f"no training image has: those go from {known.min():,} to {known.max():,} pixels."
        )
    middles = float(np.median(known)), float(np.median(new))
    if max(middles) > 1.5 * min(middles):  # a network trained at one scale of detail meets another
        yield f"The middle shorter side is {middles[0]:g} pixels in training images, {middles[1]:g} in test images."


def _folds(look: Look) -> list[Part]:
    """The fold plan: rows of each class and groups in each fold."""
    plan = look.plan
    if plan is None:
        reasons = [finding.message for finding in look.every_finding if finding.code == "no-plan"]
        return [Text("\n".join(["There are no folds, as training would be refused:", *reasons]), "error")]
    facts = [
        ("scheme", plan.scheme),
        ("folds", f"{plan.k}" + (f", {plan.repeats} times" if plan.repeats > 1 else "")),
        ("seed", str(plan.seed)),
        ("rows never validated", f"{int((~plan.is_validated).sum()):,}"),
        ("recipe", look.resolved.name),
    ]
    parts: list[Part] = [Facts(facts), _fold_sizes(plan)]
    counts = fold_class_counts(plan, look.rows.classes)[: plan.k]  # of the first repeat: the others obey the same rule
    return [*parts, *_fold_classes(look, counts)]


def _fold_sizes(plan: FoldPlan) -> Grid:
    """A line a fold: its rows and groups."""
    lines: list[Row] = []
    columns = ["fold", "rows"]
    numbers = None
    if plan.groups is not None:
        columns += ["groups", "rows of the largest group"]
        numbers = np.unique(np.array(plan.groups, dtype=object), return_inverse=True)[1].reshape(-1)
    for repeat in range(plan.repeats):
        for fold in range(plan.k):
            own = plan.folds[:, repeat] == fold
            name = f"{fold}" + (f" of repeat {repeat}" if plan.repeats > 1 else "")
            line: list[str | int] = [name, int(own.sum())]
            if numbers is not None:
                sizes = np.bincount(numbers[own])
                line += [int((sizes > 0).sum()), int(sizes.max(initial=0))]
            lines.append(line)
    return Grid("Validation rows of each fold", columns, lines[:_LISTED], max(0, len(lines) - _LISTED))


def _fold_classes(look: Look, counts: npt.NDArray[np.int64]) -> list[Part]:
    """Fold by class: every class where there are few, else those that are spread unevenly."""
    classes, k = look.rows.classes, len(counts)
    which = np.arange(len(classes))
    caption = "Validation rows of each class in each fold"
    parts: list[Part] = []
    spread = counts.max(axis=0) - counts.min(axis=0)
    uneven = np.flatnonzero(spread > 1) if k > 1 else which
    if len(classes) > _MOST_UNEVEN:
        shares = spread[uneven] / np.maximum(1, counts.sum(axis=0)[uneven])
        which = uneven[np.argsort(-shares, kind="stable")][:_MOST_UNEVEN]
        caption += f": the {counted(len(which), 'most uneven class', 'most uneven classes')} of {len(classes):,}"
    if k > 1:
        even = len(classes) - len(uneven)
        text = f"{counted(even, 'class has', 'classes have')} as many rows in every fold, give or take one"
        parts.append(Text(f"{text}; {len(uneven):,} {'is' if len(uneven) == 1 else 'are'} uneven." if even else ""))
        parts = parts if even else []
    if not len(which):
        return parts
    names = [classes[number] for number in which.tolist()]
    if k > 1:
        columns = [f"fold {fold}" for fold in range(k)]
        own = counts[:, which].T
        shares = own / np.maximum(1, own.sum(axis=1, keepdims=True))  # shades show unevenness, not the class's size
        texts = [[f"{count:,}" for count in line] for line in own.tolist()]
        figure = heat_map(caption, names, columns, shares, texts)
        parts.append(Drawing(figure, "Shaded by the share of the class's rows: where folds are even, so are shades."))
    else:
        total = class_counts(look.rows.labels, len(classes))[which].tolist()
        rows = [
            [name, own, all_rows - own]
            for name, own, all_rows in zip(names, counts[0, which].tolist(), total, strict=True)
        ]
        parts.append(Grid(caption, ["class", "validated", "trained on only"], rows, len(classes) - len(which)))
    return parts


def _description(look: Look) -> list[Part]:
    """Where rows, labels and groups come from."""
    resolved, spec = look.resolved, look.resolved.dataset
    train, label = spec.train, spec.label
    pairs = [
        ("files", str(look.rows.train.folder)),
        ("described in", resolved.dataset_source),
        ("training rows", train.table or train.files or ""),
        ("images", train.image or train.files or ""),
        ("label", label.value or label.columns or ", ".join(part.name for part in label.parts or [])),
        ("group", train.group or "none: every row stands for itself"),
        ("folds", f"column {train.fold_column}" if train.fold_column else "made by the recipe"),
        ("test rows", "none" if spec.test is None else spec.test.table or spec.test.files or ""),
        ("metric", spec.metric),
    ]
    if spec.validation is not None:
        own = spec.validation_rows
        pairs.append(("validation rows", "" if own is None else own.table or own.files or ""))
    values = spec.model_dump(mode="json", exclude_defaults=True)
    parts: list[Part] = [Text(spec.description)] if spec.description else []
    text = format_yaml(values)
    if len(text) > 20_000:  # tens of thousands of class names
        values["classes"] = [*look.rows.classes[:20], f"… {len(look.rows.classes) - 20:,} more"]
        text = format_yaml(values)[:20_000]
    return [*parts, Facts(pairs), More("The description as a file", [Code(text)])]
