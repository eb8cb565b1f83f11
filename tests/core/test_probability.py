"""The probability file: what is saved comes back, and everything else is refused with one clear message."""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.core.npy import save_matrix
from ensemble.core.predictions import Predictions, ProbabilityPaths, load_predictions, save_predictions
from ensemble.errors import InputError, PartialFailure
from tests.support import alter_record

GOLDEN = Path(__file__).parents[1] / "golden" / "probability"
SUFFIXES = (".npy", ".ids.txt", ".json")


def _predictions(**changes: Any) -> Predictions:
    values: dict[str, Any] = {
        "ids": ("001", "NA", "ü b,c"),
        "classes": ("cat", "dog"),
        "probs": np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]], dtype=np.float32),
        "kind": "test",
        "sidecar": {"run": "r1", "dataset": "pets", "cost": {"parameters": 12}},
    }
    return Predictions(**{**values, **changes})


def _oof(**changes: Any) -> Predictions:
    values: dict[str, Any] = {
        "kind": "oof",
        "labels": np.array([1, 0, 1]),
        "folds": [0, 1, 0],
        "groups": np.array([3, 3, 4]),
    }
    return _predictions(**{**values, **changes})


@pytest.fixture
def trio(tmp_path: Path) -> Path:
    save_predictions(tmp_path / "a b" / "probs", _predictions())
    return tmp_path / "a b" / "probs.npy"


def _refusal(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        load_predictions(path, **options)
    assert len(caught.value.messages) == 1, caught.value.messages
    assert str(path.parent) in caught.value.messages[0]
    return caught.value.messages[0]


def _rehash(npy: Path) -> None:
    """Make the sidecar agree with what the other two files hold now."""
    paths = ProbabilityPaths.of(npy)
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (paths.npy, paths.ids)]
    alter_record(paths.json, npy_sha256=hashes[0], ids_sha256=hashes[1])


def _put_array(npy: Path, array: np.ndarray) -> None:
    np.save(npy, array, allow_pickle=True)
    _rehash(npy)


def _change_document(npy: Path, **changes: Any) -> None:
    alter_record(ProbabilityPaths.of(npy).json, **changes)


def _assert_same(one: Predictions, other: Predictions) -> None:
    assert (one.ids, one.classes, one.kind, one.folds) == (other.ids, other.classes, other.kind, other.folds)
    assert one.sidecar == other.sidecar
    assert one.probs.dtype == other.probs.dtype
    np.testing.assert_array_equal(one.probs, other.probs)
    for here, there in ((one.labels, other.labels), (one.groups, other.groups)):
        assert (here is None) == (there is None)
        if here is not None:
            np.testing.assert_array_equal(here, there)


@pytest.mark.parametrize("make", [_predictions, _oof])
def test_what_is_saved_comes_back(tmp_path: Path, make: Callable[[], Predictions]) -> None:
    save_predictions(tmp_path / "x.y", make())
    _assert_same(load_predictions(tmp_path / "x.y.npy"), make())


def test_folds_of_a_repeated_plan_and_absent_groups_come_back(tmp_path: Path) -> None:
    repeated = _oof(folds=[np.array([0, 1, 0]), [1, 1, 0]], groups=None)
    save_predictions(tmp_path / "oof", repeated)
    loaded = load_predictions(tmp_path / "oof.npy")
    assert loaded.folds == [[0, 1, 0], [1, 1, 0]]
    assert loaded.groups is None


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_valid_predictions_survive_the_round_trip(tmp_path: Path, data: st.DataObject) -> None:
    text = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), min_size=1, max_size=8)
    ids = data.draw(st.lists(text, min_size=1, max_size=6, unique=True))
    classes = data.draw(st.lists(text, min_size=1, max_size=4, unique=True))
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    raw = np.random.default_rng(data.draw(st.integers(0, 9))).random((len(ids), len(classes))) + 1e-3
    probs = (raw / raw.sum(axis=1, keepdims=True)).astype(dtype)
    predictions = Predictions(tuple(ids), tuple(classes), probs, "test")
    save_predictions(tmp_path / "p", predictions)
    _assert_same(load_predictions(tmp_path / "p"), predictions)


