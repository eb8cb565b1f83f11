"""The dataset: where rows, images, labels and groups come from. A description only; `data/` reads what it describes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ensemble.core.recipe import Channel
from ensemble.core.schema import Frozen

__all__ = ["DatasetDescription", "LabelSpec", "RowsSpec", "SubmissionSpec"]

Template = Annotated[str, Field(min_length=1)]
"""Text in which `{column}` stands for a row's value, as in `images/{id}.png`."""


class LabelSpec(Frozen):
    """Where a row's class comes from."""

    value: Template
    """Template of the class, such as `{label}`."""
    kind: Literal["name", "index"] = "name"
    """Whether the value is a class name, or its position in `classes`, from 0."""


class RowsSpec(Frozen):
    """A table of rows, each an image."""

    table: Template
    """Path of a CSV file below the dataset's folder. Read as text: `NA`, `001` and `1e5` stay as they are."""
    id: Template
    """Template of the row's id, unique in the table."""
    image: Template
    """Template of the image's path below the dataset's folder."""
    label: LabelSpec | None = None
    """The class; for training rows."""
    group: Template | None = None
    """Template of what must stay on one side of a split, such as the person photographed."""


class SubmissionSpec(Frozen):
    """The organiser's format of a submission."""

    id: Template = "id"
    """Name of the id column."""
    label: Template = "label"
    """Name of the answer's column, for `index` and `name`."""
    value: Literal["index", "name", "probability"] = "name"
    """What is asked for: the class's position from 0, its name, or one probability column a class."""


class DatasetDescription(Frozen):
    """A file in `recipes/data/`. Its files lie at `--data NAME=PATH`, or `ENS_DATA_ROOT/NAME`, unless embedded."""

    description: str = ""
    """One sentence."""
    embedded: Literal["digits"] | None = None
    """A dataset that comes with a library: drawn into the cache when first used, needs no path."""
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    """Class names; their order is the order of the probability columns."""
    metric: Literal["accuracy", "balanced_accuracy", "macro_f1", "log_loss", "roc_auc"] = "accuracy"
    """The organiser's score."""
    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """What `image.size: auto` means for this dataset."""
    mean: Channel | None = None
    """Mean per channel of values in 0..1."""
    std: Channel | None = None
    """Deviation per channel."""
    train: RowsSpec
    """Rows with labels."""
    test: RowsSpec | None = None
    """Rows to predict."""
    submission: SubmissionSpec = SubmissionSpec()
    """What the organiser wants back."""

    @model_validator(mode="after")
    def _is_consistent(self) -> DatasetDescription:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name stands twice")
        if self.train.label is None:
            raise ValueError("train.label: missing; training rows need a label")
        if self.test is not None and self.test.label is not None:
            raise ValueError("test.label: labels of test rows must not be in reach of the tool; leave it out")
        return self
