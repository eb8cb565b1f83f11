"""What a folder of images is recognised as: a description of a dataset, each decision with its evidence, what was seen.

Also the part of the work that all layouts share. `recognise.py` finds out which layout it is; tables are read in
`table_layout.py`, what lies there is listed in `survey.py`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from ensemble.core.complaints import FaultyInput, Place, closest, counted
from ensemble.core.dataset import DatasetDescription
from ensemble.core.schema import retell
from ensemble.core.text import TextTable, columns_of, natural_key
from ensemble.data.columns import can_be_named, rows_with, spelling_of, words_of
from ensemble.data.listing import IMAGE_FORMATS, IMAGE_SUFFIXES
from ensemble.data.name_groups import FileNames, NameGroups, find_name_groups, numbered
from ensemble.data.rows import few
from ensemble.data.survey import Survey, SurveyedTable
from ensemble.errors import InputError

Values = dict[str, Any]

PART = re.compile(
    r"(?:images?|imgs?|data|jpe?gs?|png|dataset)?[ _-]*"
    r"(?:(?P<train>train(?:ing)?)|(?P<test>test(?:ing)?|eval(?:uation)?)|(?P<val>val(?:id(?:ation)?)?|dev))"
    r"[ _-]*(?:images?|imgs?|data|set|files|photos|pictures|jpe?gs?|png|[0-9 x_-]+)*",
    re.IGNORECASE,
)
"""A directory's name that says which part of the data it holds; `training shoes` is a class."""
PLAIN_FOLDERS = frozenset(
    ["images", "image", "imgs", "img", "jpeg", "jpg", "png", "photos", "pictures", "data", "frames", "files"]
)
"""Names of directories that are no classes."""
_TEST_WORDS = frozenset(["test", "testing", "eval", "evaluation", "unlabeled", "unlabelled"])
_VAL_WORDS = frozenset(["val", "valid", "validation", "dev"])
_TRAIN_WORDS = frozenset(["train", "training", "labels", "label", "annotations", "labelled", "labeled"])
_PROBABILITY_WORDS = frozenset(["target", "probability", "prob", "score", "pred", "prediction", "confidence"])
_RARE = 0.1  # share of the rows below which a class of two is a rare one, whose ranking is asked for
UNEVEN = 5  # the largest class against the smallest, from which on accuracy hides the small ones
_MOST_JSON = 1 << 20  # bytes of a file that may hold class names


@dataclass(frozen=True)
class Choice:
    """What a person decides: columns (or templates) of label, id and group; a folder or table of test rows, or none."""

    label: str | None = None
    id: str | None = None
    group: str | None = None
    test: str | None = None


@dataclass(frozen=True)
class Decision:
    """One thing that was decided: what, how, by which evidence; where there is another reading: which, and the line."""

    what: str
    chosen: str
    why: str
    other: str = ""
    change: str = ""

    @property
    def line(self) -> str:
        """For a person."""
        text = f"{self.what}: {self.chosen} ({self.why})"
        return f"{text}; or {self.other}: {self.change}" if self.other else text


@dataclass(frozen=True)
class TestLabels:
    """Labels of the test rows: the description names them, and `ens score` alone reads them."""

    __test__ = False  # no test, whatever its name says to pytest
    source: str
    """A table below the folder, or a pattern of files."""
    label: str
    """A column of the table, or `{file.folder}`."""


@dataclass(frozen=True, eq=False)
class Layout:
    """What a folder was recognised as."""

    folder: Path
    kind: str
    """In a few words, such as `a folder for each class`."""
    values: Values
    """The description as it is to be written: only what is not the default."""
    description: DatasetDescription
    notes: Mapping[str, str]
    """Comments for keys of the description, by dotted key."""
    decisions: tuple[Decision, ...]
    seen: tuple[str, ...]
    """What lies in the folder, a line each."""
    remarks: tuple[str, ...] = ()
    """What a person should know: images that are not used, columns to decide about."""
    test_labels: TestLabels | None = None


