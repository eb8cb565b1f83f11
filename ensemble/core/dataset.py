"""The dataset as described: where rows, images, labels and groups come from. `data/` reads what it describes.

Messages of rules between keys begin with the key and a colon: `schema` finds the line of that key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import pairwise, product
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from ensemble.core.complaints import closest, counted
from ensemble.core.schema import Frozen, MetricName, PositiveFloat
from ensemble.core.text import JOINER, columns_of, split_template
from ensemble.errors import InputError

MOST_CLASSES = 40_000  # of a dataset: ImageNet-21k has 21,841; probabilities of a million rows are 160 GB
MOST_FIELDS = 50  # columns that one template names, each once or more
_LONGEST_REGEX = 1_000  # characters: Python's compiler recurses into its brackets
_BETWEEN_PARTS = " / "  # of a composed class's name: mask / female / under 30


def _check_template(template: str) -> str:
    try:
        columns = columns_of(template)
    except ValueError as error:
        # lower: Python's own messages begin with a capital
        raise ValueError(f"the template {template!r} is malformed: {str(error).lower()}") from error
    if len(columns) > MOST_FIELDS:  # each is a copy of a column, in every row
        raise ValueError(f"a template names {len(columns):,} columns, but at most {MOST_FIELDS} are allowed")
    return template


def _check_pattern(template: str) -> str:
    """At most one `*` between two slashes, so that a match needs no search: what is before and behind it decides."""
    text = "".join(text + "x" * (column is not None) for text, column in split_template(template))
    if any(segment.count("*") > 1 for segment in text.split("/")):
        raise ValueError(f"{template!r} has two * between slashes; one is allowed")
    return template


def _stays_inside(path: str) -> str:
    # Descriptions are shared: one from elsewhere must not read files of whoever runs it.
    if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
        raise ValueError(f"{path} leads out of the dataset's folder; name a file below it")
    return path


Text = Annotated[str, Field(min_length=1)]
Template = Annotated[Text, AfterValidator(_check_template)]
"""Text in which `{column}` stands for a row's value, as in `images/{id}.png`."""
PatternTemplate = Annotated[Template, AfterValidator(_check_pattern)]
"""A template in which `*` stands for any part of a name."""
InnerPath = Annotated[Text, AfterValidator(_stays_inside)]
ClassNames = Annotated[list[Text], Field(min_length=2)]
Channel = Annotated[list[PositiveFloat], Field(min_length=3, max_length=3)]
Bounds = Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=1)]
"""Ascending numbers between neighbouring classes; a number that equals a bound is in the class above it."""


class PartSpec(Frozen):
    """One part of a composed label, such as the age of mask x gender x age."""

    name: Text
    """What the part is called."""
    classes: ClassNames
    """Its own classes, in order."""
    value: Template
    """Template of the value that decides, such as `{age}`; with neither `map` nor `bins` it is the class's name."""
    map: dict[str, str] | None = None
    """Value to class, letter by letter: `{mask1: worn, incorrect_mask: incorrect}`."""
    bins: Bounds | None = None
    """For numbers, ascending bounds between the classes: `[30, 60]` makes under 30, 30 to under 60, 60 and over."""

    @model_validator(mode="after")
    def _is_consistent(self) -> PartSpec:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("classes: a name appears twice")
        if self.map is not None and self.bins is not None:
            raise ValueError("bins: given together with map; give one of the two")
        strangers = sorted(set((self.map or {}).values()) - set(self.classes))
        if strangers:
            raise ValueError(f"map: gives {strangers[0]}, which is none of {', '.join(self.classes)}")
        if self.bins is not None and (fault := self.fault_of(self.bins)):
            raise ValueError(f"bins: {fault}")
        return self

    def fault_of(self, bins: list[float]) -> str:
        """What is wrong with bounds for this part; empty when they fit. Asked for a recipe's `data.bins` too."""
        shown = ", ".join(f"{bound:g}" for bound in bins)
        if len(bins) != len(self.classes) - 1:
            needed = f"{len(self.classes)} classes need {len(self.classes) - 1}"
            return f"[{shown}] has {counted(len(bins), 'bound')}, but {needed}"
        if any(low >= high for low, high in pairwise(bins)):
            return f"[{shown}] must ascend"
        return ""


