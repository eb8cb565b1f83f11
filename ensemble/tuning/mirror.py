"""`--storage URL`: a copy of the study in an Optuna storage, for its dashboard. It is written, never read for a result.

Losing it, or a failure to write it, loses nothing: what is missing there is added from the ledger at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import optuna
from optuna.study import StudyDirection

from ensemble.errors import InputError
from ensemble.tuning.ledger import Trial
from ensemble.tuning.propose import frozen_trial
from ensemble.tuning.space import Space, distributions_of

__all__ = ["Mirror", "check_storage"]

_NUMBER = "ens_trial"


def check_storage(url: str) -> None:
    """Refuse what is no URL of a database, or of one whose driver is missing; whether it answers is seen later."""
    from sqlalchemy.engine import make_url  # a quarter of a second, for those who want it
    from sqlalchemy.exc import SQLAlchemyError

    try:
        make_url(url).get_dialect().import_dbapi()
    except SQLAlchemyError:
        raise InputError(
            f"--storage {url}: no URL of a database that Optuna can use; write e.g. sqlite:///optuna.db"
        ) from None
    except ImportError as error:
        raise InputError(f"--storage {url}: needs the package {error.name}, which is not installed") from None


class Mirror:
    """Copies trials that have ended; after the first failure it says so, and is silent."""

    def __init__(
        self, url: str, name: str, space: Space, *, greater_is_better: bool, warn: Callable[[str], None]
    ) -> None:
        self._url, self._name, self._warn = url, name, warn
        self._direction = StudyDirection.MAXIMIZE if greater_is_better else StudyDirection.MINIMIZE
        self._distributions = distributions_of(space)
        self._study: optuna.Study | None = None
        self._there: set[int] = set()
        self._is_broken = False

    def copy(self, trials: Sequence[Trial]) -> None:
        """Add what is not there yet."""
        if self._is_broken:
            return
        try:
            study = self._study or self._open()
            for trial in trials:
                if trial.state != "running" and trial.number not in self._there:
                    study.add_trial(
                        frozen_trial(
                            trial.params,
                            trial.told,
                            self._distributions,
                            about={
                                _NUMBER: trial.number,
                                "state": trial.state,
                                "why": trial.reason or trial.error or "",
                            },
                        )
                    )
                    self._there.add(trial.number)
        except Exception as error:  # whatever a database or its driver throws
            self._is_broken = True
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._warn(f"--storage {self._url}: {first}; the study goes on without it, nothing is lost")

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=self._url, study_name=self._name, direction=self._direction, load_if_exists=True
        )
        found = [trial.user_attrs.get(_NUMBER) for trial in self._study.get_trials(deepcopy=False)]
        self._there = {number for number in found if isinstance(number, int)}
        return self._study
