"""The index of an outputs folder: a leaderboard a fold plan, studies, blends, what is missing and what to do next."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from ensemble.core.complaints import counted
from ensemble.core.metrics import is_greater_better
from ensemble.core.records import EARLIER, doubt_lines, optimism_lines
from ensemble.reporting import figures
from ensemble.reporting.page import Cell, Drawing, Grid, Page, Part, ReportJob, Row, Section, Text
from ensemble.reporting.page_files import PageLinks
from ensemble.runs.status import KINDS, RunLine, Status, next_step, plan_of, run_lines, status
from ensemble.runs.study_record import study_numbers

_CELLS = 13_000  # of all leaderboards together: 60 bytes each, 0.8 MB
_TABLES = 20  # leaderboards of a plan each; the rest share one
_FRONTIERS = 6
_DOTS = 80  # of a frontier beside its best: a name each, and more names do not fit
_LINES = 200  # of studies, blends and missing things
_FEW = 3  # missing things of one run in its line
_LONGEST = 300  # characters of a message
_COLUMNS = ("state", "folds", "model", "score", "± of folds", "log_loss", "s / 1,000", "parameters", "trained")


@dataclass(frozen=True)
class _Key:
    """What must agree for scores to compare."""

    dataset: str
    metric: str
    plan: str | None


@dataclass
class _Board:
    """Runs and blends that compare with each other."""

    key: _Key
    lines: list[RunLine] = field(default_factory=list)
    blends: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def greater_is_better(self) -> bool:
        item = self.lines[0].runs[0] if self.lines else self.blends[0]
        return bool(is_greater_better(self.key.metric, item))


def index_page(places: Sequence[str], job: ReportJob) -> Page:
    """Everything in an outputs folder, as its files say it now."""
    report = status(places[0])
    links = PageLinks(job.outputs, job.page)
    boards, unreadable = _boards(report)
    command, step = _next(report, job)
    sections = [
        *_leaderboards(boards, unreadable, links),
        _frontiers(boards),
        _studies(report["studies"], links),
        _blends(report["blends"], links),
        _missing(report),
        _caution(report),
        _pages(report, links),
    ]
    sections = [section for section in sections if section.parts]
    return Page(
        "index",
        f"What is in {places[0]}",
        _verdict(report, boards),
        sections or [Section("runs", "Runs", [Text("Nothing was trained yet.")])],
        job.pictures,
        next_command=command,
        head=[Text(f"Next: {step}")] if command is None else [],
    )


def _boards(report: Status) -> tuple[list[_Board], list[Mapping[str, Any]]]:
    """Runs and blends by what must agree, the fullest first, and runs that can't be read."""
    boards: dict[_Key, _Board] = {}
    unreadable = []
    for line in run_lines(report["runs"], report["seeds"]):
        item = line.runs[0]
        if item["state"] == "unreadable":
            unreadable.append(item)
            continue
        key = _Key(str(item["dataset"]), str(item["metric"]), plan_of(item))
        boards.setdefault(key, _Board(key)).lines.append(line)
    for item in report["blends"]:
        if item["state"] != "unreadable" and _finite((item.get("honest") or {}).get("value")) is not None:
            key = _Key(str(item["dataset"]), str(item["metric"]), plan_of(item))
            boards.setdefault(key, _Board(key)).blends.append(item)
    full = sorted(boards.values(), key=lambda board: -len(board.lines))  # stable: else in the order of `run_lines`
    return full, unreadable


# The sentence, and what to do next


def _verdict(report: Status, boards: Sequence[_Board]) -> str:
    """How many there are of each kind, and the best of the fullest leaderboard."""
    counts = [counted(len(report[plural]), kind, plural) for kind, plural in KINDS.items() if report[plural]]
    if not counts:
        return "Nothing is here yet."
    text = ", ".join(counts)
    for board in boards:
        scored = [line for line in board.lines if line.value is not None]
        if not scored:
            continue
        best = scored[0]  # `run_lines` put the best first
        what = f"{board.key.metric} {best.value:.4f}"
        among = f", the best of {len(scored):,} and so a little optimistic" if len(scored) > 1 else ""
        flattered = ", optimistic" if any(run["optimistic"] for run in best.runs) else ""
        text += f"; on {board.key.dataset} run {best.name} leads with {what}{flattered or among}"
        blends = [item for item in board.blends if item["honest"]["value"] is not None]
        if blends:
            pick = max if board.greater_is_better else min
            blend = pick(blends, key=lambda item: float(item["honest"]["value"]))
            text += (
                f"; blend {blend['blend']} has {blend['honest']['value']:.4f}{_between(blend['honest'].get('ci95'))}"
            )
        break
    else:
        text += "; none has a score yet"
    return f"{text}."


