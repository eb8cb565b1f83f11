"""The page of a blend: what it is worth, its members and where they disagree, its answers, and its submission.

The record says what was measured when it was blended. Where the members' files are still here, the blend is learned
anew for each fold, so that its answers can be looked at row by row; without them the record stands alone.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.blending.blend import load_blend
from ensemble.combining.combine import soft, soft_of_sets
from ensemble.combining.crossfit import Labelled
from ensemble.combining.honest import ADVICE
from ensemble.comparison.sides import BlendRows, load_blend_rows
from ensemble.core.complaints import counted
from ensemble.core.metrics import is_greater_better
from ensemble.core.records import EARLIER, Record, optimism_lines
from ensemble.core.text import natural_key
from ensemble.data.table import Table
from ensemble.errors import InputError
from ensemble.images.scan import is_unseen, scan_images
from ensemble.reporting import figures
from ensemble.reporting.member_pairs import MemberPairs, pairs_of_record
from ensemble.reporting.page import Cell, Drawing, Facts, Grid, Page, Part, ReportJob, Row, Section, Text
from ensemble.reporting.predicted_rows import PredictedRows, sections_of
from ensemble.reporting.submitted_rows import load_submitted, other_submissions, submission_sections
from ensemble.review.out_of_fold import LabelSource
from ensemble.review.suspicious_labels import find_table

_FIRST_PAIRS = 8  # whose pictures come before those of the matrix: there may be no room later
_MOST_POINTS = 200


def blend_page(places: Sequence[str], job: ReportJob) -> Page:
    """All that is known of one blend."""
    folder = Path(places[0])
    document = load_blend(folder / "blend.json")
    remarks = _doubts(document)
    blend = _load_rows(folder, document, remarks)
    rows = None if blend is None else _predicted_rows(blend, job, remarks)
    sections = [_honest(document), _members(document, blend)]
    if rows is not None and blend is not None:
        sections += _row_sections(document, blend, rows)
    elif (alike := pairs_of_record(folder, document)) is not None:
        sections.append(alike)
    if rows is None and document.get("calibration"):
        sections.append(_calibration(document["calibration"]))
    sections += _frontier(document)
    if document["suspicious"]:
        sections.append(_suspicious(document))
    sections += _submission(folder, document, rows, job, remarks)
    return Page(
        "blend",
        str(document["name"]),
        _verdict(document),
        sections,
        job.pictures,
        next_command=_next_command(folder, document, job),
        remarks=remarks,
        head=[_facts(document)],
    )


def _doubts(document: Record) -> list[str]:
    """What limits all numbers of the record."""
    lines = [] if document.is_verified else [f"blend.json: {EARLIER}"]
    if document["unverified"]:
        lines.append(f"unverified: {', '.join(document['unverified'])}: nothing vouches for their labels and folds")
    lines += optimism_lines({member["run"]: member.get("why_optimistic", ()) for member in document["members"]})
    if (other := document["other_folds"]) is not None:
        lines.append(
            f"{other['plans']} fold plans: {', '.join(other['runs'])}: another than the one that is learned and scored "
            "on; the score is slightly optimistic"
        )
    if doubt := (document["honest"] or {}).get("doubt"):
        lines.append(f"no interval can be trusted here: {doubt}")
    return lines


def _load_rows(folder: Path, document: Record, remarks: list[str]) -> BlendRows | None:
    """The members' rows with the blend's honest answers; None where they are gone, changed or without labels."""
    if document["honest"] is None:
        remarks.append(f"its answers have no honest score and are not shown: {document['honest_reason']}")
        return None
    try:
        blend = load_blend_rows(folder, is_quick=True)
    except InputError as error:
        remarks += [f"the record alone is shown: {message}" for message in error.messages]
        return None
    remarks += blend.remarks
    return blend


def _predicted_rows(blend: BlendRows, job: ReportJob, remarks: list[str]) -> PredictedRows:
    oofs = tuple(oof for member in blend.members if (oof := member.oof or member.test) is not None)
    source = LabelSource(str(blend.document["name"]), oofs, (1.0,) * len(oofs), blend.members)
    table, _, why = find_table([source], job.outputs, job.folder, job.on_event)
    if table is None:
        remarks.append(f"no pictures: {why}")
    scan = None
    if table is not None and not is_unseen(table.train, job.outputs / "cache"):
        scan = scan_images(table.train, job.outputs / "cache")
    return PredictedRows(blend.ids, blend.classes, blend.kept, blend.answers, job.pictures, table, scan)


def _row_sections(document: Mapping[str, Any], blend: BlendRows, rows: PredictedRows) -> list[Section]:
    """Where members disagree, then what is known of any predicted rows."""
    names = [str(member["run"]) for member in document["members"]]
    if len(names) < 2:
        return sections_of(rows)
    everyone = PredictedRows(rows.ids, rows.classes, blend.labelled, rows.answers, rows.pictures, rows.table)
    order = sorted(range(len(names)), key=lambda place: -document["members"][place]["weight"])
    pairs = MemberPairs(everyone, names, order)
    pairs.draw(pairs.pairs[:_FIRST_PAIRS])
    sections = sections_of(rows)
    return [pairs.section(), *sections]


# What it is worth


def _verdict(document: Mapping[str, Any]) -> str:
    """The score with its interval, and the gain over the best member, in a sentence."""
    honest, metric = document["honest"], document["metric"]
    members = counted(len(document["members"]), "member")
    if honest is None:
        return f"{document['used']} of {members} without an honest score: {document['honest_reason']}."
    units = "" if honest.get("units") is None else f" on {honest['units']:,} {honest.get('independent') or 'rows'}"
    text = f"{metric} {honest['value']:.4f}{_between(honest['ci95'])}{units} that its models did not see"
    gain = honest.get("gain_over_best_single")
    if len(document["members"]) < 2:
        return f"{text}; a single member, so there is nothing to blend."
    if gain is None:
        return f"{text}; the best member alone has {honest['best_single']['value']:.4f}."
    if gain["ci95"] == [0.0, 0.0]:
        return f"{text}; the same answers as the best member alone, {honest['best_single']['run']}."
    better = _probability(gain)
    return f"{text}; {_signed(gain)} against the best member alone, better with a probability of {better}."


def _facts(document: Mapping[str, Any]) -> Facts:
    voting = [member for member in document["members"] if member["weight"]]
    scored = document.get("scored_rows")
    pairs = [
        ("method", document["method"] if document["method"] == document["used"] else
         f"{document['method']}, used {document['used']}"),
        ("members", f"{len(document['members'])}, of which {len(voting)} have a weight"),
        ("dataset", f"{document.get('dataset') or 'not named'}, {len(document['classes']):,} classes"),
        ("test rows", f"{document['rows']:,}"),
    ]  # fmt: skip
    if scored is not None:
        pairs.append(("labelled rows", f"{scored['used']:,} of {scored['of']:,}"))
    pairs += [(key.replace("_", " "), _cost(value)) for key, value in (document["cost"] or {}).items()]
    return Facts(pairs)


def _honest(document: Mapping[str, Any]) -> Section:
    """The table of `ens blend`: best member, plain mean, what was asked for, what is used; then stages and fallback."""
    honest, metric = document["honest"], document["metric"]
    if honest is None:
        return Section("worth", "What it is worth", [Text(str(document["honest_reason"]), "warning")])
    best, mean, unused = honest["best_single"], honest.get("uniform"), document.get("asked")
    grid: list[Row] = [[f"best single ({best['run']})", best["value"], "", *_gain_cells(honest, "best_single")]]
    if mean is not None:
        grid.append(["plain mean", mean["value"], "", *_gain_cells(honest, "uniform")])
    flattering = (unused or honest).get("optimistic")
    if flattering is not None:
        name = unused["method"] if unused else document["used"]
        grid.append([f"{name} on the rows it learned from", flattering["value"], "optimistic", "", ""])
    if unused is not None:
        gain = unused.get("gain_over_uniform")
        over = "" if gain is None else f"{_signed(gain)} over the mean"
        chance = "" if gain is None else _probability(gain)
        grid.append([f"{unused['method']}, not used", unused["value"], _ends(unused["ci95"]), over, chance])
    grid.append([f"this blend ({document['name']})", honest["value"], _ends(honest["ci95"]), "", ""])
    header = ["out of fold", metric, "95 %", "gain of the blend (95 %)", "is better"]
    parts: list[Part] = []
    gains = [(f"over {name}", honest.get(f"gain_over_{key}")) for name, key in _RIVALS]
    drawn = [(name, gain) for name, gain in gains if gain is not None]
    if drawn:
        figure = figures.interval_bars(
            "Gain of the blend",
            [name for name, _ in drawn],
            [gain["value"] for _, gain in drawn],
            [gain["ci95"] for _, gain in drawn],
            f"{metric}, better to the right",
            reference=0.0,
        )
        parts.append(
            Drawing(figure, "With 95 % intervals: an interval on both sides of 0 leaves open which is better.")
        )
    parts.append(Grid("Honest score", header, grid))
    return Section("worth", "What it is worth", [*parts, *_stages(document), *_advice(document)])


_RIVALS = (("the best member", "best_single"), ("the plain mean", "uniform"))


def _gain_cells(honest: Mapping[str, Any], rival: str) -> list[Cell]:
    gain = honest.get(f"gain_over_{rival}")
    if gain is None:
        return [Cell(""), Cell("")]
    ci95 = gain["ci95"]
    level = "" if ci95 is None or ci95[0] <= 0 <= ci95[1] else "good" if ci95[0] > 0 else "bad"
    return [Cell(_signed(gain), gain["value"], level=level), Cell(_probability(gain), gain["p_better"])]


def _stages(document: Mapping[str, Any]) -> list[Part]:
    """What was tried, in the order in which it is done to the members' rows, with its verdict."""
    learned, calibration = document.get("learned") or {}, document.get("calibration") or {}
    lines = []
    if document["fallback"]:
        lines.append(("fallback", f"{document['fallback']}; {document['used']} is used, --force overrides"))
    if calibration.get("kind"):
        verdict = "used" if calibration.get("used") else "not used"
        losses = [calibration.get(key) for key in ("log_loss_with", "log_loss_without")]
        shown = "" if None in losses else f": log-loss {losses[0]:.4f} with it, {losses[1]:.4f} without"
        if (before := calibration.get("ece_without")) is not None:
            shown += f"; ECE {calibration['ece']['value']:.4f}, {before['value']:.4f} without"
        lines.append((f"calibration ({calibration['kind']}, {calibration.get('when')})", verdict + shown))
    for key, name in _LEARNED:
        if learned.get(key) is not None:
            lines.append((name, _numbers(learned[key], document["classes"] if key != "class_cuts" else None)))
    return [Facts(lines)] if lines else []