@pytest.mark.parametrize("name", ["probs.npy", "probs.json", "probs.ids.txt", "probs"])
def test_any_of_the_three_names_or_the_stem_finds_the_trio(trio: Path, name: str) -> None:
    assert load_predictions(trio.with_name(name)).ids == ("001", "NA", "ü b,c")


def test_the_numbers_are_a_read_only_map_and_carry_their_hash(trio: Path) -> None:
    loaded = load_predictions(trio)
    assert isinstance(loaded.probs.base, mmap.mmap)
    assert not loaded.probs.flags.writeable
    assert loaded.npy_sha256 == hashlib.sha256(trio.read_bytes()).hexdigest()
    assert loaded.path == trio


def test_a_trio_of_the_first_format_keeps_loading_and_is_marked_as_unverified() -> None:
    first, golden = (load_predictions(folder / "oof.npy") for folder in (GOLDEN / "format-1", GOLDEN))
    _assert_same(first, golden)
    assert (first.is_verified, golden.is_verified) == (False, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": [1, 1, 1]},
        {"folds": [1, 1, 0]},
        {"scores": {"accuracy": 0.999}},
        {"classes": ["dog", "cat"]},
        {"run": None},
        {"record_sha256": None},
        {"record_sha256": "0" * 64},
    ],
)
def test_a_sidecar_that_was_altered_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    save_predictions(tmp_path / "oof", _oof())
    path = tmp_path / "oof.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    assert "record_sha256" in _refusal(tmp_path / "oof.npy")


def test_the_golden_trio_keeps_loading_and_is_written_byte_for_byte(tmp_path: Path) -> None:
    golden = load_predictions(GOLDEN / "oof.npy")
    _assert_same(golden, _oof(sidecar=golden.sidecar))
    save_predictions(tmp_path / "oof", golden)
    for suffix in SUFFIXES:
        assert (tmp_path / f"oof{suffix}").read_bytes() == (GOLDEN / f"oof{suffix}").read_bytes(), suffix


@pytest.mark.parametrize(
    "changes",
    [
        {"probs": np.array([[0.3, 0.3]] * 3)},
        {"probs": np.array([[0.5, 0.5]] * 3, dtype=np.float16)},
        {"probs": np.array([[0.5, 0.5]] * 2)},
        {"probs": np.array([[np.nan, 0.5]] * 3)},
        {"ids": ("a", "a", "b")},
        {"ids": ("a", "", "b")},
        {"ids": ("a", "b\nc", "d")},
        {"classes": ("a", "a")},
        {"classes": ("a", "")},
        {"kind": "train"},
        {"labels": np.array([0, 1, 1])},
        {"kind": "oof"},
        {"sidecar": {"rows": 3}},
        {"sidecar": {"cost": {"seconds": float("nan")}}},
        {"sidecar": {"run": 7}},
        {"sidecar": {"run": "\ud800"}},
    ],
)
def test_nothing_is_saved_that_would_not_load(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        save_predictions(tmp_path / "p", _predictions(**changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ([".npy"], "probs.npy missing"),
        ([".json"], "travel together"),
        ([".ids.txt", ".json"], "probs.ids.txt and probs.json missing"),
        (list(SUFFIXES), "no such probability file"),
    ],
)
def test_a_missing_piece_is_named(trio: Path, gone: list[str], words: str) -> None:
    for suffix in gone:
        trio.with_name("probs" + suffix).unlink()
    assert words in _refusal(trio)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([[0.5, 0.5]] * 3, dtype=">f2"), "big-endian float16"),
        (np.array([[0, 1]] * 3), "int64"),
        (np.array([[0.5, 0.5]] * 3, dtype=">f4"), "big-endian float32"),
        (np.array([[0.5, 0.5]] * 3, dtype=object), "Python objects"),
        (np.array([(0.5,)] * 3, dtype=[("a", "<f4")]), "structured"),
        (np.asfortranarray(np.array([[0.5, 0.5]] * 3)), "Fortran"),
        (np.array([0.5, 0.5, 1.0]), "1 dimension"),
        (np.zeros((0, 2)), "0 rows and 2 columns"),
        (np.zeros((3, 0)), "3 rows and 0 columns"),
    ],
)
def test_an_array_of_another_kind_is_refused_by_what_it_is(trio: Path, array: np.ndarray, words: str) -> None:
    _put_array(trio, array)
    assert words in _refusal(trio)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an .npy file"),
        (b"PK\x03\x04 an npz", "not an .npy file"),
        (b"\x93NUMPY\x09\x00v\x00{}", "version 9.0"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{", "2147483647 bytes"),
        (b"\x93NUMPY\x01\x00\x76\x00{", "cut off inside its header"),
        (b"\x93NUMPY\x01\x00\x05\x00[1,2]", "descr, fortran_order and shape"),
        (b"\x93NUMPY\x01\x00\x06\x00{'a':1", "can't be read"),
        (b"\x93NUMPY\x01\x00\x07\x00{'a':1}", "descr, fortran_order and shape"),
        (b"\x93NUMPY\x01\x00\x88\x13" + b"[" * 5000, "can't be read"),
    ],
)
def test_a_broken_header_is_refused(trio: Path, content: bytes, words: str) -> None:
    trio.write_bytes(content)
    assert words in _refusal(trio)