def _next(report: Status, job: ReportJob) -> tuple[str | None, str]:
    """The command to copy, where the next step is one and no more; and the step in words."""
    step = next_step(report, job.here)
    command = step.rpartition(" continues ")[0] or step
    is_command = step.startswith("ens ")
    return (command if is_command else None), step


# Leaderboards


def _leaderboards(boards: Sequence[_Board], unreadable: Sequence[Mapping[str, Any]], links: PageLinks) -> list[Section]:
    """A table a fold plan; plans with a single line share one, as nothing can be compared in them."""
    with_runs = [board for board in boards if board.lines]
    own = [board for board in with_runs if len(board.lines) > 1 or len(with_runs) == 1][:_TABLES]
    others = [board for board in with_runs if board not in own]
    parts: list[Part] = []
    room = _CELLS // (len(_COLUMNS) + 3)
    for board in own:
        shown = board.lines[: max(10, room)]
        room -= len(shown)
        rows = [_line(line, board.key.metric, links) for line in shown]
        names = ["run", *(board.key.metric if name == "score" else name for name in _COLUMNS), "notes"]
        parts.append(Grid(_caption(board), names, rows, len(board.lines) - len(shown)))
    lines = [(board, line) for board in others for line in board.lines]
    if lines:
        shown_lines = lines[: max(10, room)]
        table: list[Row] = [
            [*_line(line, board.key.metric, links), board.key.dataset, board.key.metric, board.key.plan or "-"]
            for board, line in shown_lines
        ]
        caption = "On fold plans of their own: no score here compares with another, except on the same plan and metric"
        names = ["run", *_COLUMNS, "notes", "dataset", "metric", "plan"]
        parts.append(Grid(caption, names, table, len(lines) - len(shown_lines)))
    if unreadable:
        broken: list[Row] = [[_name(item, "run", links), _few(item["missing"])] for item in unreadable[:_LINES]]
        parts.append(Grid("Runs that can't be read", ["run", "why"], broken, len(unreadable) - len(broken)))
    if own or lines:
        parts.append(
            Text(
                "± of folds: deviation of the folds' scores. s / 1,000: seconds for 1,000 images. Trained: time of all."
            )
        )
    if len(with_runs) > 1:
        parts.insert(
            0, Text(f"{len(with_runs):,} fold plans, datasets or metrics: scores compare within a table only.")
        )
    return [Section("runs", "Runs", parts)]


def _caption(board: _Board) -> str:
    plan = f", fold plan {board.key.plan}" if board.key.plan else ""
    better = "more" if board.greater_is_better else "less"
    return f"{board.key.dataset}{plan}: {board.key.metric} out of fold, {better} is better"


def _line(line: RunLine, metric: str, links: PageLinks) -> list[Cell | str | int | float | None]:
    """One run, or the seeds of one recipe: folds and training time of all, scores as mean and deviation."""
    states = [state for run in line.runs for state in run["fold_states"]]
    done = sum(state["state"] == "complete" for state in states)
    seconds = [state["seconds"] for state in states if state["seconds"] is not None]
    costs = [run["cost"] for run in line.runs if run["cost"]]
    scores = [(run["scores"] or {}).get("oof") or {} for run in line.runs]
    spread = [value for state in states if (value := _finite((state["scores"] or {}).get(metric))) is not None]
    notes = ["optimistic"] * any(run["optimistic"] for run in line.runs)
    notes += ["unverified"] * (not all(run["verified"] for run in line.runs))
    notes += ["something is missing"] * any(run["missing"] and run["state"] != "running" for run in line.runs)
    return [
        Cell(line.name, href=links.to("run", _place(line))),
        Cell(line.state, level="bad" if line.state == "failed" else ""),
        Cell(f"{done}/{len(states)}", done / max(1, len(states))),
        str(line.runs[0]["recipe"]["model"].get("name", "-")),
        _mean([each.get(metric) for each in scores]),
        _mean(spread, only_spread=True),
        None if metric == "log_loss" else _mean([each.get("log_loss") for each in scores]),
        Cell(f"{(cost := fmean(each['seconds_per_1000_images'] for each in costs)):.2f}", cost) if costs else None,
        Cell(f"{(size := fmean(each['parameters'] for each in costs)):,.0f}", size) if costs else None,
        Cell(f"{sum(seconds):,.0f} s", sum(seconds)) if seconds else None,
        ", ".join(notes),
    ]


def _place(line: RunLine) -> str:
    """The folder that a line leads to; of several seeds that of the shortest name."""
    return str(line.runs[0]["path"] if line.group is None else _base(line)["path"])


def _base(line: RunLine) -> Mapping[str, Any]:
    assert line.group is not None
    return next(run for run in line.runs if run["run"] == line.group["run"])


