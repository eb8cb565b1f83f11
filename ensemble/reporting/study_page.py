"""The page of a study: the best trial and what it is worth, what was stopped, and what the parameters say."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble.core.complaints import counted
from ensemble.core.locks import lock_holder
from ensemble.core.records import EARLIER
from ensemble.errors import InputError
from ensemble.reporting import figures
from ensemble.reporting.page import Cell, Code, Drawing, Facts, Grid, Page, Part, ReportJob, Row, Section, Text
from ensemble.reporting.page_files import PageLinks
from ensemble.runs.status import next_step
from ensemble.runs.study_record import StudyNumber, load_study_record, load_trial_record, study_numbers
from ensemble.tuning.parameter_effects import ENOUGH, Effect, effects_of, is_number
from ensemble.tuning.trials import Trial, best_trial, trial_folder, trial_folders, trial_of

_CELLS = 9_000  # of the table of trials: 60 bytes each
_DOTS = 3_000  # of all clouds together: 150 bytes each
_STEPS = 600  # trials of the first figure
_CLOUDS = 24  # parameters with a figure of their own
_AXES = 10  # of parallel coordinates: more can't be read
_TRACKS = 200  # lines of parallel coordinates
_STOPPED = 200  # lines of trials that were stopped
_LONGEST = 300  # characters of a reason
_LONGEST_VALUE = 60
_LONGEST_FILE = 20_000  # characters of best.yaml


@dataclass(frozen=True)
class _Study:
    """What the files of a study say; `record` is None where `study.json` can't be believed."""

    path: Path
    record: Mapping[str, Any] | None
    trials: Sequence[Trial]
    is_running: bool
    remarks: list[str] = field(default_factory=list)

    @property
    def metric(self) -> str:
        return "score" if self.record is None else str(self.record["metric"])

    @property
    def greater_is_better(self) -> bool:
        return self.record is None or bool(self.record["greater_is_better"])

    @property
    def search(self) -> Mapping[str, Any]:
        return {} if self.record is None else self.record["identity_of"]["search"]

    @property
    def keys(self) -> list[str]:
        """The parameters, in the order of the search space."""
        tried = {key for trial in self.trials for key in trial.values}
        return [*(key for key in self.search if key in tried), *sorted(tried - self.search.keys())]

    @property
    def scored(self) -> list[Trial]:
        """Trials with a score, or an estimate of it."""
        return [trial for trial in self.trials if _is_finite(trial.known_value)]

    def is_log(self, key: str) -> bool:
        """Whether the space of a parameter is searched by its logarithm."""
        return bool((self.search.get(key) or {}).get("log"))

    def words(self, key: str) -> list[str] | None:
        """A parameter's choices as text, in their order; None where its values are numbers on an axis."""
        choices = (self.search.get(key) or {}).get("choices")
        tried = [trial.values[key] for trial in self.trials if key in trial.values]
        if choices is None and all(is_number(value) for value in tried):
            return None
        return list(dict.fromkeys(_shown(value) for value in [*(choices or ()), *tried]))


def study_page(places: Sequence[str], job: ReportJob) -> Page:
    """All that is known of one study, finished or not."""
    study = _load(Path(places[0]))
    links = PageLinks(job.outputs, job.page)
    effects = effects_of(
        [trial.values for trial in study.scored],
        [trial.known_value or 0.0 for trial in study.scored],
        study.keys,
        greater_is_better=study.greater_is_better,
    )
    command, remark = _next_command(study, job)
    sections = [
        *([_worth(study)] if study.record is not None else []),
        _course(study),
        *([_effects(study, effects)] if study.record is not None else []),
        *([_clouds(study, effects)] if study.scored and study.keys else []),
        _table(study, links),
        _stopped(study),
        _best_recipe(study),
    ]
    return Page(
        "study",
        study.path.name,
        _verdict(study),
        [section for section in sections if section.parts],
        job.pictures,
        next_command=command,
        remarks=[*study.remarks, *remark],
        head=[] if study.record is None else [_facts(study, study.record)],
    )


