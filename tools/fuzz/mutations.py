"""Seeded damage to one file: bits and bytes of any file, lines of a text, values of a JSON document.

Knows no command. A mutation is a function of the file and of a random generator, and says in words what it did.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_ESCAPE = "\x1b[31m\x9b2J\x07"
"""What a terminal would obey: colour, a cleared screen, a bell."""


def mutate(path: Path, chance: random.Random) -> str:
    """Damage the file in one way; what was done, in words."""
    content = path.read_bytes()
    kinds: list[Callable[[bytes, random.Random], tuple[bytes, str]]] = [_bytes]
    if path.suffix == ".json" and content:
        kinds = [_bytes, _json, _json, _json, _json, _json]
    elif path.suffix in (".csv", ".txt", ".yaml", ".jsonl") and content:
        kinds = [_bytes, _lines, _lines]
    while True:
        mutated, words = chance.choice(kinds)(content, chance)
        if mutated != content:
            path.write_bytes(mutated)
            return words


def reseal(path: Path) -> bool:
    """Make a record's own hash fit again, as whoever alters one on purpose can; whether it has one."""
    content = path.read_bytes()
    seal = re.search(rb'("record_sha256": ?")([0-9a-f]{64})"', content)
    if seal is None:
        return False
    start, end = seal.span(2)
    sha256 = hashlib.sha256(content[:start] + b"0" * 64 + content[end:]).hexdigest()
    path.write_bytes(content[:start] + sha256.encode() + content[end:])
    return True


def _bytes(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    at = chance.randrange(len(content)) if content else 0
    match chance.randrange(7):
        case 0:
            bit = 1 << chance.randrange(8)
            return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :] if content else b"\1", f"bit at {at}"
        case 1:
            return content[:at], f"cut off at {at}"
        case 2:
            length = chance.randint(1, 64)
            return content[: at + length] + content[at:], f"{length} bytes at {at} doubled"
        case 3:
            return b"", "emptied"
        case 4:
            junk = chance.randbytes(16)
            return content[:at] + junk + content[at + 16 :], f"junk at {at}"
        case 5:
            return content + chance.randbytes(chance.randint(1, 32)), "junk at the end"
        case _:
            return chance.randbytes(chance.randint(1, 400)), "junk alone"


def _lines(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    lines = content.split(b"\n")
    at = chance.randrange(len(lines))
    other = chance.randrange(len(lines))
    line = lines[at]
    match chance.randrange(8):
        case 0:
            del lines[at]
            words = f"line {at + 1} left out"
        case 1:
            lines.insert(at, line)
            words = f"line {at + 1} doubled"
        case 2:
            lines[at], lines[other] = lines[other], lines[at]
            words = f"lines {at + 1} and {other + 1} swapped"
        case 3:
            lines[at] = line + _ESCAPE.encode()
            words = f"control characters in line {at + 1}"
        case 4:
            lines[at] = line * 2000
            words = f"line {at + 1} 2,000 times as long"
        case 5:
            lines[at] = line.replace(b",", b",,", 1).replace(b":", b"::", 1)
            words = f"an odd separator in line {at + 1}"
        case 6:
            digits = [place for place, byte in enumerate(line) if byte in b"0123456789"]
            place = chance.choice(digits) if digits else 0
            lines[at] = line[:place] + b"%d" % chance.randrange(10) + line[place + 1 :]
            words = f"another digit in line {at + 1}"
        case _:
            lines[at] = line[: len(line) // 2] + b"\xff\xfe\x00" + line[len(line) // 2 :]
            words = f"bytes that are no UTF-8 in line {at + 1}"
    return b"\n".join(lines), words


def _json(content: bytes, chance: random.Random) -> tuple[bytes, str]:
    document = json.loads(content)
    places = list(_places(document))
    if not places:
        return b"[]", "another document"
    # The top keys as often as all below: a long list would take nearly every mutation otherwise.
    top = [place for place in places if len(place) == 1]
    place = chance.choice(top if chance.random() < 0.5 else places)
    parent: Any = document
    for key in place[:-1]:
        parent = parent[key]
    key, value = place[-1], parent[place[-1]]
    shown = ".".join(map(str, place))
    replaced, words = _other_value(value, chance)
    if words == "left out":
        del parent[key]
    elif words == "swapped" and len(parent) > 1:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        other = chance.choice(keys)
        parent[key], parent[other] = parent[other], value
        shown += f" and {other}"
    else:
        parent[key] = replaced
    text = json.dumps(document, indent=2, ensure_ascii=False)
    return text.encode("utf-8", errors="surrogatepass"), f"{shown}: {words}"


def _other_value(value: Any, chance: random.Random) -> tuple[Any, str]:
    """Something else in a value's place; for numbers and texts as often something that is plausible as not."""
    plain: list[tuple[Any, str]] = [
        (None, "left out"),
        (None, "null"),
        ({"a": [value]}, "nested"),
        ([value], "in a list"),
        ("text", "a text"),
        (10**400, "a huge number"),
        (float("nan"), "NaN"),
        (-1, "-1"),
        (value, "swapped"),
        ([], "an empty list"),
        ({}, "an empty mapping"),
    ]
    likely: list[tuple[Any, str]] = []
    if isinstance(value, bool):
        likely = [(not value, "the other truth")]
    elif isinstance(value, int | float):
        likely = [(0.999 if isinstance(value, float) else value + 1, "nudged"), (value * 2 + 1, "doubled")]
    elif isinstance(value, str):
        likely = [(value[:-1] + "x", "another letter"), ("", "empty"), (value + _ESCAPE, "control characters")]
        likely += [("../../outside", "a path out of here"), ("\ud800", "half a character")]
    elif isinstance(value, list) and value:
        likely = [(value[:-1], "shortened"), (value + value[-1:], "lengthened"), (value[::-1], "reversed")]
    elif isinstance(value, dict) and value:
        likely = [({**value, "unknown": 1}, "an unknown key"), (dict(list(value.items())[1:]), "shortened")]
    return chance.choice(likely if likely and chance.random() < 0.5 else plain)


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to each value in a document, but not all of a long list's."""
    entries = list(value.items()) if isinstance(value, dict) else list(enumerate(value))[:40]
    for key, entry in entries:
        yield (*place, key)
        if isinstance(entry, dict | list):
            yield from _places(entry, (*place, key))
