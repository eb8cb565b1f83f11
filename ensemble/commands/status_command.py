"""`ens status`: the leaderboard and what is missing. `runs/status.py` reads the files and words the next step."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from ensemble.core.complaints import counted
from ensemble.core.records import EARLIER, doubt_lines, optimism_lines
from ensemble.core.run import FoldKey
from ensemble.core.text import visible_json
from ensemble.errors import InputError, PartialFailure
from ensemble.runs.fold_progress import FoldProgress
from ensemble.runs.status import KINDS, RunLine, Status, StatusReader, next_step, plan_of, run_lines, status
from ensemble.runs.study_record import study_numbers
from ensemble.screen.board import (
    FoldFacts,
    Line,
    LiveArea,
    aligned,
    clip,
    fold_name,
    shown_duration,
    total_remaining,
)
from ensemble.screen.outcome import (
    Outcome,
    ShownTable,
    here,
    is_numeric_column,
    shown,
    shown_interval,
    shown_score,
    shown_seeds,
)
from ensemble.screen.progress import may_redraw, terminal_size

_TRIALS = ("all", "complete", "stopped", "failed")
_NUMBERS = {"best": "best trial (95 %)", "weights": "its weights (95 %)", "again": "its recipe (95 %)"}
_MISSING_SHOWN = 20  # lines of runs with something missing: a screen; --json has all
_FEW = 3  # missing things of one run in its line
_TICK_S = 0.5  # the clocks on a terminal go on between looks
_WITH_TITLE = 5  # lines: title, headers, two rows, the count of the others
_LONGEST_CELL = 40  # as in the table of `ens train`; on a narrow terminal a third of it
_DROPPED_FIRST = (  # where a terminal is narrow
    *("parameters", "s/1000 images", "log_loss", "its recipe (95 %)", "its weights (95 %)", "failed", "stopped"),
    *("model", "mean of folds", "method", "members", "metric", "plan", "state"),
)


def run(arguments: argparse.Namespace) -> Outcome:
    """Read the outputs folder and show it, once or until it is enough."""
    if arguments.where:
        arguments.outputs = Path(arguments.where)
    if arguments.watch is not None:
        return _watch(arguments)
    if arguments.until_done:
        raise InputError("ens status: --until-done goes with --watch")
    report = status(arguments.outputs)
    return Outcome(report, _shown(report, here(arguments)))


def _shown(report: Status, elsewhere: str) -> list[str | ShownTable]:
    """All that a person sees of a look."""
    return [*_tables(report), *_notes(report, elsewhere, _running_lines(report))]


def _tables(report: Mapping[str, Any]) -> list[str | ShownTable]:
    """Runs, studies and blends, a blank line after each table."""
    shown: list[str | ShownTable] = []
    for table in _leaderboards(report):
        shown += [table, ""]
    if report["studies"]:
        shown += [_studies(report["studies"]), ""]
    if report["blends"]:
        shown += [_blends(report["blends"]), ""]
    return shown


def _running_lines(report: Mapping[str, Any]) -> list[str]:
    """A line for each run and study that another process works on."""
    lines = [_running(item) for item in report["runs"] if item["state"] == "running"]
    return lines + [_searching(item) for item in report["studies"] if item["state"] == "running"]


def _notes(report: Mapping[str, Any], elsewhere: str, running: Sequence[str]) -> list[str]:
    """What stands below the tables: who is at work, what is missing or in doubt, and the next command."""
    missing = [
        f"missing: {kind} {item[kind]}: {_few(item['missing'])}"
        for kind, plural in KINDS.items()
        for item in report[plural]
        if item["missing"] and (kind != "run" or item["state"] != "running")  # a running one is making them
    ]
    if len(missing) > _MISSING_SHOWN:
        more = f"missing: something in {len(missing) - _MISSING_SHOWN} more; ens status --json has all"
        missing = [*missing[:_MISSING_SHOWN], more]
    flattered = {f"run {item['run']}": item.get("why_optimistic") or () for item in report["runs"]}
    looks = [_looks(item) for item in report["scored"]]
    doubts = {
        f"{kind} {item[kind]}": EARLIER
        for kind, plural in KINDS.items()
        for item in report[plural]
        if not item["verified"] and item["state"] != "unreadable"
    }
    now = [*running, *missing, *optimism_lines(flattered), *doubt_lines(doubts), *looks]
    return [*now, *[""] * bool(now), f"next: {next_step(report, elsewhere)}"]


def _leaderboards(report: Mapping[str, Any], now: float | None = None) -> list[ShownTable]:
    """A table for each dataset and deciding metric, since only such runs can be compared; the best run first.

    `now`: the time, where a column says how long the folds that are left will take.
    """
    groups: dict[tuple[str, str], list[RunLine]] = {}
    unreadable = []
    for line in run_lines(report["runs"], report["seeds"]):
        item = line.runs[0]
        if item["state"] == "unreadable":
            unreadable.append([item["run"], item["state"], _few(item["missing"])])
        else:
            groups.setdefault((item["dataset"], item["metric"]), []).append(line)
    tables = [_leaderboard(dataset, metric, lines, now) for (dataset, metric), lines in groups.items()]
    return tables + ([ShownTable(["run", "state", "why"], unreadable)] if unreadable else [])


def _leaderboard(dataset: str, metric: str, lines: list[RunLine], now: float | None) -> ShownTable:
    left = [] if now is None else [_left(line, now) for line in lines]
    others = [name for name in ("log_loss",) if name != metric]
    plans = list(dict.fromkeys(plan_of(line.runs[0]) for line in lines))
    # Rows of one plan are the same rows: only their scores compare. A letter a plan, the best run's first.
    letters = {plan: _letter(number) for number, plan in enumerate(plans)} if len(plans) > 1 else {}
    headers = [
        "run",
        "state",
        "folds",
        *(["left"] if any(left) else []),
        *(["plan"] if letters else []),
        "model",
        metric,
        "mean of folds",
        *others,
        "s/1000 images",
        "parameters",
    ]
    warning = f"; {len(plans)} fold plans: only scores on the same one compare" if letters else ""
    rows = [_line(line, metric, others, letters) for line in lines]
    if any(left):
        rows = [[*row[:3], text, *row[3:]] for row, text in zip(rows, left, strict=True)]
    return ShownTable(headers, rows, f"{dataset}, by {metric} out of fold{warning}")


def _line(line: RunLine, metric: str, others: Sequence[str], letters: Mapping[str | None, str]) -> list[str]:
    """One run, or the seeds of one recipe: folds of all, scores as mean and spread, the cost of one run."""
    states = [state for item in line.runs for state in item["fold_states"]]
    scores = [item["scores"]["oof"] or {} for item in line.runs]
    costs = [item["cost"] for item in line.runs if item["cost"]]
    marks = [" (optimistic)"] * any(item["optimistic"] for item in line.runs)
    marks += [" (unverified)"] * (not all(item["verified"] for item in line.runs))
    mark = "" if line.value is None else "".join(marks)
    return [
        line.name,
        line.state,
        f"{[state['state'] for state in states].count('complete')}/{len(states)}",
        *([letters[plan_of(line.runs[0])]] if letters else []),
        str(line.runs[0]["recipe"]["model"].get("name", "-")),
        f"{shown_seeds([values.get(metric) for values in scores])}{mark}",
        shown_seeds([(state["scores"] or {}).get(metric) for state in states if state["state"] == "complete"]),
        *(shown_seeds([values.get(name) for values in scores]) for name in others),
        f"{fmean(cost['seconds_per_1000_images'] for cost in costs):.2f}" if costs else "-",
        f"{fmean(cost['parameters'] for cost in costs):,.0f}" if costs else "-",
    ]


def _marked(value: float | None, item: Mapping[str, Any]) -> str:
    """A study's or blend's score, and whether nothing vouches for it."""
    return shown_score(value) + ("" if item["verified"] or value is None else " (unverified)")


def _letter(number: int) -> str:
    """`A` to `Z`, then `A1` to `Z1` and so on."""
    return f"{chr(ord('A') + number % 26)}{number // 26 or ''}"


def _running(item: Mapping[str, Any]) -> str:
    """How far a run is that another process trains."""
    folds = [
        f"fold {FoldKey(fold['repeat'], fold['fold']).shown(item['folds']['repeats'])} "
        f"epoch {fold['epoch']}/{fold['epochs']}"
        for fold in item["progress"]
    ]
    return f"running: {item['run']} ({item['process']}): {', '.join(folds) or 'between folds'}"


def _searching(item: Mapping[str, Any]) -> str:
    """How far a study is that another process works on."""
    trials = []
    for number in item["under_way"]:
        folds = [fold for fold in item["progress"] if fold["trial"] == number]
        epochs = [f"{fold_name(fold)} epoch {fold['epoch']}/{fold['epochs']}" for fold in folds]
        trials.append(" ".join([f"trial {number}", *epochs]))
    return f"running: study {item['study']} ({item['process']}): {', '.join(trials) or 'between trials'}"


def _looks(entry: Mapping[str, Any]) -> str:
    """How often test labels were looked at, since choosing by them makes their score optimistic."""
    if "error" in entry:
        return f"looks at test labels: {entry['error']}"
    times = "once" if entry["looks"] == 1 else f"{entry['looks']} times"
    named = _few([f"{file['name']} ({file['looks']})" for file in entry["files"]])
    where = f" of {entry['dataset']}" if entry["dataset"] else ""
    return f"test labels{where} ({counted(entry['rows'], 'row')}): looked at {times}, last {entry['last']}: {named}"


def _few(messages: list[str]) -> str:
    more = f"; {len(messages) - _FEW} more" if len(messages) > _FEW else ""
    return "; ".join(messages[:_FEW]) + more


def _studies(studies: list[dict[str, Any]]) -> ShownTable:
    rows = [
        [
            item["study"],
            item["state"],
            *(str(item["trials"][state]) for state in _TRIALS),
            str(item.get("metric", "-")),
            *(_number(item, name) for name in _NUMBERS),
        ]
        for item in studies
    ]
    headers = ["study", "state", "trials", *_TRIALS[1:], "metric", *_NUMBERS.values()]
    return ShownTable(headers, rows)


def _number(study: Mapping[str, Any], name: str) -> str:
    """One of a study's numbers with its interval."""
    each = next((each for each in study_numbers(study) if each.name == name), None) if study.get("best") else None
    so_far = study.get("so_far") if name == "best" else None
    if so_far and so_far["number"] != (study["best"] or {}).get("number"):  # that one is from before it went on
        return f"{_marked(so_far['value'], study)} so far"
    if each is None or each.value is None:
        return "-"
    interval = "" if each.ci95 is None else f" ({shown_interval(each.ci95)})"
    return f"{_marked(each.value, study)}{interval}{' (optimistic)' * each.optimistic}"