def _load(path: Path) -> _Study:
    """Every file that can be believed; what can't is said."""
    remarks: list[str] = []
    record = None
    try:
        record = load_study_record(path / "study.json")
        if not record.is_verified:
            remarks.append(f"study.json: {EARLIER}")
    except (InputError, FileNotFoundError) as error:
        remarks.append(f"no metric, best trial or honest number: {error}")
    trials, old, broken = [], 0, []
    for folder in trial_folders(path):
        try:
            about = load_trial_record(folder / "trial.json")
        except (InputError, FileNotFoundError) as error:
            broken.append(f"{folder.name} is left out: {error}")
            continue
        old += not about.is_verified
        trials.append(trial_of(about))
    remarks += broken[:5]
    if len(broken) > 5:
        remarks.append(f"{counted(len(broken) - 5, 'more trial')} left out, as their files can't be read")
    if old:
        remarks.append(f"{counted(old, 'trial')}: {EARLIER}")
    trials.sort(key=lambda trial: trial.number)
    return _Study(path, record, trials, lock_holder(path) is not None, remarks)


# What it comes to


def _verdict(study: _Study) -> str:
    """How many trials, the best where it was chosen, and what may be expected of it."""
    count = counted(len(study.trials), "trial")
    if study.record is None:
        return f"{count}; which is best is unknown, as study.json can't be read."
    wanted = (study.record["wanted"] or {}).get("trials")
    state = _state(study)
    if state != "complete":
        of = f" of {wanted}" if wanted is not None and wanted > len(study.trials) else ""
        count = f"{len(study.trials)}{of} trials, {state}" if of else f"{count}, {state}"
    numbers = {number.name: number for number in study_numbers(study.record)}
    best = best_trial(study.trials, greater_is_better=study.greater_is_better)
    if "best" not in numbers and best is None:
        return f"{count}; none has a score yet."
    if "best" not in numbers and best is not None and best.value is not None:  # the record is written at the end
        return (
            f"{count}; the best so far is trial {best.number}, {study.metric} {best.value:.4f} where it was chosen "
            "(optimistic)."
        )
    number = study.record["best"]["number"]
    text = (
        f"{count}; the best is trial {number}, {study.metric} {numbers['best'].value or 0.0:.4f} where it was chosen "
        "(optimistic)"
    )
    for name, words in (
        ("again", "expected when its recipe is trained again"),
        ("weights", "expected of its own weights"),
        ("nested", "expected of the search"),
    ):
        known = numbers.get(name)
        if known is not None and known.value is not None:
            flattered = " (optimistic too: on the same folds)" if known.optimistic else ""
            return f"{text}, {known.value:.4f} {words}{_between(known)}{flattered}."
    return f"{text}; what it is worth elsewhere was not measured."


def _state(study: _Study) -> str:
    if study.is_running:
        return "running"
    return "complete" if study.record is not None and study.record["ended"] else "interrupted"


def _between(number: StudyNumber) -> str:
    return "" if number.ci95 is None else f" (95 %: {number.ci95[0]:.4f} to {number.ci95[1]:.4f})"


def _next_command(study: _Study, job: ReportJob) -> tuple[str | None, list[str]]:
    """What `ens tune` prints, or the command that continues the study; and what to say beside it."""
    record = study.record
    if record is None or study.is_running:
        return None, []
    if _state(study) == "interrupted" and record["wanted"]:
        item = {**record, "study": study.path.name, "path": str(study.path), "state": "interrupted"}
        text = next_step({"outputs": str(job.outputs), "runs": [], "studies": [item], "blends": []}, job.here)
        command, _, why = text.rpartition(" continues ")
        return (command, []) if why and text.startswith("ens ") else (None, [f"next: {text}"])
    if record["best"] is None or not (study.path / "best.yaml").exists():
        return None, []
    words = ["ens", "train", "--recipe", str(study.path / "best.yaml"), "--name", f"{study.path.name}-best"]
    data = record["asked"]["data"]
    return shlex.join([*words, *(["--data", str(data)] if data else [])]) + job.here, []