def test_a_header_that_claims_terabytes_is_refused_before_anything_is_allocated(trio: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (999999999999, 2), }\n"
    trio.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + b"\0" * 16)
    assert "15999999999968 are missing" in _refusal(trio)


def test_truncated_and_trailing_bytes_are_counted(trio: Path) -> None:
    content = trio.read_bytes()
    trio.write_bytes(content[:-5])
    assert "5 are missing" in _refusal(trio)
    trio.write_bytes(content + b"???")
    assert "3 bytes too many" in _refusal(trio)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[np.nan, 1], [0.5, 0.5], [np.inf, 0]], ("2 rows", "NaN or infinity", "'001'", "'cat' is nan")),
        ([[0.5, 0.5], [-0.5, 1.5], [0.5, 0.5]], ("1 row", "negative", "softmax", "'NA'", "-0.5")),
        ([[0.5, 0.5], [0.5, 0.5], [0.5, 0.4]], ("1 row", "'ü b,c'", "the sum 0.9", "--renormalize")),
        ([[0, 0], [0.5, 0.5], [2, 2]], ("2 rows", "--renormalize")),
        ([[1.0005, 0], [0.5, 0.5], [0, 1]], ("exceeds 1", "1.0005", "--renormalize")),
        ([[3e38, 3e38], [0.5, 0.5], [0, 1]], ("exceeds 1",)),
    ],
)
def test_rows_that_are_no_probabilities_are_counted_and_the_first_is_shown(
    trio: Path, rows: list[list[float]], words: tuple[str, ...]
) -> None:
    _put_array(trio, np.array(rows, dtype=np.float32))
    message = _refusal(trio)
    assert all(word in message for word in words), message


def test_renormalize_divides_a_row_by_its_sum_and_counts_it(trio: Path) -> None:
    _put_array(trio, np.array([[0.5, 0.4], [0.5, 0.5], [30, 10]], dtype=np.float64))
    loaded = load_predictions(trio, renormalize=True)
    np.testing.assert_allclose(loaded.probs, [[5 / 9, 4 / 9], [0.5, 0.5], [0.75, 0.25]])
    assert loaded.renormalized == 2