def _blends(blends: list[dict[str, Any]]) -> ShownTable:
    rows = []
    for item in blends:
        honest = item.get("honest") or {}
        members = str(len(item.get("members", [])))
        rows.append(
            [
                item["blend"],
                str(item.get("method", item["state"])),
                members,
                str(item.get("metric", "-")),
                _marked(honest.get("value"), item),
            ]
        )
    return ShownTable(["blend", "method", "members", "metric", "out of fold"], rows)


# --watch


class _Screen(Protocol):
    """Where a watched folder is shown."""

    def show(self, report: Status) -> bool:
        """Show what has changed; whether anybody still reads it."""

    def wait(self, seconds: float) -> None:
        """Until the next look."""

    def end(self, report: Status) -> Outcome:
        """What is left to be printed."""


def _watch(arguments: argparse.Namespace) -> Outcome:
    """Look again and again, until Ctrl+C, or until nobody trains any more if that was asked for.

    Nothing is interrupted by Ctrl+C here, and nothing else ends it: so its exit code is 0, as that of `watch`.
    """
    reader, elsewhere = StatusReader(arguments.outputs), here(arguments)
    screen: _Screen = _Documents() if arguments.json else _Texts(elsewhere)
    if not arguments.json and may_redraw(sys.stdout):
        screen = _Area(elsewhere)
    report = reader.read()
    try:
        while screen.show(report) and not (arguments.until_done and not _is_busy(report)):
            screen.wait(arguments.watch)
            report = reader.read()
    except KeyboardInterrupt:
        pass
    return screen.end(report)


