"""`tune`: trials whose folds are bought one at a time, each trial a run of its own; ends with a recipe of the best."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.files import save_json, sweep_temporaries
from ensemble.core.locks import folder_lock
from ensemble.core.run import check_run_name, now
from ensemble.engine.scheduler import run_source
from ensemble.errors import InputError, PartialFailure
from ensemble.recipe.load import ResolvedRecipe, with_values
from ensemble.recipe.own_code import find_code, require_allowed
from ensemble.recipe.yaml import YamlError, parse_value
from ensemble.runs.checks import checked_request
from ensemble.runs.request import OnEvent, RunRequest, load_rows, read_recipe, request_for
from ensemble.runs.workplace import Auto, Workplace
from ensemble.tuning.queue import FoldQueue
from ensemble.tuning.rescore import confirm, importance_of, nested_score, rescore
from ensemble.tuning.samplers import SAMPLERS, Mirror, Proposer, check_storage, require_sampler
from ensemble.tuning.space import check_space, mentioned_keys, params_of, values_in_recipe, values_of
from ensemble.tuning.stopping import POLICIES
from ensemble.tuning.study import (
    Study,
    StudyInterrupted,
    Trial,
    best_trial,
    close_study,
    load_study,
    load_trials,
    new_study,
    save_trial,
    study_identity,
    trial_folders,
    values_in,
    warm_trials,
)
from ensemble.tuning.trial_runs import Opener, StudyFacts


def parse_points(texts: Sequence[str], resolved: ResolvedRecipe) -> list[dict[str, Any]]:
    """Parameters of each point; everything wrong with any is one error."""
    space = resolved.recipe.space
    own = values_in(resolved, mentioned_keys(space))
    problems: list[str] = []
    points = []
    for text in texts:
        values: dict[str, Any] = {}
        for pair in _split(text):
            key, equals, value = pair.partition("=")
            key = key.strip()
            if not equals or key not in space:
                problems.append(f"--point {text}: {key or pair} is not searched; searched are {', '.join(space)}")
                continue
            try:
                values[key] = parse_value(value.strip(), f"--point {text}")
            except YamlError as error:
                problems += error.messages
        params = params_of(space, {**own, **values})
        if params is None and not problems:
            problems.append(f"--point {text}: lies outside of the search space")
        elif params is not None:
            points.append(params)
    if problems:
        raise InputError(*problems)
    return points


def _split(text: str) -> list[str]:
    """At commas outside of brackets."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


_FIRST_FAILURES = 3
_ATTEMPTS = 25


@dataclass(frozen=True)
class _Limits:
    """When no new trial is begun any more."""

    trials: int
    deadline: float | None
    patience: int | None


