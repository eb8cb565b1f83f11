"""A run's identity: the hash of what changes its result, and nothing else. Devices, workers and paths are not in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ensemble.core.files import canonical_json, sha256_text
from ensemble.core.recipe import Recipe

__all__ = ["IDENTITY_VERSION", "Identity", "differing_keys"]

IDENTITY_VERSION = 3
"""Raised when the code changes what a recipe's training gives, a default's change included; runs of an older version
are not mixed with new ones. A new key whose default changes nothing needs no new version: defaults are not hashed."""

_WITHOUT_EFFECT: Any = {
    "description": True,
    "search": True,
    "data": {"cache": True},
    "train": {"checkpoint_steps": True},
}


@dataclass(frozen=True)
class Identity:
    """What a run was asked to be. `code` maps a custom function's name to the hash of its source."""

    recipe: Recipe
    dataset_sha256: str
    folds_sha256: str
    code: tuple[tuple[str, str], ...] = ()

    def plain(self) -> dict[str, Any]:
        """All parts, defaults filled in, as JSON types: what differences are looked for in."""
        return self._parts(self.recipe.model_dump(mode="json", exclude=_WITHOUT_EFFECT))

    @property
    def sha256(self) -> str:
        """The identity itself, in hex."""
        essential = self.recipe.model_dump(mode="json", exclude=_WITHOUT_EFFECT, exclude_defaults=True)
        if not essential.get("train", True):
            del essential["train"]  # nothing but what has no effect
        if essential.get("tta", {}).keys() == {"views"}:
            essential["tta"] = essential["tta"]["views"]  # as it was hashed when there was nothing else to say
        return sha256_text(canonical_json(self._parts(essential)))

    def _parts(self, recipe: dict[str, Any]) -> dict[str, Any]:
        return {
            "identity_version": IDENTITY_VERSION,
            "recipe": recipe,
            "dataset_sha256": self.dataset_sha256,
            "folds_sha256": self.folds_sha256,
            "code": dict(self.code),
        }


def differing_keys(stored: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Each key whose value differs, as `train.lr: 0.001 there, 0.003 asked`; recipe keys go without their prefix."""
    there, here = dict(_leaves(stored)), dict(_leaves(asked))
    lines = []
    for key in sorted(there.keys() | here.keys()):
        if there.get(key, _ABSENT) != here.get(key, _ABSENT):
            name = key.removeprefix("recipe.")
            lines.append(f"{name}: {_short(there.get(key, _ABSENT))} there, {_short(here.get(key, _ABSENT))} asked")
    return lines


_ABSENT = object()


def _leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; lists are values."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{prefix}.{key}" if prefix else key)
    elif not (isinstance(value, dict) and prefix == "code"):
        yield prefix, value


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
