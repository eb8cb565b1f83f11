"""How a trial becomes a run: its values in the recipe, checked, prepared once for all that are alike, and locked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.custom_code import require_allowed
from ensemble.core.files import canonical_json
from ensemble.core.recipe_files import ResolvedRecipe, with_values
from ensemble.core.run import FoldKey, RunFolder
from ensemble.data.audit import Finding
from ensemble.runs.audit import checked_request
from ensemble.runs.complain import Together
from ensemble.runs.execute import prepare_runs
from ensemble.runs.record import fold_keys
from ensemble.runs.request import OnEvent, RunRequest, request_for
from ensemble.runs.work import RunWork
from ensemble.runs.workplace import Workplace
from ensemble.tuning.ledger import Trial, trial_folder
from ensemble.tuning.space import values_in_recipe

__all__ = ["Opener", "StudyFacts"]

_PREPARED_ALIKE = ("train.lr", "train.weight_decay", "train.epochs", "loss.label_smoothing", "seed")
"""Keys that change nothing of what is decided before a run's first fold."""


@dataclass(frozen=True)
class StudyFacts:
    """What all trials of a study share."""

    path: Path
    request: RunRequest
    workplace: Workplace
    policy: str
    findings: Sequence[Finding]
    allow_code: bool
    on_event: OnEvent

    def keys(self, k: int) -> list[FoldKey]:
        """The folds that a trial trains on a plan of k."""
        recipe = self.request.resolved.recipe
        every = fold_keys(k, recipe.folds.repeats)
        return [key for key in every if recipe.budget.folds is None or key.fold < recipe.budget.folds]

    @property
    def metric(self) -> str:
        """The score that decides."""
        return self.request.resolved.recipe.metric or "accuracy"

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        return 1 if self.request.greater_is_better else -1


class Opener:
    """Opens the runs of a study's trials."""

    def __init__(self, facts: StudyFacts) -> None:
        self._facts = facts
        self._decided: dict[str, dict[str, Any]] = {}
        self._decoded: dict[Any, Path] = {}
        self._audited: dict[str, Sequence[Finding]] = {facts.request.plan.sha256: facts.findings}

    def open(self, trial: Trial) -> RunWork:
        """The trial's run, checked and locked."""
        facts = self._facts
        recipe = facts.request.resolved.recipe
        values = {**values_in_recipe(recipe, trial.values), **recipe.cheap_values}
        resolved = with_values(facts.request.resolved, values)
        like = facts.request
        request = request_for(like.asked, resolved, like.table, like.outputs, like=like)
        require_allowed(request.code, facts.allow_code)
        if request.plan.sha256 not in self._audited:
            self._audited[request.plan.sha256] = checked_request(request, facts.on_event)
        run = RunFolder(trial_folder(facts.path, trial.number), f"{facts.path.name}/trial-{trial.number}")
        prefix = f"trial {trial.number} "
        tell: OnEvent = lambda event: facts.on_event({**event, "label": prefix})  # noqa: E731
        folds = sorted({key.fold for key in facts.keys(request.plan.k)})
        findings = self._audited[request.plan.sha256]
        work = RunWork(request, run, folds=folds, findings=findings, decoded=self._decoded, on_event=tell)
        decided = work.decided or self._prepare(work, resolved)
        work.lock()
        try:
            work.open(decided)
        except BaseException:
            work.leave()
            raise
        return work

    def _prepare(self, work: RunWork, resolved: ResolvedRecipe) -> dict[str, Any]:
        """What depends on the machine: as for an earlier trial that differs in nothing that matters, or anew."""
        key = _preparation_key(resolved)
        if key not in self._decided:
            together = Together()
            found = prepare_runs([work], self._facts.workplace, together, self._facts.on_event)
            together.raise_any()
            self._decided[key] = found[work.run.name]
        return self._decided[key]


def _preparation_key(resolved: ResolvedRecipe) -> str:
    """The recipe without what changes nothing of the preparation."""
    plain: dict[str, Any] = resolved.recipe.plain()
    left = {key: value for key, value in plain.items() if key not in ("search", "description")}
    for dotted in _PREPARED_ALIKE:
        part, _, name = dotted.rpartition(".")
        (left[part] if part else left).pop(name, None)
    return canonical_json(left)
