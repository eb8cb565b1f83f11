"""`tune`: trials whose folds are bought one at a time, each trial a run of its own; ends with a recipe of the best.

Here stands what a study can be asked for, and when it proposes, ends and closes. What is trained next, and when a trial
stops, is the queue's.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from ensemble.core.complaints import counted
from ensemble.core.files import sweep_temporaries
from ensemble.core.locks import folder_lock
from ensemble.core.notebook import check_arguments
from ensemble.core.run import check_run_name, now
from ensemble.engine.scheduler import run_source
from ensemble.errors import InputError, PartialFailure
from ensemble.recipe.layers import GIVEN, RecipeSource, Sets, set_words
from ensemble.recipe.load import with_values
from ensemble.recipe.own_code import find_code, require_allowed
from ensemble.recipe.save import save_given_recipe
from ensemble.runs.checks import checked_request
from ensemble.runs.devices import Auto, Workplace
from ensemble.runs.request import OnEvent, RecipeWords, load_rows, read_recipe, request_for
from ensemble.tuning.choices import POLICIES, SAMPLERS
from ensemble.tuning.queue import FoldQueue
from ensemble.tuning.rescore import add_intervals, confirm, importance_of, nested_score, rescore
from ensemble.tuning.samplers import Mirror, Proposer, check_storage, require_sampler
from ensemble.tuning.space import check_space, own_values, params_of, parse_points, values_in_recipe, values_of
from ensemble.tuning.study import (
    Study,
    StudyInterrupted,
    check_study,
    close_study,
    load_study,
    open_study,
    save_study,
    warm_trials,
)
from ensemble.tuning.trial_runs import Opener, StudyFacts
from ensemble.tuning.trials import Trial, best_trial, load_trials, save_trial, trial_folders

_FIRST_FAILURES = 3  # so many at the start are no bad luck with values, but a recipe or a machine that can't work
_ATTEMPTS = 25  # draws of values that make no recipe together, before the last one becomes a failed trial


Points = Annotated[Sequence[str | Mapping[str, Any]], "a list of mappings such as {'train.lr': 1e-3}"]
"""What `--point` is in Python."""


@dataclass(frozen=True)
class TuneOptions:
    """What a study is asked for, by the command line as by `tune`, which explains it. Made only if it makes sense."""

    recipe: RecipeSource | None = None
    trials: int | None = None
    more: int | None = None
    study: str | None = None
    sets: Sets = ()
    search: Sets = ()
    data: Path | str | None = None
    timeout_s: float | None = None
    patience: int | None = None
    sampler: str = "tpe"
    policy: str = "race"
    seed: int = 0
    points: Points = ()
    warm_from: Sequence[str] = ()
    with_rescore: bool = True
    nested: bool = False
    storage: str | None = None
    engine: str = "local"
    workers: int | None = None
    allow_code: bool = False
    gpus: Sequence[str] | Auto = "auto"
    per_gpu: int | Auto | None = None
    hang_timeout_s: float | None = None
    slurm: Sequence[str] = ()
    outputs: Path | str = "outputs"
    folder: Path | str = "."
    on_event: OnEvent = lambda event: None

    def __post_init__(self) -> None:
        problems = []
        if (self.trials is None) == (self.more is None):
            problems.append("--trials N or --more N: give one of them, the trials in all or those to add")
        for option, name, choices in (("--sampler", self.sampler, SAMPLERS), ("--policy", self.policy, POLICIES)):
            if name not in choices:
                problems.append(f"{option} {name}: not one of {', '.join(choices)}")
        if problems:
            raise InputError(*problems)


@check_arguments
def tune(
    recipe: RecipeSource | None = None,
    *,
    trials: int | None = None,
    more: int | None = None,
    study: str | None = None,
    sets: Sets = (),
    search: Sets = (),
    data: Path | str | None = None,
    timeout_s: float | None = None,
    patience: int | None = None,
    sampler: str = "tpe",
    policy: str = "race",
    seed: int = 0,
    points: Points = (),
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
    slurm: Sequence[str] = (),
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> Study:
    """Bring a study to `trials` trials, or to `more` than it has; what earlier calls began is finished first.

    `recipe` is a name, a path, or a mapping, which is kept as `recipe.yaml` in the study's folder. `sets` override its
    values, as `{"train.lr": 1e-3}`; `search` adds dimensions, as `{"train.lr": {"low": 1e-4, "high": 1e-2}}`; `points`
    are values to try first, as `[{"train.lr": 1e-3}]`; `warm_from` names studies whose trials the sampler shall know.
    `nested`: an honest score from the trials that there are, instead of training the best one again.
    """
    return run_study(TuneOptions(**locals()))  # the keywords, which a test holds equal to the options


def run_study(options: TuneOptions) -> Study:
    """Read and check all that a study needs, then lock it and work on it; nothing is written before it is right."""
    outputs = Path(options.outputs)
    asked, resolved = read_recipe(
        RecipeWords(options.recipe, options.sets, options.data, options.search),
        folder=Path(options.folder),
        outputs=outputs,
        home=outputs / "studies" / (options.study or GIVEN),
        earlier=lambda usual: load_study(outputs / "studies" / (options.study or usual)),
        on_event=options.on_event,
    )
    space = resolved.recipe.space
    if not space:
        raise InputError(
            f"{resolved.path}: has no search space; add one, such as "
            "`search: {train.lr: {low: 1e-4, high: 1e-2, log: true}}`"
        )
    require_sampler(options.sampler, space)
    if (seeds := resolved.recipe.seeds) and len(seeds) > 1 and "seed" not in space:
        line = f"seeds: trials are trained with the first, {seeds[0]}; ens train trains all {len(seeds)}"
        options.on_event({"event": "finding", "line": line})
    if options.storage is not None:
        check_storage(options.storage)
    require_allowed(find_code(resolved), options.allow_code)
    name = options.study or resolved.name  # checked before the rows are read, which takes long
    check_run_name(name, "--study")
    request = request_for(asked, resolved, load_rows(resolved, outputs, options.on_event, keep_pixels=True), outputs)
    path = outputs / "studies" / name
    is_new = not trial_folders(path)
    record = open_study(path, request, sampler=options.sampler, seed=options.seed, policy=options.policy)
    start = own_values(resolved.recipe)
    words = [
        point if isinstance(point, str) else ",".join(set_words(point, of_search=True)) for point in options.points
    ]
    points = parse_points(words, space, start)
    record["points"] += [point for point in points if point not in record["points"]]  # the same command adds none
    for other in options.warm_from:
        record["warm"] = record["warm"] or warm_trials(outputs / "studies" / other, space, start, record["metric"])
    facts = StudyFacts(
        path=path,
        request=request,
        workplace=Workplace(
            options.engine, options.workers, options.gpus, options.per_gpu, options.hang_timeout_s, options.slurm
        ),
        policy=options.policy,
        allow_code=options.allow_code,
        on_event=options.on_event,
        metric=record["metric"],
        greater_is_better=record["greater_is_better"],
        start=start,
    )
    opener = Opener(facts, {request.plan.sha256: checked_request(request, options.on_event)})
    if is_new:
        check_space(space, start, opener.try_out, resolved.origins)
    with folder_lock(path):
        sweep_temporaries(path)
        before = load_trials(path)
        check_study(path, record, space, before)
        return _StudyWork(options, opener, record, before).run()


class _StudyWork:
    """One study while it is worked on."""

    def __init__(self, options: TuneOptions, opener: Opener, record: dict[str, Any], before: Sequence[Trial]) -> None:
        """`before`: the trials of earlier commands."""
        facts = opener.facts
        self.options, self.opener, self.facts, self.record, self.before = options, opener, facts, record, before
        self.resolved, self.space = facts.request.resolved, facts.request.resolved.recipe.space
        self.trials = len(before) + options.more if options.more is not None else options.trials or 0
        self.deadline = None if options.timeout_s is None else time.monotonic() + options.timeout_s
        # What `ens status` needs to name the command that goes on.
        record["wanted"] = {"trials": self.trials, "search": list(set_words(options.search, of_search=True))}
        self.mirror: Mirror | None = None
        if options.storage is not None:
            name, greater = facts.path.name, facts.greater_is_better
            self.mirror = Mirror(options.storage, name, self.space, greater_is_better=greater, warn=self.warn)

    @cached_property
    def proposer(self) -> Proposer:
        """Made for the first proposal: a study that only ends needs none."""
        return Proposer(
            self.space,
            self.facts.start,
            sampler=self.options.sampler,
            seed=self.options.seed,
            greater_is_better=self.facts.greater_is_better,
            earlier=[(trial["params"], trial["value"]) for trial in self.record["warm"]],
        )

    def run(self) -> Study:
        """Finish what was begun, add trials until a limit is met, then close. Interrupted, it says what is known."""
        save_given_recipe(self.resolved)
        save_study(self.facts.path, self.record)
        self.record["ended"] = None
        queue = FoldQueue(self.opener, self.before, self.propose, self.ended)
        try:
            try:
                queue.take_up()
                if decided := queue.decided():
                    workplace, k = self.facts.workplace, self.facts.request.plan.k
                    slots = workplace.slots(max(1, self.trials) * k, *decided)
                    run_source(queue, workplace.engine, slots, workplace.limits)
            finally:  # also when interrupted: what is known is written
                queue.close()
                self._close(queue.known())
            self._judge(queue.known())
        except KeyboardInterrupt as stop:
            record = {**self.record, "ended": self.record["ended"] or "interrupted"}
            raise StudyInterrupted(Study(self.facts.path, record, tuple(queue.known()))) from stop
        return Study(self.facts.path, self.record, tuple(queue.known()))

    def propose(self, trials: Sequence[Trial]) -> Trial | None:
        """The next trial, written down before anything is trained; None when there shall be no more."""
        known = sorted(trials, key=lambda trial: trial.number)
        self.record["ended"] = self._why_no_more(known)
        if self.record["ended"] is not None:
            return None
        number = known[-1].number + 1 if known else 0
        params, source = self._params(number, known)
        if params is None:
            self.record["ended"] = "every combination has been tried"
            return None
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

    def warn(self, line: str) -> None:
        """Something that a person should know, but that ends nothing."""
        self.facts.on_event({"event": "finding", "line": f"warning: {line}"})

    def _judge(self, trials: Sequence[Trial]) -> None:
        """What the best one is worth: at full cost, on other folds, or from the trials alone."""
        record, options = self.record, self.options
        is_late = self.deadline is not None and time.monotonic() >= self.deadline
        if options.nested or record["nested"] is not None:
            record["nested"] = nested_score(self.facts, trials)
            self._close(trials)
        best = best_trial(trials, greater_is_better=self.facts.greater_is_better)
        if best is None:
            return
        if is_late:
            self._close(trials, with_intervals=True)
            return
        if record["budget"] and record["full"] is None:
            record["full"] = confirm(self.facts, best)
            self._close(trials)
        if options.with_rescore and not options.nested and record["honest"] is None:
            record["honest"] = rescore(self.facts, best)
        self._close(trials, with_intervals=True)

    def _close(self, trials: Sequence[Trial], *, with_intervals: bool = False) -> None:
        """Write what is known."""
        greater = self.facts.greater_is_better
        self.record["importance"] = importance_of(self.space, trials, greater_is_better=greater)
        if with_intervals:
            add_intervals(self.facts, self.record, trials)
        close_study(self.facts.path, self.record, self.resolved, trials)
        if self.mirror is not None:
            self.mirror.copy(trials)

    def _why_no_more(self, trials: Sequence[Trial]) -> str | None:
        if len(trials) >= self.trials:
            return counted(len(trials), "trial")
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "the time is up"
        patience, greater = self.options.patience, self.facts.greater_is_better
        if patience is not None and (best := best_trial(trials, greater_is_better=greater)) is not None:
            since = sum(trial.number > best.number and trial.state != "running" for trial in trials)
            if since >= patience:
                return f"no gain in {counted(since, 'trial')}"
        return None

    def _params(self, number: int, trials: Sequence[Trial]) -> tuple[dict[str, Any] | None, str]:
        """Parameters and where they come from: the recipe as it stands, points that were asked for, the sampler."""
        if number == 0 and (first := params_of(self.space, self.facts.start)) is not None:
            return first, "recipe"
        points = self.record["points"][sum(trial.source == "point" for trial in trials) :]
        if points:
            return dict(points[0]), "point"
        params: dict[str, Any] | None = None
        for attempt in range(_ATTEMPTS):  # each with a seed of its own, so that it is another draw
            params = self.proposer.propose(number, trials, attempt)
            if params is None or self._is_recipe(params):
                break
        return params, "sampler"

    def _is_recipe(self, params: dict[str, Any]) -> bool:
        """Whether the values make a recipe; each alone does, but two may not go together."""
        try:
            values = values_in_recipe(self.resolved.recipe, values_of(self.space, params))
            with_values(self.resolved, {**values, **self.resolved.recipe.cheap_values})
        except InputError:
            return False
        return True
