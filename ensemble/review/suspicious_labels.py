"""`labels`: training labels that are probably wrong, ranked by the out-of-fold rows of runs and blends.

How a label is judged is in `audit/label_errors.py`. This joins the rows, adds what is known of their images, and writes
the table from which a person makes corrections. No label is changed and no row left out here.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemble.audit.bad_images import differs_within, duplicate_clusters
from ensemble.audit.label_errors import FEWEST_ROWS, LabelErrors, find_label_errors
from ensemble.core.complaints import counted
from ensemble.core.files import save_text
from ensemble.core.labels import row_numbers, spelled
from ensemble.core.notebook import NotebookValue, check_arguments, listed
from ensemble.core.records import doubt_lines
from ensemble.core.run import RunFolder
from ensemble.core.text import JOINER
from ensemble.data.table import Table
from ensemble.errors import InputError
from ensemble.images.scan import scan_images
from ensemble.review.out_of_fold import JoinedRows, LabelSource, find_sources
from ensemble.runs.request import OnEvent, RecipeWords, load_rows, read_recipe

if TYPE_CHECKING:
    import pandas as pd

Integers = NDArray[np.int64]

MOST_LISTED = 100_000  # items of a document and lines of a table: more than a person can look at
_FEWEST_LISTED = 20  # a screen: with few mistakes, confident learning may flag none
_MOST_IN_A_SET = 20  # rows of one set of contradicting labels that are named
_PURE = 0.9  # share of groups of one class from which on a group of two is a contradiction: else groups mix classes
_COLUMNS = ("id", "label", "given", "score", "p_label", "p_given", "file", "group")


@dataclass(frozen=True, repr=False)
class SuspiciousLabels(NotebookValue):
    """Labels that are probably wrong; `document` is what `ens labels --json` prints."""

    document: dict[str, Any]

    @property
    def headline(self) -> str:
        """How many there are, of how many rows."""
        document = self.document
        found = counted(document["found"], "suspicious label")
        return f"{', '.join(document['names'])}: {found} in {counted(document['rows'], 'row')}"

    def table(self) -> pd.DataFrame:
        """A row for each listed label, the most suspicious first."""
        import pandas as pd

        return pd.DataFrame(self.document["labels"])


@check_arguments
def labels(
    paths: Sequence[Path | str] | Path | str,
    *,
    out: Path | str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
    on_event: OnEvent = lambda event: None,
) -> SuspiciousLabels:
    """Rank training labels by how wrong they look to models that did not see their rows.

    `paths`: runs, blends or `oof.npy` files of the same labels; of several, the mean. `out`: a new CSV file that can
    become `data.corrections` once the lines that are no mistakes are deleted.
    """
    outputs, target = Path(outputs), None if out is None else Path(out)
    if target is not None:
        check_new_table(target)
    sources = find_sources(listed(paths), outputs)
    joined = JoinedRows(sources)
    errors = find_label_errors(joined.read, joined.labels, len(joined.classes), joined.groups)
    facts = RowFacts.of(sources, joined, outputs, Path(folder), on_event)
    document = _document(sources, joined, errors, facts)
    if target is not None:
        save_text(target, _csv(joined, document["labels"]))
    return SuspiciousLabels({**document, "out": None if target is None else str(target)})


def check_new_table(path: Path) -> None:
    """Refuse a place that is no new CSV file: one that is there may hold a person's verdicts, or belong to a run."""
    if path.suffix != ".csv":
        raise InputError(f"--out {path}: give the name of a new .csv file")
    if path.exists():
        raise InputError(f"--out {path}: is there already and may hold your verdicts; delete it, or give another name")
    for parent in path.parents:
        if parent.exists() and not parent.is_dir():
            raise InputError(f"--out {path}: {parent} is a file, not a folder")


# What is known of the rows beside their probabilities


@dataclass(frozen=True)
class RowFacts:
    """Image, group and copies of each joined row, from the dataset that the runs were trained on."""

    files: Sequence[str]
    """Below the dataset's folder; empty where it is not here."""
    groups: Sequence[str] | None
    has_copy_in_training: NDArray[np.bool_]
    """Whether the models that predicted a row were trained on a copy of its image."""
    contradictions: list[dict[str, Any]] = field(default_factory=list)
    """Sets of copies with different labels: `rows` of `id`, `given` and `file`."""
    remarks: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls, sources: Sequence[LabelSource], joined: JoinedRows, outputs: Path, folder: Path, on_event: OnEvent
    ) -> RowFacts:
        """Read the dataset again as the runs' records name it; without it, little is known."""
        count = len(joined.ids)
        numbers = None if joined.groups is None else [str(number) for number in joined.groups.tolist()]
        nothing = np.zeros(count, dtype=np.bool_)
        table, distance, why = find_table(sources, outputs, folder, on_event)
        if table is None:
            remark = f"files and copies of the rows are unknown: {why}"
            return cls([""] * count, numbers, nothing, remarks=[remark])
        position = {row_id: row for row, row_id in enumerate(table.train.ids)}
        places = np.fromiter((position.get(row_id, -1) for row_id in joined.ids), dtype=np.int64, count=count)
        names = table.train.paths
        files = [names[place] if place >= 0 else "" for place in places.tolist()]
        groups = numbers
        if table.groups is not None and (places >= 0).all():
            groups = [table.groups[place] for place in places.tolist()]
        remarks = []
        if table.sha256 not in {oof.sidecar.get("dataset_sha256") for source in sources for oof in source.oofs}:
            remarks.append(f"{table.train.folder}: has changed since these runs were trained; files are those of now")
        clusters = duplicate_clusters(table.train, scan_images(table.train, outputs / "cache"), distance)
        if table.train.dropped:  # a row that is left out is nobody's copy
            dropped = np.array([row_id in table.train.dropped for row_id in table.train.ids], dtype=np.bool_)
            clusters = np.where(dropped, len(clusters) + np.arange(len(clusters)), clusters)
        copies = _copies_in_training(joined, clusters, places)
        return cls(files, groups, copies, _contradicting_copies(table, clusters), remarks)


