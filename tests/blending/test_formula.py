"""The formula in `blend.json`: read back, it answers as what was judged; a damaged or missing one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.blending.blend import blend
from ensemble.blending.formula import Formula
from ensemble.blending.options import METHODS, BlendOptions
from ensemble.blending.verdict import judge_rows
from ensemble.combining.crossfit import Labelled
from ensemble.errors import InputError
from tests.support import MakeRun

WAYS: list[dict[str, Any]] = [
    *({"method": "power:3" if name == "power" else name} for name in METHODS if name != "weighted"),
    {"method": "weighted", "weights": {"m0": 3.0, "m1": 0.0, "m2": 1.0, "m3": 0.5}},
    {"method": "soft", "calibrate": "temperature"},
    {"method": "optimize", "calibrate": "vector"},
    {"method": "hard", "calibrate": "temperature", "calibrate_when": "before"},
    {"method": "geometric", "calibrate": "vector", "calibrate_when": "before"},
    {"method": "soft", "tune_classes": True},
    {"method": "stack", "calibrate": "temperature", "tune_classes": True},
    {"method": "greedy", "max_cost": "2.5x"},
    {"method": "optimize", "select": "useful"},
]


def rows(*, sets: bool) -> Labelled:
    """Members of different skill; one is of no use, and the classes are of very different size."""
    random = np.random.default_rng(5)
    count, classes = 400, 4
    shares = np.array([0.7, 0.2, 0.07, 0.03])
    chosen = random.choice(classes, count, p=shares)
    labels = (random.random((count, classes)) < shares + 0.1).astype(np.uint8) if sets else chosen
    truth = labels.astype(float) if sets else np.eye(classes)[chosen]
    truth[::5] = truth[1::5]  # rows that look like another: no member is sure for good reason
    stack = []
    for skill in (1.5, 1.2, 0.0, 0.8):
        scores = skill * 2 * truth + random.normal(size=truth.shape)
        probs = 1 / (1 + np.exp(-scores)) if sets else np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        stack.append(probs.astype(np.float32))
    return Labelled(stack, labels, (np.arange(count) % 4)[None], None, "macro_f1")


@pytest.mark.parametrize("sets", [False, True], ids=["one class a row", "sets"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: " ".join(map(str, way.values())))
def test_a_formula_read_from_json_gives_the_very_answers_of_what_was_judged(way: dict[str, Any], sets: bool) -> None:
    labelled = rows(sets=sets)
    names = [f"m{number}" for number in range(len(labelled.stack))]
    options = BlendOptions(**{"metric": "macro_f1", "force": True, "select": "all"} | way)
    verdict = judge_rows(labelled, names, [1.0, 2.0, 1.5, 1.0], options, details=False)
    formula = Formula(verdict.fitted.step, verdict.kept, verdict.fitted.weights, sets)
    document = {
        "apply": formula.plain(),
        "members": [{"run": name} for name in names],
        "classes": ["a", "b", "c", "d"],
        "activation": "sigmoid" if sets else "softmax",
        "method": options.method,
        "name": "b",
    }
    again = Formula.of(json.loads(json.dumps(document)), "blend.json")
    expected, answer = verdict.answer(labelled.stack), again.answer(labelled.stack)
    assert np.array_equal(answer.probs, expected.probs) and np.array_equal(answer.decisions, expected.decisions)
    if options.tune_classes:
        likeliest = expected.probs >= 0.5 if sets else expected.probs.argmax(axis=1)
        assert not np.array_equal(likeliest, answer.decisions), "these multipliers move no decision"
    # Members without a say may hold anything.
    others = [
        matrix if number in again.needed else np.full_like(matrix, 0.25) for number, matrix in enumerate(labelled.stack)
    ]
    assert np.array_equal(again.answer(others).probs, expected.probs)
    if options.weights is not None:
        assert again.needed == (0, 2, 3)
    if again.is_by_row:
        parts = [again.answer([matrix[start : start + 7] for matrix in labelled.stack]) for start in range(0, 400, 7)]
        assert np.array_equal(np.concatenate([part.decisions for part in parts]), expected.decisions)
        np.testing.assert_allclose(np.concatenate([part.probs for part in parts]), expected.probs, atol=1e-12)
    assert again.is_by_row == (verdict.used.split("+")[-1] != "rank")


def damage_step(plain: dict[str, Any]) -> None:
    plain["step"] = {"do": "guess"}


def damage_weights(plain: dict[str, Any]) -> None:
    plain["weights"] = [1.0]


def damage_members(plain: dict[str, Any]) -> None:
    plain["kept"] = [0, 7]


def damage_numbers(plain: dict[str, Any]) -> None:
    plain["step"] = {"do": "tune", "class_multipliers": [1.0] * 9, "of": {"do": "soft"}}


@pytest.mark.parametrize("damage", [damage_step, damage_weights, damage_members, damage_numbers])
def test_a_damaged_formula_is_refused_with_the_command_that_blends_again(
    damage: Callable[[dict[str, Any]], None], make_run: MakeRun, tmp_path: Path
) -> None:
    document = blend([make_run(0), make_run(1)], outputs=tmp_path / "outputs", method="soft").document
    damage(document["apply"])
    with pytest.raises(InputError) as caught:
        Formula.of(document, "b/blend.json")
    assert "b/blend.json: `apply` can't be used" in str(caught.value)
    assert "ens blend outputs/run0 outputs/run1 --method soft --name soft-2" in str(caught.value)


def test_a_blend_of_an_earlier_version_is_refused_with_the_command_that_blends_again(
    make_run: MakeRun, tmp_path: Path
) -> None:
    document = blend([make_run(0), make_run(1, run="study/trial-3")], outputs=tmp_path / "outputs").document
    del document["apply"]
    with pytest.raises(InputError) as caught:
        Formula.of(document, "b/blend.json")
    assert "blend its members again: ens blend outputs/run0 outputs/studies/study/trial-3" in str(caught.value)


def test_a_blend_is_answered_by_the_formula_that_it_records(make_run: MakeRun, tmp_path: Path) -> None:
    from ensemble.core.predictions import load_predictions

    paths = [make_run(0), make_run(1), make_run(2)]
    done = blend(paths, outputs=tmp_path / "outputs", method="stack", force=True, select="all")
    document = json.loads((done.folder / "blend.json").read_text())
    stack = [load_predictions(path).probs for path in paths]
    answer = Formula.of(document, "blend.json").answer(stack)
    assert np.array_equal(answer.probs, load_predictions(done.folder / "probs").probs)
