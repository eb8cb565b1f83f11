"""The keys of a schema and what each allows, in words. Reads pydantic models; knows no recipe and no file."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ensemble.core.complaints import KeyPath, any_of, closest, dotted
from ensemble.core.schema import CODE_NAME, WEIGHTS_FILE

__all__ = [
    "allowed_text",
    "bounds_text",
    "choices_of",
    "leaf_keys",
    "members_of",
    "part_of",
    "unknown_key_text",
    "walk",
]

_MOST_LISTED = 14
_PATTERNS = {CODE_NAME: "module:function", WEIGHTS_FILE: "a path that ends in .safetensors, .pth, .pt or .bin"}
_KINDS = {int: "a whole number", float: "a number"}


def leaf_keys(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key that holds a value rather than a part, in the order of the schema."""
    keys: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        part = part_of(field.annotation)
        keys.update({f"{prefix}{name}": field} if part is None else leaf_keys(part, f"{prefix}{name}."))
    return keys


def part_of(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation stands for, if it is one, or one or null."""
    members = [_bare(member) for member in members_of(annotation)]
    return members[0] if len(members) == 1 and _is_model(members[0]) else None


def members_of(annotation: Any) -> list[Any]:
    """The kinds of value that an annotation allows, null left out; one, unless it is a union."""
    bare = _bare(annotation)
    members = get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (annotation,)
    return [member for member in members if _bare(member) is not types.NoneType]


def walk(schema: type[BaseModel], loc: Sequence[str | int]) -> tuple[KeyPath, Any, type[BaseModel]]:
    """Follow one of pydantic's locations, whose elements are keys and names of union members.

    Gives the path of keys alone, what is allowed there (None for an unknown key), and the model last passed through.
    """
    path: list[str | int] = []
    allowed: Any = schema
    model = schema
    for index, element in enumerate(loc):
        members = members_of(allowed)
        if len(members) > 1:
            inner = _member_meant(members, element) if index + 1 < len(loc) else None
            if inner is None:
                break
            allowed = inner
            continue
        bare = _bare(members[0])
        if _is_model(bare):
            model = bare
            field = bare.model_fields.get(str(element))
            allowed = None if field is None else _annotation(field)
        elif get_args(bare):
            allowed = get_args(bare)[-1]
        else:
            break
        path.append(element)
        if allowed is None:
            break
    return tuple(path), allowed, model


def allowed_text(annotation: Any) -> str:
    """What a value may be: `a whole number from 8 to 4096, or auto`."""
    members = members_of(annotation)
    bare = [_bare(member) for member in members]
    constants = choices_of(annotation)
    phrases = [
        _phrase(member, kind)
        for member, kind in zip(members, bare, strict=True)
        if get_origin(kind) is not Literal and kind is not bool and not (kind is int and float in bare)
    ]
    return ", or ".join(phrases + ([any_of(constants)] if constants else []))


def choices_of(annotation: Any) -> list[str]:
    """The words that an annotation allows: its `Literal`s, true and false, and null where it may be left out."""
    words: list[str] = []
    for member in members_of(annotation):
        bare = _bare(member)
        words += ["true", "false"] if bare is bool else []
        words += [str(word) for word in get_args(bare)] if get_origin(bare) is Literal else []
    return words + (["null"] if types.NoneType in get_args(_bare(annotation)) else [])


def bounds_text(annotation: Any) -> str:
    """The limits of a number alone: `from 2 to 100`, `greater than 0`; empty where there are none."""
    limits = {name: limit for name in ("ge", "gt", "le", "lt") if (limit := _constraint(annotation, name)) is not None}
    if "ge" in limits and "le" in limits:
        return f"from {limits['ge']} to {limits['le']}"
    words = {"ge": "at least", "gt": "greater than", "le": "at most", "lt": "less than"}
    return " and ".join(f"{words[name]} {limit}" for name, limit in limits.items())


def unknown_key_text(
    schema: type[BaseModel], path: KeyPath, *, also: Sequence[str] = (), parent: type[BaseModel] | None = None
) -> str:
    """Say that the last key of `path` is unknown, and which was meant; `also` are keys that the file's format adds.

    `parent` is the model that does not know the key, where the path alone does not tell.
    """
    parent = parent or part_of(walk(schema, path[:-1])[1])
    siblings = [*(parent.model_fields if parent else ()), *(also if len(path) == 1 else ())]
    meant = _meant(schema, str(path[-1]), siblings, dotted(path[:-1]))
    text = f"{dotted(path)} is unknown"
    if meant:
        return f"{text}; did you mean {any_of(meant)}?"
    if parent is None:
        return f"{text}; {dotted(path[:-1])} has no keys of its own"
    return f"{text}; allowed here: {any_of(siblings, 'and')}" if len(siblings) <= _MOST_LISTED else text


def _meant(schema: type[BaseModel], word: str, siblings: Sequence[str], prefix: str) -> list[str]:
    """Dotted keys that an unknown one may stand for: spelled alike beside it or elsewhere, or told by a docstring."""
    near = {name: f"{prefix}.{name}".removeprefix(".") for name in siblings}
    leaves = leaf_keys(schema)
    if word in leaves:
        return [f"'{word.replace('.', ': {', 1)}: …}}', nested"]
    word = word.rpartition(".")[2].lower().replace("-", "_")
    same = [key for key in leaves if key.rpartition(".")[2] == word]
    if word in near or (not same and (beside := closest(word, siblings))):
        return [near[word if word in near else str(beside)]]
    if not same and (elsewhere := closest(word, [key.rpartition(".")[2] for key in leaves], cutoff=0.75)):
        same = [key for key in leaves if key.rpartition(".")[2] == elsewhere]
    if not same:
        phrase = word.replace("_", " ")
        first_sentences = {key: (field.description or "").lower().split(". ")[0] for key, field in leaves.items()}
        told = sorted((len(text), key) for key, text in first_sentences.items() if len(phrase) > 4 and phrase in text)
        same = [key for _, key in told[:1]]
    return same if len(same) <= 3 else []


def _phrase(annotation: Any, bare: Any) -> str:
    """One member of a union in words."""
    if bare in _KINDS:
        bounds = bounds_text(annotation)
        comma = "," if bounds.startswith("at") else ""
        return f"{_KINDS[bare]}{comma} {bounds}".rstrip()
    if (pattern := _constraint(annotation, "pattern")) in _PATTERNS:
        return _PATTERNS[pattern]
    if bare is str:
        return "text that is not empty" if _constraint(annotation, "min_length") else "text"
    if _is_model(bare):
        return f"a mapping of {any_of(list(bare.model_fields), 'and')}"
    if get_origin(bare) is list:
        return _list_phrase(annotation, get_args(bare)[0])
    return "a mapping"


def _list_phrase(annotation: Any, item: Any) -> str:
    """`a list of 3 values, each a number greater than 0`."""
    least, most = _constraint(annotation, "min_length"), _constraint(annotation, "max_length")
    count = "" if least is None else f"{least} " if least == most else f"at least {least} "
    each = "" if item is Any else f", each {allowed_text(item)}"
    return f"a list of {count}{'value' if least == 1 else 'values'}{each}"


def _constraint(annotation: Any, name: str) -> Any:
    """A limit from an annotation's metadata, where pydantic's `Field(ge=…)` may hold it one level deeper."""
    metadata = list(getattr(annotation, "__metadata__", ()))
    metadata += [inner for one in metadata if isinstance(one, FieldInfo) for inner in one.metadata]
    return next((limit for one in metadata if (limit := getattr(one, name, None)) is not None), None)


def _member_meant(members: Sequence[Any], tag: str | int) -> Any | None:
    """The container in a union that an error deeper than the union is about."""
    containers = [one for one in members if _is_model(_bare(one)) or get_origin(_bare(one)) in (list, dict)]
    named = [one for one in containers if getattr(_bare(one), "__name__", None) == tag]
    return (named or containers)[0] if named or len(containers) == 1 else None


def _annotation(field: FieldInfo) -> Any:
    """A field's annotation with its limits, which pydantic keeps apart."""
    return Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
