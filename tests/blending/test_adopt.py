"""Adopting what teammates send: good files become probability files, everything else is refused and nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.blending.adopt import adopt
from ensemble.blending.blend import blend
from ensemble.core.foldplan import FoldPlan, save_plan
from ensemble.core.predictions import load_predictions
from ensemble.errors import InputError

IDS, CLASSES = ("001", "NA", "1e5", "ü b"), ("cat", "dog", "eel")
PROBS = np.array([[0.25, 0.5, 0.25], [1, 0, 0], [0.5, 0.25, 0.25], [0, 0, 1]], dtype=np.float32)
Edit = Callable[[bytes], bytes]


@pytest.fixture
def mate(tmp_path: Path) -> Path:
    """A folder with `alice_probs.npy`, and lists of ids and classes elsewhere."""
    folder = tmp_path / "from alice"
    folder.mkdir()
    np.save(folder / "alice_probs.npy", PROBS)
    (tmp_path / "ids.txt").write_text("\n".join(IDS) + "\n", encoding="utf-8")
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return folder


def _adopt(mate: Path, *files: Path, **options: Any) -> Any:
    named = {"ids": mate.parent / "ids.txt", "classes": mate.parent / "classes.txt", **options}
    return adopt(list(files) or [mate / "alice_probs.npy"], **named)


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _refusal(mate: Path, *files: Path, **options: Any) -> tuple[str, ...]:
    before = _contents(mate.parent)
    with pytest.raises(InputError) as caught:
        _adopt(mate, *files, **options)
    assert _contents(mate.parent) == before, "something was written"
    return caught.value.messages


def test_a_bare_matrix_becomes_a_probability_file_with_the_same_numbers(mate: Path) -> None:
    done = _adopt(mate)
    loaded = load_predictions(mate / "alice_probs.npy")
    assert (loaded.ids, loaded.classes, loaded.kind, loaded.sidecar["run"]) == (IDS, CLASSES, "test", "alice")
    np.testing.assert_array_equal(loaded.probs, PROBS)
    assert (done[0].is_new, done[0].original) == (True, None)


def test_adopting_twice_changes_nothing(mate: Path) -> None:
    _adopt(mate)
    before = _contents(mate)
    assert _adopt(mate)[0].is_new is False
    assert _contents(mate) == before


def test_adopting_again_with_other_names_is_refused(mate: Path) -> None:
    _adopt(mate)
    (mate.parent / "classes.txt").write_text("dog\ncat\neel\n")
    assert "with other classes" in _refusal(mate)[0]


def test_float16_is_stored_as_float32_and_the_file_given_is_kept(mate: Path) -> None:
    np.save(mate / "alice_probs.npy", PROBS.astype(np.float16))
    given_bytes = (mate / "alice_probs.npy").read_bytes()
    done = _adopt(mate)
    assert load_predictions(mate / "alice_probs.npy").probs.dtype == np.float32
    assert done[0].original is not None and done[0].original.read_bytes() == given_bytes
    assert _adopt(mate)[0].is_new is False


def test_out_leaves_the_file_given_alone(mate: Path, tmp_path: Path) -> None:
    before = _contents(mate)
    _adopt(mate, out=tmp_path / "mine" / "probs", run="al")
    assert _contents(mate) == before
    assert load_predictions(tmp_path / "mine" / "probs.npy").sidecar["run"] == "al"


def test_ids_beside_the_file_are_found(mate: Path) -> None:
    (mate / "alice_probs.ids.txt").write_text("\n".join(IDS), encoding="utf-8")
    _adopt(mate, ids=None)
    assert load_predictions(mate / "alice_probs.npy").ids == IDS


def test_rows_are_divided_by_their_sum_only_when_asked(mate: Path) -> None:
    np.save(mate / "alice_probs.npy", PROBS * 2)
    assert "--renormalize" in _refusal(mate)[0]
    assert _adopt(mate, renormalize=True)[0].renormalized == 4
    np.testing.assert_allclose(load_predictions(mate / "alice_probs.npy").probs, PROBS)


def test_a_table_keeps_its_ids_letter_by_letter_and_its_own_order(mate: Path) -> None:
    rows = zip(reversed(IDS), PROBS[::-1].tolist(), strict=True)
    text = "image,eel,cat,dog\r\n" + "".join(f"{name},{p[2]},{p[0]},{p[1]}\r\n" for name, p in rows)
    (mate / "bob.csv").write_bytes(b"\xef\xbb\xbf" + text.encode("utf-8"))
    for options in ({}, {"ids": None, "classes": None, "out": mate / "again"}):
        done = _adopt(mate, mate / "bob.csv", **options)
        loaded = load_predictions(done[0].path)
        assert (loaded.ids, loaded.classes) == (IDS[::-1], ("eel", "cat", "dog"))
        np.testing.assert_array_equal(loaded.probs, PROBS[::-1][:, [2, 0, 1]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id,cat,dog,eel\na,1,0,0\n", ("4 missing ('001'", "1 unknown ('a')")),
        ("id,cat,dog\n001,1,0\nNA,1,0\n1e5,1,0\nü b,1,0\n", ("its classes are not those", "'eel'")),
        ("id,label\n001,cat\n", ("its classes are not those",)),
        ("id,cat,dog,eel\n001,1,0,0\n001,1,0,0\n", ("1 id appears more than once",)),
        (",cat,dog,eel\n0,1,0,0\n", ("index=False",)),
        ("id,cat,dog,eel\n001,1,0,0\nNA,x,0,0\n1e5,1,0,0\nü b,1,0,0\n", ("column 'cat' holds 'x' for id 'NA'",)),
        ("id,cat,dog,eel\n001,nan,0,0\nNA,1,0,0\n1e5,1,0,0\nü b,1,0,0\n", ("NaN", "'001'")),
        ("id,cat,dog,eel\n001,1,0\n", ("3 cells, the header has 4",)),
        ("", ("is empty",)),
    ],
)
def test_a_table_that_is_none_of_ours_is_refused(mate: Path, text: str, words: tuple[str, ...]) -> None:
    (mate / "bob.csv").write_text(text, encoding="utf-8")
    message = "\n".join(_refusal(mate, mate / "bob.csv"))
    assert all(word in message for word in words), message


def _npy(array: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "alice_probs.npy", array, allow_pickle=True)


def _edit(change: Edit, name: str = "alice_probs.npy") -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name if name.endswith(".npy") else folder.parent / name
        path.write_bytes(change(path.read_bytes()))

    return apply


def _terabytes(_: bytes) -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 3), }"
    return b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + header.ljust(117) + b"\n"


MUTATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "trailing bytes": (_edit(lambda content: content + b"??"), "2 bytes too many"),
    "cut off": (_edit(lambda content: content[:-3]), "3 are missing"),
    "terabytes": (_edit(_terabytes), "are missing"),
    "empty": (_edit(lambda _: b""), "not an .npy file"),
    "zip": (_edit(lambda _: b"PK\x03\x04"), "not an .npy file"),
    "objects": (_npy(np.array([[0.5, "x", None]] * 4, dtype=object)), "Python objects"),
    "structured": (_npy(np.array([(0.5,)] * 4, dtype=[("a", "<f4")])), "structured"),
    "integers": (_npy(np.eye(4, 3, dtype=np.int64)), "int64"),
    "big-endian": (_npy(PROBS.astype(">f4")), "big-endian"),
    "Fortran": (_npy(np.asfortranarray(PROBS)), "Fortran"),
    "one dimension": (_npy(PROBS[0]), "1 dimension"),
    "rows": (_npy(PROBS[:3]), "4 ids for 3 rows"),
    "columns": (_npy(PROBS[:, :2]), "3 classes for 2 columns"),
    "NaN": (_npy(np.where(PROBS == 1, np.nan, PROBS)), "NaN"),
    "NaN in float16": (_npy(np.where(PROBS == 1, np.nan, PROBS).astype(np.float16)), "NaN"),
    "infinity": (_npy(np.where(PROBS == 1, np.inf, PROBS)), "infinity"),
    "sums": (_npy((PROBS * np.float32(0.9)).astype(np.float32)), "don't sum to 1"),
    "negative": (_npy(PROBS + np.array([[-0.5, 0.5, 0]] + [[0, 0, 0]] * 3, dtype=np.float32)), "negative"),
    "doubled ids": (_edit(lambda _: b"a\nb\na\nc\n", "ids.txt"), "'a' appears twice"),
    "ids with BOM": (_edit(lambda content: b"\xef\xbb\xbf" + content, "ids.txt"), "byte order mark"),
    "ids with CRLF": (_edit(lambda content: content.replace(b"\n", b"\r\n"), "ids.txt"), "carriage return"),
    "ids not UTF-8": (_edit(lambda content: b"\xff" + content, "ids.txt"), "not UTF-8"),
    "empty id": (_edit(lambda _: b"a\n\nb\nc\n", "ids.txt"), "an empty id"),
    "doubled classes": (_edit(lambda _: b"cat\ncat\neel\n", "classes.txt"), "'cat' appears twice"),
    "classes with CRLF": (_edit(lambda content: content.replace(b"\n", b"\r\n"), "classes.txt"), "carriage return"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_spoiled_file_is_refused_with_one_message(mate: Path, name: str) -> None:
    spoil, words = MUTATIONS[name]
    spoil(mate)
    messages = _refusal(mate)
    assert len(messages) == 1
    assert words in messages[0]
    assert str(mate.parent) in messages[0]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_file_with_any_bytes_changed_is_adopted_rightly_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Never another exception, never numbers that are no probabilities, never something written on refusal."""
    folder = tmp_path_factory.mktemp("m")
    half = data.draw(st.booleans())
    np.save(folder / "p.npy", PROBS.astype(np.float16) if half else PROBS)
    content = bytearray((folder / "p.npy").read_bytes())
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 0, 1, 7]))
    spoiled = bytes(content[: len(content) - cut]) + data.draw(st.binary(max_size=2))
    (folder / "p.npy").write_bytes(spoiled)
    (folder / "ids.txt").write_text("\n".join(IDS), encoding="utf-8")
    (folder / "classes.txt").write_text("\n".join(CLASSES), encoding="utf-8")
    before = _contents(folder)
    try:
        adopt([folder / "p.npy"], ids=folder / "ids.txt", classes=folder / "classes.txt")
    except InputError as error:
        assert len(error.messages) >= 1
        assert all(str(folder) in message for message in error.messages)
        assert _contents(folder) == before
    else:
        loaded = load_predictions(folder / "p.npy")
        np.testing.assert_allclose(loaded.probs.sum(axis=1, dtype=np.float64), 1, atol=1e-3)