@dataclass(eq=False)
class LayoutReader:
    """One look at one folder: decisions are collected, then made one description."""

    survey: Survey
    choice: Choice
    values: Values = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    test_labels: TestLabels | None = None
    test_folders: list[str] = field(default_factory=list)
    """Directories of the test rows, where those come from files alone."""

    # What the folder holds, and refusals

    def seen(self) -> list[str]:
        """What lies there, a line each."""
        survey = self.survey
        places = sorted(survey.images, key=lambda place: (-len(survey.images[place]), natural_key(place)))
        shown = [f"{place or '.'}/ ({len(survey.images[place]):,})" for place in places[:4]]
        more = f", … ({len(places):,} folders in all)" if len(places) > 4 else ""
        lines = [f"{counted(survey.count, 'image')} in {', '.join(shown)}{more}"] if survey.count else []
        lines += [
            f"{item.path}: {counted(len(item.table), 'row')}, {few(item.table.header, 8)}" for item in survey.tables[:8]
        ]
        if survey.archives:
            lines.append(f"archives, not looked into: {few(survey.archives)}")
        if survey.other_tables:
            lines.append(f"tables that are no CSV files, not read: {few(survey.other_tables)}")
        if survey.empty:
            lines.append(f"folders without images: {few(survey.empty)}")
        return [*lines, *survey.faults]

    def no_images(self) -> list[str]:
        """Why a folder without images can't be described."""
        folder, survey = self.survey.folder, self.survey
        kinds = ", ".join(f"{count:,} {ending or 'without ending'}" for ending, count in survey.others.most_common(4))
        if survey.archives:
            first = survey.archives[0]
            return [
                f"{folder}: no images, but archives ({few(survey.archives)}); unpack them first, as in: "
                f"unzip -q {folder / first} -d {folder}"
            ]
        tables = [f"tables: {few(survey.table_paths)}"] if survey.table_paths else []
        held = "; ".join([*([f"files: {kinds}"] if kinds else []), *tables]) or "it is empty"
        step = f"name the folder that holds the images ({', '.join(IMAGE_FORMATS)}; convert other formats first)"
        return [f"{folder}: no images below it; {held}; {step}"]

    def refuse(self, missing: str, step: str) -> InputError:
        """What was seen, what is missing, and what to do."""
        return InputError(f"{self.survey.folder}: {missing}", *(f"  seen: {line}" for line in self.seen()), f"  {step}")

    def decide(self, what: str, chosen: str, why: str, other: str = "", change: str = "") -> None:
        """Remember a decision."""
        self.decisions.append(Decision(what, chosen, why, other, change if other else ""))

    def not_used(self, places: Sequence[str], why: str = "") -> None:
        """Tell of directories whose images no row is."""
        count = sum(len(self.survey.images[place]) for place in places)
        shown = few([f"{place or '.'}/" for place in places])
        self.extra.append(f"not used: {counted(count, 'image')} in {shown}{why}")

    def finish(self, kind: str, values: Values | None = None) -> Layout:
        """The layout, its description checked as a written one would be. `values`: all that it says, in their order."""
        order = ("classes", "metric", "train", "validation", "test", "submission")
        values = values or {key: self.values[key] for key in order if key in self.values}
        try:
            description = DatasetDescription.model_validate(values)
        except ValidationError as error:  # such as a template of --label that is malformed, or a folder called `a*b`
            place = Place(str(self.survey.folder))
            raise FaultyInput(retell(error, DatasetDescription, lambda path: place)) from error
        return Layout(
            folder=self.survey.folder,
            kind=kind,
            values=values,
            description=description,
            notes=self.notes,
            decisions=tuple(self.decisions),
            seen=tuple(self.seen()),
            remarks=tuple(self.extra),
            test_labels=self.test_labels,
        )

    def known(self, name: str, description: DatasetDescription) -> Layout:
        """A description that ships, as it stands."""
        values = description.model_dump(mode="json", exclude_defaults=True)
        parts = ", ".join(part.name for part in description.label.parts or [])
        self.decide("layout", f"that of {name}", "the same tables, columns and folders")
        self.decide("label", f"composed of {parts}", f"as the description {name} says; no file shows it")
        self.values = values
        if description.class_names is not None and description.test is not None:
            self.name_test_labels(values["test"], description.class_names)
        return self.finish(f"as {name}", values)

    def decide_validation(self, spec: Values, rows: int, place: str, shown: str = "") -> None:
        """Take labelled rows that the organiser keeps apart for validation, and say what else they may be."""
        self.values["validation"] = spec
        self.notes["validation"] = (
            "a hold-out of these rows, for one model; without this key: folds of the training rows alone"
        )
        why = "labelled rows kept apart: the organiser's hold-out"
        shown = shown or place
        other = place.rstrip("/") or spec.get("table")  # rows of a table that has others can't be test rows as well
        change = ("test rows", f"--test {other}") if other else ("", "")
        self.decide("validation", f"{counted(rows, 'image')} in {shown}", why, *change)
        label = self.values["train"]["label"]
        scheme = "stratified-group" if "group" in self.values["train"] else "stratified"
        if "separator" in label or label.get("columns") == "multi-hot":
            scheme = "multilabel-stratified"
        self.extra.append(
            f"one model is trained, and validated on {shown}; "
            f"ens train --set folds.scheme={scheme} makes folds of all rows"
        )

    def decide_submission(self, sample: SurveyedTable, answers: Sequence[str]) -> None:
        """Say how the sample submission is read."""
        spec = self.values["submission"]
        kinds = {"name": "class names", "index": "class numbers", "probability": "probabilities", "binary": "0 or 1"}
        how, other, change = kinds[spec["value"]], "", ""
        if "probability_of" in spec:
            how = f"the probability of {spec['probability_of']}"
            other, change = "classes", "submission.value: name, without probability_of"
        self.decide("submission", sample.path, f"{how} in {few(answers, 4)}", other, change)

    def role(self, path: str) -> str:
        """`sample`, `test labels`, `test`, `val`, `train`, or nothing: by the words of its name and its folders."""
        words = words_of(os.path.splitext(path.rpartition("/")[2])[0])
        around = {word for part in path.split("/")[:-1] for word in words_of(part)}
        if any(word.startswith(("sample", "submi")) or word == "sub" for word in words):
            return "sample"
        own = set(words)
        if own & _TEST_WORDS or (around & _TEST_WORDS and not own & _TRAIN_WORDS):
            return "test labels" if own & _TRAIN_WORDS or own & {"answers", "truth", "solution"} else "test"
        if own & _VAL_WORDS:
            return "val"
        return "train" if own & _TRAIN_WORDS or around & _TRAIN_WORDS else ""

    def sample(self) -> SurveyedTable | None:
        """The organiser's sample submission."""
        samples = [item for item in self.survey.tables if self.role(item.path) == "sample"]
        samples = [item for item in samples if len(item.table.header) > 1]
        return min(samples, key=lambda item: "sample" not in item.path.lower(), default=None)

    def rows_of_test_folder(self, place: str, why: str) -> Values:
        """The files of a folder, flat or in a folder for each class."""
        below = self.survey.below(place)
        if not below:
            near = closest(place, [*self.survey.images, *self.survey.table_paths])
            hint = f"did you mean {near}?" if near else f"images are in {few(list(self.survey.images), 6)}"
            folder = self.survey.folder
            raise InputError(
                f"--test {place}: neither a folder of images nor a table that names some, in {folder}; {hint}"
            )
        depths = Counter(path[len(place) :].count("/") for path in below for _ in below[path])
        depth = depths.most_common(1)[0][0]
        self.test_folders = [path for path in below if path[len(place) :].count("/") == depth]
        names = [name for path, files in below.items() if path[len(place) :].count("/") == depth for name in files]
        pattern = "/".join([literal(place), *["*"] * (depth + 1)])
        self.decide("test rows", f"{counted(len(names), 'image')} in {place}/", why)
        if len(depths) > 1:
            left = sum(depths.values()) - depths[depth]
            self.extra.append(f"not used: {counted(left, 'image')} in {place}/, deeper or higher than the others")
        if depth:
            return {"files": pattern, "id": "{file.path}"}
        sample = self.sample()
        asked = set(sample.table.columns[sample_id(sample)]) if sample else set()
        stems = {name.rpartition(".")[0] for name in names}
        by_stem = bool(asked) and len(asked & stems) > len(asked & set(names))
        return {"files": pattern, "id": "{file.stem}" if by_stem else "{file.name}"}

    def group_by_name(self, folders: Sequence[str], cells: Sequence[str], classes: Sequence[str], value: str) -> None:
        """A part of the names as the group, where it is surely one: the audit hints at those that may be.

        `cells`: what `value` gives for each row.
        """
        if self.choice.group is not None:
            return
        labels = numbered(classes)[1]
        names = FileNames(folders, list(map(stem_of, cells)), labels, len(set(classes)))
        groups = next((groups for groups in find_name_groups(names) if _is_sure(groups, labels)), None)
        if groups is None:
            return
        key, text = names.fields(groups, cells)
        spec = self.values["train"]
        spec["fields"] = {"value": value, key: text}
        spec["group"] = "{file.folder}/{name}" if groups.with_folder else "{name}"
        if groups.unknown:
            spec["group_unknown"] = groups.unknown
        self.values["train"] = self.ordered(spec)
        self.notes["train.group"] = "images whose names begin alike stay on one side of every split"
        count = int(groups.is_group.sum())
        why = f"{counted(count, 'beginning')}, {groups.rows / count:.1f} images each"
        self.decide("group", f"the part of the name in {text}", why, "none", "--group none")

    @staticmethod
    def ordered(spec: Values) -> Values:
        """Keys as the documentation has them."""
        order = ("table", "files", "where", "fields", "id", "image", "label", "group", "group_unknown", "fold_column")
        return {key: spec[key] for key in (*order, "box") if key in spec}

    # Labels of test rows

    def test_ids(self, test: Values | None) -> Sequence[str]:
        """The ids of the test rows; those of a table in its order."""
        if test is None:
            return ()
        if "table" in test:
            table = self.rows_of_table(test)
            numbers = tuple(map(str, range(len(table))))
            return [cell for column in columns_of(test["id"]) for cell in table.columns.get(column, numbers)]
        start = test["files"].partition("*")[0].rstrip("/").replace("{{", "{").replace("}}", "}")
        names = [name for place in self.survey.below(start).values() for name in place]
        return [name.rpartition(".")[0] for name in names] if "stem" in test["id"] else names

    def rows_of_table(self, spec: Values) -> TextTable:
        """The rows of a table that a part of the description takes."""
        table = next(item.table for item in self.survey.tables if item.path == spec["table"])
        where = spec.get("where")
        return table if where is None else rows_with(table, where["column"], where["values"])

    def name_test_labels(self, test: Values, classes: Sequence[str], train: SurveyedTable | None = None) -> None:
        """Write where the test rows' labels are, where a table has them; `classes` as `spelling_of` takes them."""
        ids, label = self.test_ids(test), self.values["train"]["label"]
        known, sample = frozenset(ids), self.sample()
        has_numbers = any(map(str.isdecimal, classes)) or label.get("kind") == "index"
        refused = ""
        for item in sorted(self.survey.tables, key=lambda item: item.path != test.get("table")):
            is_own, is_called_so = item.path == test.get("table"), self.role(item.path) == "test labels"
            if item is train or item is sample or (is_own and self.role(item.path) == "sample"):
                continue
            row_id = "" if is_own else self._id_among(item, known)
            if row_id is None:
                refused = refused or (f"no column of {item.path} has ids of the test rows" if is_called_so else "")
                continue
            columns = columns_of(label.get("value") or "") or [""]
            others = [name for name in item.table.header if f"{{{name}}}" not in row_id]
            # by the training table's name for it; of a table that is called so, or has nothing else: any other
            is_alone = not is_own and len(others) == 1 and not has_numbers
            wanted = [columns[0], *(others[::-1] if is_called_so or is_alone else [])]
            table = self.rows_of_table(test) if is_own else item.table
            spellings = [(name, spelling_of(table, label, classes, name)) for name in wanted]
            if is_alone and not is_called_so:  # `0` and `1` of any other column are no answers
                spellings = [(name, value) for name, value in spellings if (value or {}).get("kind") != "index"]
            name, spelling = next((pair for pair in spellings if pair[1] is not None), ("", None))
            if spelling is None or (name in table.header and len(set(table.columns[name])) < 2):
                refused = refused or (f"{item.path} names other classes than {few(classes)}" if is_called_so else "")
                continue
            place = {} if is_own else {"table": item.path, "id": row_id}
            shown = f"column {name}" if "value" in spelling else f"columns {few(classes)}"
            self.add_test_label(test, place | spelling, TestLabels(item.path, name), f"{shown} of {item.path}")
            return
        if refused:
            self.extra.append(f"{refused}; if it has the labels of the test rows, name them: docs/score.md")

    def name_folder_labels(self, test: Values, classes: Sequence[str]) -> bool:
        """Write that the test rows' labels are their folders, where all of these are called like classes."""
        label = self.values["train"]["label"]
        is_nested = "files" in test and test["files"].count("*") > 1
        if not is_nested or set(label) - {"value", "kind"} or (self.choice.label and label["value"] != "{file.folder}"):
            return False
        value: Values = {"value": "{file.folder}"}
        names = {path.rpartition("/")[2] for path in self.test_folders}
        fields = self.values["train"].get("fields")
        if label["value"] == "{class}" and test["files"].count("*") == 3 and fields is not None:
            names = {path.split("/")[-2] for path in self.test_folders}
            test["fields"] = {**fields, "pattern": f"{test['files'].partition('*')[0]}{{class}}/{{subject}}/{{image}}"}
            value = dict(label)
        elif label.get("kind") == "index" and names <= {str(number) for number in range(len(classes))}:
            value["kind"] = "index"
        if "kind" not in value and not names <= set(classes):
            strangers = few(sorted(names - set(classes), key=natural_key))
            self.extra.append(f"the folders of {test['files']} are no labels, since {strangers} are no classes")
            test.pop("fields", None)
            return False
        source = TestLabels(test["files"], value["value"])
        self.add_test_label(test, value, source, f"the folders of {test['files']}")
        return True

    def add_test_label(self, test: Values, label: Values, source: TestLabels, shown: str) -> None:
        """Put the labels into the description of the test rows, and say so."""
        test["label"], self.test_labels = label, source
        self.values["test"] = self.ordered(test)
        self.decide("test labels", shown, "for ens score alone; nothing trains, chooses or blends by them")

    @staticmethod
    def _id_among(item: SurveyedTable, ids: frozenset[str]) -> str | None:
        """The template that gives test rows' ids in another table: a column, with an ending where it has none."""
        if not ids:
            return None
        ending = os.path.splitext(next(iter(ids)))[1]
        for name in filter(can_be_named, item.table.header):
            cells = item.table.columns[name]
            if len(set(cells)) < len(cells):
                continue
            for add in ("", ending) if ending else ("",):
                if len(ids.intersection(cell + add for cell in cells)) > len(ids) / 2:
                    return f"{{{name}}}{literal(add)}"
        return None


