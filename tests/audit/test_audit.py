"""The audit: each leak and each suspicion is told with its code, its exact count, examples, and the line to add."""

from __future__ import annotations

import base64
import dataclasses
import tempfile
import uuid
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.audit.audit import audit
from ensemble.audit.bad_images import duplicate_clusters
from ensemble.audit.findings import CODES, SHOWN, Finding, with_examples
from ensemble.core.dataset import DatasetDescription
from ensemble.core.foldplan import FoldPlan
from ensemble.data.folds import make_plan
from ensemble.data.table import Rows, Table, load_table
from ensemble.errors import InputError
from ensemble.images.scan import ImageScan
from ensemble.recipe.parts import FoldsPart
from ensemble.recipe.yaml import parse_yaml

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
    validation = dataclasses.replace(rows, has_validation=True)
    message = only(audit(validation, plan, None, None), "group-overlap").message
    assert "validation rows share groups with training rows" in message and "fold column" not in message


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
    assert "shared by 12 of 12 images" in finding.message
    assert 'fields: {value: "{file.stem}", pattern: "{name}_{rest}"} and group: "{name}"' in finding.message
    names = [Path(path).name for path in paths]
    line = 'fields: {value: "{image}", pattern: "{name}_{rest}"}'
    assert line in hints(with_paths(paths, image=names))[0].message
    line = 'fields: {value: "{image}", regex: \'(?:.*/)?(?P<name>'
    assert line in hints(with_paths(paths, image=paths))[0].message


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


NOT_GROUPED = {
    "one counter": lambda row, random: f"img_{row:04d}",
    "one counter without zeros": lambda row, random: f"image ({row})",
    "a bare counter": lambda row, random: f"{row:06d}",
    "a counter for each class": lambda row, random: f"{'ab'[row % 2]}.{row // 2}",
    "the class behind a counter": lambda row, random: f"{row // 2:05d}_{('cat', 'dog')[row % 2]}",
    "a long word and a counter": lambda row, random: f"Screenshot from camera-{row}",
    "three sources": lambda row, random: f"{('IMG', 'DSC', 'pic')[row % 3]}_{row:05d}",
    "shuffled numbers": lambda row, random: f"ISIC_{row * 7919 % 100003:07d}",
    "decimals": lambda row, random: f"{row // 2}.{row % 2}" if row % 2 else f"{row // 2}",
    "short hashes": lambda row, random: f"{random.getrandbits(32):08x}",
    "long hashes": lambda row, random: f"{random.getrandbits(128):032x}",
    "uuids": lambda row, random: str(uuid.UUID(int=random.getrandbits(128), version=4)),
    "letters and signs": lambda row, random: base64.urlsafe_b64encode(random.randbytes(8)).decode().rstrip("="),
    "pairs of short hashes": lambda row, random: f"{random.getrandbits(16):04x}_{random.getrandbits(16):04x}",
}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(sorted(NOT_GROUPED)),
    count=st.integers(12, 3000),
    seed=st.integers(0, 10**6),
    start=st.integers(0, 10**6),
    folders=st.sampled_from(["one", "by class", "counted in each"]),
)
def test_files_that_are_only_numbered_or_hashed_are_never_suspected(
    kind: str, count: int, seed: int, start: int, folders: str
) -> None:
    random = Random(seed)
    first = start // 2 * 2 if kind in ("decimals", "the class behind a counter") else 0
    names = list(dict.fromkeys(NOT_GROUPED[kind](first + row, random) for row in range(count)))
    labels = np.arange(len(names)) % 2
    if folders == "counted in each" and kind != "the class behind a counter":  # cats/1, dogs/1, cats/2, …
        names, labels = [name for name in names for _ in range(2)], np.arange(2 * len(names)) % 2
    places = ["train" if folders == "one" else f"train/{'ab'[label]}" for label in labels]
    rows = with_paths([f"{place}/{name}.jpg" for place, name in zip(places, names, strict=True)])
    assert hints(dataclasses.replace(rows, labels=labels)) == []


