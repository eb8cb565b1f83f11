"""Records: JSON files from which a later command believes numbers, names and hashes. Written and read here alone.

A record carries the hash of its own bytes (`record_sha256`), so that an altered score, mean or label is noticed where
it is read; and its kind has one schema, so that an odd record is told by file and field and never by a `KeyError`.
Records of earlier versions have no hash: they are read, and told as unverified. The hash is no signature: whoever
writes a whole record anew makes it fit. What a record says is therefore never run, and no path in it leaves its folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ensemble.core.files import json_text, save_bytes
from ensemble.core.plain_file import read_plain
from ensemble.errors import InputError

SEAL = "record_sha256"
"""The key of a record's own hash: of the file's bytes, with 64 zeros in its place."""
_ZEROS = "0" * 64
_SHOWN = 5  # faults of one record in a message
_SHA256 = r"^[0-9a-f]{64}$"  # in lower case, as hashlib writes it: hashes are compared as text

Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]
_CHARACTER = r"[^/\\\x00-\x1f\x7f]"
_NOT_DOT = r"[^./\\\x00-\x1f\x7f]"
_PART = rf"(?:{_NOT_DOT}|\.{_NOT_DOT}|\.\.{_CHARACTER}){_CHARACTER}*"
FileName = Annotated[str, StringConstraints(pattern=rf"^{_PART}$", max_length=255)]
"""A file directly in the record's own folder: no `/`, and neither `.` nor `..`."""
Name = Annotated[str, StringConstraints(min_length=1)]
_INNER = rf"^{_PART}(?:/{_PART})*$"
InnerPath = Annotated[str, StringConstraints(pattern=_INNER)]
"""A place below the record's own folder, or what a run is called: `fold-0/model.json`, `study/trial-3`."""
Count = Annotated[int, Field(ge=0)]


EARLIER = "written by an earlier version of ens"
"""Why a record is unverified."""


class Record(dict[str, Any]):
    """A record's document."""

    is_verified = False
    """Whether its own hash fitted; an earlier version's has none."""


class Schema(BaseModel):
    """What a record of one kind must hold; it may hold more. Values are checked, never converted."""

    model_config = ConfigDict(extra="allow", strict=True)


class RecordSchema(Schema):
    """A kind of record: `newest` is the format that is written; from `sealed_from` on a record has its hash."""

    newest: ClassVar[int]
    sealed_from: ClassVar[int]
    remedy: ClassVar[str] = "restore it, or make it again"
    """What a person can do about a damaged one."""


def save_record(path: Path, document: dict[str, Any]) -> None:
    """Write a record, whole or not at all, with its hash behind its format."""
    save_bytes(path, record_bytes(document))


def record_bytes(document: dict[str, Any]) -> bytes:
    """A record as its file holds it."""
    return sealed(json_text(with_seal(document)))


def with_seal(document: dict[str, Any]) -> dict[str, Any]:
    """The document with a place for the hash, which `sealed` fills once the text is known."""
    rest = {key: value for key, value in document.items() if key not in ("format", SEAL)}
    return {"format": document["format"], SEAL: _ZEROS, **rest}


def sealed(text: str) -> bytes:
    """The bytes of a record's text, with the hash in its place, which is the first of that key."""
    content = text.encode("utf-8")
    place = _place(_ZEROS)
    if place not in content:
        raise ValueError(f"no place for {SEAL}")
    return content.replace(place, _place(hashlib.sha256(content).hexdigest()), 1)


