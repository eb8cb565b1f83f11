"""Members of blends, made in memory or as the folders that training leaves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.predictions import Predictions, save_predictions
from tests.support import MakeMember, MakeRun

CLASSES = ("cat", "dog", "eel")


def _probs(seed: int, labels: np.ndarray, classes: int, skill: float) -> np.ndarray:
    """Random rows that lean towards the true class by `skill`."""
    raw = np.random.default_rng(seed).random((len(labels), classes)) + 0.01
    raw[np.arange(len(labels)), labels] += skill
    return np.asarray(raw / raw.sum(axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def make_member() -> MakeMember:
    """`make_member(seed, kind=…, rows=…, order=…, class_order=…, …)`: the same rows and truth for every seed."""

    def make(
        seed: int = 0,
        *,
        kind: str = "test",
        rows: int = 24,
        skill: float = 0.5,
        order: Sequence[int] | None = None,
        class_order: Sequence[int] | None = None,
        grouped: bool = True,
        **sidecar: Any,
    ) -> Predictions:
        labels = np.random.default_rng(1000).integers(0, len(CLASSES), rows)
        probs = _probs(seed + (500 if kind == "oof" else 0), labels, len(CLASSES), skill)
        order = np.arange(rows) if order is None else np.array(order)
        columns = list(range(len(CLASSES)) if class_order is None else class_order)
        position = np.argsort(columns)
        said = {"run": f"run{seed}", "dataset": "pets", "dataset_sha256": "d1", "folds_sha256": "f1", **sidecar}
        truth: dict[str, Any] = {}
        if kind == "oof":
            truth = {
                "labels": position[labels][order],
                "folds": (np.arange(rows) % 3)[order].tolist(),
                "groups": (np.arange(rows) // 2)[order] if grouped else None,
            }
        return Predictions(
            ids=tuple(f"{kind}-{row:03}" for row in order),
            classes=tuple(CLASSES[column] for column in columns),
            probs=probs[order][:, columns],
            kind=kind,  # type: ignore[arg-type]
            sidecar={key: value for key, value in said.items() if value is not None},
            npy_sha256=f"{seed}-{kind}",
            **truth,
        )

    return make


@pytest.fixture
def make_run(tmp_path: Path, make_member: MakeMember) -> MakeRun:
    """A run's folder with `probs` and, unless told otherwise, `oof`; gives the path of `probs.npy`."""

    def make(seed: int = 0, *, folder: str | None = None, oof: bool = True, **options: Any) -> Path:
        path = tmp_path / "outputs" / (folder or f"run{seed}")
        options.setdefault("cost", {"seconds_per_1000_images": 1.5 + seed, "parameters": 100})
        save_predictions(path / "probs", make_member(seed, **options))
        if oof:
            save_predictions(path / "oof", make_member(seed, kind="oof", **options))
        return path / "probs.npy"

    return make
