"""A thousand mutants of one probability file: each is refused with one message, or accepted, as it deserves.

What a mutant deserves follows from how it was made, or, for bytes changed blindly, from a second reader that is as
simple as can be and shares no code with the first.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.predictions import load_predictions
from ensemble.errors import InputError

ROWS, CLASSES = 30, ("cat", "dog", "Éél", "4")
Chance = random.Random


@dataclass(frozen=True)
class Trio:
    """The three files, and the document before it became text; hashes are filled in when it is written."""

    probs: np.ndarray
    ids: tuple[str, ...]
    document: dict[str, Any]
    npy: bytes | None = None
    """In place of what `probs` gives."""
    ids_text: bytes | None = None
    text: bytes | None = None
    leave: tuple[str, ...] = ()
    """Names of files that are not written."""

    def files(self) -> dict[str, bytes]:
        """Content by suffix."""
        npy = _npy(self.probs) if self.npy is None else self.npy
        ids = "".join(f"{name}\n" for name in self.ids).encode() if self.ids_text is None else self.ids_text
        hashes = {"npy_sha256": hashlib.sha256(npy).hexdigest(), "ids_sha256": hashlib.sha256(ids).hexdigest()}
        text = json.dumps(hashes | self.document, ensure_ascii=False).encode() if self.text is None else self.text
        content = {".npy": npy, ".ids.txt": ids, ".json": text}
        return {suffix: content[suffix] for suffix in content if suffix not in self.leave}

    def saying(self, **changes: Any) -> Trio:
        """With other entries in its document."""
        return replace(self, document=self.document | changes)

    def without(self, *keys: str) -> Trio:
        """With entries missing."""
        return replace(self, document={key: value for key, value in self.document.items() if key not in keys})


def _npy(array: np.ndarray, version: tuple[int, int] = (1, 0)) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, version=version, allow_pickle=True)
    return stream.getvalue()


def _healthy(chance: Chance) -> Trio:
    drawn = np.random.default_rng(chance.randrange(2**32))
    probs = drawn.random((ROWS, len(CLASSES)), dtype=np.float32) + np.float32(0.01)
    probs /= probs.sum(axis=1, keepdims=True)
    document = {
        "format": 1,
        "kind": "oof",
        "rows": ROWS,
        "classes": list(CLASSES),
        "run": "first",
        "folds_sha256": "f" * 64,
        "scores": {"accuracy": 0.5, "roc_auc": None},
        "labels": drawn.integers(0, len(CLASSES), ROWS).tolist(),
        "folds": (np.arange(ROWS) % 5).tolist(),
        "groups": (np.arange(ROWS) // 2).tolist(),
    }
    return Trio(probs, tuple(f"a b/{row:03},é" for row in range(ROWS)), document)


def _with_number(value: float, *, exact: bool = False) -> Callable[[Trio, Chance], Trio]:
    """One number in place of another; added to it unless `exact`."""

    def change(trio: Trio, chance: Chance) -> Trio:
        probs = trio.probs.copy()
        where = chance.randrange(ROWS), chance.randrange(len(CLASSES))
        probs[where] = value if exact else probs[where] + value
        return replace(trio, probs=probs)

    return change


def _with_array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Trio, Chance], Trio]:
    return lambda trio, chance: replace(trio, probs=change(trio.probs))


def _with_entry(key: str, *values: Any) -> Callable[[Trio, Chance], Trio]:
    return lambda trio, chance: trio.saying(**{key: chance.choice(values)})


def _with_item(key: str, *values: Any) -> Callable[[Trio, Chance], Trio]:
    """One item of a list in place of another."""

    def change(trio: Trio, chance: Chance) -> Trio:
        items = list(trio.document[key])
        items[chance.randrange(len(items))] = chance.choice(values)
        return trio.saying(**{key: items})

    return change


def _with_length(key: str, change: int) -> Callable[[Trio, Chance], Trio]:
    def changed(trio: Trio, chance: Chance) -> Trio:
        items = list(trio.document[key])
        return trio.saying(**{key: items[:change] if change < 0 else items + items[:change]})

    return changed


def _with_ids(change: Callable[[list[str], Chance], list[str]]) -> Callable[[Trio, Chance], Trio]:
    return lambda trio, chance: replace(trio, ids=tuple(change(list(trio.ids), chance)))


def _with_text(change: Callable[[bytes, Chance], bytes]) -> Callable[[Trio, Chance], Trio]:
    """The document's text changed by hand, with its hashes in it."""
    return lambda trio, chance: replace(trio, text=change(trio.files()[".json"], chance))


