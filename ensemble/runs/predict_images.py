"""Images that nobody has seen yet, predicted by the folds in a run's folder, wherever that was moved."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemble.core.custom_code import check_code_of_run
from ensemble.core.files import load_json
from ensemble.core.run import RunFolder
from ensemble.core.scratch import scratch_folder
from ensemble.core.swap import RUN_SWAP, replaced_together
from ensemble.core.view_choice import RunViews
from ensemble.engine.task import Task
from ensemble.errors import InputError
from ensemble.runs.predict_tasks import run_all
from ensemble.runs.record import fold_keys, sidecar_of
from ensemble.runs.request import OnEvent
from ensemble.runs.workplace import Workplace

__all__ = ["NewImages"]


@dataclass(frozen=True)
class NewImages:
    """New images through a run's folder."""

    found: RunFolder
    record: dict[str, Any]
    sources: list[str]
    views: RunViews
    folds: Sequence[int] | None
    bad_images: str
    top: int
    precision: str

    def check_code(self, folder: Path, *, allow_code: bool) -> None:
        """Refuse code of the run's own that the user has not said yes to."""
        codes: dict[str, Any] = {}
        for fold in self.folders():
            try:
                codes |= load_json(fold / "model.json").get("code", {})
            except (OSError, ValueError) as error:
                raise InputError(f"{fold / 'model.json'}: can't be read ({error})") from error
        check_code_of_run(self.found.path, codes, folder / "recipes", allow_code=allow_code)

    def folders(self) -> list[Path]:
        """The folders of the folds to predict with."""
        k, repeats = self.record["folds"]["k"], self.record["folds"]["repeats"]
        strangers = sorted(set(self.folds or ()) - set(range(k)))
        if strangers:
            raise InputError(f"--folds {','.join(map(str, strangers))}: this run has folds 0 to {k - 1}")
        keys = [key for key in fold_keys(k, repeats) if self.folds is None or key.fold in self.folds]
        places = [self.found.fold_path(key, repeats) for key in keys]
        missing = [place.name for place in places if not (place / "model.safetensors").is_file()]
        if missing:
            whole = sorted({key.fold for key, place in zip(keys, places, strict=True) if place.name not in missing})
            rest = f"; --folds {','.join(map(str, whole))} takes those that are" if whole else ""
            raise InputError(f"{self.found.path}: {', '.join(missing)} not trained, or not here{rest}")
        return places

    def usual_place(self) -> Path:
        """Where predictions go that nobody gave a place: in the run's folder, by the source's name."""
        first = Path(self.sources[0])
        name = first.stem if len(self.sources) == 1 else f"{first.stem}-and-{len(self.sources) - 1}-more"
        return self.found.path / "predicted" / (name or "images")

    def run(self, out: Path, workplace: Workplace, on_event: OnEvent) -> dict[str, Any]:
        """One task that takes every image through every fold; its files are put in place when they are whole."""
        folders = self.folders()
        about = sidecar_of(self.record | {"tta": self.views.plain()})
        with ExitStack() as stack:
            scratch = stack.enter_context(scratch_folder())
            for place in (out.parent, out):
                if not place.exists():
                    stack.callback(_remove_empty, place)
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
            task = Task(f"{self.found.name}/images", function, arguments, scratch / "task")
            (result,) = run_all([task], workplace, None, on_event)
        return {"out": str(out), "tta": self.views.choice.text, **result}


def _remove_empty(folder: Path) -> None:
    """Leave nothing where nothing was written."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