_LEARNED = (
    ("class_multipliers", "factors of classes"),
    ("class_thresholds", "thresholds of classes"),
    ("class_cuts", "cuts between classes"),
)
_MOST_LEARNED = 12


def _numbers(values: Sequence[float], names: Sequence[str] | None) -> str:
    shown = [
        f"{value:.3f}" if names is None else f"{names[place]}: {value:.3f}"
        for place, value in enumerate(values[:_MOST_LEARNED])
    ]
    return ", ".join(shown) + (f" and {len(values) - _MOST_LEARNED:,} more" if len(values) > _MOST_LEARNED else "")


def _advice(document: Mapping[str, Any]) -> list[Part]:
    """Whether the best member alone is the better submission."""
    gain = document["honest"].get("gain_over_best_single")
    run = document["honest"]["best_single"]["run"]
    suspects = {each["run"] for each in document["suspicious"]}
    if gain is None or gain["p_better"] > ADVICE or run in suspects or len(document["members"]) < 2:
        return []
    worse = f"{1 - gain['p_better']:.0%}"
    return [Text(f"The best member alone is better with a probability of {worse}; consider submitting {run}.", "note")]


def _calibration(known: Mapping[str, Any]) -> Section:
    ece = known["ece"]
    text = f"ECE {ece['value']:.4f}{_between(ece['ci95'])}, log-loss {known['log_loss']:.4f}, out of fold."
    return Section("calibration", "Calibration", [Text(text)])


