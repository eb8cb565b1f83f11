"""pydantic's verdict on a file, retold for the person who wrote it: one line a fault, with place, value and rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from ensemble.core.complaints import Complaint, FaultsInside, KeyPath, Place, closest, dotted, show_value
from ensemble.core.schema_keys import allowed_text, bounds_text, choices_of, members_of, unknown_key_text, walk

__all__ = ["retell"]

_MOST_TOLD = 200  # nobody reads more, and a file of a megabyte can hold a hundred thousand


def retell(
    error: ValidationError,
    schema: type[BaseModel],
    locate: Callable[[KeyPath], Place],
    *,
    examples: Mapping[KeyPath, str] | None = None,
    advice: Mapping[str, str] | None = None,
    also: Sequence[str] = (),
    is_partial: bool = False,
) -> list[Complaint]:
    """One complaint for each faulty key.

    `locate` gives the place of a key, or of its nearest ancestor that stands in a file; `examples` what to add for a
    missing key; `advice` what to say of some unknown keys; `also` are top-level keys that the file's format adds.
    With `is_partial` a file of the chain couldn't be read: missing keys and rules between keys are passed over.
    """
    faults: dict[KeyPath, tuple[Any, Any, type[BaseModel]]] = {}
    for details in error.errors(include_url=False)[:_MOST_TOLD]:
        if is_partial and details["type"] in ("missing", "value_error"):
            continue
        path, allowed, model = walk(schema, details["loc"])
        if path not in faults or details["type"] == "value_error":
            faults[path] = (details, allowed, model)
    with_faults_inside = {path[:end] for path in faults for end in range(len(path))}
    complaints = []
    for path, (details, allowed, model) in faults.items():
        if path in with_faults_inside:  # a union's verdict on a value whose inside says more
            continue
        if details["type"] == "value_error":
            cause = details["ctx"]["error"]
            if isinstance(cause, FaultsInside):
                inside = [((*path, *inner), text) for inner, text in cause.faults]
                complaints += [Complaint(locate(where), f"{dotted(where)} {text}") for where, text in inside]
                continue
            complaints.append(_of_rule(path, str(cause), allowed, locate))
            continue
        if details["type"] == "missing":
            text = _missing_text(path, model, examples or {})
        elif details["type"] == "extra_forbidden":
            hint = (advice or {}).get(str(path[-1]))
            text = f"{dotted(path)} {hint}" if hint else unknown_key_text(schema, path, also=also, parent=model)
        else:
            text = _value_text(path, details["input"], allowed)
        complaints.append(Complaint(locate(path), text))
    if error.error_count() > _MOST_TOLD:
        complaints.append(Complaint(locate(()), f"and {error.error_count() - _MOST_TOLD:,} faults more"))
    return complaints


def _value_text(path: KeyPath, value: Any, allowed: Any) -> str:
    """`train.lr is -1, but must be greater than 0`: only the limits where the value is of the right kind."""
    members = members_of(allowed)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_right_kind = (
        len(members) == 1 and is_number and not (isinstance(value, float) and "whole" in allowed_text(allowed))
    )
    must_be = (bounds_text(members[0]) or bounds_text(allowed)) if is_right_kind else ""
    text = f"{dotted(path)} is {show_value(value)}, but must be {must_be or allowed_text(allowed)}"
    if isinstance(value, int | float) and any("text" in allowed_text(member)[:4] for member in members):
        return f"{text}; put it in quotes"
    near = closest(value, choices_of(allowed)) if isinstance(value, str) else None
    return f"{text}; did you mean {near}?" if near else text


def _missing_text(path: KeyPath, model: type[BaseModel], examples: Mapping[KeyPath, str]) -> str:
    """What to add: the caller's example, else the first sentence of the key's documentation."""
    if path in examples:
        return f"{dotted(path)} is missing; add e.g. '{examples[path]}'"
    documentation = model.model_fields[str(path[-1])].description or ""
    first_sentence = " ".join(documentation.split()).split(". ")[0].rstrip(".")
    return f"{dotted(path)} is missing" + (f"; it is: {first_sentence}" if first_sentence else "")


def _of_rule(path: KeyPath, message: str, allowed: Any, locate: Callable[[KeyPath], Place]) -> Complaint:
    """A rule between keys, placed at the key that its message begins with (`warmup_epochs is 5, but …`), if it does."""
    named = re.match(r"([\w.]+)(?=: | is )", message)
    keys = tuple(named[1].split(".")) if named else ()
    members = members_of(allowed)
    if keys and members and keys[0] in getattr(members[0], "model_fields", {}):
        return Complaint(locate((*path, *keys)), dotted(path) + "." * bool(path) + message)
    return Complaint(locate(path), f"{dotted(path)}: {message}" if path else message)
