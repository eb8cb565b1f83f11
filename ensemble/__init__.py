"""`ens` as a library: the same verbs and nouns as the command line, each imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.blending.adopt import Adopted as Adopted
    from ensemble.blending.adopt import adopt as adopt
    from ensemble.blending.blend import Blend as Blend
    from ensemble.blending.blend import blend as blend
    from ensemble.comparison.compare import Compared as Compared
    from ensemble.comparison.compare import compare as compare
    from ensemble.core.predictions import Predictions as Predictions
    from ensemble.core.predictions import load_predictions as load_predictions
    from ensemble.core.predictions import save_predictions as save_predictions
    from ensemble.errors import EnsError as EnsError
    from ensemble.errors import InputError as InputError
    from ensemble.recipe.load import ResolvedRecipe as ResolvedRecipe
    from ensemble.recipe.load import load_recipe as load_recipe
    from ensemble.reporting.report import WrittenReport as WrittenReport
    from ensemble.reporting.report import report as report
    from ensemble.review.rescored_labels import RescoredLabels as RescoredLabels
    from ensemble.review.rescored_labels import rescore_labels as rescore_labels
    from ensemble.review.suspicious_labels import SuspiciousLabels as SuspiciousLabels
    from ensemble.review.suspicious_labels import labels as labels
    from ensemble.runs.describe import Initialised as Initialised
    from ensemble.runs.describe import init as init
    from ensemble.runs.eda import Look as Look
    from ensemble.runs.eda import eda as eda
    from ensemble.runs.eda import fold_plan as fold_plan
    from ensemble.runs.pack import Packed as Packed
    from ensemble.runs.pack import pack as pack
    from ensemble.runs.predict import Predicted as Predicted
    from ensemble.runs.predict import predict as predict
    from ensemble.runs.predict import study_tta as study_tta
    from ensemble.runs.score import Scored as Scored
    from ensemble.runs.score import score as score
    from ensemble.runs.status import Status as Status
    from ensemble.runs.status import status as status
    from ensemble.runs.train import TrainedRun as TrainedRun
    from ensemble.runs.train import train as train
    from ensemble.runs.train import train_many as train_many
    from ensemble.tuning.study import Study as Study
    from ensemble.tuning.tune import tune as tune

__version__ = "0.1.0"

_HOMES = {
    "Adopted": "ensemble.blending.adopt",
    "Blend": "ensemble.blending.blend",
    "Compared": "ensemble.comparison.compare",
    "EnsError": "ensemble.errors",
    "Initialised": "ensemble.runs.describe",
    "InputError": "ensemble.errors",
    "Look": "ensemble.runs.eda",
    "Packed": "ensemble.runs.pack",
    "Predicted": "ensemble.runs.predict",
    "Predictions": "ensemble.core.predictions",
    "RescoredLabels": "ensemble.review.rescored_labels",
    "ResolvedRecipe": "ensemble.recipe.load",
    "Scored": "ensemble.runs.score",
    "Status": "ensemble.runs.status",
    "SuspiciousLabels": "ensemble.review.suspicious_labels",
    "Study": "ensemble.tuning.study",
    "WrittenReport": "ensemble.reporting.report",
    "TrainedRun": "ensemble.runs.train",
    "adopt": "ensemble.blending.adopt",
    "blend": "ensemble.blending.blend",
    "compare": "ensemble.comparison.compare",
    "eda": "ensemble.runs.eda",
    "fold_plan": "ensemble.runs.eda",
    "init": "ensemble.runs.describe",
    "labels": "ensemble.review.suspicious_labels",
    "load_predictions": "ensemble.core.predictions",
    "load_recipe": "ensemble.recipe.load",
    "pack": "ensemble.runs.pack",
    "predict": "ensemble.runs.predict",
    "report": "ensemble.reporting.report",
    "rescore_labels": "ensemble.review.rescored_labels",
    "save_predictions": "ensemble.core.predictions",
    "score": "ensemble.runs.score",
    "status": "ensemble.runs.status",
    "study_tta": "ensemble.runs.predict",
    "train": "ensemble.runs.train",
    "train_many": "ensemble.runs.train",
    "tune": "ensemble.tuning.tune",
}
"""Where each public name lives."""

_WITH_PROGRESS = ("eda", "fold_plan", "labels", "predict", "report", "study_tta", "train", "train_many", "tune")
"""What takes long: where no `on_event` is given, a terminal or a notebook shows how far it is."""

__all__ = ["__version__", *sorted(_HOMES)]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ensemble' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    if name in _WITH_PROGRESS:
        from ensemble.screen.progress import with_progress

        value = with_progress(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
