"""`import ensemble` in a notebook: the same names as the command line, nothing imported before it is used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ensemble


@pytest.mark.parametrize("name", [name for name in ensemble.__all__ if name != "__version__"])
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    value = getattr(ensemble, name)
    assert callable(value)
    assert value.__doc__
    assert name in dir(ensemble)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ensemble.no_such_name


def test_the_import_brings_nothing_with_it() -> None:
    code = "import sys, ensemble; print([name for name in sys.modules if name.split('.')[0] in ('numpy', 'torch')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_verbs_work_as_functions(workspace: Path) -> None:
    events: list[Any] = []
    run = ensemble.train("tiny", on_event=events.append)
    assert run.state == "complete"
    assert run.scores is not None
    assert events[-1]["event"] == "merged"
    probs = ensemble.load_predictions(run.path / "probs.npy")
    assert probs.probs.shape == (12, 3)
    blended = ensemble.blend([run.path / "probs.npy"], outputs=workspace / "outputs")
    assert blended.submission.exists()
    assert ensemble.status(workspace / "outputs")["runs"][0]["run"] == "tiny"
    assert ensemble.fold_plan("tiny")["k"] == 2


def test_bad_input_is_an_exception_with_the_same_messages(workspace: Path, ens: Callable[..., Any]) -> None:
    with pytest.raises(ensemble.InputError) as raised:
        ensemble.train("tiny", sets=["train.epoch=3"])
    assert "\n".join(raised.value.messages) == ens("train", "--recipe", "tiny", "--set", "train.epoch=3").err.strip()
