"""The page of a comparison: whether sides differ, in what, and on which images; each beside the first one."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.combining.combine import Integers
from ensemble.comparison.changed_rows import ChangedRows
from ensemble.comparison.compare import compare_sides
from ensemble.comparison.sides import load_sides
from ensemble.core.complaints import counted
from ensemble.core.labels import are_sets, spelled
from ensemble.core.run import Asked, RunFolder
from ensemble.data.table import Table
from ensemble.errors import InputError
from ensemble.reporting import figures
from ensemble.reporting.page import (
    Cell,
    Drawing,
    Facts,
    Gallery,
    Grid,
    More,
    Page,
    Part,
    Pictures,
    ReportJob,
    Row,
    Section,
    Text,
    Tile,
)
from ensemble.review.out_of_fold import find_sources
from ensemble.review.suspicious_labels import find_table

_TILES, _FEWEST_TILES = 18, 6  # of each direction; of several comparisons they share as many
_MOST_BARS = 30
_MOST_CLASSES = 1_000  # lines of all tables of classes together: 150 KB
_MOST_KEYS = 200
_LONGEST = 200  # characters of a recipe's value
_SHOWN_CLASSES = 4  # of a set that a tile names


def comparison_page(places: Sequence[str], job: ReportJob) -> Page:
    """Runs, trials and blends beside the first."""
    compared = compare_sides(load_sides(places, job.outputs, is_quick=True), job.outputs)
    document, remarks = compared.document, list(compared.document["remarks"])
    items = document["comparisons"]
    table = _table(places, job, remarks)
    if document["correction"]:
        remarks.append(f"intervals of differences are those of {len(items)} comparisons ({document['correction']})")
    names = [side["name"] for side in document["sides"]]
    return Page(
        "comparison",
        " and ".join([", ".join(names[:-1]), names[-1]]),
        f"{items[0]['text']}.",
        [
            _differences(document),
            _rows(compared.changed, items, table, job.pictures),
            _classes(document, compared.changed),
            _recipes(document),
            _sides(document),
        ],
        job.pictures,
        next_command=_next_command(document, places, job),
        remarks=remarks,
        head=[_facts(document)],
    )


def _table(places: Sequence[str], job: ReportJob, remarks: list[str]) -> Table | None:
    """The dataset's rows, of the first side that knows them."""
    reasons: list[str] = []
    for place in places:
        try:
            table, _, why = find_table(find_sources([place], job.outputs), job.outputs, job.folder, job.on_event)
        except InputError as error:
            table, why = None, error.messages[0]
        if table is not None:
            return table
        reasons.append(why)
    remarks += [f"no pictures: {why}" for why in dict.fromkeys(reasons)]
    return None


def _facts(document: Mapping[str, Any]) -> Facts:
    groups = f" in {counted(document['units'], 'group')}" if document["by"] == "groups" else ""
    largest = max(side["rows"] for side in document["sides"])
    of = f", of {largest:,}" if largest > document["rows"] else ""
    return Facts(
        [
            (
                "dataset",
                f"{document['dataset'] or 'not named'}, {counted(len(document['classes']), 'class', 'classes')}",
            ),
            ("rows that all have", f"{document['rows']:,}{of}{groups}"),
            ("metric", f"{document['metric']}; positive differences are better"),
            ("compared with", str(document["sides"][0]["name"])),
        ]
    )


# Whether they differ


def _differences(document: Mapping[str, Any]) -> Section:
    """Paired differences with intervals, the verdict of each, and what would tell."""
    items, metric = document["comparisons"], document["metric"]
    known = [item for item in items if item["difference"] is not None]
    parts: list[Part] = [Text(item["text"] + ".") for item in items[1:]]
    if known:
        figure = figures.interval_bars(
            f"Difference to {document['sides'][0]['name']}",
            [item["second"] for item in known],
            [item["difference"] for item in known],
            [item["ci95"] for item in known],
            f"{metric}, better to the right",
            reference=0.0,
        )
        caption = (
            "On the rows that all have, with 95 % intervals of other rows and of training again. An interval on both "
            "sides of 0 leaves open which is better."
        )
        parts.append(Drawing(figure, caption))
    header = ["", metric, "95 %", "is better", "verdict", "error by rows", "error by training", "what would tell"]
    parts.append(Grid("Differences", header, [_difference_row(item) for item in items]))
    parts += [Text(_noise(item)) for item in items]
    return Section("differences", "Whether they differ", parts)


