"""`predict` and `study_tta`: predictions of what is finished, for new images and for a run's own rows. Trains nothing.

New images are predicted in `predict_new.py`, by a run, a blend or a pack of either; a run's own rows in
`predict_again.py`; the choice of views is in `view_study.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.core.complaints import counted
from ensemble.core.notebook import NotebookValue, check_arguments, listed
from ensemble.core.predictions import load_predictions
from ensemble.errors import InputError
from ensemble.recipe.chosen_views import RunViews, ViewChoice, is_learned
from ensemble.recipe.parts import TtaPart
from ensemble.runs.devices import Workplace
from ensemble.runs.pack import find_other
from ensemble.runs.predict_again import find_run, predict_again, record_of, request_of_run
from ensemble.runs.predict_new import ImagesAsked, RunSource
from ensemble.runs.request import OnEvent
from ensemble.runs.view_study import study_views

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Predicted(NotebookValue):
    """The result of `predict`: where the files are, the views, and the document of `ens predict --json`."""

    path: Path
    views: str
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def headline(self) -> str:
        """Where the files are, and how the rows were looked at."""
        rows = self.document["rows"]  # of new images their number, else what `run.json` says of both parts
        count = rows if isinstance(rows, int) else rows["validated"] + rows["test"]
        return f"{counted(count, 'row')}, views {self.views} ({self.path})"

    def table(self) -> pd.DataFrame:
        """The probabilities of the new images, or of the run's test rows, else of its out-of-fold rows."""
        stem = "probs" if (self.path / "probs.npy").exists() else "oof"
        return load_predictions(self.path / f"{stem}.npy").frame()


@check_arguments
def predict(
    run: Path | str,
    *,
    images: Path | str | Sequence[Path | str] = (),
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

    `run` may also be a blend, or a pack made by `pack`: these are for `images` alone, and have their members' views.

    `tta`: other views than the run's, as a recipe's `tta`. The run's own files are replaced as one, and the run keeps
    its views. For `images` nothing but the run's folder is needed, wherever it was moved.
    """
    workplace = Workplace(engine, workers)
    sources = [str(image) for image in listed(images)]
    other = find_other(run, Path(outputs))
    if other is not None:
        _refuse_options(run, {"--tta": tta is not None, "--folds": folds is not None, "no --images": not sources})
        with other.opened(Path(outputs)) as (applied, usual):
            applied = applied.with_code(Path(folder), allow_code=allow_code)
            asked_images = ImagesAsked(sources, bad_images, top, precision)
            place = Path(out) if out is not None else usual / "predicted" / asked_images.name
            document = applied.predict_into(place, asked_images, workplace, on_event)
        return Predicted(place, document["tta"], document)
    source = find_run(run, Path(outputs))
    record = record_of(source)
    asked = TtaPart.model_validate(tta if isinstance(tta, dict) else {"views": tta}) if tta is not None else None
    views = RunViews.of(record) if asked is None else RunViews(ViewChoice.asked(asked), {}, "asked for")
    if sources and asked is not None and is_learned(asked):
        raise InputError(
            "tta: new images have no labels to choose views by; name a policy, or leave it to the run's own"
        )
    if sources:
        asked_images = ImagesAsked(sources, bad_images, top, precision)
        applied_run = RunSource(source, record, views, folds).with_code(Path(folder), allow_code=allow_code)
        place = Path(out) if out is not None else source.path / "predicted" / asked_images.name
        return Predicted(place, views.choice.text, applied_run.predict_into(place, asked_images, workplace, on_event))
    if folds is not None or out is not None:
        raise InputError(
            "--folds and --out are for new images, given with --images; a run's own rows are predicted "
            "by all of its folds, into its folder"
        )
    request = request_of_run(source, record, Path(folder), Path(outputs), on_event, allow_code=allow_code)
    if asked is not None and is_learned(asked):
        views = study_views(request, source, asked, workplace, on_event).views
    predicted = predict_again(request, source, views, workplace, on_event)
    return Predicted(source.path, views.choice.text, predicted)


def _refuse_options(run: Path | str, of_runs: Mapping[str, bool]) -> None:
    """Refuse what only a run can be asked for, where `run` is a blend or a pack."""
    wrong = [option for option, is_given in of_runs.items() if is_given]
    if wrong:
        raise InputError(
            f"{run}: {', '.join(wrong)}: only for runs; a blend or pack answers new images as it was blended: "
            f"ens predict {run} --images DIR"
        )


@check_arguments
def study_tta(
    run: Path | str,
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
    source = find_run(run, Path(outputs))
    record = record_of(source)
    request = request_of_run(source, record, Path(folder), Path(outputs), on_event, allow_code=allow_code)
    part = request.resolved.recipe.tta
    asked = TtaPart(views="auto", merge=part.merge, power=part.power)
    verdict = study_views(request, source, asked, Workplace(engine, workers), on_event)
    return {"run": source.name, **verdict.document}