class LabelSpec(Frozen):
    """Where a row's class comes from: `value`, `columns` or `parts`."""

    value: Template | None = None
    """Template of the class, such as `{label}` or `{file.folder}`."""
    kind: Literal["name", "index"] = "name"
    """Whether the value is a class name, or its position in `classes`, from 0."""
    separator: Text | None = None
    """For a `value` that names several classes: what stands between them, such as `" "` or `";"`:
    docs/multilabel.md."""
    empty: list[str] | None = None
    """With `separator`: values that mean no class at all, such as `[No Finding]`; left out: the empty cell."""
    map: dict[str, str] | None = None
    """For a `value`: what the table writes otherwise, and the class that it means: `{ANGER: anger, "1": rust}`."""
    columns: Literal["one-hot", "multi-hot"] | None = None
    """A column for each class, by its name. `one-hot`: a 1 in one of them; `multi-hot`: a 1 in any number of them, so
    that each row has a set of classes."""
    parts: Annotated[list[PartSpec], Field(min_length=1)] | None = None
    """Parts that compose the class: its index counts through the last part first, as 6·mask + 3·gender + age does."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> LabelSpec:
        given = self.kinds
        if not given:
            raise ValueError("value: missing; give a template such as {label}, or columns, or parts")
        if len(given) > 1:
            raise ValueError(f"{given[1]}: given together with {given[0]}; give one of the two")
        if self.separator is not None and self.value is None:
            raise ValueError(
                f"separator: given together with {given[0]}, but is for a value that names several classes"
            )
        if self.empty is not None and self.separator is None:
            raise ValueError("empty: is for labels with a separator; give one, or list what it means as a class")
        if self.map is not None and self.value is None:
            raise ValueError(f"map: is for a value, not for {given[0]}; parts have maps of their own")
        names = [part.name for part in self.parts or []]
        if len(set(names)) != len(names):
            raise ValueError("parts: two have the same name")
        if math.prod(len(part.classes) for part in self.parts or []) > MOST_CLASSES:
            raise ValueError(f"parts: make more than {MOST_CLASSES:,} classes together; leave some out")
        return self

    @property
    def kinds(self) -> list[str]:
        """Which of the three ways to name the class are given."""
        return [name for name in ("value", "columns", "parts") if getattr(self, name) is not None]

    @property
    def is_set(self) -> bool:
        """Whether a row may have several classes, or none."""
        return self.separator is not None or self.columns == "multi-hot"

    def combinations(self) -> tuple[str, ...]:
        """Names for all classes that the parts make, in the order of their index."""
        return tuple(map(_BETWEEN_PARTS.join, product(*(part.classes for part in self.parts or []))))


class FieldsSpec(Frozen):
    """Columns taken out of a name, such as `{breed}_{number}` out of a file's."""

    value: Template
    """Template of what is taken apart, such as `{file.stem}`."""
    pattern: Template | None = None
    """How it is composed, as `{breed}_{number}`: each field becomes a column, an earlier one as long as possible: of
    `Egyptian_Mau_12` the breed is `Egyptian_Mau`."""
    regex: Annotated[str, Field(min_length=1, max_length=_LONGEST_REGEX)] | None = None
    """In place of `pattern`, for names of several kinds: a Python regular expression of the whole name, such as
    `'(?P<photo>.+?)(-with-mask)?'`; each named group becomes a column, empty where it takes no part."""

    @model_validator(mode="after")
    def _names_fields(self) -> FieldsSpec:
        if (self.pattern is None) == (self.regex is None):
            raise ValueError("pattern: give it or regex, one of the two")
        if self.regex is not None:
            try:
                names = re.compile(self.regex).groupindex
            except (re.error, OverflowError, RecursionError) as error:  # a repetition of 10^12, 500 brackets
                raise ValueError(f"regex: {self.regex!r} is no regular expression: {error}") from error
            if not names:
                raise ValueError(f"regex: {self.regex!r} must name one or more fields, as in (?P<person>.+?)")
            return self
        fields = columns_of(self.pattern or "")
        if not fields or len(set(fields)) != len(fields):
            raise ValueError(f"pattern: {self.pattern!r} must name one or more fields, each once")
        return self