@pytest.mark.parametrize("row", [[0, 0], [np.nan, 1], [np.inf, 0], [-0.1, 1.1]])
def test_renormalize_does_not_save_a_row_without_meaning(trio: Path, row: list[float]) -> None:
    _put_array(trio, np.array([row, [0.5, 0.4], [0.5, 0.5]]))
    assert "1 row" in _refusal(trio, renormalize=True)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb\n", "2 ids for 3 rows"),
        (b"a\nb\nc\nd\n", "4 ids for 3 rows"),
        (b"a\n\nc\n", "txt:2: an empty id (1 in all)"),
        (b"a\nb\na\n", "'a' appears twice"),
        (b"a\r\nb\r\nc\r\n", "carriage return"),
        (b"a\nb\xff\nc\n", "not UTF-8 (byte 3)"),
        (b"\xef\xbb\xbfa\nb\nc\n", "byte order mark"),
        (b"", "0 ids for 3 rows"),
    ],
)
def test_broken_ids_are_refused(trio: Path, content: bytes, words: str) -> None:
    trio.with_name("probs.ids.txt").write_bytes(content)
    assert words in _refusal(trio)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "upgrade"),
        ({"format": "1"}, 'format is "1"'),
        ({"format": True}, "format is true"),
        ({"kind": "train"}, 'kind is "train"'),
        ({"rows": 4}, "rows is 4"),
        ({"classes": ["a"]}, "1 class for 2 columns"),
        ({"classes": ["a", "a"]}, "'a' appears twice"),
        ({"classes": ["a", 1]}, "not a list of names"),
        ({"classes": None}, "not a list of names"),
        ({"classes": ["a", "b\nc"]}, "line break"),
        ({"npy_sha256": "0"}, "npy_sha256"),
        ({"npy_sha256": "0" * 64}, "changed after it was written"),
        ({"ids_sha256": "0" * 64}, "probs.ids.txt: changed after it was written"),
        ({"labels": [0, 1, 0]}, "labels must not stand in a test file"),
        ({"run": 5}, "run is 5"),
        ({"scores": {"accuracy": "high"}}, "scores"),
        ({"cost": [1]}, "cost"),
        ({"blend_of": "r1"}, "blend_of"),
        ({"why_optimistic": "luck"}, "why_optimistic"),
    ],
)
def test_a_wrong_sidecar_is_refused(trio: Path, changes: dict[str, Any], words: str) -> None:
    _change_document(trio, **changes)
    assert words in _refusal(trio)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": None}, "labels is missing"),
        ({"labels": [0, 1]}, "labels has 2 entries for 3 rows"),
        ({"labels": [0, 1, 2]}, "labels holds 2; allowed are 0 to 1"),
        ({"labels": [0, 1, -1]}, "labels holds -1"),
        ({"labels": [0, 1, True]}, "more than whole numbers"),
        ({"labels": [0, 1, 10**400]}, "labels holds"),
        ({"folds": [0, 1]}, "folds has 2 entries"),
        ({"folds": [[0, 1, 0], [0, 1]]}, "folds[1] has 2 entries"),
        ({"folds": {}}, "folds is {}"),
        ({"groups": ["a", "b", "c"]}, "groups holds more than whole numbers"),
    ],
)
def test_wrong_labels_folds_and_groups_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    save_predictions(tmp_path / "oof", _oof())
    _change_document(tmp_path / "oof.npy", **changes)
    assert words in _refusal(tmp_path / "oof.npy")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not a JSON document"),
        (b"[]", "no JSON object"),
        (b'{"format": 1, "x": NaN}', "NaN is no JSON number"),
        (b'{"format": 1, "x": 1e999}', "too large"),
        (b'{"format": 1, "format": 1}', "'format' appears twice"),
        (b'{"format": 1, "x": "\\ud800"}', "not UTF-8"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"format": ' + b"9" * 5000 + b"}", "not a JSON document"),
    ],
)
def test_json_that_is_not_strict_is_refused(trio: Path, content: bytes, words: str) -> None:
    trio.with_name("probs.json").write_bytes(content)
    assert words in _refusal(trio)


def test_independent_faults_of_the_three_files_are_told_together(trio: Path) -> None:
    trio.write_bytes(b"")
    trio.with_name("probs.ids.txt").write_bytes(b"a\r\n")
    trio.with_name("probs.json").write_bytes(b"{")
    with pytest.raises(InputError) as caught:
        load_predictions(trio)
    assert len(caught.value.messages) == 3