def test_a_folder_of_fifty_mixed_files_gives_one_list_and_nothing_is_written(mate: Path) -> None:
    for number in range(40):
        np.save(mate / f"m{number:02}.npy", PROBS if number % 2 else PROBS * 2)
    for number in range(8):
        (mate / f"t{number}.csv").write_text("id,cat,dog,eel\nx,1,0,0\n")
    (mate / "weights.pkl").write_bytes(b"")
    (mate / "m00.csv").write_text("id,cat,dog,eel\n")
    (mate / "notes.md").write_text("hello")
    messages = _refusal(mate, mate)
    assert sum("sum to 1" in message for message in messages) == 20
    assert sum("its ids are not those" in message for message in messages) == 8
    assert sum("weights.pkl" in message for message in messages) == 1
    assert sum("both would become" in message for message in messages) == 1
    assert len(messages) == 20 + 8 + 1 + 1 + 1  # and the table without rows


def test_a_folder_is_adopted_as_a_whole_and_again(mate: Path) -> None:
    np.save(mate / "bob.npy", PROBS.astype(np.float64))
    (mate / "carl.csv").write_text("id,cat,dog,eel\n" + "".join(f"{name},1,0,0\n" for name in IDS))
    np.save(mate / "alice_oof.npy", PROBS[:2])  # of other rows: not meant here
    assert [one.run for one in _adopt(mate, mate)] == ["alice", "bob", "carl"]
    assert [one.is_new for one in _adopt(mate, mate)] == [False] * 3


