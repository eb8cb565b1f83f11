"""Which epoch is taken, why, and when training stops early."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ensemble.recipe.parts import TrainPart
from ensemble.training.loop import Selection

Scores = dict[str, float | None]


def selection(metric: str = "accuracy", **keys: Any) -> Selection:
    greater = metric != "log_loss"
    return Selection(TrainPart.model_validate({"epochs": 10, **keys}), metric, greater_is_better=greater)


def hear(chosen: Selection, values: list[float | None], metric: str = "accuracy") -> None:
    for epoch, value in enumerate(values, 1):
        chosen.note(epoch, {metric: value})


def test_last_takes_every_epoch_in_its_turn_whatever_its_score() -> None:
    chosen = selection()
    hear(chosen, [0.9, 0.1, 0.5])
    assert chosen.epoch == 3
    assert not chosen.is_over
    assert "whatever its score" in chosen.why


def test_best_takes_the_epoch_with_the_best_metric_and_says_where_it_was_looked_at() -> None:
    chosen = selection(select="best")
    hear(chosen, [0.5, 0.9, 0.7])
    assert chosen.epoch == 2
    assert "accuracy 0.9 on the validation fold, the best of 3 epochs" in chosen.why
    inner = selection("log_loss", select="inner")
    hear(inner, [0.5, 0.9, 0.7], "log_loss")
    assert inner.epoch == 1
    assert "log_loss 0.5 on the inner split of the training rows" in inner.why


def test_equal_metrics_are_decided_by_log_loss_then_by_the_earlier_epoch() -> None:
    chosen = selection(select="best")
    for epoch, loss in enumerate([0.5, 0.2, 0.2, 0.3], 1):
        chosen.note(epoch, {"accuracy": 1.0, "log_loss": loss})
    assert chosen.epoch == 2


def test_a_metric_without_a_value_does_not_end_the_comparison() -> None:
    chosen = selection("roc_auc", select="best")
    hear(chosen, [None, None], "roc_auc")
    assert chosen.epoch == 2
    assert "had no value" in chosen.why
    chosen.note(3, {"roc_auc": 0.1})
    chosen.note(4, {"roc_auc": None})
    assert chosen.epoch == 3


def test_patience_counts_epochs_without_a_better_one() -> None:
    chosen = selection(select="inner", patience=2)
    for epoch, (value, is_over) in enumerate([(0.1, False), (0.3, False), (0.2, False), (0.3, True)], 1):
        chosen.note(epoch, {"accuracy": value})
        assert chosen.is_over is is_over
    assert "stopped after 4 of 10 epochs, 2 without a better one" in chosen.why


def test_patience_without_a_score_to_look_at_is_refused_with_what_to_do() -> None:
    with pytest.raises(ValidationError, match=r"select: last looks at none; use select: inner \(honest\) or best"):
        TrainPart(patience=3)


@given(values=st.lists(st.one_of(st.none(), st.floats(0, 1)), min_size=1, max_size=8), cut=st.integers(0, 8))
def test_a_selection_goes_on_from_its_state_as_if_nothing_had_happened(values: list[float | None], cut: int) -> None:
    whole, first, second = (selection(select="best", patience=2) for _ in range(3))
    for epoch, value in enumerate(values, 1):
        is_taken = whole.note(epoch, {"accuracy": value, "log_loss": value})
        if epoch <= cut:
            first.note(epoch, {"accuracy": value, "log_loss": value})
        else:
            if epoch == cut + 1:
                second.load(json.loads(json.dumps(first.state())))
            assert second.note(epoch, {"accuracy": value, "log_loss": value}) == is_taken
            assert (second.epoch, second.is_over, second.why) == (whole.epoch, whole.is_over, whole.why)