class BoxSpec(Frozen):
    """The part of each image that is used; the rest is cut off."""

    columns: Annotated[list[Text], Field(min_length=4, max_length=4)]
    """The four columns, in pixels."""
    format: Literal["xyxy", "xywh"] = "xyxy"
    """`xyxy`: left, top, right, bottom; `xywh`: left, top, width, height."""
    margin: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Margin kept around the box, as a share of its width and height."""


class WhereSpec(Frozen):
    """Some rows of a table that holds others too."""

    column: Text
    """The column that tells."""
    values: Annotated[list[str], Field(min_length=1)]
    """Its values in the rows that are meant."""


class RowsSpec(Frozen):
    """A table of rows, each an image; or image files, with or without a table. `{row}` is a row's number from 0."""

    table: InnerPath | None = None
    """Path of a CSV file below the dataset's folder. Read as text: `NA`, `001` and `1e5` stay as they are."""
    files: PatternTemplate | None = None
    """One row for each image file: `train/*/*`; with a table, for each file of each of its rows: `images/{path}/*`.
    Adds the columns `{file.path}`, `{file.name}`, `{file.stem}` and `{file.folder}`. Hidden files and files without an
    image's extension are skipped."""
    fields: FieldsSpec | None = None
    """More columns, taken out of a name."""
    where: WhereSpec | None = None
    """Only the rows with these values, such as those of one part: `{column: split, values: [train]}`."""
    id: Template
    """Template of the row's id, unique in the table."""
    image: PatternTemplate | None = None
    """Template of the image's path below the dataset's folder; `images/{id}.*` finds the extension. Left out with
    `files`."""
    box: BoxSpec | None = None
    """Columns of a box to crop to."""

    @model_validator(mode="after")
    def _names_images(self) -> RowsSpec:
        if self.table is None and self.files is None:
            raise ValueError("table: missing; name a CSV file, such as train.csv, or files, such as 'train/*/*'")
        if self.files is None and self.image is None:
            raise ValueError("image: missing; say where a row's image lies, as in 'images/{id}.png'")
        if self.files is not None and self.image is not None:
            raise ValueError("image: files names the images already; leave one of the two out")
        if self.table is None and self.files is not None and columns_of(self.files):
            raise ValueError("files: names columns, but there is no table to take them from")
        return self


class TrainOnlySpec(Frozen):
    """Rows that are in every training part, and never validated."""

    column: Text
    """The column that decides."""
    values: Annotated[list[str], Field(min_length=1)]
    """Its values in rows that are for training only."""


class TrainRowsSpec(RowsSpec):
    """Rows with labels."""

    label: LabelSpec | None = None
    """The class."""
    group: Template | None = None
    """Template of what must stay on one side of a split, such as the person photographed."""
    group_unknown: list[str] = Field(default_factory=lambda: [""])
    """Values of `group` that mean unknown: each such row is a group of its own."""
    train_only: TrainOnlySpec | None = None
    """Rows to train on but never to validate on, such as those of another year."""
    fold_column: Text | None = None
    """Column with a split that the organiser or a team gives."""


class ValidationRowsSpec(RowsSpec):
    """The rows that validate, where the organiser gives them. What is left out is as in `train`."""

    id: Template | None = None  # type: ignore[assignment]
    """Template of the row's id."""

    @model_validator(mode="after")
    def _names_images(self) -> ValidationRowsSpec:
        """Whether images are named shows when it is put on the training rows."""
        return self


class TestLabelSpec(LabelSpec):
    """Where the classes of test rows are, for `ens score` alone. Without value, columns and parts: as in `train`."""

    table: InnerPath | None = None
    """Path of a CSV file with the labels; left out: they are in the columns of the test rows."""
    id: Template | None = None
    """With `table`: template of the row's id in it; left out: as in `test`."""
    group: Template | None = None
    """Template of what rows of one subject share; left out: as in `train`, where the rows have such columns."""

    @model_validator(mode="after")
    def _is_one_kind(self) -> TestLabelSpec:
        if self.id is not None and self.table is None:
            raise ValueError("id: is for labels in a table of their own; name it, or leave the id out")
        if self.kinds:
            LabelSpec.model_validate({name: getattr(self, name) for name in LabelSpec.model_fields})
        elif self.separator is not None or self.empty is not None:
            raise ValueError("separator: is for a value; give it too, or leave both out: they are as in train.label")
        return self


class TestRowsSpec(RowsSpec):
    """Rows to predict."""

    label: TestLabelSpec | None = None
    """Their classes: read by `ens score`, and by nothing that trains, chooses or blends."""