# Its members


def _members(document: Mapping[str, Any], blend: BlendRows | None) -> Section:
    """A line a member: weight, own score, what the blend loses without it, cost, and why it has no say."""
    members = document["members"]
    keys = list(dict.fromkeys(key for member in members for key in member["cost"] or ()))
    worth, source = _worth(document, blend)
    suspects = {each["run"]: str(each["kind"]) for each in document["suspicious"]}
    order = sorted(
        range(len(members)), key=lambda place: (-members[place]["weight"], natural_key(members[place]["run"]))
    )
    grid: list[Row] = []
    for place in order:
        member = members[place]
        notes = [str(member["dropped"])] if member["dropped"] else []
        notes += ["optimistic"] if member.get("optimistic") else []
        notes += [f"suspicious: {suspects[member['run']]}"] if member["run"] in suspects else []
        costs = [(member["cost"] or {}).get(key) for key in keys]
        grid.append(
            [
                member["run"],
                Cell(f"{member['weight']:.3f}", member["weight"]),
                member["oof_score"],
                _worth_cell(worth.get(place)),
                *(Cell(_cost(cost), cost) for cost in costs),
                "; ".join(notes),
            ]
        )  # fmt: skip
    header = ["member", "weight", document["metric"], "worth", *(key.replace("_", " ") for key in keys), "remarks"]
    voting = [place for place in order if members[place]["weight"] > 0]
    figure = figures.bars(
        "Weights in thousandths",
        [str(members[place]["run"]) for place in voting[:_MOST_BARS]],
        [round(1000 * members[place]["weight"]) for place in voting[:_MOST_BARS]],
    )
    return Section("members", "Members", [Drawing(figure), Grid("Members", header, grid), Text(source)])