def _mean(values: Sequence[Any], *, only_spread: bool = False) -> Cell | None:
    """The value; of several the mean and its deviation, or the deviation alone."""
    known = [value for each in values if (value := _finite(each)) is not None]
    if not known or (only_spread and len(known) < 2):
        return None
    if len(known) == 1:
        return Cell(f"{known[0]:.4f}", known[0])
    if only_spread:
        return Cell(f"± {stdev(known):.4f}", stdev(known))
    of = f" of {len(known)}" if len(known) < len(values) else ""
    return Cell(f"{fmean(known):.4f} ± {stdev(known):.4f}{of}", fmean(known))


def _between(ends: Sequence[float] | None) -> str:
    return "" if ends is None else f" (95 %: {ends[0]:.4f} to {ends[1]:.4f})"


def _name(item: Mapping[str, Any], kind: str, links: PageLinks) -> Cell:
    return Cell(str(item[kind]), href=links.to(kind, str(item["path"])))


# Score against cost


def _frontiers(boards: Sequence[_Board]) -> Section:
    """What each plan's runs and blends cost and score; a blend by its honest number."""
    parts: list[Part] = []
    for board in boards:
        points = _points(board)
        if len(points) > 1 and len(parts) < _FRONTIERS:
            drawing = figures.frontier(
                f"{board.key.dataset}, fold plan {board.key.plan}" if board.key.plan else board.key.dataset,
                _kept(points),
                "s for 1,000 images",
                board.key.metric,
                greater_is_better=board.greater_is_better,
            )
            parts.append(Drawing(drawing, _frontier_caption(points)))
    return Section("frontier", "Score against cost", parts)


def _points(board: _Board) -> list[tuple[float, float, bool, str]]:
    """(cost, score, whether nothing cheaper is as good, name), the cheapest first."""
    known = []
    for line in board.lines:
        costs = [run["cost"]["seconds_per_1000_images"] for run in line.runs if run["cost"]]
        value = _finite(line.value)
        if costs and value is not None:
            known.append((fmean(costs), value, line.name))
    for item in board.blends:
        cost = _finite((item.get("cost") or {}).get("seconds_per_1000_images"))
        if cost is not None:
            known.append((cost, float(item["honest"]["value"]), f"blend {item['blend']}"))
    sign = 1 if board.greater_is_better else -1
    known.sort(key=lambda point: (point[0], -sign * point[1], point[2]))
    points, best = [], -math.inf
    for cost, value, name in known:
        points.append((cost, value, sign * value > best, name))
        best = max(best, sign * value)
    return points


def _kept(points: Sequence[tuple[float, float, bool, str]]) -> list[tuple[float, float, bool, str]]:
    """All of the frontier, up to a number, and an even choice of the others."""
    best = [place for place, point in enumerate(points) if point[2]][-_DOTS:]
    others = [place for place, point in enumerate(points) if not point[2]]
    others = others[:: max(1, math.ceil(len(others) / _DOTS))]
    return [points[place] for place in sorted([*best, *others])]


def _frontier_caption(points: Sequence[tuple[float, float, bool, str]]) -> str:
    shown = len(_kept(points))
    drawn = f" {shown:,} of {len(points):,} are drawn." if shown < len(points) else ""
    return f"The line joins what nothing cheaper matches. A blend stands at its honest score.{drawn}"


# Studies, blends


def _studies(studies: Sequence[Mapping[str, Any]], links: PageLinks) -> Section:
    rows: list[Row] = []
    for item in studies[:_LINES]:
        numbers = {each.name: each for each in study_numbers(item)} if item.get("best") else {}
        cells: list[Cell | None] = []
        for name in ("best", "weights", "again", "nested"):
            number = numbers.get(name)
            if number is None or number.value is None:
                cells.append(None)
                continue
            mark = " (optimistic)" if number.optimistic else ""
            cells.append(Cell(f"{number.value:.4f}{_between(number.ci95)}{mark}", number.value))
        counts = item["trials"]
        rows.append(
            [
                _name(item, "study", links),
                Cell(item["state"], level="bad" if item["state"] == "unreadable" else ""),
                counts["all"],
                counts["complete"],
                counts["stopped"],
                counts["failed"],
                str(item.get("dataset", "-")),
                str(item.get("metric", "-")),
                *cells,
            ]
        )
    header = ["study", "state", "trials", "complete", "stopped", "failed", "dataset", "metric"]
    header += ["best trial", "its weights", "its recipe again", "the search"]
    grid = Grid("Studies; each number of the best trial with its 95 % interval", header, rows, len(studies) - len(rows))
    return Section("studies", "Studies", [grid] if studies else [])


