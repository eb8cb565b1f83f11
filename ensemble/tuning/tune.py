"""`tune`: trials one after the other, each a run of its own; ends with a recipe of the best values."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ensemble.core.custom_code import find_code, require_allowed
from ensemble.core.files import load_json, save_json, sweep_temporaries
from ensemble.core.identity import differing_keys
from ensemble.core.locks import folder_lock
from ensemble.core.recipe_files import ResolvedRecipe, save_recipe_with, with_values
from ensemble.core.run import RunFolder, check_run_name, now
from ensemble.data.audit import Finding
from ensemble.errors import InputError, PartialFailure
from ensemble.runs.audit import checked_request
from ensemble.runs.execute import execute_run
from ensemble.runs.request import OnEvent, RunRequest, load_rows, read_recipe, request_for
from ensemble.runs.workplace import Auto, Workplace
from ensemble.tuning.ledger import Trial, best_trial, load_trials, save_trial, save_trials_table, trial_folder
from ensemble.tuning.propose import propose
from ensemble.tuning.space import values_of

__all__ = ["Study", "tune"]

_FORMAT = 1
_FIRST_FAILURES = 3


@dataclass(frozen=True)
class Study:
    """A study after `tune`: its folder, what `study.json` says, its trials."""

    path: Path
    record: dict[str, Any]
    trials: tuple[Trial, ...]

    @property
    def best_recipe(self) -> Path:
        """The recipe with the best trial's values."""
        return self.path / "best.yaml"


