"""The audit: each leak and each suspicion is told with its code, its exact count, examples, and the line to add."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ensemble.audit.audit import audit
from ensemble.audit.bad_images import duplicate_clusters
from ensemble.audit.findings import CODES, SHOWN, Finding, with_examples
from ensemble.core.foldplan import FoldPlan
from ensemble.data.folds import make_plan
from ensemble.data.table import Rows, Table
from ensemble.images.scan import ImageScan
from ensemble.recipe.parts import FoldsPart

COUNT = 12


def rows_of(ids: tuple[str, ...], paths: tuple[str, ...] | None = None) -> Rows:
    return Rows(ids, paths or tuple(f"images/{row_id}.jpg" for row_id in ids), Path("nowhere"))


def table(count: int = COUNT, **changes: object) -> Table:
    """Rows `id00`, `id01`, …, of classes a and b in turn, and three test rows."""
    ids = tuple(f"id{row:02d}" for row in range(count))
    plain = Table(
        dataset="made-up",
        classes=("a", "b"),
        train=rows_of(ids),
        labels=np.arange(count) % 2,
        groups=None,
        test=rows_of(("t0", "t1", "t2")),
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


def plan_of(rows: Table, folds: list[int] | None = None, **changes: object) -> FoldPlan:
    """Rows in turn on two folds, or as given."""
    count = len(rows.train.ids)
    given = np.array(folds if folds is not None else [row // 2 % 2 for row in range(count)])
    names = tuple(rows.classes[label] for label in rows.labels)
    plan = FoldPlan("made-up", "stratified", 2, 0, rows.train.ids, names, rows.groups, given.reshape(count, -1))
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


def scan_of(rows: Rows, start: int = 0) -> ImageScan:
    """Images that have nothing to do with one another."""
    count = len(rows.ids)
    random = np.random.default_rng(start)
    side = np.full(count, 64, dtype=np.int32)
    return ImageScan(
        ids=rows.ids,
        widths=side,
        heights=side,
        channels=np.full(count, 3, dtype=np.int32),
        states=("ok",) * count,
        sha256=tuple(f"content {start + row}" for row in range(count)),
        phash=random.integers(0, 2**64, count, dtype=np.uint64),
        means=np.full((count, 3), 0.5),
        stds=np.full((count, 3), 0.2),
        reasons=("",) * count,
    )


def with_copies(scan: ImageScan, copies: dict[int, int], bits: int | None = None) -> ImageScan:
    """Rows that are copies of others: of their bytes, or with `bits` bits of the hash changed."""
    sha256, phash = list(scan.sha256), scan.phash.copy()
    for row, source in copies.items():
        phash[row] = phash[source] ^ np.uint64((1 << (bits or 0)) - 1)
        if bits is None:
            sha256[row] = sha256[source]
    return dataclasses.replace(scan, sha256=tuple(sha256), phash=phash)


def only(findings: list[Finding], code: str) -> Finding:
    found = [finding for finding in findings if finding.code == code]
    assert len(found) == 1, findings
    return found[0]


def test_clean_rows_have_no_findings() -> None:
    rows = table()
    assert rows.test is not None
    assert audit(rows, plan_of(rows), scan_of(rows.train), scan_of(rows.test, 50)) == []


def test_a_group_on_two_sides_is_an_error() -> None:
    rows = table(groups=tuple(f"person{row // 2}" for row in range(COUNT)))
    assert audit(rows, plan_of(rows), None, None) == []
    finding = only(audit(rows, plan_of(rows, [0, 1] * 6), None, None), "group-overlap")
    assert (finding.level, finding.count) == ("error", 6)
    assert finding.examples == ("person0", "person1", "person2", "person3", "person4")


def test_a_group_that_is_split_in_the_second_repeat_alone_is_an_error() -> None:
    rows = table(groups=tuple(f"person{row // 2}" for row in range(COUNT)))
    plan = plan_of(rows)
    folds = np.column_stack([plan.folds, plan.folds])
    folds[3, 1] = 1 - folds[3, 1]
    finding = only(audit(rows, dataclasses.replace(plan, folds=folds), None, None), "group-overlap")
    assert (finding.count, finding.examples) == (1, ("person1",))


def test_a_validated_row_whose_group_is_trained_on_is_an_error() -> None:
    rows = table(groups=tuple(f"person{row // 2}" for row in range(COUNT)), given_folds=("0",) * COUNT)
    plan = plan_of(rows, [-1, 0, *[row // 2 % 2 for row in range(2, COUNT)]], scheme="column")
    finding = only(audit(rows, plan, None, None), "group-overlap")
    assert (finding.level, finding.examples) == ("error", ("person0",))
    assert "mend" in finding.message


def test_rows_made_train_only_for_their_groups_sake_are_told() -> None:
    groups = tuple(f"person{row // 2:02d}" for row in range(40))
    rows = table(40, groups=groups, train_only=np.arange(40) == 4, labels=np.arange(40) // 2 % 2)
    finding = only(audit(rows, make_plan(rows, FoldsPart(k=2)), None, None), "group-overlap")
    assert (finding.level, finding.count, finding.examples) == ("warning", 1, ("person02",))
    assert "1 other row of theirs can't be validated" in finding.message


def test_the_same_bytes_in_two_folds_are_told_with_the_line_that_keeps_them_together() -> None:
    rows = table()
    scan = with_copies(scan_of(rows.train), {2: 0, 4: 0, 8: 6})
    finding = only(audit(rows, plan_of(rows), scan, None), "exact-duplicate")
    assert (finding.level, finding.count) == ("warning", 5)
    assert "5 images in 2 sets" in finding.message
    assert "folds: {keep_together: duplicates}" in finding.message
    assert finding.examples == ("id00 = id02 = id04 (folds 0, 1)", "id06 = id08 (folds 0, 1)")


def test_copies_on_one_side_are_a_note() -> None:
    rows = table()
    finding = only(
        audit(rows, plan_of(rows, [0, 1, 0, 1, *[0, 1] * 4]), with_copies(scan_of(rows.train), {2: 0}), None),
        "exact-duplicate",
    )
    assert (finding.level, finding.count) == ("note", 2)


def test_near_copies_in_two_folds_are_told_up_to_the_distance_asked_for() -> None:
    rows = table()
    scan = with_copies(scan_of(rows.train), {2: 0}, bits=4)
    finding = only(audit(rows, plan_of(rows), scan, None), "near-duplicate")
    assert (finding.level, finding.count, finding.examples) == ("warning", 2, ("id00 = id02 (folds 0, 1)",))
    assert audit(rows, plan_of(rows), scan, None, near_distance=3) == []


@pytest.mark.parametrize("change", ["blank", "small", "other colour"])
def test_what_only_looks_alike_to_the_hash_is_no_near_duplicate(change: str) -> None:
    rows = table()
    scan = with_copies(scan_of(rows.train), {2: 0, 4: 0}, bits=0)
    if change == "blank":
        scan = dataclasses.replace(scan, states=("blank",) * COUNT)
    elif change == "small":
        scan = dataclasses.replace(scan, heights=np.full(COUNT, 31, dtype=np.int32))
    else:
        means = scan.means.copy()
        means[:, 0] = np.arange(COUNT) / COUNT
        scan = dataclasses.replace(scan, means=means)
    assert [finding.code for finding in audit(rows, plan_of(rows), scan, None) if finding.code != "blank"] == []


def test_copies_with_other_labels_contradict() -> None:
    rows = table()
    findings = audit(rows, plan_of(rows), with_copies(scan_of(rows.train), {1: 0}), None)
    finding = only(findings, "label-conflict")
    assert (finding.level, finding.count, finding.examples) == ("warning", 2, ("id00 (a) = id01 (b)",))
    near = only(audit(rows, plan_of(rows), with_copies(scan_of(rows.train), {1: 0}, bits=2), None), "label-conflict")
    assert (near.level, near.count) == ("note", 2)


def test_two_boxes_of_one_file_do_not_contradict() -> None:
    rows = table()
    boxes = np.tile(np.arange(COUNT, dtype=np.float64)[:, None], (1, 4))
    rows = dataclasses.replace(rows, train=dataclasses.replace(rows.train, boxes=boxes))
    findings = audit(rows, plan_of(rows), with_copies(scan_of(rows.train), {1: 0}), None)
    assert [(finding.level, finding.code) for finding in findings] == [("note", "label-conflict")]
    assert "nearly the same" in findings[0].message


def test_test_images_that_were_trained_on_are_told() -> None:
    rows = table()
    assert rows.test is not None
    train, test = scan_of(rows.train), scan_of(rows.test, 50)
    phash = test.phash.copy()
    phash[2] = train.phash[7] ^ np.uint64(1)
    test = dataclasses.replace(test, sha256=(train.sha256[5], *test.sha256[1:]), phash=phash)
    finding = only(audit(rows, plan_of(rows), train, test), "train-test-duplicate")
    assert (finding.level, finding.count, finding.examples) == ("warning", 2, ("t0 = id05", "t2 ~ id07"))
    assert "2 test images among the training images too, 1 byte for byte" in finding.message


@pytest.mark.parametrize(
    ("state", "code", "level"),
    [
        ("unreadable", "unreadable", "error"),
        ("too-large", "unreadable", "error"),
        ("truncated", "truncated", "error"),
        ("missing", "missing-file", "error"),
        ("blank", "blank", "warning"),
    ],
)
def test_bad_images_are_counted_and_named(state: str, code: str, level: str) -> None:
    rows = table()
    assert rows.test is not None
    states = tuple(state if row < 7 else "ok" for row in range(COUNT))
    scan = dataclasses.replace(scan_of(rows.train), states=states)
    finding = only(audit(rows, plan_of(rows), scan, None), code)
    assert (finding.level, finding.count, len(finding.examples)) == (level, 7, SHOWN)
    test_scan = dataclasses.replace(scan_of(rows.test, 50), states=(state, "ok", "ok"))
    assert only(audit(rows, plan_of(rows), scan_of(rows.train), test_scan), code).level == level


def test_bad_images_that_are_dropped_are_a_warning() -> None:
    rows = table()
    scan = dataclasses.replace(scan_of(rows.train), states=("truncated",) + ("ok",) * (COUNT - 1))
    assert only(audit(rows, plan_of(rows), scan, None, drops_bad=True), "truncated").level == "warning"


def test_classes_that_a_fold_lacks_are_told() -> None:
    rows = table(classes=("a", "b", "c", "d"), labels=np.array([0, 1] * 5 + [2, 2]))
    folds = [0, 0, 1, 1] * 2 + [0, 1, 0, 0]
    finding = only(audit(rows, plan_of(rows, folds), None, None), "rare-class")
    assert (finding.level, finding.count) == ("warning", 2)
    assert finding.examples == ("c (2 rows, not trained on in 1 fold)", "d (no rows)")


def test_files_that_no_table_names_are_a_note(tmp_path: Path) -> None:
    rows = table()
    (tmp_path / "images").mkdir()
    for name in ("id00.jpg", "t0.jpg", "stranger.JPG", "notes.txt", "._id01.jpg"):
        (tmp_path / "images" / name).touch()
    train = dataclasses.replace(rows.train, folder=tmp_path)
    finding = only(audit(dataclasses.replace(rows, train=train), plan_of(rows), None, None), "unlisted-file")
    assert (finding.level, finding.count, finding.examples) == ("note", 1, ("images/stranger.JPG",))


def test_unlisted_images_of_formats_that_cannot_be_read_are_counted_in_the_same_note(tmp_path: Path) -> None:
    rows = table()
    (tmp_path / "images").mkdir()
    for name in ("id00.jpg", "x.avif", "y.HEIC", ".z.svg"):
        (tmp_path / "images" / name).touch()
    train = dataclasses.replace(rows.train, folder=tmp_path)
    finding = only(audit(dataclasses.replace(rows, train=train), plan_of(rows), None, None), "unlisted-file")
    assert (finding.level, finding.count, finding.examples) == ("note", 2, ("images/x.avif", "images/y.HEIC"))
    assert "; 2 image files are of a format that can't be read (.avif, .heic): convert" in finding.message


def hints(rows: Table) -> list[Finding]:
    return [finding for finding in audit(rows, plan_of(rows), None, None) if finding.code == "possible-group"]


@pytest.mark.parametrize("name", ["patient_id", "person", "SubjectID", "source_id", "plant"])
def test_a_column_that_names_a_group_is_told_with_the_line_to_add(name: str) -> None:
    rows = table(columns={"image": [f"{row}" for row in range(COUNT)], name: [f"p{row // 3}" for row in range(COUNT)]})
    (finding,) = hints(rows)
    assert (finding.level, finding.count) == ("warning", 4)
    assert f'group: "{{{name}}}"' in finding.message
    assert finding.examples[0] == "p0 (3 rows)"


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("patient_id", [f"p{row}" for row in range(COUNT)]),  # each once
        ("patient_id", ["-1", ""] * 6),  # nobody knows
        ("person", ["x", "y"] * 6),  # the class again
        ("source_id", ["2019"] * 9 + ["2020"] * 3),  # two years
        ("person", ["x"] * 10 + ["y", "z"]),  # nearly all are one
        ("width", [str(row // 3) for row in range(COUNT)]),  # not called like a group
    ],
)
def test_a_column_that_is_no_group_is_not_suspected(name: str, values: list[str]) -> None:
    assert hints(table(columns={name: values})) == []


def test_nothing_is_suspected_where_groups_are_named() -> None:
    people = tuple(f"p{row // 2}" for row in range(COUNT))
    assert hints(table(groups=people, columns={"person": people})) == []


def with_paths(paths: list[str], **columns: list[str]) -> Table:
    rows = table(len(paths), columns=columns)
    return dataclasses.replace(rows, train=rows_of(rows.train.ids, tuple(paths)))


def test_folders_with_several_files_each_are_suspected() -> None:
    folders = [f"00{row // 3}_female" for row in range(COUNT)]
    paths = [f"train/{folder}/{row % 3}.jpg" for row, folder in enumerate(folders)]
    assert 'group: "{file.folder}"' in hints(with_paths(paths))[0].message
    assert 'group: "{place}"' in hints(with_paths(paths, place=folders))[0].message
    line = 'fields: {value: "{img}", pattern: "{folder}/{file}"} and group: "{folder}"'
    assert line in hints(with_paths(paths, img=[path.removeprefix("train/") for path in paths]))[0].message


@pytest.mark.parametrize(
    "paths",
    [
        [f"train/{'ab'[row % 2]}1/{row:04d}.jpg" for row in range(COUNT)],  # a folder a class
        [f"train/{row // 4:02d}/{row:04d}.jpg" for row in range(COUNT)],  # shards
        [f"train/{row:04d}/image.jpg" for row in range(COUNT)],  # a folder an image
    ],
)
def test_folders_that_are_no_group_are_not_suspected(paths: list[str]) -> None:
    assert hints(with_paths(paths)) == []


def test_common_beginnings_of_file_names_are_suspected() -> None:
    paths = [f"train/{row // 3:03d}_{'abc'[row % 3]}.jpg" for row in range(COUNT)]
    finding = hints(with_paths(paths))[0]
    assert (finding.count, finding.examples[0]) == (4, "000 (3 rows)")
    assert 'fields: {value: "{file.stem}", pattern: "{stem}_{shot}"} and group: "{stem}"' in finding.message
    names = [Path(path).name for path in paths]
    assert 'fields: {value: "{image}", pattern:' in hints(with_paths(paths, image=names))[0].message


@pytest.mark.parametrize(
    "paths",
    [
        [f"train/image_{row}.jpg" for row in range(COUNT)],  # one beginning for all
        [f"train/{'ab'[row % 2]}_{row}.jpg" for row in range(COUNT)],  # the class
        [f"train/{row:04d}.jpg" for row in range(COUNT)],
    ],
)
def test_numbered_file_names_are_not_suspected(paths: list[str]) -> None:
    assert hints(with_paths(paths)) == []


def test_findings_come_in_one_order_with_codes_of_the_closed_list() -> None:
    rows = table(groups=tuple(f"person{row // 2}" for row in range(COUNT)))
    scan = with_copies(scan_of(rows.train), {2: 0, 5: 4})
    findings = audit(rows, plan_of(rows, [0, 1] * 6), scan, None)
    assert [finding.level for finding in findings] == sorted(
        (finding.level for finding in findings), key=["error", "warning", "note"].index
    )
    assert {finding.code for finding in findings} <= set(CODES)
    assert findings == audit(rows, plan_of(rows, [0, 1] * 6), scan, None)


def test_clusters_to_keep_together_are_exact_and_near_ones() -> None:
    rows = table()
    scan = with_copies(with_copies(scan_of(rows.train), {3: 1}), {7: 3}, bits=2)
    assert duplicate_clusters(rows.train, scan, 4)[[1, 3, 7]].tolist() == [1, 1, 1]
    assert len(set(duplicate_clusters(rows.train, scan, 4).tolist())) == COUNT - 2


def test_dots_stand_for_examples_that_are_not_shown_only() -> None:
    assert with_examples("2 images in 1 set", 2, ["a = b"]) == "2 images in 1 set: a = b"
    assert with_examples("9 images", 9, list("abcde")) == "9 images: a, b, c, d, e, …"
    assert with_examples("5 images", 5, list("abcde")) == "5 images: a, b, c, d, e"