def test_hashes_are_not_looked_at_when_told_so(trio: Path) -> None:
    trio.with_name("probs.ids.txt").write_bytes(b"a\nb\nc\n")
    assert load_predictions(trio, verify_hashes=False).ids == ("a", "b", "c")


def test_two_hundred_mutations_are_refused_or_change_no_number(tmp_path: Path) -> None:
    """Bytes flipped, cut, doubled or inserted anywhere: an `InputError`, or the same ids and numbers; nothing else."""
    source, oof, chance = tmp_path / "source", _oof(), random.Random(0)
    save_predictions(source / "oof", oof)
    refused = 0
    for number in range(200):
        folder = tmp_path / f"mutant-{number}"
        shutil.copytree(source, folder)
        path = folder / f"oof{SUFFIXES[number % 3]}"
        path.write_bytes(_mutated(path.read_bytes(), chance))
        try:
            loaded = load_predictions(folder / "oof.npy")
        except InputError as error:
            refused += 1
            assert all(0 < len(message) < 600 and "\n" not in message for message in error.messages), error
            continue
        assert loaded.ids == oof.ids
        np.testing.assert_array_equal(loaded.probs, oof.probs)
    assert refused > 120


def _mutated(content: bytes, chance: random.Random) -> bytes:
    where = chance.randrange(len(content))
    kind = chance.randrange(4)
    if kind == 0:
        return content[:where] + bytes([content[where] ^ (1 << chance.randrange(8))]) + content[where + 1 :]
    if kind == 1:
        return content[:where]
    if kind == 2:
        return content[:where] + chance.randbytes(chance.randrange(1, 5)) + content[where:]
    stop = min(len(content), where + chance.randrange(1, 20))
    return content[:stop] + content[where:]


def test_a_frame_for_notebooks_has_ids_as_index_and_classes_as_columns() -> None:
    probs = np.array([[0.25, 0.75], [1.0, 0.0]], dtype=np.float32)
    frame = Predictions(("001", "NA"), ("cat", "dog"), probs, "test").frame()
    assert list(frame.index) == ["001", "NA"] and frame.index.name == "id"
    assert frame.loc["NA", "cat"] == 1.0
    assert frame["dog"].tolist() == [0.75, 0.0]


@pytest.mark.parametrize("as_json", [False, True])
def test_a_matrix_that_is_cut_short_while_it_is_read_ends_the_process_with_a_message(
    as_json: bool, tmp_path: Path
) -> None:
    np.save(tmp_path / "big.npy", np.ones((50_000, 10), dtype=np.float32))
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom ensemble.core.npy import end_when_cut_short, map_matrix\n"
        "path = Path(sys.argv[1])\n"
        f"end_when_cut_short(as_json={as_json})\n"
        "matrix = map_matrix(path)\nos.truncate(path, 4096)\nprint(matrix.sum())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "big.npy")], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (3, 1), done.stderr
    assert done.stderr.startswith(f"{tmp_path / 'big.npy'}: was cut short while it was read")
    assert done.stdout == "" if not as_json else json.loads(done.stdout)["exit_code"] == 3


@pytest.mark.parametrize("dtype", ["<f4", "<f8"])
@pytest.mark.parametrize("rows", [1, 5, 1000])
def test_a_matrix_has_the_bytes_that_numpy_writes(
    tmp_path: Path, rows: int, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ensemble.core.npy._PIECE", 100)  # pieces of a few rows
    matrix = np.random.default_rng(rows).random((rows, 3)).astype(dtype)
    save_matrix(tmp_path / "ours.npy", matrix)
    np.save(tmp_path / "theirs.npy", matrix)
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "theirs.npy").read_bytes()


def test_a_full_disk_is_an_error_of_its_own_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, matrix: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ensemble.core.predictions.save_matrix", full)
    rows = Predictions(("a",), ("x", "y"), np.array([[0.5, 0.5]], dtype=np.float32), "test")
    with pytest.raises(PartialFailure, match=r"No space left on device; free some"):
        save_predictions(tmp_path / "new" / "probs", rows)
    assert not list((tmp_path / "new").iterdir())
