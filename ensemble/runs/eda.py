"""A first look at a dataset: its classes, its images, and what the audit finds, for a person and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.data.image_facts import describe_images
from ensemble.data.scan import ImageScan, scan_images
from ensemble.runs.audit import audit_request
from ensemble.runs.folds import OnEvent
from ensemble.runs.request import RunRequest, make_request

__all__ = ["Look", "look_at_data"]


@dataclass(frozen=True)
class Look:
    """What was seen: `facts` are what `ens eda --json` prints; the scans have every single image."""

    facts: dict[str, Any]
    request: RunRequest
    train: ImageScan
    test: ImageScan | None


def look_at_data(
    recipe: str | None = None,
    *,
    sets: Sequence[str] = (),
    data: str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> Look:
    """Scan every image of a recipe's dataset, or take what an earlier scan found, and describe it."""
    request = make_request(recipe, folder=Path(folder), outputs=Path(outputs), sets=sets, data=data)
    findings = audit_request(request, on_event)
    table = request.table
    train = scan_images(table.train, request.cache)
    test = scan_images(table.test, request.cache) if table.test is not None else None
    counts = np.bincount(table.labels, minlength=len(table.classes))
    facts = {
        "dataset": table.dataset,
        "rows": len(table.train.ids),
        "test_rows": len(table.test.ids) if table.test is not None else 0,
        "classes": list(table.classes),
        "class_counts": dict(zip(table.classes, counts.tolist(), strict=True)),
        "groups": len(set(table.groups)) if table.groups is not None else None,
        "images": describe_images(train),
        "test_images": describe_images(test) if test is not None else None,
        "findings": [finding.plain() for finding in findings],
    }
    return Look(facts, request, train, test)
