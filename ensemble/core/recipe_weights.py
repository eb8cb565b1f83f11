"""The file of weights that a recipe names in `model.pretrained`: where it lies. Nothing of it is loaded here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ensemble.core.complaints import Complaint, Place, closest, raise_together
from ensemble.core.files import sha256_file
from ensemble.core.recipe_find import shown_path
from ensemble.core.recipe_load import ResolvedRecipe
from ensemble.errors import InputError

__all__ = ["check_same_weights", "find_weights"]


def find_weights(resolved: ResolvedRecipe) -> Path | None:
    """The file, looked for beside the recipe, beside what it extends, then in the working directory; None if none."""
    wish = resolved.recipe.model.pretrained
    if not isinstance(wish, str) or wish == "auto":
        return None
    folders = list(dict.fromkeys([*(path.parent for path in resolved.files), resolved.folder]))
    paths = [Path(os.path.abspath(folder / os.path.expanduser(wish))) for folder in folders]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        near = closest(paths[0].name, sorted(one.name for one in paths[0].parent.glob("*.*")))
        text = f"model.pretrained: there is no file {shown_path(paths[0], resolved.folder)}"
        raise_together(
            [Complaint(Place(resolved.origins["model.pretrained"]), text + (f"; did you mean {near}?" if near else ""))]
        )
    return found


def check_same_weights(decided: Mapping[str, Any], weights: Path | None, where: Path) -> None:
    """Refuse to go on with a run whose file of weights is not what it started with."""
    before = decided.get("weights")
    if weights is not None and before is not None and sha256_file(weights) != before["sha256"]:
        raise InputError(
            f"{weights}: not the weights that {where} started with; "
            "give this run another --name, or pass --fresh to move the old one aside"
        )
