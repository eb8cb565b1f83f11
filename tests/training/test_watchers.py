"""TensorBoard and wandb hear every epoch, of a resumed fold too, and can't stop a training."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ensemble.core.machine import check_watchers
from ensemble.errors import InputError
from ensemble.training.watchers import Watchers

ABOUT = {"run": "r50", "dataset": "mask", "identity": "abc"}
ROW = {"epoch": 2, "lr": 0.1, "train_loss": 0.5, "macro_f1": 0.25, "roc_auc": None, "inner_macro_f1": 0.75}


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A stand-in for the package; the calls of it."""
    calls: list[Any] = []
    run = SimpleNamespace(log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("end"))
    module: Any = ModuleType("wandb")
    module.init = lambda **words: (calls.append(words), run)[1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return calls


def test_folds_are_sub_runs_of_a_group_named_after_the_run(wandb: list[Any], tmp_path: Path) -> None:
    for fold in ("fold-0", "fold-1"):
        watchers = Watchers(["wandb"], tmp_path / fold, ABOUT, {"seed": 3}, print)
        watchers.show(ROW)
        watchers.close()
    first, values, end, second, *_ = wandb
    assert (first["project"], first["group"], first["name"]) == ("mask", "r50", "r50/fold-0")
    assert first["config"] == {"seed": 3}
    assert first["id"] != second["id"]
    named = {"train/lr": 0.1, "train/loss": 0.5, "validation/macro_f1": 0.25, "inner/macro_f1": 0.75}
    assert values == (2, named)
    assert end == "end"


def test_a_watcher_that_fails_is_reported_once_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("wandb")
    module.init = lambda **words: 1 / 0
    monkeypatch.setitem(sys.modules, "wandb", module)
    warnings: list[str] = []
    watchers = Watchers(["wandb"], tmp_path, ABOUT, {}, warnings.append)
    watchers.show(ROW)
    watchers.close()
    assert warnings == ["wandb: ZeroDivisionError: division by zero; training goes on without it"]


def test_tensorboard_reads_what_it_was_shown_also_after_a_second_start(tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_multiplexer", reason="an extra")
    for last in (1, 2):
        for fold in ("fold-0", "fold-1"):
            watchers = Watchers(["tensorboard"], tmp_path / "r50" / fold, ABOUT, {}, pytest.fail)
            for epoch in range(1, last + 1):
                watchers.show({**ROW, "epoch": epoch})
            watchers.close()
    events = reader.EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    events.Reload()
    assert sorted(events.Runs()) == ["r50/fold-0", "r50/fold-1"]
    scalars = events.Scalars("r50/fold-1", "validation/macro_f1")
    assert [(event.step, event.value) for event in scalars] == [(1, 0.25), (2, 0.25)]


def test_unknown_names_and_missing_packages_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError) as caught:
        check_watchers(("tensorboard", "mlflow"))
    assert "pip install 'ens[tensorboard]'" in caught.value.messages[0]
    assert "--log mlflow: unknown; the names are tensorboard, wandb" in caught.value.messages[1]
