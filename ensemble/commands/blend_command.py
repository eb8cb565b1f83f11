"""`ens blend`: probability files in, a submission and its honest score out."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.blending.blend import Blend, run_blend
from ensemble.blending.options import BlendOptions, parse_weights
from ensemble.blending.selection import Point
from ensemble.blending.submission import Difference
from ensemble.combining.honest import ADVICE
from ensemble.core.complaints import counted
from ensemble.core.dataset import DatasetDescription
from ensemble.core.metrics import is_greater_better
from ensemble.core.records import doubt_lines, optimism_lines
from ensemble.core.text import natural_key
from ensemble.errors import InputError
from ensemble.recipe.find import find_dataset
from ensemble.recipe.load import load_dataset
from ensemble.reporting import figures
from ensemble.screen.outcome import Outcome, ShownTable
from ensemble.tuning.trials import trial_folders

_MOST_CHANGES = 10  # lines of a comparison; the rest are counted


def run(arguments: Namespace) -> Outcome:
    """Blend `arguments.probs` and show the result."""
    probs, skipped = _without_stopped(arguments.probs)
    options = BlendOptions(
        method=arguments.method,
        metric=arguments.metric,
        name=arguments.name,
        weights=None if arguments.weights is None else parse_weights(arguments.weights),
        calibrate=arguments.calibrate,
        calibrate_when=arguments.calibrate_when,
        tune_classes=arguments.tune_classes,
        select=arguments.select,
        max_cost=arguments.max_cost,
        force=arguments.force,
        cautious=arguments.cautious,
        other_folds=arguments.other_folds,
        outputs=arguments.outputs,
        template=arguments.template,
        out=arguments.out,
        labels=arguments.labels,
        compare=arguments.compare,
        renormalize=arguments.renormalize,
    )
    blend = run_blend(probs, options, find_dataset=_finder(arguments.folder), draw=draw_frontier)
    paths = {
        "folder": str(blend.folder),
        "submission": None if blend.submission is None else str(blend.submission),
        "out": None if blend.copy is None else str(blend.copy),
    }
    remarks = (
        [f"skipped: {', '.join(skipped)}: trials that were stopped or failed have no rows to blend"] if skipped else []
    )
    compared = {} if blend.difference is None else {"compared": blend.difference.plain()}
    return Outcome({**blend.document, "paths": paths, **compared}, [*remarks, *_shown(blend)])


def _without_stopped(probs: Sequence[str]) -> tuple[list[str], list[str]]:
    """The members, and folders of a study's unfinished trials among them; a study's folder stands for its trials."""
    members = [member for given in probs for member in _trials_of(given)]
    skipped = [
        given
        for given in members
        if (Path(given) / "trial.json").is_file()
        and not any((Path(given) / name).exists() for name in ("probs.npy", "oof.npy"))
    ]
    return [given for given in members if given not in skipped], [Path(given).name for given in skipped]


def _trials_of(given: str) -> list[str]:
    """The folders of a study's trials, by number; else what was given."""
    if not (Path(given) / "study.json").is_file():
        return [given]
    return [str(folder) for folder in trial_folders(Path(given))]


def draw_frontier(points: Sequence[Point], names: Sequence[str], metric: str) -> str:
    """The frontier as a picture."""
    shown = [
        (
            point.cost,
            point.value,
            point.best,
            names[point.members[0]] if len(point.members) == 1 else f"mean of {len(point.members)}",
        )
        for point in points
    ]
    title = f"What each second buys: {metric} out of fold"
    return figures.frontier(
        title, shown, "s per 1000 images", metric, greater_is_better=is_greater_better(metric)
    ).standalone()


def _finder(folder: Path) -> Callable[[str], DatasetDescription | None]:
    """Finds a dataset's description by its name; None where it is unknown, as files from elsewhere may name any."""

    def find(name: str) -> DatasetDescription | None:
        try:
            find_dataset(name, folder)
        except InputError:
            return None
        return load_dataset(name, folder)  # one that is there but broken is an error

    return find


