"""What all values read from a user's YAML file share: frozen models, keys in words, pydantic's errors as messages.

Knows no recipe and no dataset; both are built on it.
"""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from ensemble.core.complaints import (
    MOST_COMPLAINTS,
    Complaint,
    FaultsInside,
    KeyPath,
    Place,
    any_of,
    closest,
    dotted,
    likely,
    show_value,
)

# Here, not beside the metrics: reading a recipe must not import numpy. A test holds both lists equal.
MetricName = Literal[
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "macro_f1",
    "weighted_f1",
    "kappa",
    "quadratic_kappa",
    "mcc",
    "top5_accuracy",
    "log_loss",
    "roc_auc",
    "micro_f1",
    "samples_f1",
]


MOST_FOLDS = 100
"""Of a plan, and of adopted rows: more cost more models, and more fits of a blend, than anybody makes."""


class Frozen(BaseModel):
    """A part of a recipe or of a dataset's description."""

    # strict: "5" is no number, and a typo no new key. The docstrings become `ens recipes --schema` and the docs.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    def plain(self) -> dict[str, Any]:
        """The value as plain JSON types, every default filled in."""
        return self.model_dump(mode="json")


PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # our YAML has no infinity, but Python has
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
LARGEST_SEED = 2**31 - 1  # what every library takes as a seed
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED)]
MOST_SEEDS = 100
"""Of one recipe, each a run of its own; the spread of a score is known from far fewer."""
CODE_NAME = r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$"  # identifiers, non-ASCII ones too
"""How one's own function is named: `module:function`."""
CodeName = Annotated[str, Field(pattern=CODE_NAME)]
WEIGHTS_FILE = r"^.+\.(safetensors|pth|pt|bin)$"
"""How a file of weights is named."""
WeightsFile = Annotated[str, Field(pattern=WEIGHTS_FILE)]
CSV_FILE = r"^.+\.csv$"
"""How a table is named."""
CsvFile = Annotated[str, Field(pattern=CSV_FILE)]


_MOST_LISTED = 14  # choices in a message; of more, near ones are named
_PATTERNS = {
    CODE_NAME: "module:function",
    WEIGHTS_FILE: "a path that ends in .safetensors, .pth, .pt or .bin",
    CSV_FILE: "a path that ends in .csv",
}
_KINDS = {int: "a whole number", float: "a number"}  # how messages call a type


def leaf_keys(schema: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key with a value rather than a part, in the order of the schema."""
    keys: dict[str, FieldInfo] = {}
    for name, field in schema.model_fields.items():
        part = part_of(field.annotation)
        keys.update({f"{prefix}{name}": field} if part is None else leaf_keys(part, f"{prefix}{name}."))
    return keys


def part_of(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation stands for, if it is a model, or a model or null."""
    members = [_bare(member) for member in members_of(annotation)]
    return members[0] if len(members) == 1 and _is_model(members[0]) else None


def members_of(annotation: Any) -> list[Any]:
    """The kinds of value that an annotation allows, without null; one, unless it is a union."""
    bare = _bare(annotation)
    # two spellings: `X | Y` is a UnionType, but Optional and `Annotated[X, ...] | Y` are typing.Unions
    members = get_args(bare) if get_origin(bare) in (Union, types.UnionType) else (annotation,)
    return [member for member in members if _bare(member) is not types.NoneType]


def walk(schema: type[BaseModel], loc: Sequence[str | int]) -> tuple[KeyPath, Any, type[BaseModel]]:
    """Follow one of pydantic's locations, whose elements are keys and also names of union members.

    Gives the path of keys alone, what is allowed there (None for an unknown key), and the last model on the way.
    """
    path: list[str | int] = []
    allowed: Any = schema
    model = schema
    for index, element in enumerate(loc):
        members = members_of(allowed)
        if len(members) > 1:
            inner = _member_meant(members, element) if index + 1 < len(loc) else None
            if inner is None:  # the error is about the union itself
                break
            allowed = inner
            continue
        bare = _bare(members[0])
        if _is_model(bare):
            model = bare
            field = bare.model_fields.get(str(element))
            allowed = None if field is None else field.annotation
            if field is not None and field.metadata:  # pydantic keeps a field's limits apart from its annotation
                allowed = Annotated[field.annotation, *field.metadata]
        elif get_args(bare):
            allowed = get_args(bare)[-1]  # of a list its items, of a mapping its values
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
    ]  # words and true or false come last, and "a number" says "a whole number" too
    return ", or ".join(phrases + ([any_of(constants)] if constants else []))


