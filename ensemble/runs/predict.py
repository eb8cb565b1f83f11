"""`predict`: a finished run's own rows again with other views, or images that nobody has seen yet. Trains nothing."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemble.core.files import sweep_temporaries
from ensemble.core.locks import folder_lock
from ensemble.core.recipe_tta import TtaPart
from ensemble.core.run import RunFolder
from ensemble.core.swap import RUN_SWAP, replaced_together, settle
from ensemble.core.view_choice import RunViews, ViewChoice
from ensemble.errors import InputError
from ensemble.runs.folds import FoldTraining
from ensemble.runs.merge import merge_run
from ensemble.runs.predict_images import NewImages
from ensemble.runs.predict_tasks import run_all
from ensemble.runs.record import check_same_identity, fold_keys, fold_state, set_fold
from ensemble.runs.request import OnEvent, RunRequest
from ensemble.runs.shared_requests import SharedRequests
from ensemble.runs.workplace import Workplace

__all__ = ["Predicted", "find_run", "predict", "predict_again", "request_of_run"]


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
    record = _record_of(found)
    asked = TtaPart.model_validate(tta if isinstance(tta, dict) else {"views": tta}) if tta is not None else None
    views = RunViews.of(record) if asked is None else RunViews(ViewChoice.asked(asked), {}, "asked for")
    if asked is not None and asked.is_learned:
        raise InputError("--tta: what out-of-fold rows have a say in is found by --tta-study; name a policy here")
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
    record = predict_again(request, found, views, workplace, on_event)
    return Predicted(found.path, views.choice.text, record)


def find_run(run: str | Path, outputs: Path) -> RunFolder:
    """A run by its folder, or by its name in `outputs`."""
    for path in (Path(run), outputs / run):
        if (path / "run.json").is_file():
            return RunFolder(path)
    names = sorted(record.parent.name for record in outputs.glob("*/run.json"))
    there = f"there are {', '.join(names[:8])}" if names else f"{outputs} holds none"
    raise InputError(f"{run}: no run there (it would have a run.json); {there}")


def request_of_run(
    run: RunFolder, record: dict[str, Any], folder: Path, outputs: Path, on_event: OnEvent, *, allow_code: bool
) -> RunRequest:
    """The request that a run was trained from, its recipe and dataset read again; refused if they are others now."""
    asked = record["asked"]
    if not Path(asked["recipe"]).exists():
        raise InputError(
            f"{run.path}: its recipe, {asked['recipe']}, is gone, and says where its rows come from; "
            "--images predicts other images without it"
        )
    requests = SharedRequests(outputs, folder, asked["sets"], asked["data"], on_event, allow_code=allow_code)
    request = requests.request(asked["recipe"])
    check_same_identity(record, request, run.path)
    return request


def predict_again(
    request: RunRequest, run: RunFolder, views: RunViews, workplace: Workplace, on_event: OnEvent
) -> dict[str, Any]:
    """Every fold's rows predicted anew and merged; the run's files are replaced when all of the new ones are whole."""
    with folder_lock(run.path):
        settle(run.path, RUN_SWAP)
        sweep_temporaries(run.path)
        record = copy.deepcopy(_record_of(run))
        tell: OnEvent = lambda event: on_event({**event, "run": run.name})  # noqa: E731
        folds = FoldTraining(request, run, record, lambda event: None)
        folds.keep_finished()
        _refuse_unfinished(run, record)
        with (
            tempfile.TemporaryDirectory(prefix="ens-predict-") as place,
            replaced_together(run.path, RUN_SWAP) as stage,
        ):
            tasks = folds.predict_tasks(stage, Path(place), views)
            results = run_all(tasks, workplace, record["decided"], tell)
            for key, result in zip(fold_keys(request.plan.k, request.plan.repeats), results, strict=True):
                set_fold(record, key, scores=result["scores"])
            record.update(tta=views.plain(), scores={"oof": None}, files={})
            staged = RunFolder(stage, run.name)
            merge_run(request, staged, record)
            staged.save_record(record)
        tell({"event": "merged", "scores": record["scores"]["oof"]})
    return record


def _record_of(run: RunFolder) -> dict[str, Any]:
    record = run.load_record()
    if record is None:
        raise InputError(f"{run.path}: holds no run.json")
    return record


def _refuse_unfinished(run: RunFolder, record: dict[str, Any]) -> None:
    keys = fold_keys(record["folds"]["k"], record["folds"]["repeats"])
    missing = [key for key in keys if fold_state(record, key)["state"] != "complete"]
    if missing:
        names = ", ".join(key.shown(record["folds"]["repeats"]) for key in missing)
        raise InputError(f"{run.path}: fold {names} is not whole; ens train --recipe {record['recipe_name']} goes on")
