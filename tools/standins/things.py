"""The layouts that turn up now and then: wide answers, relative paths, boxes, row numbers, classes in file names."""

from __future__ import annotations

import hashlib

from ensemble.core.randomness import generator
from standins.plan import TEST_LABELS_NAME, Look, Picture, Plan, csv_text, split_rows

__all__ = ["artists", "breeds_in_names", "cars", "class_folders", "digits", "dog_breeds", "row_numbers"]

_BREEDS = ("affenpinscher", "basset", "beagle", "boxer", "chow", "dingo", "great_dane", "pug", "saluki", "whippet")
_CATS = ("Abyssinian", "Bengal", "Egyptian_Mau", "Maine_Coon", "great_pyrenees", "pug")
_PAINTERS = ("Albrecht Durer", "Claude Monet", "Edgar Degas", "El Greco", "Frida Kahlo", "NA", "Paul Klee", "Titian")
_THINGS = ("bolt", "gear", "nut", "screw", "washer")
_SHAPES, _SHAPE_CODES = ("circle", "cross", "square", "triangle"), (0, 3, 1, 2)
_LARGEST_KIND, _ROWS_A_CLASS = 196, 8
_CAR_SIZE = (72, 96)


def dog_breeds(rows: int, seed: int) -> Plan:
    """Labels in `labels.csv`, test rows from files alone, a column of probabilities for each breed."""
    names = _as_many(_BREEDS, rows)
    train, test = split_rows(rows, [1] * len(names), seed)
    codes = [hashlib.md5(f"{seed}/{row}".encode(), usedforsecurity=False).hexdigest() for row in range(rows)]
    asked = sorted(codes[len(train) :])
    label_of = dict(zip(codes, train + test, strict=True))
    plan = Plan(
        [
            Picture(f"{'train' if row < len(train) else 'test'}/{code}.jpg", _look(label_of[code], len(names)))
            for row, code in enumerate(codes)
        ]
    )
    plan.texts["labels.csv"] = csv_text(
        ("id", "breed"), [(code, names[label_of[code]]) for code in codes[: len(train)]]
    )
    even = [f"{1 / len(names):.6f}"] * len(names)
    plan.texts["sample_submission.csv"] = csv_text(("id", *names), [(code, *even) for code in asked])
    plan.texts[TEST_LABELS_NAME] = csv_text(("id", "breed"), [(code, names[label_of[code]]) for code in asked])
    return plan


def artists(rows: int, seed: int) -> Plan:
    """Relative paths in both tables, ids that are no file names, and a painter called NA."""
    names = _as_many(_PAINTERS, rows)
    train, test = split_rows(rows, range(1, len(names) + 1), seed)
    plan = Plan([Picture(f"train/{row:04d}.jpg", _look(label, len(names))) for row, label in enumerate(train)])
    plan.pictures += [Picture(f"test/TEST_{row:05d}.jpg", _look(label, len(names))) for row, label in enumerate(test)]
    plan.texts["train.csv"] = csv_text(
        ("id", "img_path", "artist"), [(row, f"./train/{row:04d}.jpg", names[label]) for row, label in enumerate(train)]
    )
    ids = [f"TEST_{row:05d}" for row in range(len(test))]
    plan.texts["test.csv"] = csv_text(("id", "img_path"), [(one, f"./test/{one}.jpg") for one in ids])
    plan.texts["sample_submission.csv"] = csv_text(("id", "artist"), [(one, names[0]) for one in ids])
    answers = [(one, names[label]) for one, label in zip(ids, test, strict=True)]
    plan.texts[TEST_LABELS_NAME] = csv_text(("id", "artist"), answers)
    return plan


def class_folders(rows: int, seed: int) -> Plan:
    """A table without endings beside folders of classes; the same number in several classes, `1` and `1.2`."""
    train, test = split_rows(rows, (5, 4, 3, 2, 1), seed)
    plan = Plan()
    listed = []
    numbers = [0] * len(_THINGS)
    for label in train:
        numbers[label] += 1
        name = f"{numbers[label] // 2}.2" if numbers[label] % 2 else f"{numbers[label] // 2}"
        ending = (".jpg", ".png", ".jpeg")[numbers[label] % 3]
        plan.pictures.append(Picture(f"images/{_THINGS[label]}/{name}{ending}", _look(label, len(_THINGS))))
        listed.append((name, _THINGS[label]))
    names = [f"test {row}" for row in range(len(test))]
    plan.pictures += [
        Picture(f"test/{name}.jpg", _look(label, len(_THINGS))) for name, label in zip(names, test, strict=True)
    ]
    _finish(
        plan, ("image", "category"), listed, [(name, _THINGS[label]) for name, label in zip(names, test, strict=True)]
    )
    return plan