def pasted_groups(rows: Table, finding: Finding, folder: Path) -> dict[str, str]:
    """Each path's group when the line of the finding is pasted into a description of the same files."""
    (folder / "train").mkdir(parents=True)
    for path in rows.train.paths:
        (folder / path).touch()
    line = finding.advice.removeprefix("add to the train part: ").replace(" and group", "\n  group")
    text = "classes: [train, b]\ntrain:\n  files: train/*\n  id: '{file.path}'\n  label: {value: '{file.folder}'}\n  "
    values = parse_yaml(text + line, "pasted.yaml").values
    table = load_table("pasted", DatasetDescription.model_validate(values), folder)
    assert table.groups is not None
    return dict(zip(table.train.paths, table.groups, strict=True))


GROUPED = {
    "persons": lambda group, shot, random: f"{'_'.join(random_words(group))}_{shot + 1:04d}",
    "derived images": lambda group, shot, random: f"{group * 3}" + ["", "-with-mask", "-flip", "-rot90"][shot],
    "shots by letter": lambda group, shot, random: f"{group:03d}_{'abcd'[shot]}",
    "shots behind a number": lambda group, shot, random: f"{group:03d}{'abcd'[shot]}",
    "sides": lambda group, shot, random: f"{'_'.join(random_words(group))} {('left', 'right', 'front', 'back')[shot]}",
    "patients": lambda group, shot, random: f"scan_p{group}_{shot:02d}",
    "cameras": lambda group, shot, random: f"{group:04d}_c{shot + 1}s1_{random.getrandbits(20):06d}_00",
    "copies": lambda group, shot, random: f"photo {group}" + ["", " (1)", " (2)", " - Copy"][shot],
}


def random_words(group: int) -> list[str]:
    """Two or three words of nobody else, without a digit."""
    letters = "".join(chr(97 + int(digit)) for digit in f"{group:04d}")
    return ["George", f"W{letters[2:]}", f"Bush{letters}"] if group % 3 else ["Ann", f"O'Hara{letters}"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(GROUPED)),
    groups=st.integers(14, 300),
    single=st.floats(0, 0.7),
    seed=st.integers(0, 10**6),
    generic=st.sampled_from([0, 0, 200]),
)
def test_a_part_of_names_that_repeats_is_counted_and_the_line_to_paste_makes_these_groups(
    kind: str, groups: int, single: float, seed: int, generic: int, tmp_path: Path
) -> None:
    random = Random(seed)
    sizes = [1 if random.random() < single else random.randint(2, 4) for _ in range(groups)]
    sizes[:13] = [2] * 13  # more than ten groups: of fewer nobody could tell
    expected = {
        f"train/{GROUPED[kind](number, shot, random)}.jpg": number
        for number in range(groups)
        for shot in range(sizes[number])
    }
    others = [f"train/augmented_image_{row}.jpg" for row in range(generic)]
    rows = with_paths([*expected, *others])
    labels = np.array([random.randint(0, 1) for _ in rows.train.paths])
    (finding,) = hints(dataclasses.replace(rows, labels=labels))
    several = [size for size in sizes if size > 1]
    assert finding.count == len(several)
    assert f"shared by {sum(several):,} of {len(rows.train.paths):,} images" in finding.message
    assert {row.path for row in finding.rows()} == {path for path, number in expected.items() if sizes[number] > 1}
    assert all(expected[row.path] == expected[row.partner] and row.path != row.partner for row in finding.rows())
    pasted = pasted_groups(rows, finding, Path(tempfile.mkdtemp(dir=tmp_path)))
    assert len(set(pasted.values())) == groups + generic
    assert len({(expected[path], pasted[path]) for path in expected}) == groups


def test_pairs_in_two_class_folders_are_told_though_the_names_of_other_files_recur_in_both() -> None:
    plain = [f"without/{number}.jpg" for number in range(600)]
    made = [f"with/{number}-with-mask.jpg" for number in range(0, 600, 3)]
    both = [f"{place}/augmented_image_{number}.jpg" for place in ("with", "without") for number in range(100)]
    rows = with_paths([*plain, *made, *both])
    labels = np.array([int(path.startswith("with/")) for path in rows.train.paths])
    (finding,) = hints(dataclasses.replace(rows, labels=labels))
    assert (finding.count, finding.examples[0]) == (200, "0 (2 rows)")
    assert "shared by 400 of 1,000 images" in finding.message
    assert "regex: '(?P<name>.+?)(?:-with-mask)?'} and group: \"{name}\"" in finding.message


