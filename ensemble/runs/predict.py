"""`predict` and `study_tta`: predictions of a finished run, for its own rows and for new images. Trains nothing.

New images are predicted here; the run's own rows in `predict_again.py`, the choice of views in `view_study.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.core.files import RUN_SWAP, load_json, replaced_together, scratch_folder
from ensemble.core.notebook import NotebookValue, check_arguments, listed
from ensemble.core.predictions import load_predictions
from ensemble.core.run import RunFolder
from ensemble.engine.task import Task
from ensemble.errors import InputError
from ensemble.recipe.chosen_views import RunViews, ViewChoice, is_learned
from ensemble.recipe.own_code import check_code_of_run
from ensemble.recipe.parts import TtaPart
from ensemble.runs.devices import Workplace
from ensemble.runs.predict_again import find_run, predict_again, record_of, request_of_run, run_all
from ensemble.runs.record import sidecar_of
from ensemble.runs.request import OnEvent, fold_keys
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
        return f"{count:,} rows, views {self.views} ({self.path})"

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

    `tta`: other views than the run's, as a recipe's `tta`. The run's own files are replaced as one, and the run keeps
    its views. For `images` nothing but the run's folder is needed, wherever it was moved.
    """
    source = find_run(run, Path(outputs))
    workplace = Workplace(engine, workers)
    sources = [str(image) for image in listed(images)]
    record = record_of(source)
    asked = TtaPart.model_validate(tta if isinstance(tta, dict) else {"views": tta}) if tta is not None else None
    views = RunViews.of(record) if asked is None else RunViews(ViewChoice.asked(asked), {}, "asked for")
    if sources and asked is not None and is_learned(asked):
        raise InputError(
            "tta: new images have no labels to choose views by; name a policy, or leave it to the run's own"
        )
    if sources:
        job = NewImages(source, record, sources, views, folds, bad_images, top, precision)
        job.check_code(Path(folder), allow_code=allow_code)
        place = Path(out) if out is not None else job.usual_place()
        return Predicted(place, views.choice.text, job.predict_into(place, workplace, on_event))
    if folds is not None or out is not None:
        raise InputError(
            "--folds and --out are for new images, given with --images; a run's own rows are predicted "
            "by all of its folds, into its folder"
        )
    request = request_of_run(source, record, Path(folder), Path(outputs), on_event, allow_code=allow_code)
    if asked is not None and is_learned(asked):
        views = study_views(request, source, asked, workplace, on_event).views
    record = predict_again(request, source, views, workplace, on_event)
    return Predicted(source.path, views.choice.text, record)


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


@dataclass(frozen=True)
class NewImages:
    """A prediction of new images, for which nothing but the run's folder is needed."""

    run: RunFolder
    record: dict[str, Any]
    sources: list[str]
    views: RunViews
    folds: Sequence[int] | None
    bad_images: str
    top: int
    precision: str

    def check_code(self, folder: Path, *, allow_code: bool) -> None:
        """Refuse code that the run brings along, unless it is allowed."""
        codes: dict[str, Any] = {}
        for fold in self.folders():
            try:
                codes |= load_json(fold / "model.json").get("code", {})
            except (OSError, ValueError) as error:
                raise InputError(f"{fold / 'model.json'}: can't be read ({error})") from error
        check_code_of_run(self.run.path, codes, folder / "recipes", allow_code=allow_code)

    def folders(self) -> list[Path]:
        """The folders of the folds to predict with."""
        k, repeats = self.record["folds"]["k"], self.record["folds"]["repeats"]
        strangers = sorted(set(self.folds or ()) - set(range(k)))
        if strangers:
            raise InputError(f"--folds {','.join(map(str, strangers))}: this run has folds 0 to {k - 1}")
        keys = [key for key in fold_keys(k, repeats) if self.folds is None or key.fold in self.folds]
        places = [self.run.fold_path(key, repeats) for key in keys]
        missing = [place.name for place in places if not (place / "model.safetensors").is_file()]
        if missing:
            whole = sorted({key.fold for key, place in zip(keys, places, strict=True) if place.name not in missing})
            rest = f"; --folds {','.join(map(str, whole))} takes those that are" if whole else ""
            raise InputError(f"{self.run.path}: {', '.join(missing)} not trained, or not here{rest}")
        return places

    def usual_place(self) -> Path:
        """Where predictions go without `out`: in the run's folder, named after the source."""
        first = Path(self.sources[0])
        name = first.stem if len(self.sources) == 1 else f"{first.stem}-and-{len(self.sources) - 1}-more"
        return self.run.path / "predicted" / (name or "images")

    def predict_into(self, out: Path, workplace: Workplace, on_event: OnEvent) -> dict[str, Any]:
        """One task that takes every image through every fold; its files are put in place when they are whole."""
        folders = self.folders()
        about = sidecar_of(self.record | {"tta": self.views.plain()})
        with ExitStack() as stack:
            scratch = stack.enter_context(scratch_folder())
            for place in (out.parent, out):
                if not place.exists():  # leave nothing where nothing was written
                    stack.callback(_remove_if_empty, place)
            stage = stack.enter_context(replaced_together(out, RUN_SWAP))
            arguments = {
                "folds": [str(folder.absolute()) for folder in folders],
                "sources": self.sources,
                "out": str(stage.absolute()),
                "about": about,
                "views": self.views.choice.plain(),
                "box": self.record.get("box"),
                "bad_images": self.bad_images,
                "top": min(self.top, len(self.record["classes"])),
                "precision": self.precision,
                "threads": self.record["decided"]["threads"] if self.record["decided"]["device"] == "cpu" else 1,
            }
            function = "ensemble.training.predict_images:predict_images"
            task = Task(f"{self.run.name}/images", function, arguments, scratch / "task")
            (result,) = run_all([task], workplace, None, on_event)
        return {"out": str(out), "tta": self.views.choice.text, **result}


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