def _shown(blend: Blend) -> list[str | ShownTable]:
    """What a person sees."""
    document = blend.document
    shown: list[str | ShownTable] = [_members(document), *_honest(document), *_remarks(blend)]
    if document["renormalized_rows"]:
        rows = counted(document["renormalized_rows"], "row did not sum to 1 and was", "rows did not sum to 1 and were")
        shown.append(f"{rows} divided by their sum")
    if blend.submission is None:
        shown.append("the members have no test rows: no submission")
    else:
        shown.append(f"submission: {blend.submission} ({counted(document['rows'], 'row')})")
    if blend.sample is not None:
        shown.append(f"rows and columns as in {blend.sample}")
    if blend.missing_sample is not None:
        shown.append(
            f"the dataset's sample file, {blend.missing_sample}, was not found; columns are those of its description, "
            "rows those of the test table; --template F names it"
        )
    if blend.copy is not None:
        shown.append(f"also at: {blend.copy}")
    shown += [] if blend.difference is None else _difference(blend.difference)
    voting = [member for member in document["members"] if member["weight"]]
    if all(member["identity"] for member in voting):  # adopted files have no weights to apply
        shown.append(f"new images: ens predict {shlex.quote(str(blend.folder))} --images DIR")
    return shown


def _difference(difference: Difference) -> list[str | ShownTable]:
    """How many rows changed against the old submission, and from which class to which."""
    share = difference.changed / difference.rows
    line = f"against {difference.path}: {difference.changed} of {counted(difference.rows, 'row')} changed ({share:.1%})"
    if difference.largest is not None:
        line += f", probabilities by {difference.largest:.4f} at most"
    if not difference.changes:
        return [line]
    rows = [[old, new, str(count)] for old, new, count in difference.changes[:_MOST_CHANGES]]
    rest = difference.changes[_MOST_CHANGES:]
    if rest:
        rows.append([counted(len(rest), "more pair"), "", str(sum(count for _, _, count in rest))])
    return [line, ShownTable(["from", "to", "rows"], rows)]


def _members(document: Mapping[str, Any]) -> ShownTable:
    """One line a member, and the blend's cost last."""
    members = sorted(document["members"], key=lambda member: natural_key(member["run"]))
    costs = [member["cost"] or {} for member in members]
    keys = list(dict.fromkeys(key for cost in costs for key in cost))
    rows = [
        [
            member["run"] + (" (optimistic)" if member.get("optimistic") else ""),
            f"{member['weight']:.3f}",
            _score(member["oof_score"]),
            "-" if member["worth"] is None else f"{member['worth']:+.4f}",
            *(_number(cost.get(key)) for key in keys),
        ]
        for member, cost in zip(members, costs, strict=True)
    ]
    total = document["cost"] or {}
    honest = document["honest"]
    last = [
        document["name"],
        "1.000",
        _score(honest and honest["value"]),
        "",
        *(_number(total.get(key)) for key in keys),
    ]
    headers = ["run", "weight", f"oof {document['metric']}", "worth", *(key.replace("_", " ") for key in keys)]
    return ShownTable(headers, [*rows, last], f"{document['used']} vote of {len(rows)}")


def _honest(document: Mapping[str, Any]) -> list[str | ShownTable]:
    """Best single, plain mean and the blend, with its gains over both; and the named method, where it isn't used."""
    honest, unused = document["honest"], document["asked"]
    if honest is None:
        return [f"no honest score: {document['honest_reason']}"]
    best, uniform = honest["best_single"], honest["uniform"]
    single, mean = honest["gain_over_best_single"], honest["gain_over_uniform"]
    rows = [
        [f"best single ({best['run']})", _score(best["value"]), "", _gain(single), _probability(single)],
        ["plain mean", _score(uniform["value"]), "", _gain(mean), _probability(mean)],
    ]
    learned = unused or honest
    if learned["optimistic"] is not None:
        name = f"{unused['method'] if unused else document['used']} on the rows it learned from"
        rows.append([name, _score(learned["optimistic"]["value"]), "optimistic", "", ""])
    if unused is not None:
        gain = unused["gain_over_uniform"]
        rows.append(
            [
                f"{unused['method']}, not used",
                _score(unused["value"]),
                _interval(unused["ci95"]),
                f"{_gain(gain)} over the mean",
                _probability(gain),
            ]
        )
    rows.append([f"this blend ({document['name']})", _score(honest["value"]), _interval(honest["ci95"]), "", ""])
    headers = ["out-of-fold", document["metric"], "95 %", "gain of the blend (95 %)", "is better"]
    return [ShownTable(headers, rows, f"honest score ({honest['units']:,} {honest['independent']})")]