def _difference_row(item: Mapping[str, Any]) -> Row:
    low_high, error = item["ci95"], item["standard_error"]
    level = {"better": "good", "worse": "bad"}.get(item["verdict"], "")
    is_same = item["verdict"] == "the same answers"
    return [
        item["second"],
        Cell("" if item["difference"] is None else f"{item['difference']:+.4f}", item["difference"], level=level),
        "" if low_high is None else f"{low_high[0]:+.4f} to {low_high[1]:+.4f}",
        Cell(
            "" if is_same or low_high is None else f"{min(max(100 * item['p_better'], 1), 99):.0f} %", item["p_better"]
        ),
        Cell(item["verdict"], level=level),
        error["rows"],
        error["training"],
        _what_would_tell(item),
    ]


def _what_would_tell(item: Mapping[str, Any]) -> str:
    seeds, rows, both = (item[f"{key}_that_would_tell"] for key in ("trainings", "times_the_rows", "times_of_both"))
    if seeds is not None:
        return f"{seeds} trainings of each in all"
    if rows is not None:
        return f"{rows:,.1f} times the rows"
    if both is not None:
        return f"{both:,.0f} times the rows and the trainings"
    return ""


def _noise(item: Mapping[str, Any]) -> str:
    """What the noise of training was learned from."""
    source = item["noise_from"]
    first, second = source["trainings"]
    others = f", {counted(source['runs'], 'other run')} of the dataset" if source["runs"] else ""
    again = f" ({source['trained_again']} trained again)" if source["trained_again"] else ""
    return (
        f"{item['second']}: the error by training is learned from how far folds differ, {first} and "
        f"{counted(second, 'training')}{others}{again} and a prior."
    )


def _sides(document: Mapping[str, Any]) -> Section:
    """Each side's score, and that of each training."""
    metric, grid = document["metric"], []
    points: list[figures.CloudPoint] = []
    for number, side in enumerate(document["sides"]):
        known = [score for score in side["scores"] if score is not None]
        spread = f"{min(known):.4f} to {max(known):.4f}" if len(known) > 1 else ""
        row: Row = [
            side["name"],
            side["kind"],
            len(side["trainings"]),
            side["models"],
            side["rows"],
            side["score"],
            spread,
        ]
        grid.append(row)
        points += [
            figures.CloudPoint(str(side["name"]), score, f"{name}: {score:.4f}", number)
            for name, score in zip(side["trainings"], side["scores"], strict=True)
            if score is not None
        ]
    header = ["side", "kind", "trainings", "models", "rows", metric, "range of trainings"]
    parts: list[Part] = []
    if any(len(side["trainings"]) > 1 for side in document["sides"]):
        figure = figures.scatter(f"{metric} of each training", points, "side", metric)
        parts.append(Drawing(figure, "Trainings of one recipe differ too: so much is the noise of training."))
    return Section("sides", "Sides and their trainings", [*parts, Grid("Sides", header, grid)])


# On which rows


