"""The dataset that comes with a library: drawn as a table and image files, so that it walks the way of any other."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np

from ensemble.core.files import save_bytes, save_text
from ensemble.core.locks import folder_lock

__all__ = ["TEST_LABELS_NAME", "draw_digits"]

TEST_LABELS_NAME = "kept_apart/test_labels.csv"
"""The answers of the test rows, for scoring a finished submission by hand; no description points at it."""

_DRAWN_MARK = "drawn-2.txt"
_TEST_SHARE, _SPLIT_SEED = 0.2, 20


def draw_digits(folder: Path) -> Path:
    """Make sure that `folder` holds scikit-learn's digits as `train.csv`, `test.csv` and `images/`; whole or again."""
    if (folder / _DRAWN_MARK).exists():
        return folder
    with folder_lock(folder, wait=True):
        if not (folder / _DRAWN_MARK).exists():
            shutil.rmtree(folder / "images", ignore_errors=True)
            _draw(folder)
    return folder


def _draw(folder: Path) -> None:
    """Write the images, the tables, and last the mark that all of it is there."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    scans = load_digits()
    labels = np.asarray(scans.target)
    ids = [f"digit_{number:04d}" for number in range(len(labels))]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for row_id, scan in zip(ids, scans.images, strict=True):
        grey = np.rint(scan * (255 / 16)).astype(np.uint8)
        ok, encoded = cv2.imencode(".png", grey)
        if not ok:
            raise OSError(f"{row_id}: the PNG encoder failed")
        (folder / "images" / f"{row_id}.png").write_bytes(encoded.tobytes())
    train, test = train_test_split(
        np.arange(len(labels)), test_size=_TEST_SHARE, random_state=_SPLIT_SEED, stratify=labels
    )
    labelled = [f"{ids[row]},{labels[row]}" for row in range(len(ids))]
    save_text(folder / "train.csv", _csv("id,label", [labelled[row] for row in sorted(train)]))
    save_text(folder / "test.csv", _csv("id", [ids[row] for row in sorted(test)]))
    save_text(folder / TEST_LABELS_NAME, _csv("id,label", [labelled[row] for row in sorted(test)]))
    save_bytes(folder / _DRAWN_MARK, b"whole\n")


def _csv(header: str, lines: list[str]) -> str:
    return "\n".join([header, *lines]) + "\n"