def find_table(
    sources: Sequence[LabelSource], outputs: Path, folder: Path, on_event: OnEvent
) -> tuple[Table | None, int, str]:
    """The rows that the first readable run was trained on, its `folds.near_distance`, and why there are none."""
    why = "no run.json beside these files names a dataset"
    for member in (member for source in sources for member in source.members):
        run = RunFolder(member.path.parent)
        try:
            record = run.load_record()
            if record is None:
                continue
            asked = record["asked"]
            if not Path(asked["recipe"]).exists():
                why = f"{run.path}: its recipe, {asked['recipe']}, which names its rows, is gone"
                continue
            words = RecipeWords(asked["recipe"], asked["sets"], asked["data"], of_run=run.path)
            _, resolved = read_recipe(words, folder=folder, outputs=outputs, earlier={run.name: record}.get)
            return load_rows(resolved, outputs, on_event), resolved.recipe.folds.near_distance, ""
        except InputError as error:  # such as images on another machine: the ranking needs none of them
            why = error.messages[0]
    return None, 0, why


def _copies_in_training(joined: JoinedRows, clusters: Integers, places: Integers) -> NDArray[np.bool_]:
    """Rows with a copy in another fold, or among rows that are never validated: their models were trained on it."""
    result = np.zeros(len(places), dtype=np.bool_)
    if joined.folds is None:
        return result
    known = places >= 0
    for folds in joined.folds:
        fold_of = np.full(len(clusters), -2, dtype=np.int64)  # rows without a prediction are always trained on
        fold_of[places[known]] = folds[known]
        result[known] |= differs_within(clusters, fold_of)[places[known]]
    return result


def _contradicting_copies(table: Table, clusters: Integers) -> list[dict[str, Any]]:
    """Sets of copies of one image that have different labels."""
    differs = differs_within(clusters, row_numbers(table.labels))
    texts = spelled(table.labels, table.classes)
    return [
        {
            "kind": "copies",
            "count": len(rows),
            "rows": [
                {"id": table.train.ids[row], "given": texts[row], "file": table.train.paths[row]}
                for row in rows[:_MOST_IN_A_SET]
            ],
        }
        for rows in _sets_of(clusters, differs)
    ]


def _mixed_groups(joined: JoinedRows, facts: RowFacts) -> list[dict[str, Any]]:
    """Groups with rows of several labels, where nearly all groups have one label."""
    if joined.groups is None or facts.groups is None:
        return []
    differs = differs_within(joined.groups, row_numbers(joined.labels))
    sizes = np.bincount(joined.groups)
    with_several = np.flatnonzero(sizes >= 2)
    mixed = np.unique(joined.groups[differs])
    if not len(mixed) or 1 - len(mixed) / len(with_several) < _PURE:
        return []
    texts = spelled(joined.labels, joined.classes)
    return [
        {
            "kind": "group",
            "group": facts.groups[rows[0]],
            "count": len(rows),
            "rows": [
                {"id": joined.ids[row], "given": texts[row], "file": facts.files[row]} for row in rows[:_MOST_IN_A_SET]
            ],
        }
        for rows in _sets_of(joined.groups, differs)
    ]