def _facts(study: _Study, record: Mapping[str, Any]) -> Facts:
    course, folds = record["identity_of"], _fold_totals(study)
    counts = [(state, sum(trial.state == state for trial in study.trials)) for state in _STATES]
    pairs = [
        ("recipe", str(record["recipe_name"])),
        ("dataset", str(record["dataset"])),
        ("decided by", f"{study.metric}, {'more' if study.greater_is_better else 'less'} is better"),
        ("trials", ", ".join(f"{count} {state}" for state, count in counts if count) or "none"),
        ("searched", counted(len(study.search), "parameter")),
        ("sampler", f"{course['sampler']}, seed {course['sampler_seed']}"),
        ("policy", str(course["policy"])),
        ("folds", folds),
    ]
    if record["budget"]:
        pairs.append(("trials train at", ", ".join(f"{key} {value}" for key, value in record["budget"].items())))
    if record["ended"]:
        pairs.append(("ended", str(record["ended"])))
    return Facts(pairs)


_STATES = ("complete", "stopped", "failed", "running")


def _fold_totals(study: _Study) -> str:
    trained = sum(trial.trained for trial in study.trials)
    whole = sum(trial.of_folds or len(trial.folds) for trial in study.trials)
    seconds = sum(trial.seconds or 0.0 for trial in study.trials)
    share = f" ({trained / whole:.0%})" if whole else ""
    return f"{trained:g} trained of {whole}{share}, {seconds:,.0f} s of training"


def _worth(study: _Study) -> Section:
    """Each number of the winner with its interval, and whether its rows had a say in the choice."""
    assert study.record is not None
    numbers = study_numbers(study.record)
    if not numbers:
        return Section("worth", "What the best is worth", [Text("Not known before the study has ended.")])
    rows: list[Row] = [
        [
            _NAMES[number.name],
            number.value,
            "" if number.ci95 is None else f"{number.ci95[0]:.4f} to {number.ci95[1]:.4f}",
            "-" if number.value is None else "optimistic" if number.optimistic else "honest",
            number.meaning,
        ]
        for number in numbers
    ]
    parts: list[Part] = [Grid("Numbers of the best trial", ["number", study.metric, "95 %", "kind", "of what"], rows)]
    known = [number for number in numbers if _is_finite(number.value)]
    if known:
        drawing = figures.interval_bars(
            f"{study.metric} of the best trial",
            [_NAMES[number.name] + (" (optimistic)" if number.optimistic else "") for number in known],
            [number.value or 0.0 for number in known],
            [number.ci95 for number in known],
            study.metric,
        )
        parts.append(Drawing(drawing, "The first number flatters: the trial was chosen for it, the best of several."))
    return Section("worth", "What the best is worth", parts)


_NAMES = {
    "best": "as chosen",
    "full": "at full cost",
    "again": "trained again",
    "weights": "its own weights",
    "nested": "the search",
}
"""Short, as they stand beside a figure; the table says of what they are."""


# How it went