def choices_of(annotation: Any) -> list[str]:
    """The words that an annotation allows: its `Literal`s, true and false, and null where it may be left out."""
    words: list[str] = []
    for bare in map(_bare, members_of(annotation)):
        if bare is bool:
            words += ["true", "false"]
        elif get_origin(bare) is Literal:
            words += map(str, get_args(bare))
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

    `parent`: the model that does not know the key, where the path alone does not say which.
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
    """Dotted keys that an unknown one may stand for: similar ones beside it or elsewhere, or one whose docs say it."""
    near = {name: f"{prefix}.{name}".removeprefix(".") for name in siblings}
    leaves = leaf_keys(schema)
    if word in leaves:  # `train.lr: 0.1` as one key, as --set has it
        return [f"'{word.replace('.', ': {', 1)}: …}}', nested"]
    word = word.rpartition(".")[2].lower().replace("-", "_")
    same = [key for key in leaves if key.rpartition(".")[2] == word]
    if word in near or (not same and (beside := closest(word, siblings))):
        return [near[word if word in near else str(beside)]]
    # stricter elsewhere: among all the keys of a recipe something is always a little similar
    if not same and (elsewhere := closest(word, [key.rpartition(".")[2] for key in leaves], cutoff=0.75)):
        same = [key for key in leaves if key.rpartition(".")[2] == elsewhere]
    phrase = word.replace("_", " ")
    if (
        not same and len(phrase) > 4
    ):  # `learning_rate` is in the documentation of `train.lr`; short words are everywhere
        first_sentences = {key: (field.description or "").lower().split(". ")[0] for key, field in leaves.items()}
        phrases = sorted((len(text), key) for key, text in first_sentences.items() if phrase in text)
        same = [key for _, key in phrases[:1]]  # of the shortest, which is about little else
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
    least, most = _constraint(annotation, "min_length"), _constraint(annotation, "max_length")
    if get_origin(bare) is not list:
        return "a mapping" if most is None else f"a mapping of at most {most} keys"
    item = get_args(bare)[0]
    count = "" if least is None else f"{least} " if least == most else f"at least {least} "
    if least is None and most is not None:
        count = f"at most {most:,} "
    elif least is not None and most is not None and least < most:
        count = f"{least} to {most:,} "
    each = "" if item is Any else f", each {allowed_text(item)}"
    return f"a list of {count}{'value' if (most or least) == 1 else 'values'}{each}"


def _constraint(annotation: Any, name: str) -> Any:
    """A limit from an annotation's metadata, where pydantic's `Field(ge=…)` may hold it one level deeper."""
    metadata = list(getattr(annotation, "__metadata__", ()))
    metadata += [inner for item in metadata if isinstance(item, FieldInfo) for inner in item.metadata]
    return next((limit for item in metadata if (limit := getattr(item, name, None)) is not None), None)


def _member_meant(members: Sequence[Any], tag: str | int) -> Any | None:
    """The container in a union that an error deeper than the union is about."""
    containers = [member for member in members if _is_model(_bare(member)) or get_origin(_bare(member)) in (list, dict)]
    named = [member for member in containers if getattr(_bare(member), "__name__", None) == tag]
    return (named or containers)[0] if named or len(containers) == 1 else None


def _bare(annotation: Any) -> Any:
    return _bare(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


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
    """Pydantic's errors as complaints, one for each faulty key.

    `locate` gives the place of a key, or of its nearest ancestor in a file; `examples` what to add for a missing key;
    `advice` what to say about some unknown keys; `also` are top-level keys that the file's format adds. With
    `is_partial` a file of the chain couldn't be read: missing keys and rules between keys are passed over.
    """
    faults: dict[KeyPath, tuple[Any, Any, type[BaseModel]]] = {}
    for details in error.errors(include_url=False)[:MOST_COMPLAINTS]:
        if is_partial and details["type"] in ("missing", "value_error"):
            continue
        path, allowed, model = walk(schema, details["loc"])
        # pydantic reports one error for each member of a union: the first, or a rule of ours, speaks for the key
        if path not in faults or details["type"] == "value_error":
            faults[path] = (details, allowed, model)
    with_faults_inside = {path[:end] for path in faults for end in range(len(path))}
    complaints = []
    for path, (details, allowed, model) in faults.items():
        if path in with_faults_inside:  # an error of the whole value, where one inside it says more
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
    if error.error_count() > MOST_COMPLAINTS:
        complaints.append(Complaint(locate(()), f"and {error.error_count() - MOST_COMPLAINTS:,} faults more"))
    return complaints


def _value_text(path: KeyPath, value: Any, allowed: Any) -> str:
    """`train.lr is -1, but must be greater than 0`: only the limits where the value is of the right kind."""
    members, in_words = members_of(allowed), allowed_text(allowed)
    must_be = ""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if len(members) == 1 and is_number and not (isinstance(value, float) and "whole" in in_words):
        must_be = bounds_text(members[0]) or bounds_text(allowed)
    text = f"{dotted(path)} is {show_value(value)}, but must be {must_be or in_words}"
    # a class or an id that YAML reads as a number
    if isinstance(value, int | float) and any(allowed_text(member).startswith("text") for member in members):
        return f"{text}; put it in quotes"
    meant = likely(value, choices_of(allowed)) if isinstance(value, str) else []
    return f"{text}; did you mean {any_of(meant)}?" if meant else text


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