def _is_busy(report: Mapping[str, Any]) -> bool:
    return any(item["state"] == "running" for plural in ("runs", "studies") for item in report[plural])


class _Documents:
    """A JSON document a line, where something has changed."""

    def __init__(self) -> None:
        self._last: Status | None = None

    def show(self, report: Status) -> bool:
        """Print the document with its time, unless it is that of before."""
        if report == self._last:
            return True
        self._last = report
        document = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **report}
        return _print(visible_json(json.dumps(document, ensure_ascii=False, allow_nan=False)))

    def wait(self, seconds: float) -> None:
        """Until the next look."""
        time.sleep(seconds)

    def end(self, report: Status) -> Outcome:
        """Nothing is left to be printed."""
        return Outcome(report, was_printed=True)


class _Texts(_Documents):
    """For a pipe or a terminal without redrawing: the tables where they have changed, else the epochs that have."""

    def __init__(self, elsewhere: str) -> None:
        super().__init__()
        self._elsewhere = elsewhere
        self._rest, self._running = "", list[str]()

    def show(self, report: Status) -> bool:
        """Print what differs from what was printed last, and the time."""
        if report == self._last:
            return True
        running, about = _running_lines(report), time.strftime("%H:%M:%S")
        rest = shown(Outcome(report, [*_tables(report), *_notes(report, self._elsewhere, [])]), as_json=False)
        new = [f"{about} {line}" for line in running if line not in self._running]
        text = "\n".join(new)
        if rest != self._rest:
            text = f"as of {about}\n\n{shown(Outcome(report, _shown(report, self._elsewhere)), as_json=False)}\n"
        self._last, self._rest, self._running = report, rest, running
        return not text or _print(text)