def _course(study: _Study) -> Section:
    """Scores of all trials in their order, and the best so far."""
    if not study.scored or study.record is None:
        text = "No trial has a score yet." if study.record is not None else ""
        return Section("course", "Trials in their order", [Text(text)] if text else [])
    pick = max if study.greater_is_better else min
    best, course, improved = math.nan, [], []
    for trial in study.trials:
        before = best
        if trial.state == "complete" and trial.value is not None and math.isfinite(trial.value):
            best = trial.value if math.isnan(best) else pick(best, trial.value)
        course.append(best)
        improved.append(not math.isnan(best) and best != before)
    step = max(1, math.ceil(len(study.trials) / _STEPS))
    last = len(study.trials) - 1
    shown = [place for place in range(len(course)) if place % step == 0 or improved[place] or place == last]
    drawing = figures.steps(
        f"{study.metric} of {counted(len(study.trials), 'trial')}",
        [study.trials[place].number for place in shown],
        [study.trials[place].known_value for place in shown],
        [course[place] for place in shown],
        [study.trials[place].state == "stopped" for place in shown],
    )
    caption = "The line is the best finished trial so far; a stopped trial stands at the estimate of its score."
    if len(shown) < len(course):
        caption += f" {len(shown):,} of {len(course):,} trials are drawn, all improvements among them."
    return Section("course", "Trials in their order", [Drawing(drawing, caption)])


def _stopped(study: _Study) -> Section:
    """What was stopped or failed: after how many folds, why, and what that saved."""
    ended = [trial for trial in study.trials if trial.state in ("stopped", "failed")]
    if not ended:
        text = "" if not study.trials else "No trial was stopped early, and none failed."
        return Section("stopped", "What was stopped", [Text(text)] if text else [])
    saved = sum(
        max(0.0, trial.of_folds - trial.trained) for trial in ended if trial.of_folds and trial.state != "failed"
    )
    policy = "" if study.record is None else str(study.record["identity_of"]["policy"])
    stopped = sum(trial.state == "stopped" for trial in ended)
    text = f"{counted(stopped, 'trial')} stopped early"
    text += f" by policy {policy}" if policy and stopped else ""
    text += f", which saved {saved:.4g} {'fold' if saved == 1 else 'folds'}" if stopped else ""
    failed = len(ended) - stopped
    text += f"; {failed} failed." if failed else "."
    rows: list[Row] = []
    for trial in ended[:_STOPPED]:
        left = None if trial.of_folds is None or trial.state == "failed" else trial.of_folds - trial.trained
        rows.append(
            [
                trial.number,
                Cell(trial.state, level="bad" if trial.state == "failed" else ""),
                Cell(f"{trial.trained:.2g} of {trial.of_folds or '?'}", trial.trained),
                None if left is None else Cell(f"{left:.2g}", left),
                trial.estimate,
                (trial.error or trial.reason or "")[:_LONGEST],
            ]
        )
    header = ["trial", "state", "folds trained", "folds saved", f"estimate of {study.metric}", "why"]
    grid = Grid("Trials that did not finish", header, rows, len(ended) - len(rows))
    return Section("stopped", "What was stopped", [Text(text), grid])


# What the parameters say


def _effects(study: _Study, effects: Sequence[Effect]) -> Section:
    """How much each parameter says about the score, with what chance would say."""
    title = "Importance of the parameters"
    scored = len(study.scored)
    if not effects:
        text = (
            f"{counted(scored, 'trial')} with a score: nothing can be told of any parameter "
            f"before {ENOUGH} trials that have it."
        )
        return Section("importance", title, [Text(text, "note")] if study.keys else [])
    rows = _effect_rows(study, effects)
    clear = [effect.key for effect in effects if _is_clear(effect, effects)]
    more = f" and {len(clear) - 5} more" if len(clear) > 5 else ""
    said = f"More than chance says: {', '.join(clear[:5])}{more}."
    header = ["parameter", "explained", "by chance", "p", "clear", "larger is", "share by PED-ANOVA", "trials"]
    parts: list[Part] = [
        Text(said if clear else "No parameter alone says more than chance would."),
        Text(_READING),
        Grid(f"What {counted(scored, 'trial')} with a score say", header, rows),
    ]
    trends = [effect for effect in effects if effect.trend is not None][:_CLOUDS]
    if trends:
        drawing = figures.interval_bars(
            "Rank correlation with a better score, 95 %",
            [effect.key for effect in trends],
            [effect.trend or 0.0 for effect in trends],
            [effect.trend_ci95 for effect in trends],
            "right of 0: larger values are better",
            reference=0.0,
        )
        parts.append(Drawing(drawing, "A best value in the middle of a range gives a correlation near 0."))
    return Section("importance", title, parts)


