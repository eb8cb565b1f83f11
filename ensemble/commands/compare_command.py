"""`ens compare`: whether runs, trials or blends differ by more than chance, and in what. `comparison/` computes it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.comparison.compare import compare
from ensemble.core.complaints import counted
from ensemble.screen.outcome import Outcome, ShownTable, shown_score

_CLASSES_SHOWN = 20  # lines of a screen; of more classes the half as many whose recall changed most are shown
_KEYS_SHOWN = 12  # of two recipes; --json has all
_PAIRS_SHOWN = 3


def run(arguments: argparse.Namespace) -> Outcome:
    """Compare `arguments.compared` and show the result."""
    document = compare(
        arguments.compared, metric=arguments.metric, out=arguments.out, outputs=arguments.outputs
    ).document
    shown: list[str | ShownTable] = [_sides(document), ""]
    for item in document["comparisons"]:
        shown += [item["text"], *(f"  {line}" for line in _details(document, item)), ""]
    if len(document["comparisons"]) == 1:
        shown += [_classes(document, document["comparisons"][0]), ""]
    if document["correction"]:
        shown.append(f"intervals are those of {len(document['comparisons'])} comparisons ({document['correction']})")
    if document["out"]:
        shown.append(f"rows that changed sides: {document['out']}")
    shown += document["remarks"]
    return Outcome(document, shown[:-1] if shown[-1] == "" else shown)


def _sides(document: Mapping[str, Any]) -> ShownTable:
    """A line a side: how often it was trained, its score, and how far its trainings lie apart."""
    metric = document["metric"]
    rows = []
    for side in document["sides"]:
        known = [score for score in side["scores"] if score is not None]
        spread = f"{min(known):.4f} to {max(known):.4f}" if len(known) > 1 else ""
        rows.append([side["name"], side["kind"], str(len(side["trainings"])), shown_score(side["score"]), spread])
    what = counted(document["rows"], "row")
    groups = f" in {counted(document['units'], 'group')}" if document["by"] == "groups" else ""
    most = max(side["rows"] for side in document["sides"])
    only = f", all that they share; the largest has {most:,}" if most > document["shared"] else ""
    title = f"{document['dataset'] or 'out-of-fold rows'}: {what}{groups}{only}"
    return ShownTable(["", "", "trainings", metric, "range"], rows, title)


def _details(document: Mapping[str, Any], item: Mapping[str, Any]) -> list[str]:
    """Where the doubt comes from, what was asked for otherwise, and which rows changed sides."""
    lines = []
    error = item["standard_error"]
    if error["training"] is not None and item["verdict"] != "the same answers":
        lines.append(
            f"standard error: {error['rows']:.4f} by rows, {error['training']:.4f} by training; {_noise(item)}"
        )
    lines.append(_recipes(document, item))
    rows = item["rows"]
    changed = f"{counted(rows['became_right'], 'row')} became right, {rows['became_wrong']:,} wrong"
    pairs = [f"{pair['first']} to {pair['second']} {pair['rows']:,}" for pair in rows["pairs"][:_PAIRS_SHOWN]]
    lines.append(f"decisions: {changed}" + (f"; most often {', '.join(pairs)}" if pairs else ""))
    return lines


def _noise(item: Mapping[str, Any]) -> str:
    """What the noise of training was learned from."""
    source = item["noise_from"]
    parts = ["how far folds differ"]
    if max(source["trainings"]) > 1:
        first, second = source["trainings"]
        parts.append(f"{first} and {second} trainings")
    if source["runs"]:
        again = f" ({source['trained_again']} trained again)" if source["trained_again"] else ""
        parts.append(f"{counted(source['runs'], 'other run')} of the dataset{again}")
    parts.append("a prior")
    return f"the latter from {', '.join(parts[:-1])} and {parts[-1]}"


def _recipes(document: Mapping[str, Any], item: Mapping[str, Any]) -> str:
    """What differs between both recipes, and whether they share a fold plan."""
    plan = "; other fold plans" if item["same_plan"] is False else ""
    if item["changed"] is None:
        blends = [side["name"] for side in document["sides"] if side["kind"] == "blend"]
        alone = [name for name in (item["first"], item["second"]) if name in blends]
        return f"recipes: {f'{alone[0]} is a blend' if alone else 'not known of both'}{plan}"
    keys = [value for value in item["changed"] if value["key"] != "folds_sha256"]
    if item["same_recipe"]:
        what = " and ".join(
            [*(["the seed"] * any(value["key"] == "seed" for value in keys)), *(["folds"] * bool(plan))]
        )
        return f"recipes: differ in nothing but {what}" if what else "recipes: the same"
    shown = [f"{value['key']} {value['first']}, {value['second']}" for value in keys[:_KEYS_SHOWN]]
    more = f"; and {counted(len(keys) - _KEYS_SHOWN, 'more key')}" if len(keys) > _KEYS_SHOWN else ""
    return f"recipes: {'; '.join(shown)}{more}{plan}"


def _classes(document: Mapping[str, Any], item: Mapping[str, Any]) -> ShownTable:
    """Each class on both sides; of many those whose recall changed most."""
    entries: Sequence[Mapping[str, Any]] = item["per_class"]
    title = "classes"
    if len(entries) > _CLASSES_SHOWN:
        title += f": the most changed recall of {len(entries):,}; --json has all"
        entries = sorted(entries, key=lambda entry: -abs(_change(entry)))[: _CLASSES_SHOWN // 2]
    rows = [
        [
            entry["class"],
            f"{entry['rows']:,}",
            *(shown_score(entry[side][key]) for key in ("recall", "f1") for side in ("first", "second")),
        ]
        for entry in entries
    ]
    first, second = item["first"], item["second"]
    return ShownTable(
        ["class", "rows", f"recall of {first}", f"of {second}", f"f1 of {first}", f"of {second}"], rows, title
    )


def _change(entry: Mapping[str, Any]) -> float:
    here, there = entry["first"]["recall"], entry["second"]["recall"]
    return 0.0 if here is None or there is None else there - here