def _rows(
    changed: Sequence[ChangedRows], items: Sequence[Mapping[str, Any]], table: Table | None, pictures: Pictures
) -> Section:
    """Rows that became right or wrong, those on which both sides were most certain first, and the commonest changes."""
    most = max(_FEWEST_TILES, _TILES // len(changed))
    places = {} if table is None else {row_id: place for place, row_id in enumerate(table.train.ids)}
    parts: list[Part] = []
    for rows, item in zip(changed, items, strict=True):
        facts = item["rows"]
        parts.append(
            Text(
                f"From {rows.first} to {rows.second}, {counted(facts['became_right'], 'row')} became right and "
                f"{facts['became_wrong']:,} wrong, of {facts['changed']:,} that are answered otherwise. Chance alone "
                f"would change as many to one side with a probability of {facts['mcnemar_p']:.2g} (McNemar)."
            )
        )
        for chosen, right, wrong in ((rows.became_right, rows.second, rows.first),
                                     (rows.became_wrong, rows.first, rows.second)):  # fmt: skip
            if len(chosen):
                best = rows.most_certain(chosen)[:most]
                caption = f"{right} has them right, {wrong} wrong; those on which both are most certain"
                tiles = _tiles(rows, best, places, table, pictures)
                parts.append(Gallery(caption, tiles, len(chosen) - len(tiles)))
        if facts["pairs"]:
            pairs: list[Row] = [
                [pair["first"], pair["second"], pair["rows"], pair["became_right"]] for pair in facts["pairs"]
            ]
            header = [f"answer of {rows.first}", f"of {rows.second}", "rows", "became right"]
            parts.append(Grid("Commonest changes", header, pairs))
    return Section("rows", "Rows that changed", parts)


def _tiles(
    rows: ChangedRows, chosen: Integers, places: Mapping[str, int], table: Table | None, pictures: Pictures
) -> list[Tile]:
    known = [row for row in chosen.tolist() if rows.ids[row] in places]
    shown = pictures.show(None if table is None else table.train, [places[rows.ids[row]] for row in known])
    names = dict(zip(known, shown, strict=True))
    return [Tile(rows.ids[row], names.get(row), _lines(rows, row)) for row in chosen.tolist()]


def _lines(rows: ChangedRows, row: int) -> list[str]:
    """What a row is and what both sides answer; of sets, the classes that they answer otherwise."""
    sides = ((rows.first, rows.here, rows.there), (rows.second, rows.there, rows.here))
    lines = [f"is {spelled(rows.labels[row : row + 1], rows.classes)[0] or 'nothing'}"]
    for name, own, other in sides:
        if are_sets(rows.labels):
            alone = np.flatnonzero((own.decisions[row] != other.decisions[row]) & (own.decisions[row] != 0))
            answer = ", ".join(rows.classes[label] for label in alone[:_SHOWN_CLASSES].tolist()) or "not so"
            lines.append(f"{name}: {answer}")
        else:
            lines.append(f"{name}: {rows.classes[int(own.decisions[row])]} ({own.sure[row]:.3f})")
    return lines


# In which classes


def _classes(document: Mapping[str, Any], changed: Sequence[ChangedRows]) -> Section:
    """Recall and F1 of each class on both sides; of a single comparison the paired difference of recall as a figure."""
    items = document["comparisons"]
    most = max(20, _MOST_CLASSES // len(items))
    grids = [_class_grid(item, rows, most) for item, rows in zip(items, changed, strict=True)]
    if len(items) == 1:
        return Section("classes", "Classes", [*_recalls(document, items[0], changed[0]), grids[0]])
    return Section("classes", "Classes", [More(grid.caption, [grid]) for grid in grids])


def _class_grid(item: Mapping[str, Any], rows: ChangedRows, most: int) -> Grid:
    gained, lost = (_class_counts(rows, chosen) for chosen in (rows.became_right, rows.became_wrong))
    entries = sorted(range(len(item["per_class"])), key=lambda place: -abs(_change(item["per_class"][place])))
    lines: list[Row] = []
    for place in entries[:most]:
        entry = item["per_class"][place]
        change = _change(entry)
        scores = [entry[side][key] for key in ("recall", "f1") for side in ("first", "second")]
        cells = [Cell("" if score is None else f"{score:.4f}", score) for score in scores]
        flips = [] if gained is None or lost is None else [int(gained[place]), int(lost[place])]
        lines.append([entry["class"], entry["rows"], *cells, Cell(f"{change:+.4f}", change), *flips])
    first, second = item["first"], item["second"]
    header = ["class", "rows", f"recall of {first}", f"of {second}", f"F1 of {first}", f"of {second}", "recall gained"]
    header += [] if gained is None else ["became right", "wrong"]
    return Grid(f"{first} and {second}, the most changed recall first", header, lines, len(entries) - len(lines))


def _class_counts(rows: ChangedRows, chosen: Integers) -> Integers | None:
    """How many of these rows each class has; None where a row has several."""
    if are_sets(rows.labels):
        return None
    return np.bincount(rows.labels[chosen], minlength=len(rows.classes))


def _recalls(document: Mapping[str, Any], item: Mapping[str, Any], rows: ChangedRows) -> list[Part]:
    """The paired difference of each class's recall, those that changed most."""
    entries = item["per_class"]
    gained, lost = (_class_counts(rows, chosen) for chosen in (rows.became_right, rows.became_wrong))
    order = sorted(range(len(entries)), key=lambda place: -abs(_change(entries[place])))[:_MOST_BARS]
    order = [place for place in order if entries[place]["rows"]]
    if not order:
        return []
    # Rows of one group are not independent: intervals by rows would be too narrow for them.
    intervals = [
        None
        if gained is None or lost is None or document["by"] == "groups"
        else _paired_interval(int(gained[place]), int(lost[place]), int(entries[place]["rows"]))
        for place in order
    ]
    figure = figures.interval_bars(
        "Recall gained in each class",
        [entries[place]["class"] for place in order],
        [_change(entries[place]) for place in order],
        intervals,
        "recall, better to the right",
        reference=0.0,
    )
    caption = "The most changed classes."
    if any(interval is not None for interval in intervals):
        caption += " Intervals (95 %) are of each class alone, by its rows alone."
    return [Drawing(figure, caption)]


def _paired_interval(gained: int, lost: int, rows: int) -> tuple[float, float]:
    """Of the difference of two shares of the same rows (Bonett and Price, 2012): good from ten rows on."""
    up, down, count = (gained + 1) / (rows + 2), (lost + 1) / (rows + 2), rows + 2
    reach = 1.96 * math.sqrt(max(0.0, up + down - (up - down) ** 2) / count)
    return max(-1.0, up - down - reach), min(1.0, up - down + reach)


def _change(entry: Mapping[str, Any]) -> float:
    here, there = entry["first"]["recall"], entry["second"]["recall"]
    return 0.0 if here is None or there is None else float(there - here)


# In which settings


def _recipes(document: Mapping[str, Any]) -> Section:
    """What was asked for otherwise."""
    parts: list[Part] = []
    for item in document["comparisons"]:
        plan = " They have other fold plans." if item["same_plan"] is False else ""
        names = f"{item['first']} and {item['second']}"
        if item["changed"] is None:
            blends = [side["name"] for side in document["sides"] if side["kind"] == "blend"]
            alone = [name for name in (item["first"], item["second"]) if name in blends]
            why = f"{alone[0]} is a blend" if alone else "not known of both"
            parts.append(Text(f"{names}: no recipes to compare, {why}.{plan}"))
            continue
        keys = [value for value in item["changed"] if value["key"] != "folds_sha256"]
        if not keys:
            parts.append(Text(f"{names}: the same recipe.{plan}"))
            continue
        lines: list[Row] = [
            [str(value[key])[:_LONGEST] for key in ("key", "first", "second")] for value in keys[:_MOST_KEYS]
        ]
        what = "differ in nothing that a recipe is about" if item["same_recipe"] else "differ"
        parts.append(Text(f"{names} {what} in {counted(len(keys), 'key')}.{plan}"))
        parts.append(Grid(f"Recipes of {names}", ["key", item["first"], item["second"]], lines, len(keys) - len(lines)))
    return Section("recipes", "Recipes", parts)


def _next_command(document: Mapping[str, Any], places: Sequence[str], job: ReportJob) -> str | None:
    """More seeds where these would tell; else the page of the better side."""
    here = "" if str(job.outputs) == "outputs" else f" --outputs {shlex.quote(str(job.outputs))}"
    item = document["comparisons"][0]
    seeds = item["trainings_that_would_tell"]
    if seeds is not None and document["sides"][1]["kind"] == "run":
        try:
            record = RunFolder(Path(places[1])).load_record()
        except InputError:
            record = None
        if record is not None:
            words = shlex.join([*Asked(**record["asked"]).words(), "--name", Path(places[1]).name])
            return f"ens train {words} --seeds {seeds}{here}"
    better = places[0] if (item["difference"] or 0.0) < 0 else places[1]
    return f"ens report {shlex.quote(better)}{here}"
