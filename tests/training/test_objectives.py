"""What a run minimises and is judged by, through the whole of `ens train`: losses, mixing, code of one's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.predictions import load_predictions
from ensemble.errors import InputError
from ensemble.recipe.recipe import Recipe
from ensemble.runs.request import check_class_names

MINE = """\
import numpy as np

def misses(labels, probs):
    return float((labels != probs.argmax(axis=1)).sum())

misses.greater_is_better = False

def hits(labels, probs):
    return (labels == probs.argmax(axis=1)).astype(float)

def brier(logits, targets, facts):
    assert len(facts.classes) == logits.shape[1] == len(facts.counts)
    wanted = targets if targets.ndim == 2 else np.eye(logits.shape[1])[targets.numpy()]
    return ((logits.softmax(dim=1) - logits.new_tensor(np.asarray(wanted))) ** 2).sum(dim=1).mean()

def rows(logits, targets, facts):
    return logits.sum(dim=1)

def hard_only(logits, targets, facts):
    return logits.gather(1, targets[:, None]).mean()
"""


def _words(*sets: str) -> list[str]:
    return [word for words in ("train.epochs=1", *sets) for word in ("--set", words)]


def test_a_loss_and_a_metric_of_ones_own_train_score_rank_and_are_not_blended(
    workspace: Path, ens: Callable[..., Any]
) -> None:
    (workspace / "recipes" / "ens_test_mine.py").write_text(MINE)
    sets = ("metric=ens_test_mine:misses", "loss={name: focal, plus: {'ens_test_mine:brier': 0.5}}", "mix=both")
    done = ens("train", "--recipe", "tiny", "--engine", "inline", "--json", *_words(*sets))
    assert done.code == 0, done.err
    record = json.loads((workspace / "outputs" / "tiny" / "run.json").read_text())
    oof = load_predictions(workspace / "outputs" / "tiny" / "oof.npy")
    assert oof.labels is not None
    misses = float((oof.labels != np.asarray(oof.probs).argmax(axis=1)).sum())
    assert record["scores"]["oof"]["ens_test_mine:misses"] == misses
    assert record["greater_is_better"] is False
    assert record["per_class"]["rows"] == [16, 16, 16]
    fold = json.loads((workspace / "outputs" / "tiny" / "fold-0" / "fold.json").read_text())
    assert "ens_test_mine:misses" in fold["scores"] and len(fold["per_class"]["f1"]) == 3
    status = ens("status", "--json").document
    assert status["runs"][0]["metric"] == "ens_test_mine:misses"
    refused = ens("blend", "outputs/tiny/probs.npy")
    assert refused.code == 2 and "--metric" in refused.err
    assert ens("blend", "outputs/tiny/probs.npy", "--metric", "macro_f1").code == 0


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        (("metric=ens_test_mine:hits",), "metric: ens_test_mine:hits returned"),
        (("loss=ens_test_mine:rows",), r"must give a scalar"),
        (("loss=ens_test_mine:hard_only", "mix=mixup"), "ens_test_mine:hard_only failed on"),
        (("loss={weights: {gren: 2.0}}",), "loss.weights.gren: the dataset has no such class; did you mean green?"),
    ],
    ids=["no number", "no scalar", "no soft targets", "no class"],
)
def test_an_unusable_loss_is_refused_before_any_fold(
    workspace: Path, ens: Callable[..., Any], sets: tuple[str, ...], message: str
) -> None:
    (workspace / "recipes" / "ens_test_mine.py").write_text(MINE)
    answer = ens("train", "--recipe", "tiny", "--engine", "inline", *_words(*sets))
    assert answer.code == 2, answer.err
    assert message in answer.err
    assert not (workspace / "outputs" / "tiny" / "fold-0").exists()


def test_unknown_classes_of_all_keys_are_reported_together() -> None:
    values = {"data": "d", "model": {"name": "x"}, "loss": {"weights": {"cats": 2.0}}}
    recipe = Recipe.model_validate({**values, "sampling": {"kind": "weighted", "weights": {"dogs": 2.0}}})
    with pytest.raises(InputError) as caught:
        check_class_names(recipe, ["cat", "dog"])
    assert [line.split(":")[0] for line in caught.value.messages] == ["sampling.weights.dogs", "loss.weights.cats"]


def test_mixing_trains_to_other_weights_and_to_the_same_ones_again(
    workspace: Path, ens: Callable[..., Any], fingerprint: Callable[[Path], dict[str, str]]
) -> None:
    """17 rows a batch: the last batch of 24 rows is odd."""
    for name, kind in (("first", "both"), ("again", "both"), ("plain", "none")):
        sets = _words(f"mix={kind}", "train.batch_size=17", "folds.scheme=holdout")
        answer = ens("train", "--recipe", "tiny", "--name", name, "--engine", "inline", *sets)
        assert answer.code == 0, answer.err
    first, again, plain = (fingerprint(workspace / "outputs" / name) for name in ("first", "again", "plain"))
    assert first == again
    assert all(first[name] != plain[name] for name in first if name.endswith("safetensors"))
