"""How a trial's values become a run: put into the recipe, checked, and prepared, once for all trials that are alike.

What depends on the machine is decided by a worker, which builds the network for it: too slow to repeat for each trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from ensemble.audit.findings import Finding
from ensemble.core.files import canonical_json
from ensemble.core.run import FoldKey, RunFolder
from ensemble.errors import EnsError, InputError
from ensemble.recipe.load import ResolvedRecipe, with_values
from ensemble.recipe.own_code import require_allowed
from ensemble.runs.checks import checked_request
from ensemble.runs.devices import Workplace
from ensemble.runs.request import OnEvent, RunRequest, fold_keys, request_for
from ensemble.runs.work import RunWork, try_runs
from ensemble.tuning.evidence import FoldPart
from ensemble.tuning.space import values_in_recipe
from ensemble.tuning.trials import Trial, trial_folder

PREPARED_ALIKE = (
    *("seed", "sampling.ratio", "sampling.share", "model.drop_rate", "model.drop_path_rate", "model.layer_decay"),
    *("loss.label_smoothing", "loss.gamma", "loss.beta", "mix.mixup_alpha", "mix.cutmix_alpha", "mix.probability"),
    *("mix.switch_probability", "mix.last_epochs_off", "train.epochs", "train.lr", "train.momentum", "train.eps"),
    *("train.weight_decay", "train.final_lr", "train.step_epochs", "train.step_factor", "train.plateau_epochs"),
    *("train.warmup_epochs", "train.warmup_steps", "train.clip_norm", "train.ema", "train.swa_epochs"),
    *("train.inner_share", "train.patience"),
)
"""Keys of which only whether they are null matters for what a worker decides before a run's first fold. A key is added
here only if the test of `PREPARED_ALIKE` shows that it changes no decision."""


@dataclass(frozen=True)
class StudyFacts:
    """What all trials of a study share."""

    path: Path
    request: RunRequest
    workplace: Workplace
    policy: str
    allow_code: bool
    on_event: OnEvent
    metric: str
    """The score that decides."""
    greater_is_better: bool
    start: Mapping[str, Any]
    """The recipe's own values of the keys that are searched, and of those that conditions name."""

    def keys(self, k: int) -> list[FoldKey]:
        """The folds that a trial trains on a plan of k."""
        recipe = self.request.resolved.recipe
        every = fold_keys(k, recipe.folds.repeats)
        return [key for key in every if recipe.budget.folds is None or key.fold < recipe.budget.folds]

    def parts_of(self, trial: Trial, full: Path | None = None) -> list[FoldPart]:
        """Where the rows of each fold of a complete trial lie; its plan may be one of its own.

        `full`: those of a run of its values with all folds, in that folder.
        """
        plan, recipe = self.request.plan, self.request.resolved.recipe
        run = RunFolder(full or trial_folder(self.path, trial.number))
        k = trial.values.get("folds.k", plan.k)
        keys = self.keys(k) if full is None else fold_keys(k, recipe.folds.repeats)
        return [FoldPart(run.fold_path(key, plan.repeats), key) for key in keys]


@dataclass(frozen=True)
class Opener:
    """Opens the runs of a study's trials. What several of them share is found once, and kept here."""

    facts: StudyFacts
    audited: dict[str, Sequence[Finding]]
    """What the audit found, by the hash of the fold plan."""
    _decided: dict[str, dict[str, Any]] = field(default_factory=dict)  # by `_preparation_key`
    _decoded: dict[Any, Path] = field(default_factory=dict)  # decoded images, filled by the runs themselves

    def try_out(self, points: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
        """What is wrong with each point, as trials have it or at full cost; nothing is written, decisions are kept."""
        cheap = self.facts.request.resolved.recipe.cheap_values
        costs = {"": cheap} | ({"at full cost: ": {}} if cheap else {})
        wrong: list[tuple[str, ...]] = [()] * len(points)
        keys: list[tuple[int, str, str]] = []
        works: dict[str, RunWork] = {}

        def note(number: int, cost: str, refused: EnsError) -> None:
            wrong[number] = wrong[number] or tuple(
                f"{cost}{text.removeprefix('search: ')}" for text in refused.messages
            )

        for (number, values), (cost, budget) in product(enumerate(points), costs.items()):
            name = f"point-{len(keys)}"  # of a folder that is never made
            try:
                work = self._work(values, budget, RunFolder(self.facts.path / name, name), lambda event: None)
            except InputError as refused:
                note(number, cost, refused)
                continue
            key = _preparation_key(work.request.resolved)
            keys.append((number, cost, key))
            if key not in self._decided:
                works.setdefault(key, work)
        outcomes_by_run = try_runs(list(works.values()), self.facts.workplace, self.facts.on_event)
        outcomes = {key: outcomes_by_run[work.run.name] for key, work in works.items()}
        self._decided.update({key: decided for key, decided in outcomes.items() if not isinstance(decided, EnsError)})
        for number, cost, key in keys:
            outcome = outcomes.get(key)
            if isinstance(outcome, EnsError):
                note(number, cost, outcome)
        return wrong

    def open(self, trial: Trial) -> RunWork:
        """The trial's run, checked, locked and begun."""
        facts, prefix = self.facts, f"trial {trial.number} "
        run = RunFolder(trial_folder(facts.path, trial.number), f"{facts.path.name}/trial-{trial.number}")
        cheap = facts.request.resolved.recipe.cheap_values
        work = self._work(trial.values, cheap, run, lambda event: facts.on_event({**event, "label": prefix}))
        decided = work.decided or self._prepare(work)
        work.start(decided)
        return work

    def _work(self, values: Mapping[str, Any], budget: Mapping[str, Any], run: RunFolder, tell: OnEvent) -> RunWork:
        """The run of some values, checked as far as it can be without a worker."""
        facts, like = self.facts, self.facts.request
        resolved = with_values(like.resolved, {**values_in_recipe(like.resolved.recipe, values), **budget})
        request = request_for(like.asked, resolved, like.table, like.outputs, like=like)
        require_allowed(request.code, facts.allow_code)
        if request.plan.sha256 not in self.audited:
            self.audited[request.plan.sha256] = checked_request(request, facts.on_event)
        folds = sorted({key.fold for key in facts.keys(request.plan.k)})
        findings = self.audited[request.plan.sha256]
        return RunWork(request, run, folds=folds, findings=findings, decoded=self._decoded, on_event=tell)

    def _prepare(self, work: RunWork) -> dict[str, Any]:
        """What depends on the machine: as for an earlier trial that differs in nothing that matters, or anew."""
        key = _preparation_key(work.request.resolved)
        if key not in self._decided:
            outcome = try_runs([work], self.facts.workplace, self.facts.on_event)[work.run.name]
            if isinstance(outcome, EnsError):
                raise outcome
            self._decided[key] = outcome
        return self._decided[key]


def _preparation_key(resolved: ResolvedRecipe) -> str:
    """The recipe without what changes nothing of the preparation: runs with the same key are prepared once."""
    plain: dict[str, Any] = resolved.recipe.plain()
    left = {key: value for key, value in plain.items() if key not in ("search", "description")}
    for dotted in PREPARED_ALIKE:
        part, _, name = dotted.rpartition(".")
        place = left[part] if part else left
        place[name] = place[name] is not None
    return canonical_json(left)