_MOST_BARS = 40


def _worth_cell(value: float | None) -> Cell:
    if value is None or math.isnan(value):
        return Cell("")
    return Cell(f"{value:+.4f}", value, level="bad" if value < 0 else "")


def _worth(document: Mapping[str, Any], blend: BlendRows | None) -> tuple[dict[int, float], str]:
    """What is lost without each member, and where that was measured."""
    known = {place: member["worth"] for place, member in enumerate(document["members"])
             if member.get("worth") is not None}  # fmt: skip
    if known:
        return known, (
            f"Worth: by how much the honest {document['metric']} falls without a member, the other weights staying in "
            "proportion, as measured when it was blended; of a method without weights, that of the plain mean."
        )
    if blend is None or sum(member["weight"] > 0 for member in document["members"]) < 2:
        return {}, "What each member is worth is not in the record."
    worth = _worth_of_weights(blend.labelled, [member["weight"] for member in document["members"]])
    return worth, (
        f"Worth is not in the record: here it is by how much {document['metric']} of the mean with these weights falls "
        "without a member. The weights saw these rows, so it flatters a little."
    )


def _worth_of_weights(labelled: Labelled, weights: Sequence[float]) -> dict[int, float]:
    combine = soft_of_sets if labelled.sets else soft
    voting = [place for place, weight in enumerate(weights) if weight > 0]

    def score(members: Sequence[int]) -> float:
        part = labelled.with_members(members)
        combined = combine(part.stack, [weights[member] for member in members])
        return labelled.measure(labelled.labels, combined.probs, decisions=combined.decisions)

    full = score(voting)
    return {
        member: labelled.sign * (full - score([other for other in voting if other != member])) + 0.0  # never a -0.0
        for member in voting
    }


def _suspicious(document: Mapping[str, Any]) -> Section:
    """Members that leak or are blends in disguise."""
    dropped = {member["run"] for member in document["members"] if member["dropped"] is not None}
    grid: list[Row] = [
        [
            each["run"],
            each["kind"],
            each["score"],
            ", ".join(each["of"]),
            "left out" if each["run"] in dropped else "kept",
            each["message"],
        ]
        for each in document["suspicious"]
    ]
    header = ["member", "what", "score", "of", "", "why"]
    return Section("suspicious", "Suspicious members", [Grid("Suspicious members", header, grid)])