def _blends(blends: Sequence[Mapping[str, Any]], links: PageLinks) -> Section:
    rows: list[Row] = []
    for item in blends[:_LINES]:
        honest = item.get("honest") or {}
        value, gain = _finite(honest.get("value")), honest.get("gain_over_best_single") or {}
        cost = _finite((item.get("cost") or {}).get("seconds_per_1000_images"))
        why = item.get("honest_reason") or (honest.get("doubt") if not honest.get("trusted", True) else None)
        rows.append(
            [
                _name(item, "blend", links),
                str(item.get("used") or item.get("method") or item["state"]),
                len(item.get("members") or ()),
                str(item.get("dataset", "-")),
                str(item.get("metric", "-")),
                plan_of(item) or "-",
                None if value is None else Cell(f"{value:.4f}{_between(honest.get('ci95'))}", value),
                None if _finite(gain.get("value")) is None else Cell(_gain(gain), gain["value"]),
                None if cost is None else Cell(f"{cost:.2f}", cost),
                ", ".join([*(["unverified"] if not item["verified"] else []), *([str(why)[:_LONGEST]] if why else [])]),
            ]
        )
    header = ["blend", "method", "members", "dataset", "metric", "plan", "honest score"]
    header += ["gain over the best member", "s / 1,000 images", "notes"]
    caption = "Blends, on rows that their weights were not chosen by"
    return Section("blends", "Blends", [Grid(caption, header, rows, len(blends) - len(rows))] if blends else [])


def _gain(gain: Mapping[str, Any]) -> str:
    ends = gain.get("ci95")
    return f"{gain['value']:+.4f}" + ("" if ends is None else f" (95 %: {ends[0]:+.4f} to {ends[1]:+.4f})")


# What is missing, and what to be careful about


def _missing(report: Status) -> Section:
    """What runs, studies and blends lack, and what is being worked on."""
    rows: list[Row] = []
    for kind, plural in KINDS.items():
        for item in report[plural]:
            if item["state"] == "running":
                rows.append([kind, str(item[kind]), Cell("running", level="good"), _work(item, kind)])
            elif item["missing"]:
                rows.append([kind, str(item[kind]), str(item["state"]), _few(item["missing"])])
    shown = rows[:_LINES]
    header = ["kind", "name", "state", "what"]
    grid = Grid("What is being worked on, and what is missing", header, shown, len(rows) - len(shown))
    return Section("missing", "Not finished", [grid] if rows else [])


def _work(item: Mapping[str, Any], kind: str) -> str:
    """How far it is."""
    if kind == "study":
        return ", ".join(f"trial {number}" for number in item["under_way"]) or "between trials"
    folds = [f"fold {each['fold']}, epoch {each['epoch']} of {each['epochs']}" for each in item["progress"]]
    return "; ".join(folds) or "between folds"


def _few(messages: Sequence[str]) -> str:
    more = f"; {len(messages) - _FEW} more" if len(messages) > _FEW else ""
    return "; ".join(message[:_LONGEST] for message in messages[:_FEW]) + more


def _caution(report: Status) -> Section:
    """How often test labels were looked at, and which scores flatter or are vouched for by nothing."""
    parts: list[Part] = []
    looks = report["scored"]
    parts += [
        Text(f"Looks at test labels are unknown: {each['error']}", "warning") for each in looks if "error" in each
    ]
    rows: list[Row] = [
        [
            str(each["dataset"] or "-"),
            each["rows"],
            each["looks"],
            str(each["first"]),
            str(each["last"]),
            _few([f"{file['name']} ({file['looks']})" for file in each["files"]]),
        ]
        for each in looks
        if "error" not in each
    ]
    if rows:
        parts.append(Text("Every look at test labels that decides what is taken next makes their score optimistic."))
        header = ["dataset", "rows", "looks", "first", "last", "by what"]
        parts.append(Grid("How often test labels were looked at", header, rows[:_LINES], max(0, len(rows) - _LINES)))
    lines = optimism_lines({f"run {item['run']}": item.get("why_optimistic") or () for item in report["runs"]})
    lines += doubt_lines(
        {
            f"{kind} {item[kind]}": EARLIER
            for kind, plural in KINDS.items()
            for item in report[plural]
            if not item["verified"] and item["state"] != "unreadable"
        }
    )
    parts += [
        Text(line if len(line) <= 2 * _LONGEST else f"{line[: 2 * _LONGEST]}…", "note") for line in lines[:_LINES]
    ]
    return Section("caution", "What to be careful about", parts)


def _pages(report: Status, links: PageLinks) -> Section:
    """Pages that are there already and that no table leads to: datasets, comparisons, trials."""
    linked = {links.to(kind, str(item["path"])) for kind, plural in KINDS.items() for item in report[plural]}
    names = [name for name in links.names if name != "index" and links.of(name) not in linked]
    rows: list[Row] = [[Cell(name, href=links.of(name))] for name in names[:_LINES]]
    grid = Grid("Other pages beside this one", ["page"], rows, len(names) - len(rows))
    return Section("pages", "Other pages", [grid] if rows else [])


def _finite(value: Any) -> float | None:
    """A number that can be drawn, else None."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