def _with_ids_text(change: Callable[[bytes, Chance], bytes]) -> Callable[[Trio, Chance], Trio]:
    return lambda trio, chance: replace(trio, ids_text=change(trio.files()[".ids.txt"], chance))


def _with_npy(change: Callable[[bytes, Chance], bytes]) -> Callable[[Trio, Chance], Trio]:
    """Bytes changed, and the hash made anew: only what they mean can give them away."""
    return lambda trio, chance: replace(trio, npy=change(trio.files()[".npy"], chance))


def _put(values: list[str], chance: Chance, name: str) -> list[str]:
    values[chance.randrange(len(values))] = name
    return values


def _shuffled(document: dict[str, Any], chance: Chance) -> dict[str, Any]:
    return dict(chance.sample(list(document.items()), len(document)))


ACCEPTED: dict[str, Callable[[Trio, Chance], Trio]] = {
    "as it is": lambda trio, chance: trio,
    "64 bits": _with_array(lambda probs: probs.astype(np.float64)),
    "16 bits": _with_array(lambda probs: probs.astype(np.float16)),
    "a header of version 2": lambda trio, chance: replace(trio, npy=_npy(trio.probs, (2, 0))),
    "a sum within the tolerance": _with_number(5e-4),
    "certainty": _with_array(lambda probs: np.eye(len(CLASSES), dtype=np.float32)[np.arange(ROWS) % len(CLASSES)]),
    "another label": _with_item("labels", *range(len(CLASSES))),
    "another fold": _with_item("folds", 0, 7, 2**40),
    "a repeated plan": lambda trio, chance: trio.saying(folds=[trio.document["folds"]] * chance.randrange(1, 4)),
    "no groups": _with_entry("groups", None),
    "groups left out": lambda trio, chance: trio.without("groups"),
    "origin left out": lambda trio, chance: trio.without("run", "folds_sha256", "scores"),
    "unknown entries": _with_entry("note", "by hand", 3, [1, {"a": None}], 1e300),
    "entries in another order": lambda trio, chance: replace(trio, document=_shuffled(trio.document, chance)),
    "indented": _with_text(lambda text, _: json.dumps(json.loads(text), indent=len(text) % 4).encode()),
    "no line end at the end": _with_ids_text(lambda text, _: text.removesuffix(b"\n")),
    "ids in another order": _with_ids(lambda ids, chance: chance.sample(ids, len(ids))),
    "an odd id": _with_ids(
        lambda ids, chance: _put(ids, chance, chance.choice(["NA", "001", " a ", "x,y", '"', "\t"]))
    ),
    "a test file": lambda trio, chance: trio.without("labels", "folds", "groups").saying(kind="test"),
}
REFUSED: dict[str, Callable[[Trio, Chance], Trio]] = {
    "NaN": _with_number(np.nan),
    "infinity": _with_number(np.inf),
    "a negative number": _with_number(-2.0, exact=True),
    "a row that sums to too much": _with_number(0.01),
    "a row that sums to too little": _with_array(lambda probs: probs * np.float32(0.99)),
    "more than 1": _with_number(1.5, exact=True),
    "logits": _with_array(lambda probs: np.log(probs)),
    "whole numbers": _with_array(lambda probs: (probs * 100).astype(np.int64)),
    "big-endian": _with_array(lambda probs: probs.astype(">f4")),
    "Fortran order": _with_array(np.asfortranarray),
    "one dimension": _with_array(lambda probs: probs.ravel()),
    "three dimensions": _with_array(lambda probs: probs[None]),
    "objects": _with_array(lambda probs: probs.astype(object)),
    "a structured type": _with_array(lambda probs: probs.view([("a", "<f4"), ("b", "<f4")])),
    "an array cut short": _with_npy(lambda npy, chance: npy[: chance.randrange(len(npy))]),
    "bytes after an array": _with_npy(lambda npy, chance: npy + chance.randbytes(chance.randrange(1, 9))),
    "an .npz": _with_npy(lambda npy, _: b"PK\x03\x04" + npy),
    "a claim of terabytes": _with_npy(lambda npy, _: npy.replace(b"(30, 4)", b"(3000000000000, 4)")),
    "an empty array file": _with_npy(lambda npy, _: b""),
    "an id twice": _with_ids(lambda ids, chance: [*ids[:-1], ids[chance.randrange(ROWS - 1)]]),
    "an empty id": _with_ids(lambda ids, chance: _put(ids, chance, "")),
    "an id too few": _with_ids(lambda ids, _: ids[:-1]),
    "an id too many": _with_ids(lambda ids, _: [*ids, "another"]),
    "no ids": _with_ids(lambda ids, _: []),
    "a line break in an id": _with_ids(lambda ids, chance: _put(ids, chance, "a\nb")),
    "a carriage return": _with_ids_text(lambda text, _: text.replace(b"\n", b"\r\n")),
    "a byte order mark": _with_ids_text(lambda text, _: b"\xef\xbb\xbf" + text),
    "ids of another encoding": _with_ids_text(lambda text, _: text.decode().encode("latin-1")),
    "no format": lambda trio, chance: trio.without("format"),
    "another format": _with_entry("format", 0, 2, "1", 1.0, True, None),
    "another kind": _with_entry("kind", "train", None, 1, "OOF", ["oof"]),
    "another number of rows": _with_entry("rows", ROWS - 1, ROWS + 1, str(ROWS), float(ROWS), None),
    "classes that are none": _with_entry("classes", None, "cat", 4, [1, 2, 3, 4], ["a", "b", "c", ""], {"a": 1}),
    "a class twice": _with_entry("classes", ["cat", "dog", "cat", "4"]),
    "a class too few": _with_length("classes", -1),
    "a line break in a class": _with_item("classes", "a\nb", "a\rb"),
    "a hash that is none": _with_entry("npy_sha256", "", "f" * 63, "G" * 64, None, 5),
    "another file's hash": _with_entry("npy_sha256", "0" * 64),
    "another file's hash of ids": _with_entry("ids_sha256", "0" * 64),
    "a run that is no text": _with_entry("run", 5, "", ["a"]),
    "scores that are none": _with_entry("scores", 5, {"accuracy": "good"}, [0.5], {"accuracy": True}),
    "a label out of range": _with_item("labels", -1, len(CLASSES), 10**30),
    "a label that is no number": _with_item("labels", 1.0, "1", None, True, [1]),
    "labels too few": _with_length("labels", -1),
    "labels too many": _with_length("labels", 1),
    "labels left out": lambda trio, chance: trio.without("labels"),
    "a fold below 0": _with_item("folds", -1),
    "a fold that is no number": _with_item("folds", 0.0, "0", None, False),
    "folds too few": _with_length("folds", -2),
    "folds left out": lambda trio, chance: trio.without("folds"),
    "a repeat cut short": lambda trio, chance: trio.saying(folds=[trio.document["folds"], [0] * (ROWS - 1)]),
    "groups too many": _with_length("groups", 3),
    "a group that is no number": _with_item("groups", "a", 0.5, None),
    "labels in a test file": lambda trio, chance: trio.without("folds", "groups").saying(kind="test"),
    "a document cut short": _with_text(lambda text, chance: text[: chance.randrange(len(text) - 1)]),
    "two documents": _with_text(lambda text, _: text + text),
    "an entry twice": _with_text(lambda text, _: text[:-1] + b', "rows": 30}'),
    "NaN in the document": _with_text(lambda text, _: text.replace(b"0.5", b"NaN")),
    "a number too large": _with_text(lambda text, _: text.replace(b"0.5", b"1e999")),
    "a list as document": _with_text(lambda text, _: b"[" + text + b"]"),
    "half a surrogate pair": _with_text(lambda text, _: text.replace(b'"first"', b'"\\ud800"')),
    "nested without end": _with_text(lambda text, _: text[:-1] + b', "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
    "a document of another encoding": _with_text(lambda text, _: text.decode().encode("utf-16")),
    "a file missing": lambda trio, chance: replace(trio, leave=(chance.choice([".npy", ".ids.txt", ".json"]),)),
    "all files missing": lambda trio, chance: replace(trio, leave=(".npy", ".ids.txt", ".json")),
}


BY_HAND, BLIND = 700, 300


@pytest.mark.parametrize("part", range(10))
def test_a_thousand_mutants_get_what_they_deserve(part: int, tmp_path: Path) -> None:
    chance = Chance(part)
    kinds = [*((name, change, True) for name, change in ACCEPTED.items())] * 2
    kinds += [(name, change, False) for name, change in REFUSED.items()]
    verdicts = set()
    for number in range(part * BY_HAND // 10, (part + 1) * BY_HAND // 10):
        name, change, deserves = kinds[number % len(kinds)]
        messages = _messages(tmp_path, change(_healthy(chance), chance).files())
        assert (not messages) is deserves, (name, messages)
        assert len(messages) <= 1, (name, messages)
        verdicts.add(deserves)
    for _ in range(BLIND // 10):
        files = _blindly_changed(_healthy(chance).files(), chance)
        messages = _messages(tmp_path, files)
        assert (not messages) is _would_accept(files), (files[".json"], messages)


def test_every_kind_of_mutant_is_made() -> None:
    assert len(ACCEPTED) * 2 + len(REFUSED) < BY_HAND
    assert BY_HAND + BLIND == 1000


def _messages(folder: Path, files: dict[str, bytes]) -> tuple[str, ...]:
    """What loading complains about; each is one short line that names the file."""
    for suffix in (".npy", ".ids.txt", ".json"):
        path = folder / f"oof{suffix}"
        path.unlink(missing_ok=True)
        if suffix in files:
            path.write_bytes(files[suffix])
    try:
        loaded = load_predictions(folder / "oof.npy")
    except InputError as error:
        for message in error.messages:
            assert str(folder / "oof") in message
            assert "\n" not in message
            assert len(message) < len(str(folder)) * 2 + 400
        return tuple(error.messages)
    assert loaded.probs.shape == (len(loaded.ids), len(loaded.classes))
    return ()


def _blindly_changed(files: dict[str, bytes], chance: Chance) -> dict[str, bytes]:
    """Bytes of one file flipped, cut, inserted or doubled, mostly in the document, which no hash guards."""
    suffix = chance.choice([".npy", ".ids.txt", ".json", ".json", ".json", ".json"])
    content = files[suffix]
    where, kind = chance.randrange(len(content)), chance.randrange(4)
    stop = min(len(content), where + chance.randrange(1, 20))
    changed = {
        0: content[:where] + bytes([content[where] ^ (1 << chance.randrange(8))]) + content[where + 1 :],
        1: content[:where],
        2: content[:where] + chance.choice([b" ", b"0", b"}", b'"', b"\xff", chance.randbytes(3)]) + content[where:],
        3: content[:stop] + content[where:],
    }[kind]
    return files | {suffix: changed}


def _would_accept(files: dict[str, bytes]) -> bool:
    """The second reader; as array and ids are guarded by hashes, only the document has to be understood."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(found)) == len(found)
        return dict(found)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    try:
        said = json.loads(files[".json"].decode(), object_pairs_hook=pairs, parse_constant=refuse)
        json.dumps(said, allow_nan=False, ensure_ascii=False).encode()
        assert [said["npy_sha256"], said["ids_sha256"]] == [
            hashlib.sha256(files[suffix]).hexdigest() for suffix in (".npy", ".ids.txt")
        ]
        assert repr(said["format"]) == "1"
        assert repr(said["rows"]) == str(ROWS)
        assert said["kind"] == "oof"
        assert len(set(said["classes"])) == len(CLASSES) == len(said["classes"])
        assert all(type(name) is str and name and not {"\n", "\r"} & set(name) for name in said["classes"])
        for key in ("run", "identity", "dataset", "dataset_sha256", "folds_sha256", "tta", "metric"):
            assert said.get(key) is None or (type(said[key]) is str and said[key])
        for key in ("scores", "cost"):
            assert all(type(value) in (int, float, type(None)) for value in (said.get(key) or {}).values())
        for key, below in (("labels", len(CLASSES)), ("folds", 2**62), ("groups", 2**62)):
            if said.get(key) is not None or key != "groups":
                assert len(said[key]) == ROWS
                assert all(type(value) is int and 0 <= value < below for value in said[key])
        assert said.get("blend_of") is None
    except (AssertionError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True