def tune(
    recipe: str | None = None,
    *,
    trials: int,
    study: str | None = None,
    sets: Sequence[str] = (),
    data: str | None = None,
    timeout_s: float | None = None,
    sampler: str = "tpe",
    seed: int = 0,
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
    """Bring a study to `trials` trials; what earlier calls finished is kept, what they began is finished first."""
    outputs = Path(outputs)
    asked, resolved = read_recipe(recipe, folder=Path(folder), outputs=outputs, sets=sets, data=data)
    if not resolved.recipe.search:
        raise InputError(
            f"{resolved.path}: has no search space; add one, such as "
            "`search: {train.lr: {low: 1e-4, high: 1e-2, log: true}}`"
        )
    require_allowed(find_code(resolved), allow_code)
    name = study or resolved.name
    check_run_name(name)
    request = request_for(asked, resolved, load_rows(resolved, outputs, on_event, keep_pixels=True), outputs)
    workplace = Workplace(engine, workers, gpus, per_gpu, hang_timeout_s)
    work = _StudyWork(outputs / "studies" / name, request, sampler, seed, workplace, on_event)
    work.allow_code = allow_code
    work.refuse_if_other()
    work.findings = checked_request(request, on_event)
    with folder_lock(work.path):
        sweep_temporaries(work.path)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        return work.run(trials, deadline)


class _StudyWork:
    """One study while it is worked on."""

    def __init__(
        self, path: Path, request: RunRequest, sampler: str, seed: int, workplace: Workplace, on_event: OnEvent
    ) -> None:
        self.path, self.request, self.sampler, self.seed = path, request, sampler, seed
        self.workplace, self.on_event = workplace, on_event
        self.resolved: ResolvedRecipe = request.resolved
        self.space = self.resolved.recipe.search
        self.findings: list[Finding] = []
        self.allow_code = False
        self.metric = self.resolved.recipe.metric or "accuracy"
        self.greater_is_better = request.greater_is_better

    def identity_of(self) -> dict[str, Any]:
        """What decides a study's course: another value, another study."""
        search = {key: dimension.plain() for key, dimension in self.resolved.recipe.search.items()}
        return {**self.request.identity.plain(), "search": search, "sampler": self.sampler, "sampler_seed": self.seed}

    def refuse_if_other(self) -> None:
        """A folder that holds another study is not mixed into."""
        record = self.load_record()
        if record is not None and (differences := differing_keys(record["identity_of"], self.identity_of())):
            raise InputError(
                f"{self.path}: holds a study that was asked for otherwise; give this one another --study",
                *(f"  {line}" for line in differences),
            )

    def load_record(self) -> dict[str, Any] | None:
        """`study.json`; None before the first trial."""
        try:
            record: dict[str, Any] = load_json(self.path / "study.json")
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"{self.path / 'study.json'}: can't be read ({error})") from error
        return record

    def run(self, wanted: int, deadline: float | None) -> Study:
        """Finish what was begun, add trials until there are `wanted`, then close."""
        record = self.load_record() or self.new_record()
        save_json(self.path / "study.json", record)
        trials = load_trials(self.path)
        for trial in [trial for trial in trials if trial.state == "running"]:
            trials[trials.index(trial)] = self.finish(trial)
        while len(trials) < wanted and (deadline is None or time.monotonic() < deadline):
            trials.append(self.finish(self.begin(len(trials), trials)))
            self.close(record, trials)
            self.stop_if_hopeless(trials)
        self.close(record, trials)
        return Study(self.path, record, tuple(trials))

    def new_record(self) -> dict[str, Any]:
        """The record of a study without trials."""
        return {
            "format": _FORMAT,
            "study": self.path.name,
            "recipe_name": self.resolved.name,
            "dataset": self.request.table.dataset,
            "metric": self.metric,
            "greater_is_better": self.greater_is_better,
            "asked": dataclasses.asdict(self.request.asked),
            "identity_of": self.identity_of(),
            "best": None,
            "started": now(),
            "finished": None,
        }

    def begin(self, number: int, trials: Sequence[Trial]) -> Trial:
        """Propose the next trial's values, and write them down before anything is trained."""
        params = propose(
            number,
            self.space,
            trials,
            start=_values_in(self.resolved, self.space),
            sampler=self.sampler,
            seed=self.seed,
            greater_is_better=self.greater_is_better,
        )
        trial = Trial(number, params, values_of(self.space, params), started=now())
        save_trial(self.path, trial)
        return trial

    def finish(self, trial: Trial) -> Trial:
        """Train a trial's folds, or what is left of them; a failure is the trial's result, not the study's end."""
        self.on_event({"event": "trial-started", "number": trial.number, "values": dict(trial.values)})
        label = f"{self.path.name}/trial-{trial.number}"
        prefix = f"trial {trial.number} "
        value: float | None = None
        error: str | None = None
        try:
            resolved = with_values(self.resolved, trial.values)
            request = request_for(self.request.asked, resolved, self.request.table, self.request.outputs)
            require_allowed(request.code, self.allow_code)
            record = execute_run(
                request,
                RunFolder(trial_folder(self.path, trial.number), label),
                workplace=self.workplace,
                findings=self.findings,
                on_event=lambda event: self.on_event({**event, "label": prefix}),
            )
            if record["state"] == "complete":
                value = record["scores"]["oof"][self.metric]
            else:
                error = next(state["error"] for state in record["fold_states"] if state["error"])
        except InputError as refused:
            error = refused.messages[0]
        if value is None and error is None:
            error = f"{self.metric} has no value on these rows"
        state: Literal["complete", "failed"] = "failed" if value is None else "complete"
        done = dataclasses.replace(trial, state=state, value=value, error=error, finished=now())
        save_trial(self.path, done)
        outcome = f"{self.metric} {value:.4f}" if value is not None else f"failed: {error}"
        self.on_event({"event": "trial-finished", "number": trial.number, "outcome": outcome})
        return done

    def close(self, record: dict[str, Any], trials: Sequence[Trial]) -> None:
        """Write the table, the best recipe and the study's record."""
        save_trials_table(self.path / "trials.csv", trials)
        best = best_trial(trials, greater_is_better=self.greater_is_better)
        if best is not None:
            description = f"{self.resolved.name}, tuned: trial {best.number} of study {self.path.name}."
            save_recipe_with(self.resolved, best.values, self.path / "best.yaml", description=description)
            record["best"] = {"number": best.number, "value": best.value, "values": dict(best.values)}
        record["finished"] = now()
        save_json(self.path / "study.json", record)

    def stop_if_hopeless(self, trials: Sequence[Trial]) -> None:
        """End a study whose first trials all failed, with the reason."""
        if len(trials) == _FIRST_FAILURES and all(trial.state == "failed" for trial in trials):
            raise PartialFailure(
                f"study {self.path.name}: the first {_FIRST_FAILURES} trials all failed, so it stops here",
                f"the last one: {trials[-1].error}",
            )


def _values_in(resolved: ResolvedRecipe, keys: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe's own values of the given dotted keys."""
    values = {}
    for key in keys:
        value: Any = resolved.recipe.plain()
        for part in key.split("."):
            value = value[part]
        values[key] = value
    return values