class SubmissionSpec(Frozen):
    """The organiser's format of a submission."""

    sample: InnerPath | None = None
    """Path of the organiser's sample file below the dataset's folder: its rows, order and columns are followed."""
    id: Text = "id"
    """Name of the id column."""
    label: Text = "label"
    """Name of the answer's column, for `index`, `name`, and `probability_of`."""
    value: Literal["index", "name", "probability", "binary"] = "name"
    """What is asked for: the class's position from 0, its name, or a probability column per class; for rows with sets
    of classes all positions or names in one cell, or, as `binary`, a column of 0 or 1 per class."""
    separator: str | None = None
    """For rows with sets of classes: what stands between them in one cell; left out: as in the label, else a blank."""
    empty: str | None = None
    """For rows with sets of classes: what stands for none; left out: as in the label, else nothing."""
    probability_of: str | None = None
    """With `value: probability`: the only class whose probability is asked for, in the one column `label`."""

    @model_validator(mode="after")
    def _is_consistent(self) -> SubmissionSpec:
        if self.probability_of is not None and self.value != "probability":
            raise ValueError(f"probability_of: is for value: probability, not for {self.value}")
        return self


class DatasetDescription(Frozen):
    """A file in `recipes/data/`. Its images lie at `--data NAME=PATH`, `ENS_DATA_ROOT/NAME` or `folder`."""

    description: str = ""
    """One sentence."""
    folder: Annotated[str, Field(min_length=1)] | None = None
    """Where its files lie: from the directory that holds `recipes/`, or an absolute path. `--data NAME=PATH` and
    `ENS_DATA_ROOT/NAME` win. Changes no result."""
    embedded: Literal["digits"] | None = None
    """A dataset that comes with a library: written into the cache when first used, needs no path."""
    classes: ClassNames | Literal["found", "parts"]
    """Class names; their order is the order of the probability columns. `found`: the training rows' labels in natural
    order, written into each run; `parts`: every combination of `train.label.parts`, the last part changing fastest."""
    ordered: bool = False
    """Whether the classes are steps of a scale, such as grades, from the first to the last; changes no training."""
    metric: MetricName = "accuracy"
    """The organiser's score."""
    image_size: Annotated[int, Field(ge=8, le=4096)] | None = None
    """What `image.size: auto` means for this dataset."""
    mean: Channel | None = None
    """Mean per channel of values in 0..1."""
    std: Channel | None = None
    """Deviation per channel."""
    train: TrainRowsSpec
    """Rows with labels."""
    validation: ValidationRowsSpec | None = None
    """Rows with labels that the organiser gives to validate on: a hold-out of exactly these rows, for one model. What
    is left out is as in `train`: with folders, `{files: "val/*/*"}` is enough."""
    test: TestRowsSpec | None = None
    """Rows to predict."""
    submission: SubmissionSpec = SubmissionSpec()
    """What the organiser wants back."""

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in their order; None where only the rows tell."""
        if self.classes == "found":
            return None
        if self.classes == "parts":
            return self.label.combinations()
        return tuple(self.classes)

    @property
    def label(self) -> LabelSpec:
        """The training rows' label; a checked description has one."""
        if self.train.label is None:
            raise TypeError("a description without a training label is not valid")
        return self.train.label

    @property
    def validation_rows(self) -> RowsSpec | None:
        """The rows that the organiser gives to validate on, with what they share with the training rows."""
        if self.validation is None:
            return None
        shared = {name: getattr(self.train, name) for name in RowsSpec.model_fields}
        own = {name: getattr(self.validation, name) for name in RowsSpec.model_fields}
        if own["table"] is not None or own["files"] is not None:
            shared |= {"table": None, "files": None, "where": None}  # other rows altogether
            if own["files"] is not None:
                shared["image"] = None  # files name the images
        return RowsSpec.model_validate(shared | {name: value for name, value in own.items() if value is not None})

    @property
    def test_label(self) -> LabelSpec | None:
        """How the classes of test rows are read; None where no test rows have any.

        What `train.label` maps, it maps here too, under what `test.label` maps: people write classes in one way.
        """
        if self.test is None or self.test.label is None:
            return None
        own, label = self.test.label, self.label
        values = {name: getattr(own if own.kinds else label, name) for name in LabelSpec.model_fields}
        if values["value"] is not None and values["kind"] == label.kind:
            values["map"] = {**(label.map or {}), **(own.map or {})} or None
        return LabelSpec.model_validate(values)

    @property
    def submission_format(self) -> SubmissionSpec:
        """The organiser's format, sets of classes spelled as in the labels where it does not say otherwise."""
        given = {"separator": self.label.separator or " ", "empty": (self.label.empty or [""])[0]}
        unsaid = {key: value for key, value in given.items() if getattr(self.submission, key) is None}
        return self.submission.model_copy(update=unsaid)

    @model_validator(mode="after")
    def _is_consistent(self) -> DatasetDescription:
        if self.train.label is None:
            raise ValueError("train.label: missing; training rows need a label")
        parts = self.label.parts
        self._check_other_rows()
        for key in ("separator", "empty"):
            if getattr(self.submission, key) is not None and not self.label.is_set:
                raise ValueError(f"submission.{key}: is for rows with sets of classes, which train.label does not give")
        if self.submission.value == "binary" and not self.label.is_set:
            raise ValueError("submission.value: binary is for rows with sets of classes; train.label does not give any")
        if self.classes == "parts" and parts is None:
            raise ValueError("classes: parts, but train.label has no parts; list the classes")
        if self.classes == "found" and (self.label.value is None or self.label.kind != "name"):
            raise ValueError("classes: found needs a train.label.value that is the class's name; list the classes")
        names = self.class_names
        if names is None:  # they are checked when the rows are read
            return self
        if len(names) > MOST_CLASSES:
            raise ValueError(f"classes: {len(names):,} names, but at most {MOST_CLASSES:,} are allowed")
        if len(set(names)) != len(names):
            raise ValueError("classes: a name appears twice")
        expected = math.prod(len(part.classes) for part in parts) if parts else len(names)
        if len(names) != expected:
            raise ValueError(f"classes: {len(names)} names, but the parts of train.label make {expected}")
        for key, label in (("train", self.label), ("test", self.test_label)):
            strangers = sorted(set((label.map if label is not None and label.map else {}).values()) - set(names))
            if strangers:
                near = closest(strangers[0], names)
                raise ValueError(
                    f"{key}.label.map: leads to {strangers[0]}, which is none of the classes"
                    + (f"; did you mean {near}?" if near else "")
                )
        if self.label.is_set and (joined := [name for name in names if JOINER in name]):
            raise ValueError(f"classes: {joined[0]} contains {JOINER}, which separates the classes of a row in files")
        if self.submission.probability_of not in (None, *names):
            raise ValueError(f"submission.probability_of: {self.submission.probability_of} is not a class")
        return self

    def _check_other_rows(self) -> None:
        """Refuse validation rows that can't be read beside the training rows, and test labels of another kind."""
        if self.validation is not None:
            if self.train.fold_column is not None:
                raise ValueError(
                    "validation: given together with train.fold_column, which says the same; give one of the two"
                )
            own = (self.validation.table, self.validation.files, self.validation.where)
            if all(part is None for part in own):
                raise ValueError(
                    "validation: names no rows of its own; give a table, files such as 'val/*/*', or where"
                )
            try:
                _ = self.validation_rows
            except ValidationError as error:
                causes = [fault["ctx"]["error"] for fault in error.errors() if "ctx" in fault]
                raise ValueError(f"validation.{causes[0] if causes else error}") from error
        label = self.test_label
        if label is not None and label.map is None and self.test and self.test.label and self.test.label.map:
            raise ValueError("test.label.map: is for a value, but the label is none; leave it out")
        if label is not None and label.is_set != self.label.is_set:
            kinds = ("one class a row", "a set of classes a row")
            raise ValueError(f"test.label: gives {kinds[label.is_set]}, but train.label {kinds[self.label.is_set]}")


def described_in(record: Mapping[str, Any]) -> DatasetDescription | None:
    """The description that a run's record holds: that of a folder which has none in `recipes/data`; None for others."""
    if not record.get("described"):
        return None
    try:
        return DatasetDescription.model_validate(record["described"])
    except ValidationError as error:
        fault = error.errors()[0]
        raise InputError(
            f"{record.get('run', 'run.json')}: the description of its data can't be read by this version "
            f"({'.'.join(map(str, fault['loc']))}: {fault['msg']})"
        ) from error