class _Area:
    """Tables at the bottom of a terminal, drawn again in place; at the end they give way to all of `ens status`."""

    def __init__(self, elsewhere: str) -> None:
        self._elsewhere = elsewhere
        self._area = LiveArea(sys.stdout, lambda: terminal_size(sys.stdout))
        self._look: _Look | None = None

    def show(self, report: Status) -> bool:
        """Draw what was read just now."""
        self._look = _Look(report, _static_sections(report), time.time())
        self._draw()
        return not self._area.is_gone

    def wait(self, seconds: float) -> None:
        """Until the next look; a terminal that is resized meanwhile is drawn on anew."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._area.is_gone:
            time.sleep(min(left, _TICK_S))
            self._draw()

    def end(self, report: Status) -> Outcome:
        """All of it once more, which stays."""
        self._area.draw([])
        return Outcome(report, _shown(report, self._elsewhere))

    def _draw(self) -> None:
        if self._look is not None:
            size = terminal_size(sys.stdout)
            self._area.draw(frame(self._look, time.time(), size.columns, size.lines - 1))


class _Section(NamedTuple):
    """A table of a frame, with the style of each row; those that are green are kept where not all fit."""

    table: ShownTable
    styles: list[str]
    dropped_first: Sequence[str] = _DROPPED_FIRST


class _Look(NamedTuple):
    """What was read at a time, and the tables that stay as they are until the next look."""

    report: Status
    sections: list[_Section]
    at: float


def frame(look: _Look, now: float, columns: int, lines: int) -> list[Line]:
    """What is shown of a look, at most `lines` lines; what is wider than `columns` is for the caller to clip."""
    sections = [section for section in (_training(look.report, now), *look.sections) if section.table.rows]
    clock = time.strftime("%H:%M:%S", time.localtime(look.at))
    running = sum(item["state"] == "running" for plural in ("runs", "studies") for item in look.report[plural])
    drawn = [Line(f"{clock}  {running} running  {look.report.headline}", "bold")]
    room = max(0, lines - 1)
    for section, share in zip(sections, _shares([_height(section) for section in sections], room), strict=False):
        drawn += _drawn(section, share, columns)
    return drawn[: max(1, lines)]


def _height(section: _Section) -> int:
    """Lines of a section with a blank one before it."""
    return 2 + bool(section.table.title) + len(section.table.rows)


def _shares(wishes: list[int], room: int) -> list[int]:
    """How many lines each section gets: all that it wants, or as many as others that want more than there are.

    Shorter than `wishes` where there is no room for the headers and a row of each: the last ones are left out.
    """
    wishes = wishes[: max(1, room // 2)]
    shares = [0] * len(wishes)
    for place, number in enumerate(sorted(range(len(wishes)), key=lambda number: wishes[number])):
        shares[number] = min(wishes[number], room // (len(wishes) - place))
        room -= shares[number]
    return shares


def _drawn(section: _Section, share: int, columns: int) -> list[Line]:
    """A section in so many lines: where there are too few, it has no blank line, fewer rows, then no title."""
    table, is_whole = section.table, share >= _height(section)
    before = [Line("")] if is_whole else []
    before += [Line(table.title, "dim")] if table.title and (is_whole or share >= _WITH_TITLE) else []
    kept, more = _kept_rows(section, share - 1 - len(before))
    longest = max(8, min(_LONGEST_CELL, columns // 3))
    rows = [table.headers, *(table.rows[number] for number in kept)]
    left = {column for column in range(len(table.headers)) if not is_numeric_column(table, column)}
    texts = aligned([[clip(cell, longest) for cell in row] for row in rows], columns, section.dropped_first, left)
    styles = ["bold", *(section.styles[number] for number in kept)]
    after = [Line(f"… {more} more", "dim")] if more else []
    return [*before, *(Line(text, style) for text, style in zip(texts, styles, strict=True)), *after]


def _kept_rows(section: _Section, room: int) -> tuple[list[int], int]:
    """The rows that fit, in order, and how many a last line counts: those about what trains, then the first ones."""
    count = len(section.table.rows)
    if count <= room:
        return list(range(count)), 0
    room -= room > 1  # for the line that counts the others
    order = sorted(range(count), key=lambda number: (section.styles[number] != "green", number))
    return sorted(order[: max(0, room)]), count - room if room else 0


def _training(report: Mapping[str, Any], now: float) -> _Section:
    """A row for each fold that trains now."""
    folds = [(item["run"], fold) for item in report["runs"] for fold in item.get("progress", ())]
    folds += [
        (f"{item['study']} trial {fold['trial']}", {key: value for key, value in fold.items() if key != "trial"})
        for item in report["studies"]
        for fold in item.get("progress", ())
    ]
    metrics = {fold["metric"] for _, fold in folds}
    rows = []
    for name, fold in folds:
        progress = FoldProgress(**fold)
        left_s, silent_s = progress.remaining_s(now), progress.silent_s(now)
        rows.append(
            [
                name,
                _fold_name(fold),
                f"{progress.epoch}/{progress.epochs}",
                shown_score(progress.loss),
                shown_score(progress.value),
                shown_score(progress.best),
                "-" if left_s is None else shown_duration(left_s),
                "-" if silent_s is None else shown_duration(silent_s),
            ]
        )
    score = metrics.pop() if len(metrics) == 1 else "score"
    headers = ["training", "fold", "epoch", "loss", score, "best", "left", "silent"]
    return _Section(ShownTable(headers, rows), [""] * len(rows), ("silent", "loss", score, "best", "left"))


def _fold_name(fold: Mapping[str, Any]) -> str:
    return fold_name(fold).removeprefix("fold ")


def _static_sections(report: Mapping[str, Any]) -> list[_Section]:
    """The tables of `ens status`."""
    tables = [*_leaderboards(report, time.time()), _studies(report["studies"]), _blends(report["blends"])]
    return [_Section(table, [_style(table, row) for row in table.rows]) for table in tables]


def _style(table: ShownTable, row: Sequence[str]) -> str:
    state = row[1] if table.headers[1] == "state" else ""
    return {"running": "green", "failed": "red", "interrupted": "red", "unreadable": "red"}.get(state, "")


def _left(line: RunLine, now: float) -> str:
    """How long all folds of a line's runs that are not done will take, as many at a time as now; empty: unknown."""
    times = [_run_left_s(run, now) for run in line.runs if run["state"] == "running"]
    known = [left_s for left_s in times if left_s is not None]
    return shown_duration(max(known)) if known and len(known) == len(times) else ""


