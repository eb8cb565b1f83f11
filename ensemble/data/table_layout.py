"""A dataset of tables recognised: which table holds the training rows, and what its columns are.

What all layouts share is in `layout.py`, judging a column's cells in `columns.py`.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from ensemble.core.complaints import closest, counted
from ensemble.core.text import columns_of, natural_key
from ensemble.data.columns import (
    UNKNOWN_GROUPS,
    LabelColumns,
    find_box,
    find_folds,
    find_groups,
    find_label,
    find_parts,
    find_splits,
    has_word,
    map_of_names,
    rows_with,
)
from ensemble.data.layout import PART, UNEVEN, Layout, LayoutReader, Values, part_of, sample_id, stem_of
from ensemble.data.rows import few
from ensemble.data.survey import ImageLink, SurveyedTable
from ensemble.errors import InputError

_PROBABILITY_WORDS = frozenset(["target", "probability", "prob", "score", "pred", "prediction", "confidence"])
_RARE = 0.2  # share of the rows below which a class of two is a rare one, whose ranking is asked for
_MOST_JSON = 1 << 20  # bytes of a file that may hold class names


@dataclass(eq=False)
class TableReader(LayoutReader):
    """Rows from tables. `named_table` was given in place of the folder."""

    named_table: str | None = None
    labels: dict[str, LabelColumns | None] = field(default_factory=dict)
    """Those of tables looked at already: judging a column of a million cells takes a second."""

    def train_table(self) -> SurveyedTable | None:
        """The table with labels whose rows are images; None where there is none."""
        tables = self.survey.tables
        if self.choice.label is not None and "{" not in self.choice.label and tables:
            self._check_columns(self.choice.label.split(","), "--label", tables)
        if self.named_table is not None:
            return self._named(tables)
        sample = self.sample()
        candidates = []
        for item in tables:
            role = self.role(item.path)
            if item.path == self.choice.test or role in ("sample", "test", "test labels") or item.link is None:
                continue
            if sample is not None and role != "train" and _same_images(item, sample):
                continue  # the answers of the very rows that are asked for
            label = self.label_of(item)
            if label is not None:
                rank = {"train": 2, "": 1, "val": 0}[role]
                candidates.append((rank, label.is_sure, item.link.rows, item))
        if candidates:
            return max(candidates, key=lambda candidate: candidate[:3])[3]
        self._refuse_tables(tables)
        return None

    def _named(self, tables: Sequence[SurveyedTable]) -> SurveyedTable:
        """The table that was given in place of the folder."""
        item = next((item for item in tables if item.path == self.named_table), None)
        if item is None:
            raise InputError(*self.survey.faults)
        if item.link is None:
            raise self._foreign_ids(item)
        if self.label_of(item) is None:
            raise self.refuse(f"{item.path} has no column of classes", "name it with --label COLUMN")
        return item

    def _refuse_tables(self, tables: Sequence[SurveyedTable]) -> None:
        """Say why none of the tables can be that of the training rows, unless the folders tell the classes."""
        folders = [place for place in self.survey.images if "/" in place or not PART.fullmatch(place)]
        if len(folders) > 1:
            return
        if self.survey.faults:
            raise InputError(*self.survey.faults)
        for item in tables:
            if item.link is None and self.role(item.path) == "train":
                raise self._foreign_ids(item)
        for item in tables:
            if item.link is not None and self.role(item.path) in ("train", ""):
                others = [name for name in item.table.header if name != item.link.column]
                raise self.refuse(
                    f"{item.path} names the images, but none of its other columns ({few(others, 8) or 'it has none'}) "
                    "looks like one of classes",
                    "name it with --label COLUMN; numbers such as weights have to become classes first",
                )

    def _foreign_ids(self, item: SurveyedTable) -> InputError:
        """A table whose cells name none of the images."""
        place, names = next(iter(self.survey.images.items()))
        files = [f"{place}/{name}".lstrip("/") for name in sorted(names)]
        known = self.survey.index.by_name
        for name in item.table.header:
            cells = item.table.columns[name]
            if all("/" in cell and cell.rpartition("/")[2] in known for cell in cells[:20]):
                start = cells[0].rpartition("/")[0]
                return self.refuse(
                    f"column {name} of {item.path} holds paths of another place, {few(cells, 2)}",
                    f"cut off what does not lie in {self.survey.folder}, such as {start}/",
                )
        cells_shown = "; ".join(f"{name}: {few(item.table.columns[name])}" for name in item.table.header[:4])
        return self.refuse(
            f"no column of {item.path} names the images; it holds {cells_shown}; images are called {few(files, 2)}",
            "one column must hold their names or paths, with or without ending",
        )

    def _check_columns(self, names: Sequence[str], option: str, tables: Sequence[SurveyedTable]) -> None:
        """Refuse a column that no table has."""
        headers = {name: item.path for item in tables for name in item.table.header}
        for name in names:
            if name not in headers and not name.startswith("file."):
                near = closest(name, list(headers))
                known = f"did you mean {near} (of {headers[near]})?" if near else f"there are {few(list(headers), 12)}"
                raise InputError(f"{option} {name}: no table of {self.survey.folder} has such a column; {known}")

    def taken(self, item: SurveyedTable) -> set[str]:
        """Columns that can't be the label, since they are something else."""
        box = find_box(item.table.header)
        folds = find_folds(item.table)
        names = {link.column for link in item.links} | set(box[0] if box else ()) | {folds or ""}
        return names | {self.choice.group or "", self.choice.id or ""} | set(find_splits(item.table))

    def label_of(self, item: SurveyedTable) -> LabelColumns | None:
        """The label's columns, of the person's choice or the likeliest."""
        if item.path not in self.labels:
            self.labels[item.path] = self._label_of(item)
        return self.labels[item.path]

    def _label_of(self, item: SurveyedTable) -> LabelColumns | None:
        named = self.choice.label
        sample, test = self.sample(), self.test_table(item)
        answers = [] if sample is None else [name for name in sample.table.header if name != sample_id(sample)]
        tested = test.table.header if test else ()
        if named is None:
            return find_label(item.table, self.taken(item), answers, tested)
        names = named.split(",")
        if not set(names) <= set(item.table.header):
            return None
        others = set(item.table.header) - set(names)
        label = find_label(item.table, others, names if len(names) > 1 else [], ())
        if label is None or set(label.columns) != set(names):
            distinct = len(set(item.table.columns[names[0]]))
            if len(names) > 1 or distinct < 2:
                kind = "0 and 1 in each of them" if len(names) > 1 else "two or more classes"
                raise InputError(
                    f"--label {named}: {item.path} has {counted(distinct, 'value')} there, but {kind} is needed"
                )
            label = LabelColumns((named,), "one", "")
        return LabelColumns(label.columns, label.kind, "asked for with --label", (), label.separator)

    def test_table(self, train: SurveyedTable) -> SurveyedTable | None:
        """The table of test rows: by --test, by its name, else a labelled validation table."""
        if self.choice.test is not None:
            return next((item for item in self.survey.tables if item.path == self.choice.test), None)
        by_role: dict[str, SurveyedTable] = {}
        for item in self.survey.tables:
            if item is not train and item.path != train.path and item.link is not None:
                by_role.setdefault(self.role(item.path), item)
        sample = self.sample()
        if "test" in by_role or (sample is not None and sample.link is not None):
            return by_role.get("test")
        val = by_role.get("val")
        return by_role.get("test labels") if val is None or self.is_labelled_like(val, train) else val

    @staticmethod
    def is_labelled_like(table: SurveyedTable, train: SurveyedTable) -> bool:
        """Whether a validation table has the columns of the training table, and so its label."""
        return set(train.table.header) <= set(table.table.header)

    # A table of labels

    def table_layout(self, train: SurveyedTable) -> Layout:
        """Rows from tables, images by what a column says."""
        whole, parts = train, self.parts_of(train)
        if parts is not None:
            train = self.rows_where(train, *parts)
        label, link = self.label_of(train), train.link
        if label is None or link is None:
            raise TypeError("a training table is chosen by its label and its link")
        self.decide("training rows", train.path, f"{link.rows:,} of {len(train.table):,} rows name an image")
        spec: Values = {"table": train.path, **self.image_of(link)}
        test = self.test_rows(whole, link, parts)
        spec |= {"id": self.train_id(whole, link, test), "label": self.label_values(train, label)}
        if test is not None and parts is not None and test.get("table") == whole.path:
            test["id"] = spec["id"]
        if link.share < 1:
            rows = counted(len(train.table) - link.rows, "row names", "rows name")
            self.extra.append(f"{train.path}: {rows} an image that is not there")
        self.values["train"] = self.ordered(spec)
        self.group_rows(train, label, link)
        if parts is not None:
            self.part_rows(whole, *parts, test)
        elif test is None or test.get("table") != self.val_path(train):
            self.validate_by_table(train, link)
        self.extras(train, test)
        if test:
            self.values["test"] = self.ordered(test)
        self.submission(label, train, test)
        if test:
            classes = self.known_classes(train, label)
            if not self.name_folder_labels(test, classes):
                self.name_test_labels(test, classes, None if parts is not None else train)
        self.unused(link.places, test)
        return self.finish("a table and images")

    def known_classes(self, train: SurveyedTable, label: LabelColumns) -> list[str]:
        """The classes as `spelling_of` takes them: by name, in order where they are numbered."""
        classes = self.values["classes"]
        if isinstance(classes, list):
            return classes
        cells = set(train.table.columns[label.columns[0]])
        if label.separator is not None:
            empty = self.values["train"]["label"].get("empty", [])
            cells = {part.strip() for cell in cells - set(empty) for part in cell.split(label.separator)}
        return sorted(cells - {""}, key=natural_key)

    # Parts of one table, and a validation table

    def parts_of(self, train: SurveyedTable) -> tuple[str, dict[str, list[str]]] | None:
        """A column of the training table that says which rows train, validate and test."""
        parts = find_parts(train.table)
        return None if parts is None or parts[0] in (self.choice.label, self.choice.group) else parts

    def rows_where(self, table: SurveyedTable, column: str, parts: dict[str, list[str]]) -> SurveyedTable:
        """The rows that train or validate: labels, groups and folds are looked for in them alone."""
        values = {*parts["train"], *parts.get("val", ())}
        kept = rows_with(table.table, column, values)
        self.labels.pop(table.path, None)
        return SurveyedTable(
            table.path, kept, tuple(replace(link, rows=round(link.share * len(kept))) for link in table.links)
        )

    def part_rows(self, table: SurveyedTable, column: str, parts: dict[str, list[str]], test: Values | None) -> None:
        """Training and validation rows by a column of their table."""
        cells = Counter(table.table.columns[column])
        spec = self.values["train"]
        spec["where"] = {"column": column, "values": parts["train"]}
        self.values["train"] = self.ordered(spec)
        shown = ", ".join(f"{cells[value]:,} {value}" for values in parts.values() for value in values)
        self.decide("parts", f"column {column}", shown, "all rows to train on", "delete where and validation")
        if "val" in parts:
            validation = {"where": {"column": column, "values": parts["val"]}}
            self.decide_validation(validation, sum(cells[value] for value in parts["val"]), "", few(parts["val"]))
        if "test" in parts and (test or {}).get("table") != table.path:
            count = sum(cells[value] for value in parts["test"])
            self.extra.append(
                f"not used: {counted(count, 'row')} of {table.path} where {column} is {few(parts['test'])}"
            )

    def val_path(self, train: SurveyedTable) -> str | None:
        """The table of validation rows."""
        tables = [item for item in self.survey.tables if self.role(item.path) == "val" and item.link is not None]
        return next((item.path for item in tables if item.path != train.path), None)

    def validate_by_table(self, train: SurveyedTable, link: ImageLink) -> None:
        """Take a labelled table of validation rows."""
        item = next((item for item in self.survey.tables if item.path == self.val_path(train)), None)
        if item is None or not self.is_labelled_like(item, train):
            return
        own = next((other for other in item.links if (other.column, other.kind) == (link.column, link.kind)), None)
        if own is None or link.kind == "folder":
            return
        spec: Values = {"table": item.path}
        if own.template != link.template:
            spec["image"] = own.template
        row_id = self.values["train"]["id"]
        columns = columns_of(row_id)
        cells, others = train.table.columns, item.table.columns
        is_unique = all(set(cells[name]).isdisjoint(others[name]) for name in columns if name in cells)
        if "row" in columns or not is_unique:
            spec["id"] = f"val/{row_id}"  # an id must mean one row
        self.decide_validation(spec, len(item.table), item.path)

    @staticmethod
    def image_of(link: ImageLink) -> Values:
        """Where the images of a table's rows lie."""
        return {"files" if link.kind == "folder" else "image": link.template}

    def test_rows(
        self, train: SurveyedTable, link: ImageLink, parts: tuple[str, dict[str, list[str]]] | None = None
    ) -> Values | None:
        """The rows to predict: of --test, a test table, the sample submission, or a folder that is left."""
        asked, sample = self.choice.test, self.sample()
        if asked == "none":
            self.decide("test rows", "none", "asked for with --test none")
            return None
        table = self.test_table(train)
        if table is not None and table.link is not None:
            return self.rows_of_test_table(table, sample)
        if asked is not None:
            return self.rows_of_test_folder(asked, "asked for with --test")
        if sample is not None and sample.link is not None and not _same_images(sample, train):
            return self.rows_of_sample(sample, sample.link)
        part = [place for place in self.survey.images if part_of(place) == "test" and place not in link.places]
        if part:
            base = os.path.commonpath(part)
            return self.rows_of_test_folder(base, f"a folder called {base.rpartition('/')[2]}")
        if parts is not None and "test" in parts[1]:
            column, values = parts[0], parts[1]["test"]
            count = sum(cell in values for cell in train.table.columns[column])
            self.decide("test rows", f"{counted(count, 'row')} of {train.path}", f"column {column} says {few(values)}")
            return {"table": train.path, "where": {"column": column, "values": values}, **self.image_of(link)}
        why = "no test table, sample submission or test folder; runs have out-of-fold rows only"
        self.decide("test rows", "none", why)
        return None

    def rows_of_sample(self, sample: SurveyedTable, link: ImageLink) -> Values:
        """The rows that the sample submission asks for, whose ids name the images."""
        self.decide(
            "test rows", sample.path, f"its {counted(len(sample.table), 'id names an image', 'ids name images')}"
        )
        return {"table": sample.path, "id": f"{{{link.column}}}", **self.image_of(link)}

    def rows_of_test_table(self, table: SurveyedTable, sample: SurveyedTable | None) -> Values:
        """The rows of a table, with the ids that the sample submission has."""
        if table.link is None:
            raise InputError(f"--test {table.path}: no column names images")
        cells = table.table.columns
        if sample is not None and sample.link is not None and self.choice.test is None:
            wanted = set(sample.table.columns[sample_id(sample)])
            is_spelled_otherwise = all(set(column) != wanted for column in cells.values())  # as with an ending
            if is_spelled_otherwise and sample.link.places & table.link.places:
                return self.rows_of_sample(sample, sample.link)
        role = self.role(table.path)
        why = {"val": "labelled rows apart from the training table", "test labels": "the test rows, with labels"}
        usual = f"{table.link.rows:,} of {len(table.table):,} rows name an image"
        self.decide("test rows", table.path, why.get(role, usual))
        row_id = f"{{{table.link.column}}}"
        if sample is not None and len(sample.table) == len(table.table):
            asked = sample.table.columns[sample_id(sample)]
            same = [name for name in table.table.header if set(cells[name]) == set(asked)]
            if same:
                row_id = f"{{{same[0]}}}"
            elif list(asked) == list(map(str, range(len(asked)))):
                row_id = "{row}"
                self.notes["test.id"] = "the sample submission counts the rows, from 0"
        elif len(set(cells[table.link.column])) < len(table.table):
            row_id = "{row}"
        return {"table": table.path, "id": row_id, **self.image_of(table.link)}

    def train_id(self, train: SurveyedTable, link: ImageLink, test: Values | None) -> str:
        """A template that is unique in the training table, and never the id of a test row."""
        cells = train.table.columns
        if self.choice.id is not None:
            if "{" in self.choice.id:
                return self.choice.id
            self._check_columns([self.choice.id], "--id", [train])
            return f"{{{self.choice.id}}}"
        if link.kind == "folder":
            return f"{{{link.column}}}/{{file.name}}"
        if link.kind == "class-folder":
            other = next(column for column in columns_of(link.template) if column != link.column)
            return f"{{{other}}}/{{{link.column}}}"
        wanted = [column for column in columns_of((test or {}).get("id", "")) if column in cells]
        # Rows of one table have ids that are unique in all of it.
        tested = set(self.test_ids(test)) if (test or {}).get("table") != train.path else set()
        for column in [*wanted, link.column]:
            if len(set(cells[column])) == len(cells[column]):
                # Predictions are joined by id, so the ids of both tables must not meet.
                return f"{{{column}}}" if tested.isdisjoint(cells[column]) else f"train/{{{column}}}"
        self.notes["train.id"] = f"column {link.column} repeats itself, so the row's number makes it unique"
        return f"{{{link.column}}}#{{row}}"

    def label_values(self, train: SurveyedTable, label: LabelColumns) -> Values:
        """`train.label`, and `classes` and `metric` with it."""
        shown = ", ".join(label.columns[:4]) + (", …" if len(label.columns) > 4 else "")
        other = label.others[0] if label.others else ""
        self.decide("label", f"column{'s' * (len(label.columns) > 1)} {shown}", label.why, other, f"--label {other}")
        if label.kind in ("one-hot", "multi-hot"):
            self.values |= {"classes": list(label.columns), "metric": "macro_f1"}
            return {"columns": label.kind}
        cells = train.table.columns[label.columns[0]]
        if label.kind == "several":
            self.values |= {"classes": "found", "metric": "macro_f1"}
            empty = [name for name in ("", "none", "None", "No Finding") if name in set(cells)]
            self.decide(
                "several classes a row", f"with {label.separator!r} between them", f"as in {max(cells, key=len)!r}"
            )
            value: Values = {"value": f"{{{label.columns[0]}}}", "separator": label.separator}
            return value if set(empty) <= {""} else value | {"empty": empty}
        counts = Counter(cells)
        if len(counts) < 2:
            raise self.refuse(
                f"only one class, {next(iter(counts))!r}, in column {label.columns[0]} of {train.path}",
                "two are needed; name another column with --label COLUMN",
            )
        even = max(counts.values()) <= UNEVEN * min(counts.values())
        self.values |= {"classes": "found", "metric": "accuracy" if even else "macro_f1"}
        names = self.class_names(counts)
        if names is not None:
            self.values["classes"] = names
            return {"value": f"{{{label.columns[0]}}}", "kind": "index"}
        return {"value": f"{{{label.columns[0]}}}"}

    def class_names(self, labels: Collection[str]) -> list[str] | None:
        """The names of numbered classes, where a JSON file has them."""
        for path in self.survey.json_paths[:8]:
            file = self.survey.folder / path
            try:
                document = json.loads(file.read_text(encoding="utf-8")) if file.stat().st_size < _MOST_JSON else None
            except (OSError, ValueError):
                continue
            if names := map_of_names(document, labels):
                self.decide("class names", path, f"it has a name for each of 0 to {len(names) - 1}")
                self.notes["classes"] = f"0 to {len(names) - 1} in the table, as in {path}"
                return names
        return None

    def group_rows(self, train: SurveyedTable, label: LabelColumns, link: ImageLink) -> None:
        """What keeps rows together: --group, a column that is called so, or a part of the names."""
        spec, asked = self.values["train"], self.choice.group
        if asked == "none":
            return
        if asked is not None:
            if "{" not in asked:
                self._check_columns([asked], "--group", [train])
            spec["group"] = asked if "{" in asked else f"{{{asked}}}"
            cells = set(train.table.columns.get(asked, ()))
            unknown = [value for value in UNKNOWN_GROUPS if value in cells]
            if set(unknown) - {""}:
                spec["group_unknown"] = unknown
            self.decide("group", asked, "asked for with --group")
            return
        groups = find_groups(train.table, self.taken(train) - {link.column} | set(label.columns))
        if link.kind == "folder":
            spec["group"] = f"{{{link.column}}}"
            self.decide("group", f"column {link.column}", "a folder of images for each row", "none", "--group none")
        elif groups:
            name, group = groups[0]
            spec["group"] = group.template
            if set(group.unknown) - {""}:
                spec["group_unknown"] = list(group.unknown)
                self.notes["train.group_unknown"] = "nobody knows: each such row is a group of its own"
            why = f"{group.groups:,} values, {group.rows_a_group:.1f} rows each"
            other, change = (groups[1][0], f"--group {groups[1][0]}") if len(groups) > 1 else ("none", "--group none")
            self.decide("group", f"column {name}", why, other, change)
            self.notes["train.group"] = "its rows stay on one side of every split"
        elif link.kind == "file" and len(label.columns) == 1:
            names = train.table.columns[link.column]
            self.group_by_name([""] * len(names), names, train.table.columns[label.columns[0]], f"{{{link.column}}}")

    def extras(self, train: SurveyedTable, test: Values | None) -> None:
        """A fold column, a box, and columns that a person has to decide about."""
        spec = self.values["train"]
        folds = find_folds(train.table)
        if folds and "validation" in self.values:
            self.extra.append(f"{train.path}: column {folds} is not used, since validation rows are given")
        elif folds:
            count = len(set(train.table.columns[folds]))
            spec["fold_column"] = folds
            self.decide("folds", f"column {folds}", f"{count} values", "folds of our own", "delete train.fold_column")
        box = find_box(train.table.header)
        if box is not None:
            names, form = box
            header = next((i.table.header for i in self.survey.tables if test and i.path == test.get("table")), ())
            if test is None or set(names) <= set(header):
                spec["box"] = {"columns": names, "format": form, "margin": 0.1}
                if test is not None:
                    test["box"] = spec["box"]
                self.decide("box", ", ".join(names), "their names", "the whole images", "delete box")
        for name, values in find_splits(train.table).items():
            if name == spec.get("where", {}).get("column"):
                continue
            advice = f"rows for training alone: train_only: {{column: {name}, values: [{values[0]}]}}"
            if any(value.lower() in ("test", "testing") for value in values):
                advice = "to keep some apart, move them into a table of their own, such as test.csv"
            shown = ", ".join(values)
            self.extra.append(f"{train.path}: column {name} holds {shown}, but all rows are trained on; {advice}")

    def submission(self, label: LabelColumns, train: SurveyedTable, test: Values | None) -> None:
        """The organiser's format, as far as a sample shows it."""
        sample = self.sample()
        name = label.columns[0]
        is_index = self.values["train"]["label"].get("kind") == "index"
        if sample is None or test is None:
            if test is not None:
                column = (columns_of(test["id"]) or ["id"])[0]
                column = column if "table" in test and column != "row" else "id"
                spec = {"id": column, "label": name, "value": "index" if is_index else "name"}
                if len(label.columns) > 1:
                    spec = {"id": column, "value": "probability"}
                self.values["submission"] = spec
            return
        row_id = sample_id(sample)
        answers = [column for column in sample.table.header if column != row_id]
        spec = {"sample": sample.path, "id": row_id}
        if len(answers) > 1:
            cells = {cell for column in answers for cell in sample.table.columns[column]}
            is_binary = label.kind in ("multi-hot", "several") and cells == {"0", "1"}
            spec["value"] = "binary" if is_binary else "probability"
            if not is_binary:
                self.values["metric"] = "log_loss" if label.kind == "one" else "roc_auc"
        else:
            spec |= {"label": answers[0], "value": "index" if is_index else "name"}
            spec |= self.probability_asked(sample, answers[0], train, label)
        self.values["submission"] = spec
        self.decide_submission(sample, answers)
        self.notes["metric"] = "no file says what the organiser scores by: see docs/metrics.md"

    def probability_asked(
        self, sample: SurveyedTable, answer: str, train: SurveyedTable, label: LabelColumns
    ) -> Values:
        """`probability_of` the second of two classes, where the sample or the shares of the classes speak for it."""
        if label.kind != "one":
            return {}
        counts = Counter(train.table.columns[label.columns[0]])
        classes = self.values["classes"]
        if set(counts) != {"0", "1"} and not (len(counts) == 2 and has_word(answer, _PROBABILITY_WORDS)):
            return {}
        cells = set(sample.table.columns[answer])
        is_real = any("." in cell for cell in cells) and not cells <= set(counts)
        is_rare = min(counts.values()) < _RARE * sum(counts.values())
        if not is_real and not (is_rare and has_word(answer, _PROBABILITY_WORDS)):
            return {}
        self.values["metric"] = "roc_auc"
        second = classes[1] if isinstance(classes, list) else sorted(counts, key=natural_key)[1]
        return {"value": "probability", "probability_of": second}

    def unused(self, used: Collection[str], test: Values | None) -> None:
        """Tell of directories with many images that nothing names."""
        table, start = (test or {}).get("table"), (test or {}).get("files", "").partition("*")[0]
        seen = set(used).union(
            *(link.places for item in self.survey.tables if item.path == table for link in item.links)
        )
        left = [
            place for place in self.survey.images if place not in seen and not (start and f"{place}/".startswith(start))
        ]
        if left:
            self.not_used(left)


def _same_images(table: SurveyedTable, other: SurveyedTable) -> bool:
    """Whether most rows of a table name images that the other one names too, however they are spelled."""
    if table.link is None or other.link is None or not table.link.places & other.link.places:
        return False
    cells = {stem_of(cell) for cell in table.table.columns[table.link.column]}
    return len(cells & {stem_of(cell) for cell in other.table.columns[other.link.column]}) > len(cells) / 2
