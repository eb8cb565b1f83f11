"""`ens labels`: training labels that are probably wrong, and scores by labels that a person has corrected.

`review/suspicious_labels.py` ranks, `review/rescored_labels.py` scores; this shows the result.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from ensemble.core.complaints import counted
from ensemble.errors import InputError
from ensemble.review.rescored_labels import rescore_labels
from ensemble.review.suspicious_labels import labels
from ensemble.screen.outcome import Outcome, ShownTable, here, shown_score
from ensemble.screen.progress import progress

_SHOWN = 20  # labels on the screen: what a person looks through at a sitting
_FEW = 5  # sets of contradicting labels, and pairs of classes


def run(arguments: argparse.Namespace) -> Outcome:
    """Rank labels, or score by corrected ones, and show the result."""
    if arguments.rescore is not None:
        if arguments.out is not None:
            raise InputError("--out is for the list of suspicious labels; leave it out, or leave --rescore out")
        document = rescore_labels(
            arguments.reviewed,
            arguments.rescore,
            metric=arguments.metric,
            outputs=arguments.outputs,
            folder=arguments.folder,
        ).document
        return Outcome(document, [_scores(document), *_verdict(document), *document["remarks"]])
    if arguments.metric is not None:
        raise InputError("--metric is for --rescore; leave it out")
    with progress(arguments) as on_event:
        document = labels(
            arguments.reviewed,
            out=arguments.out,
            outputs=arguments.outputs,
            folder=arguments.folder,
            on_event=on_event,
        ).document
    return Outcome(document, [*_ranking(document), *_contradictions(document), *_next_steps(document, arguments)])


def _ranking(document: Mapping[str, Any]) -> list[str | ShownTable]:
    """How many, and the most suspicious."""
    groups = "" if document["groups"] is None else f" in {counted(document['groups'], 'group')}"
    rows = counted(document["rows"], "row") + groups
    names = ", ".join(document["names"])
    title = f"{names}: {counted(document['found'], 'label')} of {rows} flagged, about {document['expected']:,.0f} "
    title += "expected to be wrong"
    if not document["labels"]:
        return [f"{title}; nothing to look at"]
    has_groups = any(item["group"] is not None for item in document["labels"])
    has_files = any(item["file"] for item in document["labels"])
    headers = ["", "id", "given", "p", "suggested", "p", "score", "flagged"]
    headers += ["group"] * has_groups + ["file"] * has_files
    shown = []
    for item in document["labels"][:_SHOWN]:
        cells = [str(item["rank"]), item["id"], item["given"] or "-", f"{item['p_given']:.3f}"]
        cells += [item["suggested"] or "-", f"{item['p_suggested']:.3f}", f"{item['score']:.3f}"]
        cells.append("yes" if item["flagged"] else "")
        shown.append(cells + [item["group"] or ""] * has_groups + [item["file"]] * has_files)
    lines: list[str | ShownTable] = [ShownTable(headers, shown, title)]
    pairs = [
        f"{pair['given'] or 'none'} for {pair['suggested'] or 'none'} ({pair['count']})"
        for pair in document["pairs"][:_FEW]
        if pair["count"] > 1
    ]
    return lines + [f"most often given: {', '.join(pairs)}"] * bool(pairs)


def _contradictions(document: Mapping[str, Any]) -> list[str]:
    """Copies and groups whose rows have different labels."""
    sets = document["contradictions"]
    if not sets:
        return []
    lines = [f"{counted(len(sets), 'set')} of rows that belong together, with different labels:"]
    for each in sets[:_FEW]:
        rows = ", ".join(f"{row['id']} ({row['given'] or 'none'})" for row in each["rows"][:_FEW])
        more = ", …" if each["count"] > _FEW else ""
        lines.append(f"  {'copies' if each['kind'] == 'copies' else 'group ' + each['group']}: {rows}{more}")
    return lines + ["  …; --json has all"] * (len(sets) > _FEW)


def _next_steps(document: Mapping[str, Any], arguments: argparse.Namespace) -> list[str]:
    lines = list(document["remarks"])
    if not document["labels"]:
        return lines
    names = shlex.join(map(str, arguments.reviewed)) + here(arguments)
    if document["out"] is None:
        step = f"ens labels {names} --out corrections.csv writes all {document['listed']:,}"
        return [*lines, f"nothing is changed by this; {step}, for you to judge"]
    out = shlex.quote(document["out"])
    return [
        *lines,
        f"written: {out} ({counted(document['listed'], 'label')})",
        "delete the lines whose given label is right; where a row is of no use, write drop in place of the label; then",
        f"  ens labels {names} --rescore {out}",
        f"  ens train --set data.corrections={out} --name NEW",
    ]


def _scores(document: Mapping[str, Any]) -> ShownTable:
    """A line a run or blend, the best by corrected labels first."""
    rows = [
        [
            str(item["rank_corrected"]),
            item["name"],
            item["kind"],
            f"{item['rows']:,}",
            f"{item['changed']:,}",
            f"{item['dropped']:,}",
            shown_score(item["given"]),
            shown_score(item["corrected"]),
            str(item["rank_given"]),
        ]
        for item in document["scored"]
    ]
    metric = document["metric"]
    headers = ["", "name", "kind", "rows", "changed", "dropped", f"{metric}, given", "corrected", "rank before"]
    return ShownTable(headers, rows, f"out-of-fold rows by {metric}; corrections: {document['corrections']['file']}")


def _verdict(document: Mapping[str, Any]) -> list[str]:
    """Whether the ranking survives."""
    best = document["scored"][0]["name"]
    if len(document["scored"]) == 1:
        return []
    if document["same_order"]:
        return [f"the order stays under the corrected labels; {best} is still the best"]
    if document["same_best"]:
        return [f"{best} stays the best under the corrected labels; others change places"]
    before = next(item["name"] for item in document["scored"] if item["rank_given"] == 1)
    return [f"the order does not survive: {best} is the best under the corrected labels, {before} was"]