def tune(
    recipe: str | None = None,
    *,
    trials: int | None = None,
    more: int | None = None,
    study: str | None = None,
    sets: Sequence[str] = (),
    search: Sequence[str] = (),
    data: str | None = None,
    timeout_s: float | None = None,
    patience: int | None = None,
    sampler: str = "tpe",
    policy: str = "race",
    seed: int = 0,
    points: Sequence[str] = (),
    warm_from: Sequence[str] = (),
    with_rescore: bool = True,
    nested: bool = False,
    storage: str | None = None,
    engine: str = "local",
    workers: int | None = None,
    allow_code: bool = False,
    gpus: Sequence[str] | Auto = "auto",
    per_gpu: int | Auto | None = None,
    hang_timeout_s: float | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> Study:
    """Bring a study to `trials` trials, or to `more` than it has; what earlier calls began is finished first.

    `search` adds dimensions to the recipe's, as `train.lr={low: 1e-4, high: 1e-2, log: true}`; `points` are values to
    try first, as `train.lr=1e-3,augment=light`; `warm_from` names studies whose trials the sampler shall know.
    `nested`: an honest score from what the trials have said, instead of training the best one again.
    """
    if (trials is None) == (more is None):
        raise InputError("--trials N or --more N: give one of them, the trials in all or those to add")
    _check_names(sampler, policy)
    outputs = Path(outputs)
    asked, resolved = read_recipe(recipe, folder=Path(folder), outputs=outputs, sets=sets, searches=search, data=data)
    space = resolved.recipe.space
    if not space:
        raise InputError(
            f"{resolved.path}: has no search space; add one, such as "
            "`search: {train.lr: {low: 1e-4, high: 1e-2, log: true}}`"
        )
    require_sampler(sampler, space)
    if storage is not None:
        check_storage(storage)
    require_allowed(find_code(resolved), allow_code)
    name = study or resolved.name
    check_run_name(name, "--study")
    request = request_for(asked, resolved, load_rows(resolved, outputs, on_event, keep_pixels=True), outputs)
    path = outputs / "studies" / name
    identity = study_identity(request, sampler, seed, policy)
    record = load_study(path, identity) or new_study(path, request, identity)
    _add_points(record, parse_points(points, resolved))
    for other in warm_from:
        record["warm"] = record["warm"] or warm_trials(outputs / "studies" / other, request)
    findings = checked_request(request, on_event)
    workplace = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s)
    opener = Opener(StudyFacts(path, request, workplace, policy, findings, allow_code, on_event))
    if not trial_folders(path):
        check_space(space, opener.facts.start, opener.try_out, resolved.origins)
    with folder_lock(path):
        sweep_temporaries(path)
        before = load_trials(path)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        limits = _Limits(len(before) + more if more is not None else trials or 0, deadline, patience)
        record["wanted"] = {"trials": limits.trials, "search": list(search)}
        return _StudyWork(opener, record, limits, sampler, seed, storage).run(
            before, with_rescore=with_rescore and not nested, nested=nested
        )


