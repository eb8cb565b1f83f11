"""Requests of several recipes: what they share, a dataset's rows and what the audit finds on a plan, is read once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ensemble.core.custom_code import find_code, require_allowed
from ensemble.core.files import canonical_json
from ensemble.core.recipe_files import ResolvedRecipe
from ensemble.core.recipe_weights import find_weights
from ensemble.data.audit import Finding
from ensemble.data.tables import Table
from ensemble.runs.audit import checked_request
from ensemble.runs.request import OnEvent, RunRequest, load_rows, read_recipe, request_for

__all__ = ["SharedRequests"]


class SharedRequests:
    """Makes checked requests with a mind to train them, all with the same `--set` and `--data`."""

    def __init__(
        self,
        outputs: Path,
        folder: Path,
        sets: Sequence[str],
        data: str | None,
        on_event: OnEvent,
        *,
        allow_code: bool,
    ) -> None:
        self._allow_code = allow_code
        self._outputs, self._folder, self._sets, self._data = outputs, folder, sets, data
        self._on_event = on_event
        self._tables: dict[str, Table] = {}
        self._findings: dict[tuple[str, str, int, str], list[Finding]] = {}

    def request(self, recipe: str | None) -> RunRequest:
        """The recipe, its rows and its fold plan."""
        asked, resolved = read_recipe(
            recipe, folder=self._folder, outputs=self._outputs, sets=self._sets, data=self._data
        )
        require_allowed(find_code(resolved), self._allow_code)
        find_weights(resolved)
        return request_for(asked, resolved, self._table(resolved), self._outputs)

    def findings(self, request: RunRequest) -> list[Finding]:
        """What the audit finds; errors raise, warnings are told once."""
        recipe = request.resolved.recipe
        key = (request.table.sha256, request.plan.sha256, recipe.folds.near_distance, recipe.data.bad_images)
        if key not in self._findings:
            self._findings[key] = checked_request(request, self._on_event)
        return self._findings[key]

    def _table(self, resolved: ResolvedRecipe) -> Table:
        """The rows of the recipe's dataset, every image looked at."""
        place = str(resolved.dataset_path) if resolved.dataset_path is not None else None
        bins = resolved.recipe.plain()["data"].get("bins")
        key = canonical_json([resolved.dataset_name, resolved.dataset.plain(), place, bins])
        if key not in self._tables:
            self._tables[key] = load_rows(resolved, self._outputs, self._on_event, keep_pixels=True)
        return self._tables[key]
