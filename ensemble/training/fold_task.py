"""The worker's task: train one fold and fill its folder. What is decided before any fold is `prepare_run`'s."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble.core.files import load_json
from ensemble.core.foldplan import load_plan
from ensemble.core.recipe import Recipe
from ensemble.core.reporting import Report
from ensemble.core.view_choice import FoldViews
from ensemble.data.batches import SeedParts
from ensemble.training.fold_feed import image_size
from ensemble.training.fold_work import FoldSources, FoldWork
from ensemble.training.networks import NetworkSpec
from ensemble.training.prepare import prepare_run
from ensemble.training.trouble import halved, is_out_of_memory

__all__ = ["prepare_run", "train_fold"]


def train_fold(
    folder: Path,
    report: Report,
    *,
    recipe: dict[str, Any],
    decided: dict[str, Any],
    about: dict[str, Any],
    code: Mapping[str, Any],
    parts: Sequence[int],
    classes: list[str],
    plan_path: str,
    train_pixels: str,
    test_pixels: str | None,
    left_out: dict[str, list[str]],
    train_labels: str | None,
    repeat: int,
    fold: int,
    views: Mapping[str, Any] | None = None,
    micro_batch: int | None = None,
    watch: Sequence[str] = (),
) -> dict[str, Any]:
    """Train one fold and fill `folder`; `fold.json`, written last, says that all of it is there.

    `left_out` names the rows without a usable image: those of `train` are not there at all, those of `test` get the
    class shares of this fold's training rows. `train_labels` names a file with the rows to train on by another label
    than the plan's. `code` says how to import what the recipe names as `module:function`, `parts` how many classes each
    part of a composed label has. `about` (run, identity, dataset and their hashes) goes into every file that leaves.
    `views`: how rows are looked at, if not as the recipe says. Where memory does not suffice, the task asks to be
    started again with a smaller `micro_batch`.
    """
    parsed = Recipe.model_validate(recipe)
    plan = load_plan(Path(plan_path))
    sources = FoldSources(
        plan,
        Path(train_pixels),
        Path(test_pixels) if test_pixels is not None else None,
        left_out,
        load_json(Path(train_labels)) if train_labels is not None else {},
    )
    work = FoldWork(
        folder,
        parsed,
        NetworkSpec.asked(parsed, len(classes), tuple(parts), image_size(parsed)),
        decided,
        about,
        code,
        classes,
        SeedParts(parsed.seed, repeat, fold),
        report,
        views=FoldViews.of(views) if views is not None else None,
        micro_batch=micro_batch,
        watch=watch,
        sets=plan.multilabel,
    )
    try:
        return work.run(sources)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        again = halved(work.micro_batch or parsed.train.batch_size, error)
    work.files.log(str(again))
    raise again
