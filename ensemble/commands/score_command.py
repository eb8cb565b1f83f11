"""`ens score`: test probabilities against labels that were kept apart, and how often they were looked at.

`runs/score.py` reads, scores and counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.core.complaints import counted
from ensemble.runs.score import score
from ensemble.screen.outcome import Outcome, ShownTable, shown_score

_CLASSES_SHOWN = 20  # lines of a screen; of more classes the worst half as many are shown
_BESIDE = ("accuracy", "log_loss")  # shown for each of several files, beside the metric that ranks


def run(arguments: argparse.Namespace) -> Outcome:
    """Score `arguments.scored` and show the result."""
    document = score(
        arguments.scored,
        data=arguments.data,
        labels=arguments.labels,
        metric=arguments.metric,
        outputs=arguments.outputs,
        folder=arguments.folder,
    ).document
    best = document["scored"][0]
    shown: list[str | ShownTable] = [_ranking(document), "", _metrics(document, best), "", _classes(document, best), ""]
    return Outcome(document, [*shown, *_remarks(document)])


def _ranking(document: Mapping[str, Any]) -> ShownTable:
    """A line a file, the best first: its score, and what was promised."""
    metric = document["metric"]
    beside = [name for name in _BESIDE if name != metric]
    rows = []
    for item in document["scored"]:
        score, promise = item["scores"][metric], item["promise"] or {}
        rows.append(
            [
                str(item["rank"]),
                item["name"],
                f"{item['rows']:,}",
                shown_score(score["value"]),
                _interval(score["ci95"]),
                shown_score(promise.get("value")) + " (optimistic)" * bool(promise.get("optimistic")),
                _interval(promise.get("ci95")),
                _gain(promise),
                _HELD[promise.get("held")],
                *(shown_score(item["scores"][name]["value"]) for name in beside),
            ]
        )
    headers = ["", "file", "rows", metric, "95 %", "out of fold", "95 %", "better by (95 %)", "promise", *beside]
    title = f"{document['dataset'] or 'test rows'}: test labels of {document['labels']['from']}"
    if document["independent"] == "groups":
        title += "; intervals of whole groups"
    return ShownTable(headers, rows, title)


_HELD = {True: "held", False: "broken", None: "-"}


def _metrics(document: Mapping[str, Any], item: Mapping[str, Any]) -> ShownTable:
    """Every metric of one file."""
    rows = [
        [name, shown_score(score["value"]), _interval(score["ci95"]), shown_score(item["out_of_fold"].get(name))]
        for name, score in item["scores"].items()
    ]
    return ShownTable(["metric", "test", "95 %", "out of fold"], rows, item["name"])


def _classes(document: Mapping[str, Any], item: Mapping[str, Any]) -> ShownTable:
    """Each class of one file; of many classes those of the lowest F1."""
    table, names = item["per_class"], document["classes"]
    order = list(range(len(names)))
    title = f"classes of {item['name']}"
    if len(names) > _CLASSES_SHOWN:
        known = [index for index in order if table["f1"][index] is not None]
        order = sorted(known, key=lambda index: (table["f1"][index], index))[: _CLASSES_SHOWN // 2]
        title += f": the lowest F1 of {len(names):,}; --json has all"
    rows = [
        [names[index], f"{table['rows'][index]:,}", *(shown_score(table[key][index]) for key in _SHARES)]
        for index in order
    ]
    return ShownTable(["class", "rows", *_SHARES], rows, title)


_SHARES = ("precision", "recall", "f1")


def _remarks(document: Mapping[str, Any]) -> list[str]:
    """What isn't scored, what has no promise, and how often the labels were looked at."""
    about: dict[str, list[str]] = {}  # files by remark: what is true of all of them is said once
    for item in document["scored"]:
        for text in _about(item):
            about.setdefault(text, []).append(item["name"])
    everyone = len(document["scored"])
    lines = [
        f"{'all files' if len(names) == everyone > 1 else ', '.join(names)}: {text}" for text, names in about.items()
    ]
    empty = document["labels"]["empty"]
    if empty["count"]:
        rows = counted(empty["count"], "row has", "rows have")
        lines.append(f"{document['labels']['from']}: {rows} an empty label{_examples(empty)}")
    lines += document["remarks"]
    looks, best = document["looks"], document["scored"][0]
    line = f"{_ordinal(looks['looks'])} look at these labels"
    if looks["looks"] > 1:
        line += f", the first on {looks['first']} ({_ordinal(best['looks'])} with {best['name']}); "
        line += "what is chosen by looking has no honest score here any more"
    return [*lines, line]


def _about(item: Mapping[str, Any]) -> list[str]:
    lines = []
    if (missing := item["without_label"])["count"]:
        lines.append(f"{counted(missing['count'], 'row has', 'rows have')} no label{_examples(missing)}")
    if (missing := item["without_prediction"])["count"]:
        meant = "".join(f"; does {row_id} mean {name}?" for row_id, name in list(missing["meant"].items())[:1])
        ids = counted(missing["count"], "labelled id has", "labelled ids have")
        lines.append(f"{ids} no prediction{_examples(missing)}{meant}")
    if item["doubt"] is not None:
        lines.append(f"no interval can be trusted: {item['doubt']}")
    if item["promise"] is None:
        lines.append(f"no promise: {item['promise_reason']}")
    elif item["promise"]["held"] is False:
        lines.append("worse than promised by more than chance: do training and test rows come from the same place?")
    return lines


def _examples(told: Mapping[str, Any]) -> str:
    names: Sequence[str] = told["examples"]
    return f" ({', '.join(names[:3])}{', …' if told['count'] > 3 else ''})"


def _interval(ci95: Sequence[float] | None) -> str:
    return "-" if ci95 is None else f"{ci95[0]:.4f} to {ci95[1]:.4f}"


def _gain(promise: Mapping[str, Any]) -> str:
    value, ci95 = promise.get("difference"), promise.get("difference_ci95")
    if value is None:
        return "-"
    return f"{value:+.4f}" + (f" ({ci95[0]:+.4f} to {ci95[1]:+.4f})" if ci95 else "")


def _ordinal(number: int) -> str:
    """`1st`, `2nd`, `3rd`, `4th`, `11th`."""
    last = number % 10 if number % 100 not in (11, 12, 13) else 0
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(last, 'th') }"