def row_numbers(rows: int, seed: int) -> Plan:
    """A test table of paths alone; the answers go by row number."""
    train, test = split_rows(rows, (3, 3, 2, 2), seed)
    plan = Plan([Picture(f"train/{row}.png", _coloured(label)) for row, label in enumerate(train)])
    plan.pictures += [Picture(f"test/{row:03d}x.png", _coloured(label)) for row, label in enumerate(test)]
    plan.texts["train.csv"] = csv_text(
        ("img_path", "label"), [(f"train/{row}.png", _SHAPES[label]) for row, label in enumerate(train)]
    )
    plan.texts["test.csv"] = csv_text(("img_path",), [(f"test/{row:03d}x.png",) for row in range(len(test))])
    plan.texts["sample_submission.csv"] = csv_text(("id", "label"), [(row, _SHAPES[0]) for row in range(len(test))])
    answers = [(row, _SHAPES[label]) for row, label in enumerate(test)]
    plan.texts[TEST_LABELS_NAME] = csv_text(("id", "label"), answers)
    return plan


def cars(rows: int, seed: int) -> Plan:
    """Small cars anywhere in large images, a box around each; kinds are numbers from 1."""
    kinds = max(2, min(_LARGEST_KIND, rows // _ROWS_A_CLASS))
    train, test = split_rows(rows, [1] * kinds, seed)
    random = generator("standin-cars", seed)
    header = ("img_file", "bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    plan = Plan()
    listed: list[tuple[object, ...]] = []
    asked: list[tuple[object, ...]] = []
    for part, labels, table in (("train", train, listed), ("test", test, asked)):
        for row, label in enumerate(labels):
            side = int(random.integers(20, 32))
            left, top = int(random.integers(0, _CAR_SIZE[1] - side)), int(random.integers(0, _CAR_SIZE[0] - side))
            box = (left, top, left + side, top + side)
            name = f"{part}_{row:05d}.jpg"
            look = Look(_hue(label, kinds), label % 6, box=box)
            plan.pictures.append(Picture(f"{part}/{name}", look, _CAR_SIZE))
            table.append((name, *box, label + 1))
    plan.texts["train.csv"] = csv_text((*header, "class"), listed)
    plan.texts["test.csv"] = csv_text(header, [cells[:-1] for cells in asked])
    plan.texts["sample_submission.csv"] = csv_text(("img_file", "class"), [(cells[0], 1) for cells in asked])
    plan.texts[TEST_LABELS_NAME] = csv_text(("img_file", "class"), [(cells[0], cells[-1]) for cells in asked])
    return plan


def breeds_in_names(rows: int, seed: int) -> Plan:
    """No table and no folders: `Egyptian_Mau_12.jpg`, where the breed itself holds the sign that ends it."""
    train, test = split_rows(rows, [1] * len(_CATS), seed)
    plan = Plan(
        [Picture(f"images/{_CATS[label]}_{row}.jpg", _look(label, len(_CATS))) for row, label in enumerate(train)]
    )
    names = [f"{row}.jpg" for row in range(len(test))]
    plan.pictures += [
        Picture(f"test/{name}", _look(label, len(_CATS))) for name, label in zip(names, test, strict=True)
    ]
    plan.texts["sample_submission.csv"] = csv_text(("file", "breed"), [(name, _CATS[0]) for name in names])
    answers = [(name, _CATS[label]) for name, label in zip(names, test, strict=True)]
    plan.texts[TEST_LABELS_NAME] = csv_text(("file", "breed"), answers)
    return plan


def digits(rows: int, seed: int) -> Plan:
    """Written digits in the layout of the embedded ones, for when those are too few or too many."""
    train, test = split_rows(rows, [1] * 10, seed)
    labels = train + test
    ids = [f"digit_{row:04d}" for row in range(rows)]
    plan = Plan(
        [Picture(f"images/{one}.png", Look(0, text=str(label)), (8, 8)) for one, label in zip(ids, labels, strict=True)]
    )
    rows_of = list(zip(ids, labels, strict=True))
    plan.texts["train.csv"] = csv_text(("id", "label"), rows_of[: len(train)])
    plan.texts["test.csv"] = csv_text(("id",), [row[:1] for row in rows_of[len(train) :]])
    plan.texts[TEST_LABELS_NAME] = csv_text(("id", "label"), rows_of[len(train) :])
    return plan


def _finish(plan: Plan, header: tuple[str, str], listed: list[tuple[str, str]], answers: list[tuple[str, str]]) -> None:
    """The four usual tables."""
    plan.texts["train.csv"] = csv_text(header, listed)
    plan.texts["test.csv"] = csv_text(header[:1], [row[:1] for row in answers])
    plan.texts["sample_submission.csv"] = csv_text(header, [(name, answers[0][1]) for name, _ in answers])
    plan.texts[TEST_LABELS_NAME] = csv_text(header, answers)


def _as_many(names: tuple[str, ...], rows: int) -> tuple[str, ...]:
    """As many classes as can have a few rows each."""
    return names[: max(2, min(len(names), rows // _ROWS_A_CLASS))]


def _look(label: int, classes: int) -> Look:
    return Look(_hue(label, classes), label % 6)


def _coloured(label: int) -> Look:
    return Look(label / len(_SHAPES), _SHAPE_CODES[label])


def _hue(label: int, classes: int) -> float:
    """Far apart for neighbours, distinct for all."""
    return label * 0.618 % 1 if classes > 12 else label / classes
