"""Plain values to YAML text that `yaml_reader` reads back as the same: block mappings, everything else in flow."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ensemble.core.yaml_reader import resolve_plain_scalar

__all__ = ["format_yaml"]

_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_./+-]*( [A-Za-z0-9_./+-]+)*")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def format_yaml(values: Mapping[str, Any], *, comment: str = "") -> str:
    """A YAML document in block style; `comment` stands at its top."""
    head = [f"# {line}".rstrip() for line in comment.splitlines()]
    return "\n".join([*head, *_block(values, "")]) + "\n"


def _block(values: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            lines += [f"{indent}{_text(key)}:", *_block(value, indent + "  ")]
        else:
            lines.append(f"{indent}{_text(key)}: {_flow(value)}")
    return lines


def _flow(value: Any) -> str:
    """A scalar, list or mapping on one line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_text(key)}: {_flow(item)}" for key, item in value.items()) + "}"
    raise TypeError(f"a {type(value).__name__} has no form in YAML: {value!r}")


def _text(value: str) -> str:
    """Text bare where it can't be taken for anything else, in double quotes where it can."""
    if _PLAIN.fullmatch(value) and isinstance(_read_bare(value), str):
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _read_bare(value: str) -> Any:
    """What the reader would make of bare `value`; None for what it refuses."""
    try:
        return resolve_plain_scalar(value)
    except ValueError:
        return None


def _escaped(letter: str) -> str:
    if letter in _ESCAPES or letter.isprintable():
        return _ESCAPES.get(letter, letter)
    return f"\\U{ord(letter):08X}"