def _sets_of(numbers: Integers, chosen: NDArray[np.bool_]) -> Iterator[list[int]]:
    """The chosen rows, those of one number together."""
    rows = np.flatnonzero(chosen)
    order = rows[np.argsort(numbers[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(numbers[order])) + 1
    return (part.tolist() for part in np.split(order, starts) if len(part))


# The document


def _document(
    sources: Sequence[LabelSource], joined: JoinedRows, errors: LabelErrors, facts: RowFacts
) -> dict[str, Any]:
    items = [_item(rank, place, joined, errors, facts) for rank, place in enumerate(_listed(errors), start=1)]
    is_flagged = errors.is_flagged
    rank_of = {item["id"]: item["rank"] for item in reversed(items)}
    contradictions = [*facts.contradictions, *_mixed_groups(joined, facts)]
    contradictions.sort(key=lambda each: min(rank_of.get(row["id"], MOST_LISTED + 1) for row in each["rows"]))
    doubts = {name: why for source in sources for name, why in source.doubts.items()}
    return {
        "names": [source.name for source in sources],
        "dataset": sources[0].oofs[0].sidecar.get("dataset"),
        "classes": list(joined.classes),
        "rows": len(joined.ids),
        "groups": None if joined.groups is None else len(np.unique(joined.groups)),
        "found": int(is_flagged.sum()),
        "expected": round(errors.expected, 1),
        "listed": len(items),
        "unclaimed": [joined.classes[label] for label in errors.unclaimed.tolist()],
        "labels": items,
        "pairs": _pairs(joined, errors),
        "contradictions": contradictions[:MOST_LISTED],
        "copies_in_training": int(facts.has_copy_in_training.sum()),
        "unverified": list(doubts),
        "remarks": [*facts.remarks, *_remarks(joined, errors, facts), *doubt_lines(doubts)],
    }


def _listed(errors: LabelErrors) -> list[int]:
    """Places in the ranking that are listed: those flagged; and of those whose suggestion is likelier as many of the
    first as are expected to be wrong, and some in any case."""
    # Of labels flipped in a trial, 55 to 90 % are flagged; ranked down to the expected number, more are there.
    is_first = np.arange(len(errors.rows)) < max(_FEWEST_LISTED, math.ceil(errors.expected))
    chosen = errors.is_flagged | (is_first & (errors.scores > 0.5))
    places: list[int] = np.flatnonzero(chosen)[:MOST_LISTED].tolist()
    return places


def _item(rank: int, place: int, joined: JoinedRows, errors: LabelErrors, facts: RowFacts) -> dict[str, Any]:
    row = int(errors.rows[place])
    given, suggested = int(errors.given[place]), int(errors.suggested[place])
    return {
        "rank": rank,
        "id": joined.ids[row],
        "given": joined.classes[given] if given >= 0 else None,
        "suggested": joined.classes[suggested] if suggested >= 0 else None,
        "score": round(float(errors.scores[place]), 4),
        "p_given": round(float(errors.given_probs[place]), 4),
        "p_suggested": round(float(errors.suggested_probs[place]), 4),
        "flagged": bool(errors.is_flagged[place]),
        "file": facts.files[row],
        "group": None if facts.groups is None else facts.groups[row],
        "copy_in_training": bool(facts.has_copy_in_training[row]),
    }


def _pairs(joined: JoinedRows, errors: LabelErrors) -> list[dict[str, Any]]:
    """Which class is flagged as which other, and how often."""
    flagged = errors.is_flagged
    pairs = np.column_stack([errors.given[flagged], errors.suggested[flagged]]).astype(np.int64)
    unique, counts = np.unique(pairs, axis=0, return_counts=True)
    names = (*joined.classes, None)  # the last for -1
    order = np.argsort(-counts, kind="stable")
    return [
        {"given": names[unique[place, 0]], "suggested": names[unique[place, 1]], "count": int(counts[place])}
        for place in order.tolist()
    ]


def _remarks(joined: JoinedRows, errors: LabelErrors, facts: RowFacts) -> list[str]:
    lines = []
    if len(errors.unclaimed):
        names = ", ".join(joined.classes[label] for label in errors.unclaimed[:5].tolist())
        more = ", …" if len(errors.unclaimed) > 5 else ""
        what = "with and without it" if joined.sets else "of it"
        lines.append(
            f"{counted(len(errors.unclaimed), 'class has', 'classes have')} fewer than {FEWEST_ROWS} rows {what}, too "
            f"few to say anything: {names}{more}"
        )
    if copies := int(facts.has_copy_in_training.sum()):
        lines.append(
            f"{counted(copies, 'row was', 'rows were')} predicted by models that had seen a copy of the image: a wrong "
            "label that its copy shares is not found; `folds: {keep_together: duplicates}` would keep copies together"
        )
    return lines


def _csv(joined: JoinedRows, items: Sequence[Mapping[str, Any]]) -> str:
    """A line a row, `label` being the suggestion; of sets, the whole set with every suggestion of the row in it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(_COLUMNS)
    place = {row_id: row for row, row_id in enumerate(joined.ids)} if joined.sets else {}
    first: dict[str, Mapping[str, Any]] = {}
    changes: dict[str, list[Mapping[str, Any]]] = {}
    for item in items:
        first.setdefault(item["id"], item)
        changes.setdefault(item["id"], []).append(item)
    for row_id, item in first.items():
        given, label = item["given"], item["suggested"]
        if joined.sets:
            own = {joined.classes[index] for index in np.flatnonzero(joined.labels[place[row_id]]).tolist()}
            new = own.symmetric_difference(change["given"] or change["suggested"] for change in changes[row_id])
            given, label = (JOINER.join(name for name in joined.classes if name in names) for names in (own, new))
        numbers = (item["score"], item["p_suggested"], item["p_given"])
        writer.writerow([row_id, label, given, *numbers, item["file"], item["group"] or ""])
    return buffer.getvalue()