def _remarks(blend: Blend) -> list[str | ShownTable]:
    """What else a person should know, a sentence each."""
    document, folder = blend.document, blend.folder
    honest, members, scored = document["honest"], document["members"], document["scored_rows"]
    shown: list[str | ShownTable] = []
    if scored is not None and scored["used"] < scored["of"]:
        shown.append(
            f"scores and what is learned are from {scored['used']:,} of {scored['of']:,} out-of-fold rows, "
            "drawn evenly: all of them would not fit into memory"
        )
    if document["fallback"] is not None:
        shown.append(f"{document['fallback']}; {document['used']} is used, --force overrides")
    elif document["method"] == "auto" and honest is not None:
        single, mean = honest["best_single"]["value"], honest["uniform"]["value"]
        shown.append(
            f"auto used {document['used']}: honest {document['metric']} {_score(honest['value'])}, "
            f"the plain mean {_score(mean)}, best single {_score(single)}"
        )
    shown += [f"left out: {member['run']}: {member['dropped']}" for member in members if member["dropped"] is not None]
    shown += optimism_lines({member["run"]: member.get("why_optimistic", ()) for member in members})
    dropped = {member["run"] for member in members if member["dropped"] is not None}
    suspects = [each for each in document["suspicious"] if each["run"] not in dropped]
    shown += [f"suspicious, yet kept: {each['run']}: {each['message']}" for each in suspects]
    if (other := document["other_folds"]) is not None:
        runs, has = ", ".join(other["runs"]), "has" if len(other["runs"]) == 1 else "have"
        shown.append(
            f"{other['plans']} fold plans: {runs} {has} another than the one that is learned and scored on; "
            "the score is slightly optimistic"
        )
    shown += _calibration(document["calibration"])
    if len(members) == 1:
        shown.append("one member: nothing to blend, these are its own predictions")
    elif honest is not None and honest["gain_over_best_single"]["p_better"] <= ADVICE:
        run, worse = honest["best_single"]["run"], 1 - honest["gain_over_best_single"]["p_better"]
        if run not in {each["run"] for each in document["suspicious"]}:
            shown.append(
                f"the best member alone is better with a probability of {worse:.0%}; consider submitting {run}"
            )
    if honest is not None and honest["doubt"] is not None:
        shown.append(f"no interval or probability here can be trusted: {honest['doubt']}")
    if document["frontier"]:
        shown.append(f"what each second buys: {folder / 'frontier.csv'}")
    return [*shown, *doubt_lines(blend.doubts)]


def _calibration(known: Mapping[str, Any] | None) -> list[str]:
    """The expected calibration error, and what calibration has done to the log-loss."""
    if known is None:
        return []
    ece = known["ece"]
    line = (
        f"calibration error (ECE, out of fold): {ece['value']:.3f}, 95 % {ece['ci95'][0]:.3f} to {ece['ci95'][1]:.3f}"
    )
    if known["kind"] is None:
        return [line]
    line += f"; {known['ece_without']['value']:.3f} without {known['kind']}" if known["used"] else ""
    lines = [
        f"--calibrate {known['kind']} is {'used' if known['used'] else 'not used'}: log-loss out of fold "
        f"{known['log_loss_with']:.4f} with it, {known['log_loss_without']:.4f} without",
        line,
    ]
    if known["when"] == "before":
        lines.append("--calibrate-when before often harms: blending after calibration makes probabilities too unsure")
    return lines


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"


def _interval(ci95: list[float] | None) -> str:
    return "-" if ci95 is None else f"{ci95[0]:.4f} to {ci95[1]:.4f}"


def _probability(gain: Mapping[str, Any]) -> str:
    """A whole per cent; never certainty."""
    if gain["ci95"] == [0.0, 0.0]:
        return "-"
    share = gain["p_better"]
    return f"{min(max(round(100 * share), 1), 99)} %"


def _gain(gain: Mapping[str, Any]) -> str:
    ci95 = gain["ci95"]
    if ci95 == [0.0, 0.0]:  # of no other gain: only of a blend that is the very thing it is compared with
        return "the same"
    interval = "" if ci95 is None else f" ({ci95[0]:+.4f} to {ci95[1]:+.4f})"
    return f"{gain['value']:+.4f}{interval}"
