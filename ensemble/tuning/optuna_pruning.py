"""Optuna's own pruner, asked about two trials alone: a peer for `race`, and a choice for who trusts it more."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import optuna
from optuna.pruners import WilcoxonPruner
from optuna.trial import TrialState, create_trial

__all__ = ["is_pruned_by_wilcoxon"]


def is_pruned_by_wilcoxon(folds: Sequence[float], best: Sequence[float]) -> bool:
    """Whether WilcoxonPruner, at its defaults, stops a trial with these fold scores beside the best one's."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    study.add_trial(_trial(best, TrialState.COMPLETE))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of what it was built to be given
        return bool(WilcoxonPruner().prune(study, _trial(folds, TrialState.RUNNING)))


def _trial(folds: Sequence[float], state: TrialState) -> optuna.trial.FrozenTrial:
    value = sum(folds) / len(folds) if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, intermediate_values=dict(enumerate(folds)))
