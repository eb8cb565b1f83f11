"""A folder of images recognised: which description of a dataset fits what lies there.

`recognise` looks at the whole folder and gives back a `Layout`; it writes nothing and knows no recipe. Here also stand
the layouts of files alone: a folder for each class, or the class in each name. Those of tables: `table_layout.py`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ensemble.core.complaints import closest, counted
from ensemble.core.dataset import DatasetDescription
from ensemble.core.text import columns_of, natural_key
from ensemble.data.columns import find_name_class
from ensemble.data.layout import (
    PLAIN_FOLDERS,
    UNEVEN,
    Choice,
    Layout,
    LayoutReader,
    TestLabels,
    Values,
    literal,
    part_of,
    sample_id,
    stem_of,
)
from ensemble.data.rows import few, fields_reader, read_numbers
from ensemble.data.survey import Survey, survey_folder
from ensemble.data.table_layout import TableReader
from ensemble.errors import InputError


def recognise(
    place: Path,
    choice: Choice | None = None,
    *,
    known: Mapping[str, DatasetDescription] | None = None,
    skip: Collection[Path] = (),
) -> Layout:
    """The likeliest description of a folder, or of a CSV file's folder with that file as the training table.

    `known` are descriptions with composed labels, which no files can show: one that fits is taken. What can't be read
    is refused with what was seen, what is missing, and what to do.
    """
    folder, table = _folder_of(place)
    survey = survey_folder(folder, skip)
    choice = _checked(choice or Choice(), folder)
    tables = TableReader(survey, choice, named_table=table)
    if not survey.count:
        raise InputError(*tables.no_images())
    if table is None and choice == Choice():
        for name, description in (known or {}).items():
            if _fits(description, survey):
                return tables.known(name, description)
    train = tables.train_table()
    return _FileReader(survey, choice).file_layout() if train is None else tables.table_layout(train)


def _checked(choice: Choice, folder: Path) -> Choice:
    """The choice, templates that are malformed refused, the place of test rows as one below the folder."""
    problems = []
    for option, value in (("--label", choice.label), ("--id", choice.id), ("--group", choice.group)):
        try:
            columns_of(value or "")
        except ValueError as error:
            problems.append(f"{option} {value!r}: the template is malformed: {str(error).lower()}")
    if problems:
        raise InputError(*problems)
    test = (choice.test or "").strip("/")
    inside, base = os.path.abspath(choice.test or "."), os.path.abspath(folder)
    if choice.test and os.path.exists(inside) and inside.startswith(f"{base}{os.sep}"):  # as the shell completes it
        test = os.path.relpath(inside, base)
    return replace(choice, test=test.removeprefix("./") or None)


def _folder_of(place: Path) -> tuple[Path, str | None]:
    """The folder to look at, and the table in it that was named."""
    if place.is_dir():
        return place, None
    if not place.exists():
        parent = place.absolute().parent
        names = sorted(entry.name for entry in parent.iterdir() if entry.name[0] != ".") if parent.is_dir() else []
        near = closest(place.name, names)
        hint = f"did you mean {place.parent / near}?" if near else f"{parent} holds {few(names) or 'nothing'}"
        raise InputError(f"{place}: there is no such folder; {hint}")
    ending = place.suffix.lower()
    if ending == ".csv":
        return place.parent, place.name
    if ending in (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar"):
        target = place.with_name(place.name.split(".")[0])
        command = f"unzip -q {place} -d {target}" if ending == ".zip" else f"unpack it into {target}"
        raise InputError(f"{place}: is an archive; unpack it first: {command}; then give {target}")
    raise InputError(f"{place}: is a file, but a folder of images or a CSV table is needed")


def _fits(description: DatasetDescription, survey: Survey) -> bool:
    """Whether the tables of a description are there with the columns that it names, and most of their images."""
    for spec in filter(None, (description.train, description.test)):
        table = next((item.table for item in survey.tables if item.path == spec.table), None)
        pattern = spec.files or spec.image or ""
        if spec.table is None or table is None:
            return False
        columns = [column for column in columns_of(pattern) if not column.startswith("file.")]
        if not columns or not set(columns) <= set(table.header):
            return False
        starts = [pattern.replace(f"{{{columns[0]}}}", cell) for cell in table.columns[columns[0]][:20]]
        if not any(
            start in survey.index.paths or (start.endswith("/*") and start[:-2] in survey.images) for start in starts
        ):
            return False
    return True


class _FileReader(LayoutReader):
    """Rows from files."""

    def file_layout(self) -> Layout:
        """Rows from files: a folder for each class, or the class in each name."""
        places = list(self.survey.images)
        if self.choice.test not in (None, "none"):
            aside = set(self.survey.below(str(self.choice.test)))
            places = [place for place in places if place not in aside] or places
        parts: dict[str, list[str]] = {}
        for place in places:
            parts.setdefault(part_of(place), []).append(place)
        rows = parts.get("train") or parts.get("") or parts.get("val") or parts["test"]
        part = next(name for name in parts if parts[name] is rows)
        base = _base_of(rows, part)
        depths = Counter(_depth(place, base) for place in rows)
        depth = depths.most_common(1)[0][0]
        chosen = [place for place in rows if _depth(place, base) == depth]
        if len(chosen) < len(rows):
            left = [place for place in rows if place not in chosen]
            self.not_used(left, ", beside the class folders")
        if depth == 0:
            return self.name_layout(base, parts, part)
        return self.class_layout(base, depth, chosen, parts, part)

    def class_layout(self, base: str, depth: int, chosen: list[str], parts: dict[str, list[str]], part: str) -> Layout:
        """A folder for each class, or for each class of a kind."""
        names = sorted({place.rpartition("/")[2] for place in chosen}, key=natural_key)
        start = f"{base}/" if base else ""
        if not base and any(name for name in parts if name):
            beside = [place for name in parts if name for place in parts[name]]
            raise self.refuse(
                f"{few(beside)} lie among the class folders {few(names)}, and a pattern of all folders would take them "
                "for classes",
                "move the class folders into a folder of their own, such as train/",
            )
        if len(names) < 2:
            raise self.refuse(
                f"only one class, {names[0]}, in {start or './'}", "two are needed: a folder for each class"
            )
        if depth > 2:
            raise self.refuse(f"class folders {depth} deep below {start or '.'}", "one or two levels can be described")
        self.values["train"] = {
            "files": f"{literal(start)}{'/'.join(['*'] * (depth + 1))}",
            "id": "{file.folder}/{file.name}" if depth == 1 else "{file.path}",
        }
        label = self.nested_label(start, chosen, names) if depth == 2 else "{file.folder}"
        self.values["classes"] = "found"
        if self.choice.label is not None:
            label = self.choice.label if "{" in self.choice.label else f"{{{self.choice.label}}}"
            if not columns_of(label) or not all(column.startswith("file.") for column in columns_of(label)):
                raise InputError(
                    f"--label {self.choice.label}: there is no table with columns here; the folders are the classes"
                )
        self.values["train"]["label"] = {"value": label}
        sizes = [len(self.survey.images[place]) for place in chosen]
        self.values["metric"] = "accuracy" if max(sizes) <= UNEVEN * min(sizes) else "macro_f1"
        self.decide("training rows", f"{sum(sizes):,} images in {start or './'}", "its folders hold images")
        self.decide("label", f"the folder's name, {len(names)} of them", few(names, 4))
        self.notes["classes"] = f"the folders in natural order: {few(names, 6)}"
        at = -2 if label == "{class}" else -1  # the folder that is the class
        names = sorted({place.split("/")[at] for place in chosen}, key=natural_key)
        held_out = self.held_out_folders(parts, part, depth)
        if strangers := {place.split("/")[at] for place in held_out} - set(names):
            shown = few(sorted(strangers, key=natural_key))
            self.extra.append(f"{_base_of(held_out, 'val')}/ is no validation: {shown} are no classes of {start}")
            held_out = []
        if depth == 1:
            pairs, others = (
                [
                    (stem_of(name), place.rpartition("/")[2])
                    for place in places
                    for name in sorted(self.survey.images[place])
                ]
                for places in (chosen, held_out)
            )
            if not set(pairs) & set(others):  # else names are counters that begin anew in each part
                pairs += others  # names of both are taken apart alike
            folders = [place for _, place in pairs]  # which are the classes
            self.group_by_name(folders, [stem for stem, _ in pairs], folders, "{file.stem}")
        self.file_choices()
        self.file_validation(parts, held_out, depth)
        self.file_test(parts, part, names)
        return self.finish("a folder for each class")

    def held_out_folders(self, parts: dict[str, list[str]], part: str, depth: int) -> list[str]:
        """The folders of a `val/` beside `train/` that is built alike, unless --test asks for it."""
        places = parts.get("val", [])
        asked = self.choice.test
        if part != "train" or not places or (asked is not None and set(self.survey.below(asked)) & set(places)):
            return []
        base = _base_of(places, "val")
        # A flat folder has no labels beside class folders.
        return [place for place in places if _depth(place, base) == depth]

    def file_validation(self, parts: dict[str, list[str]], places: list[str], depth: int) -> None:
        """The validation rows."""
        if not places:
            return
        start, spec = literal(_base_of(parts["val"], "val")), self.values["train"]
        validation: Values = {"files": "/".join([start, *["*"] * (depth + 1)])}
        fields = spec.get("fields")
        if fields is not None and fields["value"] == "{file.path}":
            own = spec["files"].partition("*")[0]
            validation["fields"] = {**fields, "pattern": f"{start}/{fields['pattern'].removeprefix(own)}"}
        if self.choice.id is None:
            spec["id"] = "{file.path}"  # `cat/1.jpg` may be in both
        if left := [place for place in parts["val"] if place not in places]:
            self.not_used(left, ", beside the class folders")
        count = sum(len(self.survey.images[place]) for place in places)
        self.decide_validation(validation, count, f"{_base_of(parts['val'], 'val')}/")

    def nested_label(self, start: str, chosen: list[str], names: list[str]) -> str:
        """Two levels of folders: classes of kinds, or persons of classes."""
        uppers = sorted({place.split("/")[-2] for place in chosen}, key=natural_key)
        numbered = sum(any(map(str.isdecimal, name)) for name in names) >= 0.8 * len(names)
        if numbered and len(names) >= 2 * len(uppers) and len(uppers) > 1:
            spec = self.values["train"]
            spec["fields"] = {"value": "{file.path}", "pattern": f"{literal(start)}{{class}}/{{subject}}/{{image}}"}
            spec["group"] = "{class}/{subject}"
            self.values["train"] = self.ordered(spec)
            self.decide(
                "group", f"the inner folder, {len(chosen)} of them", f"called {few(names)}", "none", "--group none"
            )
            return "{class}"
        other = f"the outer folder ({few(uppers)})"
        fields = f'{{value: "{{file.path}}", pattern: "{start}{{class}}/{{kind}}/{{image}}"}}'
        change = f'train.fields: {fields}, train.label: {{value: "{{class}}"}}'
        self.decide("class", "the inner folder", f"called {few(names)}", other, change)
        return "{file.folder}"

    def name_layout(self, base: str, parts: dict[str, list[str]], part: str) -> Layout:
        """One folder of images, the class in each file's name."""
        names = sorted(self.survey.images[base], key=natural_key)
        stems = [stem_of(name) for name in names]
        pattern = find_name_class(stems)
        if pattern is None and base and not part and base.rpartition("/")[2].lower() not in PLAIN_FOLDERS:
            raise self.refuse(
                f"only one class, if the folder {base} is one, and no table of labels",
                "two are needed: add a folder for each class, or a CSV table with columns of file names and classes",
            )
        if pattern is None:
            raise self.refuse(
                f"{counted(len(names), 'image')} in {base or '.'}/, but neither a table of labels, "
                f"nor a folder for each class, nor a class in the files' names ({few(names)})",
                "add a CSV table with a column of file names and one of classes, or sort the images into class folders",
            )
        form, classes = pattern
        self.values |= {"classes": "found", "metric": "accuracy"}
        self.values["train"] = {
            "files": f"{literal(base)}/*" if base else "*",
            "fields": {"value": "{file.stem}", "pattern": form},
            "id": "{file.name}",
            "label": {"value": "{class}"},
        }
        self.decide(
            "training rows", f"{counted(len(names), 'image')} in {base or '.'}/", "one folder, no table of labels"
        )
        self.decide("label", f"a part of each name, {form}", f"{len(classes)} classes, as in {names[0]}")
        self.file_choices()
        held_out = self.held_out_folders(parts, part, 0)
        said = self.classes_in_names(held_out, form)
        if held_out and said is not None and said <= set(classes):
            self.file_validation(parts, held_out, 0)
        self.file_test(parts, part, classes)
        test = self.values.get("test")
        if test is not None and "label" not in test and "files" in test:
            said = self.classes_in_names(self.test_folders, form)
            if said is not None and said <= set(classes):  # a number before the blank is no class: `1.jpg` has none
                test["fields"] = {"value": "{file.stem}", "pattern": form}
                source = TestLabels(test["files"], "{class}")
                self.add_test_label(test, {"value": "{class}"}, source, f"a part of each name in {test['files']}")
        return self.finish("the class in each file's name")

    def classes_in_names(self, places: Sequence[str], form: str) -> set[str] | None:
        """The classes that the names of files in these folders say; None where a name is built otherwise."""
        take, at = fields_reader(form), columns_of(form).index("class")
        fields = [take(stem_of(name)) for place in places for name in self.survey.images[place]]
        return {parts[at] for parts in fields if parts} if fields and all(fields) else None

    def file_choices(self) -> None:
        """What a person decides about rows of files."""
        spec = self.values["train"]
        if self.choice.id is not None:
            spec["id"] = self.choice.id if "{" in self.choice.id else f"{{{self.choice.id}}}"
        if self.choice.group == "none":
            spec.pop("group", None)
        elif self.choice.group is not None:
            spec["group"] = self.choice.group if "{" in self.choice.group else f"{{{self.choice.group}}}"
        self.values["train"] = self.ordered(spec)

    def file_test(self, parts: dict[str, list[str]], part: str, classes: Sequence[str]) -> None:
        """Test rows: those of --test, a test folder, or a validation folder; and the sample submission's format."""
        asked = self.choice.test
        if asked == "none":
            self.decide("test rows", "none", "asked for with --test none")
        elif asked is not None:
            self.values["test"] = self.rows_of_test_folder(asked, "asked for with --test")
        elif part in ("train", "") and (places := parts.get("test") or self.left_val(parts)):
            kind = "test" if "test" in parts else "val"
            place = _base_of(places, kind)
            why = f"a folder called {place.rpartition('/')[2]}"
            self.values["test"] = self.rows_of_test_folder(place, why)
            if kind == "test" and (left := self.left_val(parts)):
                self.not_used(left, "; folds validate on training rows in turn")
        else:
            self.decide("test rows", "none", "no folder called test", "another folder", "--test FOLDER")
        if part == "train" and parts.get(""):
            self.not_used(parts[""])
        if "test" in self.values:
            self.file_submission(classes)
            if not self.name_folder_labels(self.values["test"], classes):
                self.name_test_labels(self.values["test"], classes)

    def left_val(self, parts: dict[str, list[str]]) -> list[str]:
        """The folders of `val/` that validate nothing."""
        return [] if "validation" in self.values else parts.get("val", [])

    def file_submission(self, classes: Sequence[str]) -> None:
        """The organiser's format, as far as a sample shows it."""
        sample = self.sample()
        if sample is None:
            self.values["submission"] = {"id": "id", "label": "label", "value": "name"}
            return
        row_id = sample_id(sample)
        answers = [column for column in sample.table.header if column != row_id]
        spec = {"sample": sample.path, "id": row_id}
        cells = set(sample.table.columns[answers[0]])
        if len(answers) > 1:
            spec["value"] = "probability"
            self.values["metric"] = "log_loss"
        elif len(classes) == 2 and not cells <= set(classes) and not read_numbers(list(cells))[1]:
            spec |= {"label": answers[0], "value": "probability", "probability_of": classes[1]}
            self.values["metric"] = "log_loss"
        else:
            spec |= {"label": answers[0], "value": "name"}
        self.values["submission"] = spec
        self.decide_submission(sample, answers)


def _base_of(places: list[str], part: str) -> str:
    """The folder below which the class folders of a part lie; of one plain folder of images, that folder."""
    if len(places) > 1:
        return os.path.commonpath(places)
    place = places[0]
    names = place.split("/")
    if part:  # `train/cat` alone: one class of train; `train/images`: the images of train
        last = max(at for at, name in enumerate(names) if part_of(name) == part)
        inner = names[last + 1 :]
        return place if all(name.lower() in PLAIN_FOLDERS for name in inner) else "/".join(names[: last + 1])
    return place


def _depth(place: str, base: str) -> int:
    """How many directories `place` lies below `base`."""
    return 0 if place == base else place.count("/") - (base.count("/") + 1 if base else 0) + 1
