"""The steps of greedy selection for scores of decisions: NumPy's and the compiled ones are the same, ties included."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.combining import greedy as candidates
from ensemble.combining.crossfit import Labelled
from ensemble.combining.greedy import compiled_steps, numpy_steps, pick_greedily


def _stack(
    seed: int, members: int, rows: int, classes: int, steps: int, dtype: type
) -> tuple[list[np.ndarray], np.ndarray]:
    """`steps` few: plenty of ties."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, rows)
    raw = random.integers(1, steps, (members, rows, classes)).astype(float)
    raw[:, np.arange(rows), labels] += steps / 3
    return list((raw / raw.sum(axis=2, keepdims=True)).astype(dtype)), labels


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 60),
    classes=st.integers(2, 9),
    steps=st.sampled_from([3, 10**6]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_compiled_steps_give_what_numpy_gives(seed: int, rows: int, classes: int, steps: int, dtype: type) -> None:
    stack, _ = _stack(seed, 3, rows, classes, steps, dtype)
    plain, fast = numpy_steps(), compiled_steps()
    sums = stack[0].astype(float) + stack[1]
    leaders = plain.tops(sums)
    np.testing.assert_array_equal(fast.tops(sums), leaders)
    np.testing.assert_array_equal(fast.tops(stack[2]), plain.tops(stack[2]))
    some = np.random.default_rng(seed).permutation(rows)[: rows // 2 + 1]
    reaches = [np.full(sums.shape, -np.inf) for _ in range(2)]
    for steps_of, reach in zip((plain, fast), reaches, strict=True):
        steps_of.raise_reach(stack[2], some, leaders, reach)
        steps_of.raise_reach(stack[0], np.arange(rows), leaders, reach)
    np.testing.assert_array_equal(*reaches)
    found = [one.opened(sums, reaches[0], leaders, 3e-12) for one in (plain, fast)]
    for here, there in zip(*found, strict=True):
        np.testing.assert_array_equal(here, there)
    if len(found[0].rows):
        np.testing.assert_array_equal(*(one.winners(stack[2], found[0], 3e-12) for one in (plain, fast)))


@pytest.mark.parametrize("metric", ["accuracy", "balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize("steps", [3, 10**6])
def test_the_picks_do_not_depend_on_which_steps_are_used(
    metric: str, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack, labels = _stack(0, 6, 300, 4, steps, np.float32)
    folds = np.zeros((1, 300), dtype=np.int64)
    plain = pick_greedily(Labelled(stack, labels, folds, metric=metric))
    monkeypatch.setattr(candidates, "_COMPILED_FROM", 0)
    assert pick_greedily(Labelled(stack, labels, folds, metric=metric)) == plain


def test_a_preference_is_measured_in_64_bits() -> None:
    """In 32 bits the difference of two numbers can come out too small, and a class that could win would be missed."""
    values = np.array([[0.1, 0.3]], dtype=np.float32)
    for steps in (numpy_steps(), compiled_steps()):
        reach = np.full((1, 2), -np.inf)
        steps.raise_reach(values, np.array([0]), np.array([0]), reach)
        assert reach[0, 1] == float(values[0, 1]) - float(values[0, 0])


def test_small_problems_do_not_load_the_compiler() -> None:
    code = (
        "import sys, numpy as np\n"
        "from ensemble.combining.greedy import pick_greedily\n"
        "from ensemble.combining.crossfit import Labelled\n"
        "stack = [np.full((4, 2), 0.5), np.tile([0.2, 0.8], (4, 1))]\n"
        "pick_greedily(Labelled(stack, np.array([0, 1, 1, 1]), np.zeros((1, 4), dtype=int)))\n"
        "sys.exit('numba' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
