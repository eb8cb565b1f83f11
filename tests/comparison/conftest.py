"""Runs as training leaves them, made from drawn probabilities."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemble.core.predictions import Predictions, save_predictions
from ensemble.core.records import save_record

CLASSES = ("cat", "dog", "eel")
ROWS, K = 150, 5
MakeRun = Callable[..., Path]


def truth(rows: int = ROWS, *, sets: bool = False) -> np.ndarray:
    random = np.random.default_rng(7)
    return random.integers(0, 2, (rows, 3)) if sets else random.integers(0, 3, rows)


def guesses(seed: int, labels: np.ndarray, skill: float, folds: np.ndarray, noise: float) -> np.ndarray:
    """Probabilities that lean towards the labels by `skill`, of each fold's model by a little more or less."""
    random = np.random.default_rng(seed)
    hard, raw = np.random.default_rng(3).random((len(labels), 3)), random.random((len(labels), 3))
    lean = (skill + noise * random.normal(size=K))[folds]
    mixed = 0.6 * hard + 0.4 * raw + 0.01
    if labels.ndim == 2:
        return np.clip(mixed * 0.5 + lean[:, None] * (labels - 0.5) / 2, 0.01, 0.99).astype(np.float32)
    mixed[np.arange(len(labels)), labels] += np.maximum(lean, 0)
    return np.asarray(mixed / mixed.sum(axis=1, keepdims=True), dtype=np.float32)


@pytest.fixture
def make_run(empty_place: Path) -> MakeRun:
    """`make_run("a", skill=…, seed=…, plan=…, lr=…)`: `outputs/a` with `oof` and `run.json`."""
    return run_maker(empty_place)


def run_maker(empty_place: Path) -> MakeRun:
    """What the fixture gives, below any folder."""

    def make(
        name: str,
        *,
        skill: float = 0.3,
        seed: int = 0,
        plan: int = 0,
        lr: float = 1e-3,
        noise: float = 0.05,
        rows: int = ROWS,
        first: int = 0,
        order: tuple[int, ...] = (0, 1, 2),
        backwards: bool = False,
        sets: bool = False,
        grouped: bool = False,
        record: bool = True,
        test: bool = False,
        **sidecar: Any,
    ) -> Path:
        path = empty_place / "outputs" / name
        labels = truth(max(ROWS, first + rows), sets=sets)[first : first + rows]
        groups = np.arange(rows) // 3
        unit = groups if grouped else np.arange(rows)
        folds = (np.random.default_rng(plan).permutation(int(unit.max()) + 1) % K)[unit]
        probs = guesses(int(1e6 * lr) + 1000 * seed + 100_000 * plan, labels, skill, folds, noise)
        ids = [f"r{first + row:04}" for row in range(rows)]
        own = labels[:, list(order)] if sets else np.argsort(order)[labels]
        turn = np.arange(rows)[::-1] if backwards else np.arange(rows)
        identity = {"recipe": {"seed": seed, "train": {"lr": lr}, "folds": {"seed": plan}},
                    "dataset_sha256": "d1", "folds_sha256": f"f{plan}", "code": {}}  # fmt: skip
        said = {"run": name, "identity": f"{lr}-{seed}-{plan}", "dataset": "pets", "dataset_sha256": "d1",
                "folds_sha256": f"f{plan}", "metric": "accuracy", **sidecar}  # fmt: skip
        shared: dict[str, Any] = {
            "classes": tuple(CLASSES[column] for column in order),
            "activation": "sigmoid" if sets else "softmax",
            "sidecar": said,
        }
        of_rows = Predictions(
            tuple(ids[row] for row in turn),
            probs=probs[turn][:, list(order)],
            kind="oof",
            labels=own[turn],
            folds=folds[turn].tolist(),
            groups=groups[turn] if grouped else None,
            **shared,
        )
        save_predictions(path / "oof", of_rows)
        if test:
            test_probs = guesses(seed + int(1e6 * lr) + 5, labels, skill, folds, noise)[:, list(order)]
            save_predictions(
                path / "probs",
                Predictions(tuple(row_id.replace("r", "t") for row_id in ids), probs=test_probs, kind="test", **shared),
            )
        if record:
            save_record(path / "run.json", run_record(said, identity, int(test)))
        return path

    return make


def run_record(said: dict[str, Any], identity: dict[str, Any], test: int) -> dict[str, Any]:
    """What `run.json` must hold."""
    state = dict.fromkeys(("scores", "seconds", "device", "error", "best_epoch"))
    return {
        "format": 2,
        "run": said["run"],
        "identity": said["identity"],
        "state": "complete",
        "recipe": {"train": {"epochs": 1}, "image": {"size": 16}, "model": {}, "folds": {}, "seed": 0},
        "dataset": said["dataset"],
        "classes": list(CLASSES),
        "folds": {"k": K, "repeats": 1, "scheme": "stratified", "sha256": "0" * 64},
        "decided": {"device": "cpu", "threads": 1, "precision": "fp32"},
        "identity_of": identity,
        "metric": said["metric"],
        "optimistic": False,
        "files": {},
        "cost": None,
        "asked": {"recipe": "tiny", "sets": []},
        "rows": {"train": ROWS, "test": test},
        "findings": [],
        "fold_states": [{"fold": fold, "repeat": 0, "state": "complete", "attempts": 1, **state} for fold in range(K)],
        "scores": {"oof": None},
        "started": None,
        "finished": None,
    }
