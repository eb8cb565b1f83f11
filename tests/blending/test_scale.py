"""Very many rows: blocks instead of whole arrays, files that are let go of, what files share kept once, samples."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.blending import align as stack
from ensemble.blending import inputs as ingredients
from ensemble.blending import inputs as sampled
from ensemble.blending.align import Stack
from ensemble.blending.blend import blend
from ensemble.blending.inputs import load_members, sampled_rows
from ensemble.blending.methods import COMBINERS, SET_COMBINERS
from ensemble.combining import combine as vote
from ensemble.combining.crossfit import Part
from ensemble.core.predictions import Seen, load_predictions
from tests.support import MakeRun


def _matrices(members: int = 4, rows: int = 103, classes: int = 5) -> list[np.ndarray]:
    raw = np.random.default_rng(0).random((members, rows, classes)).astype(np.float32)
    return list(raw / raw.sum(axis=2, keepdims=True))


@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("name", sorted(COMBINERS))
@pytest.mark.parametrize("weights", [None, (0.2, 0.0, 1.0, 0.7)])
def test_blocks_of_rows_change_no_bit(
    name: str, weights: Sequence[float] | None, sets: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    combine = (SET_COMBINERS if sets else COMBINERS)[name]
    matrices = _matrices()
    order, columns = np.random.default_rng(1).permutation(103), np.array([4, 2, 0, 1, 3])
    own = Stack(matrices, [None, order, None, order], [None, columns, columns, None])
    for given in (matrices, own, Part(own, order[:50], [3, 0, 2, 1]), Part(own, None, [3, 0, 2, 1])):
        whole = combine(given, weights)
        with monkeypatch.context() as patch:
            patch.setattr(vote, "BLOCK_NUMBERS", 40)
            parts = combine(given, weights)
        np.testing.assert_array_equal(parts.probs, whole.probs)
        np.testing.assert_array_equal(parts.decisions, whole.decisions)


def test_a_member_of_16_bits_counts_as_its_numbers() -> None:
    """In 32 bits, so that nothing is computed in sixteen."""
    half = [matrix.astype(np.float16) for matrix in _matrices()]
    own = Stack(half, [None] * 4, [None] * 4)
    assert own[0].dtype == np.float32
    np.testing.assert_array_equal(vote.soft(own).probs, vote.soft([one.astype(np.float64) for one in half]).probs)


def test_mapped_files_are_let_go_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more has been read than may stay; and what was let go of is read again."""
    released: list[int] = []
    monkeypatch.setattr(stack, "_MOST_BYTES", 5000)
    monkeypatch.setattr(stack, "release_pages", lambda matrix: released.append(len(matrix)))
    own = Stack(_matrices(), [None] * 4, [None] * 4)
    for _ in own.block(0, 50):
        pass
    assert not released
    for _ in own:
        pass
    assert released[:4] == [103] * 4


def test_what_files_have_in_common_is_one_object(make_run: Callable[..., Path]) -> None:
    members = load_members([make_run(seed) for seed in range(3)])
    oofs = [member.oof for member in members]
    assert all(one is not None for one in oofs)
    for key in ("ids", "labels", "folds", "groups"):
        assert len({id(getattr(one, key)) for one in oofs}) == 1, key
    assert len({id(member.test.ids) for member in members}) == 1


def test_files_that_differ_are_kept_apart(make_run: Callable[..., Path], tmp_path: Path) -> None:
    seen = Seen()
    one, other = make_run(0), make_run(1, order=[*range(1, 24), 0])
    here, there = (load_predictions(path.with_name("oof.npy"), seen=seen) for path in (one, other))
    assert here.ids != there.ids
    assert here.labels is not None
    assert there.labels is not None
    assert here.labels.tolist() != there.labels.tolist()
    assert load_predictions(one.with_name("oof.npy"), seen=seen).ids == here.ids


def test_few_numbers_are_all_looked_at() -> None:
    assert sampled_rows(1_000_000, 10, 20, None) is None
    assert sampled_rows(20_000, 200, 1000, None) is None


def test_a_sample_is_of_whole_groups_and_does_not_depend_on_the_members() -> None:
    groups = np.repeat(np.arange(250_000), 4)
    rows = sampled_rows(1_000_000, 200, 18, groups)
    assert rows is not None
    assert len(rows) * 200 * 18 == pytest.approx(100_000_000, rel=0.01)
    assert (np.bincount(groups[rows])[np.unique(groups[rows])] == 4).all()
    again = sampled_rows(1_000_000, 200, 18, groups)
    np.testing.assert_array_equal(rows, again)
    assert (np.diff(rows) > 0).all()


def test_a_blend_of_a_sample_says_so_and_answers_for_all_test_rows(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(rows: int, members: int, classes: int, groups: Any) -> Any:
        monkeypatch.setattr(sampled, "_MOST_NUMBERS", 0)
        monkeypatch.setattr(sampled, "_SAMPLE_NUMBERS", rows * members * classes // 2)
        monkeypatch.setattr(sampled, "_FEWEST_ROWS", 4)
        return sampled_rows(rows, members, classes, groups)

    monkeypatch.setattr(ingredients, "sampled_rows", half)
    members = [make_run(seed, rows=60) for seed in range(3)]
    done = blend(members, outputs=tmp_path / "outputs", method="optimize")
    assert done.document["scored_rows"] == {"used": 30, "of": 60}
    assert done.document["rows"] == 60


def test_a_member_that_is_cut_short_while_it_is_blended_ends_the_command_with_a_line(
    make_run: MakeRun, tmp_path: Path
) -> None:
    paths = [make_run(seed, rows=5000) for seed in range(2)]
    code = (
        "import os, sys\nfrom ensemble.blending import inputs\nfrom ensemble.cli import main\n"
        "load = inputs.load_members\n"
        "def cut(paths, **options):\n"
        "    members = load(paths, **options)\n"
        "    os.truncate(paths[0], 4096)\n"
        "    return members\n"
        "inputs.load_members = cut\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    words = ["blend", *map(str, paths), "--outputs", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, ""), done.stderr
    assert f"{paths[0]}: was cut short while it was read" in done.stderr
    assert not list((tmp_path / "out").rglob("submission.csv"))