class _StudyWork:
    """One study while it is worked on."""

    def __init__(
        self, opener: Opener, record: dict[str, Any], limits: _Limits, sampler: str, seed: int, storage: str | None
    ) -> None:
        facts = opener.facts
        self.opener, self.facts, self.record, self.limits = opener, facts, record, limits
        request: RunRequest = facts.request
        self.resolved, self.space = request.resolved, request.resolved.recipe.space
        greater = facts.sign > 0
        self.proposer = Proposer(
            self.space,
            facts.start,
            sampler=sampler,
            seed=seed,
            greater_is_better=greater,
            earlier=[(known["params"], known["value"]) for known in record["warm"]],
        )
        self.mirror: Mirror | None = None
        if storage is not None:
            self.mirror = Mirror(storage, facts.path.name, self.space, greater_is_better=greater, warn=self.warn)

    def run(self, before: Sequence[Trial], *, with_rescore: bool, nested: bool) -> Study:
        """Finish what was begun, add trials until a limit is met, then close. Interrupted, it tells what is known."""
        save_json(self.facts.path / "study.json", self.record)
        self.record["ended"] = None
        queue = FoldQueue(self.opener, before, self.propose, self.ended)
        try:
            self._search(queue)
            self._judge(queue.known, with_rescore=with_rescore, nested=nested)
        except KeyboardInterrupt as stop:
            record = {**self.record, "ended": self.record["ended"] or "interrupted"}
            raise StudyInterrupted(Study(self.facts.path, record, tuple(queue.known))) from stop
        return Study(self.facts.path, self.record, tuple(queue.known))

    def _search(self, queue: FoldQueue) -> None:
        """Trials until there shall be no more."""
        try:
            queue.take_up()
            if queue.decided:
                tasks = max(1, self.limits.trials) * self.facts.request.plan.k
                slots = self.facts.workplace.slots(tasks, *queue.decided)
                run_source(queue, self.facts.workplace.engine, slots, self.facts.workplace.limits)
        finally:  # also when interrupted: what is known is written
            queue.close()
            self.close(queue.known)

    def _judge(self, trials: Sequence[Trial], *, with_rescore: bool, nested: bool) -> None:
        """What the best one is worth: at full cost, on other folds, or from the trials alone."""
        is_late = self.limits.deadline is not None and time.monotonic() >= self.limits.deadline
        if nested or self.record["nested"] is not None:
            self.record["nested"] = nested_score(self.facts, trials)
            self.close(trials)
        if not is_late and self.record["best"] is not None:
            if self.record["budget"] and self.record["full"] is None:
                self.record["full"] = confirm(self.facts, trials)
                self.close(trials)
            if with_rescore and self.record["honest"] is None:
                self.record["honest"] = rescore(self.facts, trials)
                self.close(trials)

    def propose(self, trials: Sequence[Trial]) -> Trial | None:
        """The next trial, written down before anything is trained; None when there shall be no more."""
        known = sorted(trials, key=lambda trial: trial.number)
        why = self._why_no_more(known)
        if why is not None:
            self.record["ended"] = why
            return None
        number = known[-1].number + 1 if known else 0
        found = self._values(number, known)
        if found is None:
            self.record["ended"] = "every combination has been tried"
            return None
        params, source = found
        trial = Trial(number, params, values_of(self.space, params), started=now(), source=source)
        save_trial(self.facts.path, trial)
        return trial

    def ended(self, trials: Sequence[Trial]) -> None:
        """A trial is over: copy it, and end a study that can't come to anything."""
        if self.mirror is not None:
            self.mirror.copy(trials)
        over = [trial for trial in sorted(trials, key=lambda trial: trial.number) if trial.state != "running"]
        if len(over) == _FIRST_FAILURES and all(trial.state == "failed" for trial in over):
            raise PartialFailure(
                f"study {self.facts.path.name}: the first {_FIRST_FAILURES} trials all failed, so it stops here",
                f"the last one: {over[-1].error}",
            )

    def close(self, trials: Sequence[Trial]) -> None:
        """Write what is known."""
        greater = self.facts.sign > 0
        self.record["importance"] = importance_of(self.space, trials, greater_is_better=greater)
        close_study(self.facts.path, self.record, self.resolved, trials)
        if self.mirror is not None:
            self.mirror.copy(trials)

    def warn(self, line: str) -> None:
        """Something that a person should know, but that ends nothing."""
        self.facts.on_event({"event": "finding", "line": f"warning: {line}"})

    def _why_no_more(self, trials: Sequence[Trial]) -> str | None:
        limits = self.limits
        if len(trials) >= limits.trials:
            return f"{len(trials)} trials"
        if limits.deadline is not None and time.monotonic() >= limits.deadline:
            return "the time is up"
        best = best_trial(trials, greater_is_better=self.facts.sign > 0)
        if limits.patience is not None and best is not None:
            since = sum(trial.number > best.number and trial.state != "running" for trial in trials)
            if since >= limits.patience:
                return f"no gain in {since} trials"
        return None

    def _values(self, number: int, trials: Sequence[Trial]) -> tuple[dict[str, Any], str] | None:
        """Parameters and where they come from: the recipe as it stands, points that were asked for, the sampler."""
        first = params_of(self.space, self.facts.start)
        if number == 0 and first is not None:
            return first, "recipe"
        asked = self.record["points"][sum(trial.source == "point" for trial in trials) :]
        if asked:
            return dict(asked[0]), "point"
        params: dict[str, Any] | None = None
        for attempt in range(_ATTEMPTS):
            params = self.proposer.propose(number, trials, attempt)
            if params is None or self._is_recipe(params):
                break
        return None if params is None else (params, "sampler")

    def _is_recipe(self, params: dict[str, Any]) -> bool:
        """Whether the values make a recipe; each alone does, but two may not go together."""
        try:
            values = values_in_recipe(self.resolved.recipe, values_of(self.space, params))
            with_values(self.resolved, {**values, **self.resolved.recipe.cheap_values})
        except InputError:
            return False
        return True


def _check_names(sampler: str, policy: str) -> None:
    for option, word, table in (("--sampler", sampler, SAMPLERS), ("--policy", policy, POLICIES)):
        if word not in table:
            raise InputError(f"{option} {word}: not one of {', '.join(table)}")


def _add_points(record: dict[str, Any], points: Sequence[dict[str, Any]]) -> None:
    """Points that were asked for earlier stay; the same one again is not another."""
    record["points"] += [point for point in points if point not in record["points"]]