def _run_left_s(run: Mapping[str, Any], now: float) -> float | None:
    """Seconds until all folds of a run are trained; None where no fold that trains has said how long it takes."""
    progress = {(fold["repeat"], fold["fold"]): fold for fold in run["progress"]}
    folds = []
    for state in run["fold_states"]:
        facts = FoldFacts("", "over", seconds=state["seconds"] if state["state"] == "complete" else None)
        about = progress.get((state["repeat"], state["fold"]))
        if about is not None:
            fold = FoldProgress(**about)
            pace = 0.0 if fold.left_s is None else fold.left_s / max(1, fold.epochs - fold.epoch)
            heard = now - (fold.silent_s(now) or 0.0)
            # After its last epoch nothing is left from which a pace could be told: not taken as a whole fold's time.
            facts = FoldFacts("", "training", fold.epochs, fold.epoch, heard=heard, started=heard - pace * fold.epoch)
            facts.left_s, facts.skipped = fold.left_s, int(fold.epoch >= fold.epochs)
        elif state["state"] == "missing":
            facts = FoldFacts("", "waiting")
        folds.append(facts)
    return total_remaining(folds, len(progress), now) if progress else None


def _print(text: str) -> bool:
    """Print at once; whether anybody still reads."""
    try:
        print(text, flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at exit
        if isinstance(error, BrokenPipeError):
            return False
        raise PartialFailure(f"stdout: {error.strerror}; what was seen could not be printed") from error
    return True