_READING = (
    "Explained: the share of the spread of the scores' ranks that a parameter alone accounts for (thirds of a range or "
    "each choice). By chance: what shuffled scores reach once in 20 times. Clear: p below 5 % divided by the number of "
    "parameters. Effects of several parameters together are not in it, and a sampler tries good values more often, so "
    "read it as a hint. Stopped trials count with their estimate. PED-ANOVA, as ens tune prints it: what set the best "
    "tenth apart."
)


def _is_clear(effect: Effect, effects: Sequence[Effect]) -> bool:
    """Whether it is more than chance, though the best of several effects was looked for."""
    return effect.p_chance is not None and effect.p_chance < 0.05 / len(effects)


def _effect_rows(study: _Study, effects: Sequence[Effect]) -> list[Row]:
    shares = (study.record or {}).get("importance") or {}
    rows: list[Row] = []
    for effect in effects:
        is_clear = _is_clear(effect, effects)
        rows.append(
            [
                effect.key,
                _share(effect.explained, "good" if is_clear else ""),
                _share(effect.by_chance),
                None if effect.p_chance is None else Cell(f"{effect.p_chance:.2g}", effect.p_chance),
                "-" if effect.p_chance is None else "yes" if is_clear else "no",
                "" if effect.trend_ci95 is None else _trend_words(effect),
                _share(shares.get(effect.key)),
                effect.trials,
            ]
        )
    return rows


def _trend_words(effect: Effect) -> Cell:
    assert effect.trend is not None and effect.trend_ci95 is not None
    low, high = effect.trend_ci95
    words = "better" if low > 0 else "worse" if high < 0 else "open"
    return Cell(f"{words} ({low:+.2f} to {high:+.2f})", effect.trend)


def _share(value: float | None, level: str = "") -> Cell:
    return Cell("-") if value is None else Cell(f"{value:.0%}", value, level=level)