def test_persons_and_pairs_of_one_dataset_are_told_together() -> None:
    persons = [f"train/{'_'.join(random_words(number))}_{shot:04d}.jpg" for number in range(80) for shot in (1, 2)]
    pairs = [f"train/{number}{end}.jpg" for number in range(50) for end in ("", "-with-mask")]
    rows = with_paths([*persons, *pairs, *(f"train/img_{row}.jpg" for row in range(300))])
    (finding,) = hints(dataclasses.replace(rows, labels=np.random.default_rng(0).integers(0, 2, 560)))
    assert finding.count == 130
    assert 'and group_unknown: ["", img]' in finding.message


def test_counters_of_folders_are_grouped_within_their_folder() -> None:
    rows = with_paths([f"{place}/{number}{end}.jpg" for place in "ab" for number in range(40) for end in ("", "_flip")])
    (finding,) = hints(dataclasses.replace(rows, labels=np.repeat([0, 1], 80)))
    assert finding.count == 80
    assert 'group: "{file.folder}/{name}"' in finding.message


def test_a_hint_at_groups_stays_where_only_duplicates_are_kept_together() -> None:
    rows = with_paths([f"train/{row // 3:03d}_{'abc'[row % 3]}.jpg" for row in range(COUNT)])
    plan = plan_of(rows, groups=tuple(rows.train.ids))
    assert [finding.code for finding in audit(rows, plan, None, None)] == ["possible-group"]


def rows_by_path(finding: Finding) -> dict[str, tuple[str, str, int | None]]:
    return {row.path.split("/")[-1]: (row.partner.split("/")[-1], row.what, row.distance) for row in finding.rows()}


def test_every_row_of_a_leak_has_its_nearest_partner_on_another_side_and_the_distance() -> None:
    rows = table()
    scan = with_copies(with_copies(with_copies(scan_of(rows.train), {2: 0, 4: 0}), {6: 0}, bits=2), {7: 0}, bits=3)
    findings = audit(rows, plan_of(rows, [0, 1, 1, 0, 0, 1, 1, 1, 0, 1, 0, 1]), scan, None)
    exact = rows_by_path(only(findings, "exact-duplicate"))
    assert exact == {
        "id00.jpg": ("id02.jpg", "the same bytes: fold 0; partner: fold 1", 0),
        "id02.jpg": ("id00.jpg", "the same bytes: fold 1; partner: fold 0", 0),
        "id04.jpg": ("id02.jpg", "the same bytes: fold 0; partner: fold 1", 0),
    }
    near = rows_by_path(only(findings, "near-duplicate"))
    assert near["id07.jpg"] == ("id00.jpg", "nearly the same: fold 1; partner: fold 0", 3)
    assert near["id06.jpg"] == ("id00.jpg", "nearly the same: fold 1; partner: fold 0", 2)
    conflict = rows_by_path(only(findings, "label-conflict"))
    assert conflict["id07.jpg"] == ("id06.jpg", "labelled b; partner: a", 1)


def test_the_partner_of_one_of_very_many_copies_is_on_another_side_too() -> None:
    rows = table(3000)
    scan = with_copies(scan_of(rows.train), {row: 0 for row in range(1, 3000)})
    finding = only(audit(rows, plan_of(rows, [0] * 2999 + [1]), scan, None), "exact-duplicate")
    partners = {row.path: row.partner for row in finding.rows()}
    assert len(partners) == finding.count == 3000
    last = rows.train.paths[-1]
    assert {partner for path, partner in partners.items() if path != last} == {last}