def load_record(path: Path, schema: type[RecordSchema], *, shown: Path | None = None) -> Record:
    """Read and check a record; all that is wrong with it is one `InputError`, a missing one `FileNotFoundError`.

    `shown`: the name for messages, where the file lies in its swap.
    """
    where = shown or path
    try:
        content = read_plain(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise InputError(f"{where}: can't be read ({error.strerror or error}); {schema.remedy}") from error
    return parse_record(content, schema, where)


def parse_record(content: bytes, schema: type[RecordSchema], where: Path) -> Record:
    """A record's content, checked: strict JSON of a known format, unaltered, with all that its schema asks for."""
    document = strict_json(content, where, schema.remedy)
    version = document.get("format")
    if type(version) is not int or not 1 <= version <= schema.newest:
        reads = "1" if schema.newest == 1 else f"1 to {schema.newest}"
        raise InputError(f"{where}: format {version!r:.40}; this version of ens reads {reads}")
    record = Record((key, value) for key, value in document.items() if key != SEAL)  # a later one has another
    record.is_verified = check_seal(content, document, where, schema.remedy, required=version >= schema.sealed_from)
    try:
        schema.model_validate(document)
    except ValidationError as error:
        raise InputError(*_faults(error, where, schema.remedy)) from error
    return record


def check_seal(content: bytes, document: dict[str, Any], where: Path, remedy: str, *, required: bool) -> bool:
    """Whether a record has its hash and it fits; refused where it does not fit, or is `required` and missing."""
    seal = document.get(SEAL)
    if seal is None and not required:
        return False
    if not isinstance(seal, str) or not re.fullmatch(_SHA256, seal):
        raise InputError(f"{where}: {SEAL} is missing or no sha256, so nothing in it can be believed; {remedy}")
    at = content.find(_place(seal))
    if at < 0 or _sealed_sha256(content, at) != seal:
        raise InputError(f"{where}: changed after it was written (its {SEAL} does not fit); {remedy}")
    return True


def doubt_lines(doubts: Mapping[str, str]) -> list[str]:
    """What to say of things that nothing vouches for: a line a reason. `doubts`: the reasons by the things' names."""
    reasons = dict.fromkeys(doubts.values())
    named = {reason: ", ".join(name for name in doubts if doubts[name] == reason) for reason in reasons}
    return [f"unverified: {names}: {reason}" for reason, names in named.items()]


def optimism_lines(reasons: Mapping[str, Sequence[str]]) -> list[str]:
    """What to say of scores that flatter: a line a reason. `reasons`: those of each thing, by its name."""
    every = dict.fromkeys(reason for each in reasons.values() for reason in each)
    named = {reason: ", ".join(name for name in reasons if reason in reasons[name]) for reason in every}
    return [f"optimistic: {names}: {reason}" for reason, names in named.items()]


def is_inner_path(text: str) -> bool:
    """Whether a text may stand where a record has an `InnerPath`."""
    return re.fullmatch(_INNER, text) is not None


def strict_json(content: bytes, where: Path, remedy: str) -> dict[str, Any]:
    """A JSON object without NaN, repeated keys or broken text; anything else is an `InputError`."""
    try:
        text = content.decode("utf-8")
        document = json.loads(
            text, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_without_repeated_keys
        )
        if "\\u" in text:
            json.dumps(document, ensure_ascii=False).encode("utf-8")  # a lone half of a surrogate pair is no text
    except (ValueError, RecursionError, MemoryError) as error:
        if isinstance(error, UnicodeError):
            reason = "not UTF-8"
        elif isinstance(error, RecursionError):  # a megabyte of [ is enough
            reason = "nested too deep"
        else:
            reason = (str(error).splitlines() or ["too large"])[0]
        raise InputError(f"{where}: not a JSON document of ours ({reason}); {remedy}") from error
    if not isinstance(document, dict):
        raise InputError(f"{where}: holds no JSON object; {remedy}")
    return document


def _sealed_sha256(content: bytes, at: int) -> str:
    """The hash of a record whose seal stands at a place, as it was before the seal was put in."""
    zeros = _place(_ZEROS)
    digest, view = hashlib.sha256(), memoryview(content)  # by parts: no copy of what may be a gigabyte
    for part in (view[:at], zeros, view[at + len(zeros) :]):
        digest.update(part)
    return digest.hexdigest()


def _place(sha256: str) -> bytes:
    return f'"{SEAL}": "{sha256}"'.encode("ascii")


def _faults(error: ValidationError, where: Path, remedy: str) -> list[str]:
    """A line a fault, with the field's place and what stands there."""
    faults = error.errors(include_url=False, include_context=False)
    lines = []
    for fault in faults[:_SHOWN]:
        field = ".".join(map(str, fault["loc"])) or "the whole"
        if fault["type"] == "missing":
            lines.append(f"{where}: {field} is missing")
        else:
            lines.append(f"{where}: {field}: {fault['msg'].removeprefix('Input ')}, got {fault['input']!r:.60}")
    more = f", and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return [*lines[:-1], f"{lines[-1]}{more}; {remedy}"]


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one with a repeated key says two things at once, and `json` would take the last."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError(shown_repeats([key for key, _ in pairs]))
    return document


def _finite(text: str) -> float:
    """A JSON number; `1e999`, which Python reads as infinity, is none."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def shown_repeats(names: Sequence[str]) -> str:
    """Which name appears twice, and how many do."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    return f"{repeated[0]!r} appears twice" + (f" ({len(repeated)} names do)" if len(repeated) > 1 else "")