def _clouds(study: _Study, effects: Sequence[Effect]) -> Section:
    """Each parameter against the score, those that say most first, and all of them as parallel coordinates."""
    keys = list(dict.fromkeys([*(effect.key for effect in effects), *study.keys]))
    order = sorted(study.scored, key=lambda trial: trial.known_value or 0.0, reverse=study.greater_is_better)
    parts: list[Part] = []
    if len(keys) > 1:
        axes = keys[:_AXES]
        words = [study.words(key) for key in axes]
        tracks = [
            figures.Track(_track_values(trial, axes, words), score, _label(trial, study))
            for trial in order[:_TRACKS]
            if (score := trial.known_value) is not None
        ]
        drawing = figures.parallel(
            f"All parameters and {study.metric}"
            if len(axes) == len(keys)
            else f"{len(axes)} parameters, {study.metric}",
            [(key, study.is_log(key)) for key in axes],
            tracks,
            greater_is_better=study.greater_is_better,
        )
        parts.append(Drawing(drawing, "A line a trial; the better, the stronger. The best is drawn last."))
    shown = keys[:_CLOUDS]
    parts.append(Text("Below: blue is a finished trial, orange a stopped one at its estimate, green the best."))
    for key in shown:
        most = max(60, _DOTS // len(shown))
        parts.append(_cloud(study, key, [trial for trial in order if key in trial.values], most))
    if len(keys) > len(shown):
        parts.append(Text(f"{len(keys) - len(shown)} more parameters have no figure here; the table has them.", "note"))
    return Section("parameters", "Parameters against the score", parts)


def _cloud(study: _Study, key: str, trials: Sequence[Trial], most: int) -> Drawing:
    """One parameter against the score; `trials`: the best first."""
    step = max(1, math.ceil(len(trials) / most))
    words, shown = study.words(key), trials[::step]
    if words is not None:
        places = {word: place for place, word in enumerate(words)}
        shown = sorted(shown, key=lambda trial: places[_shown(trial.values[key])])
    best = trials[0].number if trials else None
    points = [
        figures.CloudPoint(
            _shown(trial.values[key]) if words is not None else float(trial.values[key]),
            trial.known_value or 0.0,
            f"{_label(trial, study)}, {key} {_shown(trial.values[key])}",
            2 if trial.number == best else 1 if trial.state == "stopped" else 0,
        )
        for trial in shown
    ]
    caption = f"{counted(len(points), 'trial')} of {len(trials):,}" if step > 1 else ""
    return Drawing(figures.scatter(key, points, key, study.metric, x_log=study.is_log(key)), caption)


def _track_values(trial: Trial, keys: Sequence[str], words: Sequence[Sequence[str] | None]) -> list[float | str | None]:
    """A place on each axis; None where the trial has no such parameter."""
    return [
        None if key not in trial.values else float(trial.values[key]) if among is None else _shown(trial.values[key])
        for key, among in zip(keys, words, strict=True)
    ]


def _label(trial: Trial, study: _Study) -> str:
    about = "~" if trial.value is None else ""
    return f"trial {trial.number}: {study.metric} {about}{trial.known_value or 0.0:.4f}"


# All trials, and the winner's recipe


def _table(study: _Study, links: PageLinks) -> Section:
    """A line a trial, the best first; a number leads to the trial's own page, if there is one."""
    if not study.trials:
        return Section("trials", "All trials", [Text("No trial has begun.")])
    keys = study.keys
    sign = -1 if study.greater_is_better else 1
    ranked = sorted(
        study.trials, key=lambda trial: (not _is_finite(trial.value), sign * (trial.known_value or 0.0), trial.number)
    )
    if study.record is None:
        ranked = list(study.trials)  # which way is better is unknown
    header = ["trial", "state", study.metric, "folds", *keys, "seconds", "source"]
    rows: list[Row] = []
    for trial in ranked[: max(50, _CELLS // len(header))]:
        place = str(trial_folder(study.path, trial.number))
        rows.append(
            [
                Cell(str(trial.number), trial.number, links.to("run", place)),
                Cell(trial.state, level="bad" if trial.state == "failed" else ""),
                _score(trial),
                Cell(f"{trial.trained:.2g}/{trial.of_folds or '?'}", trial.trained),
                *(_value_cell(trial.values[key]) if key in trial.values else None for key in keys),
                None if trial.seconds is None else Cell(f"{trial.seconds:,.0f}", trial.seconds),
                trial.source,
            ]
        )
    caption = "The best first; ~ is the estimate of a stopped trial" if study.record is not None else "By number"
    return Section("trials", "All trials", [Grid(caption, header, rows, len(ranked) - len(rows))])


def _score(trial: Trial) -> Cell | None:
    if trial.known_value is None or not math.isfinite(trial.known_value):
        return None
    return Cell(f"{'~' if trial.value is None else ''}{trial.known_value:.4f}", trial.known_value)


def _value_cell(value: Any) -> Cell:
    return Cell(_shown(value), float(value) if is_number(value) else None)


def _best_recipe(study: _Study) -> Section:
    """`best.yaml` as it lies there."""
    path = study.path / "best.yaml"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        if study.record is None or study.record["best"] is None:
            return Section("recipe", "The best recipe", [])
        return Section("recipe", "The best recipe", [Text(f"{path} is missing", "warning")])
    if len(text) > _LONGEST_FILE:
        text = f"{text[:_LONGEST_FILE]}\n… cut here; the file has {len(text):,} characters"
    return Section("recipe", "The best recipe", [Code(text, str(path))])


def _shown(value: Any) -> str:
    """A value of a parameter in a cell or along an axis."""
    text = f"{value:.4g}" if isinstance(value, float) else "null" if value is None else str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