def test_test_images_do_not_chain_training_images_together() -> None:
    """Two that only a test image between them links are kept together by no plan, so that is not advised either."""
    rows = table()
    assert rows.test is not None
    train, test = scan_of(rows.train), scan_of(rows.test, 50)
    test.phash[0] = train.phash[0] ^ np.uint64(0b1111)
    train.phash[2] = train.phash[0] ^ np.uint64(0b11111111)
    findings = audit(rows, plan_of(rows), train, test)
    assert [finding.code for finding in findings] == ["train-test-duplicate"]
    assert rows_by_path(findings[0]) == {"t0.jpg": ("id00.jpg", "a test image like a training image", 4)}
    assert "delete" in findings[0].advice or "move" in findings[0].advice


@settings(max_examples=60, deadline=None)
@given(data=st.data(), count=st.integers(12, 40))
def test_keeping_duplicates_together_silences_the_finding_that_advised_it(data: st.DataObject, count: int) -> None:
    rows = table(count)
    assert rows.test is not None
    heads = data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=6, max_size=12))
    flips = st.lists(st.integers(0, 63), max_size=4)

    def hashes(number: int) -> npt.NDArray[np.uint64]:
        drawn = data.draw(st.lists(st.tuples(st.sampled_from(heads), flips), min_size=number, max_size=number))
        return np.array([head ^ sum({1 << bit for bit in bits}) for head, bits in drawn], dtype=np.uint64)

    train = dataclasses.replace(scan_of(rows.train), phash=hashes(count))
    test = dataclasses.replace(scan_of(rows.test, 500), phash=hashes(3))
    wish = FoldsPart(k=2, keep_together="duplicates", rare="allow")
    try:
        plan = make_plan(rows, wish, lambda: duplicate_clusters(rows.train, train, wish.near_distance))
    except InputError:  # a chain larger than a fold, or a class in one group
        return
    advised = [finding for finding in audit(rows, plan, train, test) if "keep_together" in finding.message]
    assert advised == []


def test_classes_that_case_or_blanks_alone_tell_apart_are_told_with_the_mapping_to_paste() -> None:
    classes = ("ANGER", "anger", "Fat Hen", "FatHen", "fear")
    labels = np.array([0, 1, 1, 1, 2, 2, 2, 3, 4, 4, 4, 4])
    finding = only(audit(table(classes=classes, labels=labels), None, None, None), "label-spelling")
    assert (finding.level, finding.count) == ("warning", 2)
    assert "add to train.label: map: {ANGER: anger, FatHen: Fat Hen}" in finding.message
    assert finding.examples[0] == "'anger' (3 rows) = 'ANGER' (1 row)"
    assert [(row.path, row.what) for row in finding.rows()] == [
        ("images/id00.jpg", "labelled 'ANGER', like 'anger'"),
        ("images/id07.jpg", "labelled 'FatHen', like 'Fat Hen'"),
    ]


def test_labels_that_lost_their_blanks_are_a_note() -> None:
    finding = only(audit(table(trimmed_labels=(3, 5)), None, None, None), "label-spelling")
    assert (finding.level, finding.count, finding.examples) == ("note", 2, ("id03", "id05"))
    assert [row.path for row in finding.rows()] == ["images/id03.jpg", "images/id05.jpg"]


def test_each_row_of_a_group_on_two_sides_is_listed_with_one_of_the_other_side() -> None:
    rows = table(groups=tuple(f"person{row // 3}" for row in range(COUNT)))
    finding = only(audit(rows, plan_of(rows, [0, 0, 1] * 4), None, None), "group-overlap")
    listed = rows_by_path(finding)
    assert len(listed) == COUNT
    assert listed["id00.jpg"] == ("id02.jpg", "group person0: fold 0; partner: fold 1", None)


def test_findings_as_json_are_complete_only_when_asked_for() -> None:
    rows = table()
    scan = dataclasses.replace(scan_of(rows.train), states=("truncated",) * 9 + ("ok",) * 3, reasons=("cut off",) * 12)
    finding = only(audit(rows, plan_of(rows), scan, None), "truncated")
    assert set(finding.plain()) == {"level", "code", "count", "message", "examples"}
    complete = finding.plain(every_row=True)
    assert [row["path"] for row in complete["rows"]] == list(rows.train.paths[:9])
    assert complete["rows"][0] == {"path": "images/id00.jpg", "what": "cut off", "partner": "", "distance": None}
    assert complete["advice"] in complete["message"] and complete["advice"]


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