def sample_id(sample: SurveyedTable) -> str:
    """The sample submission's id column: the one that names images, else the first whose cells are all different."""
    if sample.link is not None:
        return sample.link.column
    columns = sample.table.columns
    header = sample.table.header
    return next((name for name in header if len(set(columns[name])) == len(sample.table)), header[0])


def part_of(place: str) -> str:
    """`train`, `test`, `val`, or nothing: by the first directory on the way that is called so."""
    for name in place.split("/"):
        match = PART.fullmatch(name)
        if match is not None and match.lastgroup is not None:
            return match.lastgroup
    return ""


def literal(text: str) -> str:
    """Text as a template holds it."""
    return text.replace("{", "{{").replace("}", "}}")


def stem_of(path: str) -> str:
    """A file's name without its ending, or what a table has in its place."""
    name = path.rpartition("/")[2]
    stem, dot, ending = name.rpartition(".")  # `splitext` takes four times as long
    return stem if f"{dot}{ending}".lower() in IMAGE_SUFFIXES else name


_FEWEST_GROUPS, _LEAST_SHARED = 10, 0.3  # two groups a fold; rows that share theirs
_FEWEST_A_CLASS = 3  # values in the class that has most: with fewer, names hardly tell more than the class


def _is_sure(groups: NameGroups, labels: NDArray[np.int64]) -> bool:
    """Whether groups may be written into a description unasked: many, shared by many rows."""
    count = len(labels)
    if len(groups.names) < _FEWEST_GROUPS or groups.rows < _LEAST_SHARED * count:
        return False
    pairs = np.unique(np.column_stack([labels, groups.numbers]), axis=0)
    return int(np.bincount(pairs[:, 0]).max()) >= _FEWEST_A_CLASS