def _truth_tables(folder: Path) -> dict[str, Path]:
    (folder / "train.csv").write_text("id,label\n" + "".join(f"r{row},{CLASSES[row % 3]}\n" for row in range(40)))
    (folder / "folds.csv").write_text("id,fold\n" + "".join(f"r{row},{row % 4}\n" for row in reversed(range(40))))
    (folder / "oof_ids.txt").write_text("".join(f"r{row}\n" for row in range(30)))
    return {"labels": folder / "train.csv", "folds": folder / "folds.csv", "ids": folder / "oof_ids.txt"}


def test_labels_and_folds_make_the_honest_blend_possible(mate: Path) -> None:
    options = _truth_tables(mate.parent)
    for seed, name in enumerate(("alice", "bob")):
        raw = np.random.default_rng(seed).random((30, 3)) + np.eye(3)[np.arange(30) % 3]
        np.save(mate / f"{name}_oof.npy", raw / raw.sum(axis=1, keepdims=True))
        np.save(mate / f"{name}_probs.npy", np.roll(PROBS, seed, axis=1))
    _adopt(mate, mate)
    done = _adopt(mate, mate, **options)
    assert [one.kind for one in done] == ["oof", "oof"]
    oof = load_predictions(mate / "alice_oof.npy")
    assert oof.labels is not None and oof.labels.tolist() == [row % 3 for row in range(30)]
    assert oof.folds == [row % 4 for row in range(30)]
    assert oof.sidecar["scores"]["accuracy"] == done[0].scores["accuracy"] > 0.5
    blended = blend([mate / "alice_probs.npy", mate / "bob_probs.npy"], outputs=mate.parent / "outputs")
    assert blended.document["honest"] is not None
    assert [member["run"] for member in blended.document["members"]] == ["alice", "bob"]