def _frontier(document: Mapping[str, Any]) -> list[Section]:
    """What each second buys."""
    points = document.get("frontier") or []
    if not points:
        return []
    metric = document["metric"]
    shown = [
        (float(point["seconds_per_1000_images"]), float(point["value"]), bool(point["best"]), _point_name(point))
        for point in points[:_MOST_POINTS]
    ]
    figure = figures.frontier(
        f"What each second buys: {metric} out of fold",
        shown,
        "s per 1000 images",
        metric,
        greater_is_better=is_greater_better(metric),
    )
    grid: list[Row] = [
        [Cell(f"{cost:.4g}", cost), value, Cell("yes" if best else "", level="good" if best else ""), name,
         ", ".join(point["members"]) if len(point["members"]) > 1 else ""]
        for (cost, value, best, name), point in zip(shown, points, strict=False)
    ]  # fmt: skip
    header = ["s per 1,000 images", metric, "nothing as cheap is as good", "", "members"]
    parts: list[Part] = [
        Drawing(figure, "Members and plain means of what a budget allows, chosen without the fold that is scored."),
        Grid("Score and cost", header, grid, len(points) - len(grid)),
    ]
    return [Section("frontier", "Score and cost", parts)]


def _point_name(point: Mapping[str, Any]) -> str:
    members = point["members"]
    return str(members[0]) if len(members) == 1 else f"mean of {len(members)}"


# Its submission


def _submission(
    folder: Path, document: Mapping[str, Any], rows: PredictedRows | None, job: ReportJob, remarks: list[str]
) -> list[Section]:
    """The balance of its answers for the test rows, and what other blends answer."""
    try:
        submitted = load_submitted(folder, document)
    except InputError as error:
        remarks += [f"its submission is not shown: {message}" for message in error.messages]
        return []
    if submitted is None:
        return []
    is_alike = rows is not None and submitted.rows.classes == tuple(rows.classes)
    labels = rows.labelled.labels if rows is not None and is_alike else None
    others = other_submissions(job.outputs, folder, submitted, document)
    table: Table | None = None if rows is None else rows.table
    return submission_sections(submitted, labels, others, table, job.pictures)


def _next_command(folder: Path, document: Mapping[str, Any], job: ReportJob) -> str | None:
    """The blend beside its best member, row by row; of a single member its suspicious labels."""
    if document["honest"] is None:
        return None
    here = "" if str(job.outputs) == "outputs" else f" --outputs {shlex.quote(str(job.outputs))}"
    if len(document["members"]) < 2:
        return f"ens labels {shlex.quote(str(folder))} --out corrections.csv{here}"
    best = str(document["honest"]["best_single"]["run"]).partition("@")[0].partition("#")[0]
    return f"ens report {shlex.quote(best)} {shlex.quote(str(folder))}{here}"


# Words for numbers


def _cost(value: float | None) -> str:
    """Seconds short, parameters whole."""
    return "" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _between(ci95: Sequence[float] | None) -> str:
    return "" if ci95 is None else f" (95 %: {_ends(ci95)})"


def _ends(ci95: Sequence[float] | None) -> str:
    return "" if ci95 is None else f"{ci95[0]:.4f} to {ci95[1]:.4f}"


def _signed(gain: Mapping[str, Any]) -> str:
    ci95 = gain["ci95"]
    if ci95 == [0.0, 0.0]:  # of no other gain: only of a blend that is the very thing it is compared with
        return "the same"
    return f"{gain['value']:+.4f}" + ("" if ci95 is None else f" ({ci95[0]:+.4f} to {ci95[1]:+.4f})")


def _probability(gain: Mapping[str, Any]) -> str:
    """A whole per cent; never certainty."""
    if gain["ci95"] == [0.0, 0.0]:
        return ""
    return f"{min(max(round(100 * gain['p_better']), 1), 99)} %"
