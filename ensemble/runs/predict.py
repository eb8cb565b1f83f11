"""`predict` and `study_tta`: the library's and the command line's way to what a finished run says. Trains nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble.core.recipe_tta import TtaPart
from ensemble.core.view_choice import RunViews, ViewChoice
from ensemble.errors import InputError
from ensemble.runs.predict_images import NewImages
from ensemble.runs.predict_rows import find_run, predict_again, record_of, request_of_run
from ensemble.runs.request import OnEvent
from ensemble.runs.settle_views import study_views
from ensemble.runs.workplace import Workplace

__all__ = ["Predicted", "predict", "study_tta"]


@dataclass(frozen=True)
class Predicted:
    """What `predict` came to: where the files lie, and what is known of them."""

    path: Path
    views: str
    document: dict[str, Any] = field(default_factory=dict)


def predict(
    run: str | Path,
    *,
    images: Sequence[str] = (),
    tta: Any = None,
    folds: Sequence[int] | None = None,
    out: Path | str | None = None,
    bad_images: str = "error",
    top: int = 1,
    precision: str = "fp32",
    engine: str = "local",
    workers: int | None = None,
    allow_code: bool = False,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> Predicted:
    """Probabilities of `images` (a folder, a CSV file, files); without them, of the run's own rows again.

    `tta`: other views than the run's, as a recipe's `tta`. The run's own files are replaced as one, and the run keeps
    its views. For `images` nothing but the run's folder is needed, wherever it was moved.
    """
    found = find_run(run, Path(outputs))
    workplace = Workplace(engine, workers)
    record = record_of(found)
    asked = TtaPart.model_validate(tta if isinstance(tta, dict) else {"views": tta}) if tta is not None else None
    views = RunViews.of(record) if asked is None else RunViews(ViewChoice.asked(asked), {}, "asked for")
    if images and asked is not None and asked.is_learned:
        raise InputError(
            "tta: new images have no labels to choose views by; name a policy, or leave it to the run's own"
        )
    if images:
        job = NewImages(found, record, list(images), views, folds, bad_images, top, precision)
        job.check_code(Path(folder), allow_code=allow_code)
        place = Path(out) if out is not None else job.usual_place()
        return Predicted(place, views.choice.text, job.run(place, workplace, on_event))
    if folds is not None or out is not None:
        raise InputError(
            "--folds and --out are for new images, given with --images; a run's own rows are predicted "
            "by all of its folds, into its folder"
        )
    request = request_of_run(found, record, Path(folder), Path(outputs), on_event, allow_code=allow_code)
    if asked is not None and asked.is_learned:
        views = study_views(request, found, asked, workplace, on_event).views
    record = predict_again(request, found, views, workplace, on_event)
    return Predicted(found.path, views.choice.text, record)


def study_tta(
    run: str | Path,
    *,
    engine: str = "local",
    workers: int | None = None,
    allow_code: bool = False,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> dict[str, Any]:
    """Every policy of views scored on a run's out-of-fold rows, against its cost, and which to take; changes nothing.

    The same document is left in the run's folder, as `tta_study.json`.
    """
    found = find_run(run, Path(outputs))
    record = record_of(found)
    request = request_of_run(found, record, Path(folder), Path(outputs), on_event, allow_code=allow_code)
    part = request.resolved.recipe.tta
    asked = TtaPart(views="auto", merge=part.merge, power=part.power)
    verdict = study_views(request, found, asked, Workplace(engine, workers), on_event)
    return {"run": found.name, **verdict.document}