def test_a_plan_of_ours_brings_labels_groups_and_hash(mate: Path) -> None:
    folds = np.array([[0, 1], [1, 0], [1, 1], [0, 0]])
    plan = FoldPlan("pets", "kfold", 2, 0, IDS, ("cat", "dog", "eel", "cat"), ("p", "q", "q", "p"), folds)
    save_plan(mate.parent / "plan.csv", plan)
    _adopt(mate, folds=mate.parent / "plan.csv", out=mate / "oof")
    oof = load_predictions(mate / "oof.npy")
    assert (oof.sidecar["folds_sha256"], oof.sidecar["dataset"]) == (plan.sha256, "pets")
    assert oof.folds == folds.T.tolist()
    assert oof.labels is not None and oof.labels.tolist() == [0, 1, 2, 0]
    assert oof.groups is not None and oof.groups.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(
    ("labels", "folds", "words"),
    [
        ("id,label\n001,cat\n", None, "--folds: missing"),
        (None, "id,fold\n001,0\n", "--labels: missing"),
        ("id,label\n001,cat\n", "id,fold\n001,0\n", "no label for 3 of 4 rows ('NA', '1e5', 'ü b')"),
        ("id,label\n001,cow\nNA,cat\n1e5,cat\nü b,cat\n", "id,fold\n001,0\nNA,0\n1e5,1\nü b,1\n", "('cow')"),
        ("id,label\n001,3\nNA,0\n1e5,1\nü b,2\n", "id,fold\n001,0\nNA,0\n1e5,1\nü b,1\n", "('3')"),
        ("id,label\n001,0\nNA,0\n1e5,1\nü b,2\n", "id,fold\n001,-1\nNA,0\n1e5,1\nü b,1\n", "only trained on"),
        ("id,label\n001,0\nNA,0\n1e5,1\nü b,2\n", "id,fold\n001,0.0\nNA,0\n1e5,1\nü b,1\n", "'0.0'"),
        ("id,a,b\n001,0,1\n", "id,fold\n001,0\n", "no column 'label'"),
    ],
)
def test_labels_and_folds_that_do_not_fit_are_refused(
    mate: Path, labels: str | None, folds: str | None, words: str
) -> None:
    options = {}
    for name, text in (("labels", labels), ("folds", folds)):
        if text is not None:
            options[name] = mate.parent / f"{name}.csv"
            options[name].write_text(text, encoding="utf-8")
    assert words in "\n".join(_refusal(mate, **options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ids": None}, "--ids F"),
        ({"classes": None}, "--classes F"),
        ({"ids": "nowhere.txt"}, "nowhere.txt: can't be read"),
        ({"kind": "test", "labels": "x.csv"}, "neither --labels nor --folds"),
        ({"run": " "}, "--run: is empty"),
    ],
)
def test_what_is_missing_is_named(mate: Path, options: dict[str, Any], words: str) -> None:
    assert words in "\n".join(_refusal(mate, **options))


def test_files_in_the_way_are_not_written_over(mate: Path) -> None:
    (mate / "alice_probs.ids.txt").write_text("other\n")
    assert "with other ids" in _refusal(mate)[0]
    (mate / "x.npy").write_bytes(b"mine")
    assert "is there already" in _refusal(mate, out=mate / "x")[0]


def test_the_command_tells_what_it_did_and_what_looks_wrong(mate: Path, ens: Callable[..., Any]) -> None:
    options = _truth_tables(mate.parent)
    np.save(mate / "oof.npy", np.roll(np.eye(3), 1, axis=1)[np.arange(30) % 3])
    words = [part for key, path in options.items() for part in (f"--{key}", str(path))]
    words = ["adopt", str(mate / "oof.npy"), "--classes", str(mate.parent / "classes.txt"), *words]
    answer = ens(*words)
    assert answer.code == 0
    assert "are ids and classes in the order" in answer.out
    again = ens(*words, "--json")
    assert json.loads(again.out)["adopted"][0]["is_new"] is False
    refused = ens("adopt", str(mate / "nowhere.npy"), *words[2:])
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
