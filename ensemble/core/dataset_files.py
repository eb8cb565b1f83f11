"""Dataset descriptions read from `recipes/data/`. What lies in the dataset's own folder is `data`'s business."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ensemble.core.complaints import Complaint, KeyPath, Place, raise_together
from ensemble.core.dataset import DatasetDescription
from ensemble.core.recipe_find import find_dataset, shown_path
from ensemble.core.schema_complaints import retell
from ensemble.core.yaml_reader import YamlDocument, YamlError, read_yaml

__all__ = ["load_dataset"]

_EXAMPLES: dict[KeyPath, str] = {
    ("classes",): "classes: [cat, dog]",
    ("train",): 'train: {table: train.csv, id: "{id}", image: "images/{id}.png", label: {value: "{label}"}}',
    ("train", "id"): 'id: "{id}"',
    ("test", "id"): 'id: "{id}"',
}
_NOT_FOR_TEST = "is for training rows alone; leave it out"
_ADVICE = dict.fromkeys(["label", "group", "group_unknown", "train_only", "fold_column"], _NOT_FOR_TEST)
"""What to say where these are unknown keys: in `test`."""


def load_dataset(name: str, folder: Path) -> DatasetDescription:
    """The description of a dataset, found in `folder/recipes/data/`, then among those that ship."""
    path = find_dataset(name, folder)
    complaints: list[Complaint] = []
    document: YamlDocument | None
    try:
        document = read_yaml(path, shown_path(path, folder))
    except YamlError as error:
        complaints += error.complaints
        document = error.partial
    description = _describe(document, complaints) if document else None
    raise_together(complaints)
    assert description is not None  # without complaints there is one
    return description


def _describe(document: YamlDocument, complaints: list[Complaint]) -> DatasetDescription | None:
    """The description that a file's values make; what is wrong with them is added to `complaints`."""

    def locate(path: KeyPath) -> Place:
        line = next(document.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in document.lines)
        return Place(document.source, line)

    try:
        return DatasetDescription.model_validate(document.values)
    except ValidationError as error:
        complaints += retell(error, DatasetDescription, locate, examples=_EXAMPLES, advice=_ADVICE)
        return None
