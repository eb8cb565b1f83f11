"""Leaves and seedlings: cassava and its merged variant, apple leaves with one-hot labels, a folder for each species."""

from __future__ import annotations

import json

import numpy as np

from ensemble.core.randomness import generator
from standins.plan import TEST_LABELS_NAME, Look, Picture, Plan, csv_text, split_rows

__all__ = ["cassava", "cassava_merged", "folders", "leaf_findings", "plant_pathology", "plant_pathology_2021"]

_DISEASES = (
    "Cassava Bacterial Blight (CBB)",
    "Cassava Brown Streak Disease (CBSD)",
    "Cassava Green Mottle (CGM)",
    "Cassava Mosaic Disease (CMD)",
    "Healthy",
)
_CASSAVA_ROWS = (1087, 2189, 2386, 13158, 2577)
_APPLE_CLASSES, _APPLE_ROWS = ("healthy", "multiple_diseases", "rust", "scab"), (516, 91, 622, 592)
_SYMPTOMS, _SYMPTOM_SHARES = ("complex", "frog_eye_leaf_spot", "rust", "scab"), (0.15, 0.3, 0.25, 0.4)
_SPECIES = ("Black-grass", "Charlock", "Common wheat", "Fat Hen", "Maize 2", "Maize 10", "Sugar beet")
_SPECIES_ROWS = (263, 390, 221, 475, 120, 101, 385)


def cassava(rows: int, seed: int) -> Plan:
    """Ids are file names; the answers are numbers."""
    return _cassava(rows, seed, share_2019=0.0)


def cassava_merged(rows: int, seed: int) -> Plan:
    """With rows of another year, taken by another camera: their colours are off."""
    return _cassava(rows, seed, share_2019=0.2)


def plant_pathology(rows: int, seed: int) -> Plan:
    """One-hot labels, ids without ending, train and test images in one folder."""
    train, test = split_rows(rows, _APPLE_ROWS, seed)
    plan = Plan()
    for part, labels in (("Train", train), ("Test", test)):
        plan.pictures += [Picture(f"images/{part}_{row}.jpg", _leaf(label, 4)) for row, label in enumerate(labels)]
    header = ("image_id", *_APPLE_CLASSES)
    one_hot = np.eye(len(_APPLE_CLASSES), dtype=int)[train].tolist()
    plan.texts["train.csv"] = csv_text(header, [(f"Train_{row}", *cells) for row, cells in enumerate(one_hot)])
    plan.texts["test.csv"] = csv_text(("image_id",), [(f"Test_{row}",) for row in range(len(test))])
    even = (1 / len(_APPLE_CLASSES),) * len(_APPLE_CLASSES)
    plan.texts["sample_submission.csv"] = csv_text(header, [(f"Test_{row}", *even) for row in range(len(test))])
    answers = [(f"Test_{row}", _APPLE_CLASSES[label]) for row, label in enumerate(test)]
    plan.texts[TEST_LABELS_NAME] = csv_text(("image_id", "label"), answers)
    return plan


def plant_pathology_2021(rows: int, seed: int) -> Plan:
    """A set of symptoms in one cell, as in `rust scab`; nothing in it where a leaf has none."""
    train, test = _symptoms(rows, seed)
    names = [f"{number:016x}.jpg" for number in generator("standin-names", seed).integers(2**60, size=rows).tolist()]
    plan = Plan([Picture(f"images/{name}", _spotted(has)) for name, has in zip(names, train + test, strict=True)])
    joined = [" ".join(_SYMPTOMS[one] for one in np.flatnonzero(has)) for has in train + test]
    cells = list(zip(names, joined, strict=True))
    plan.texts["train.csv"] = csv_text(("image", "labels"), cells[: len(train)])
    asked = [(name, _SYMPTOMS[0]) for name in names[len(train) :]]
    plan.texts["sample_submission.csv"] = csv_text(("image", "labels"), asked)
    plan.texts[TEST_LABELS_NAME] = csv_text(("image", "labels"), cells[len(train) :])
    return plan


def leaf_findings(rows: int, seed: int) -> Plan:
    """A column of zeros and ones for each symptom, and a plant that several photographs are of."""
    train, test = _symptoms(rows, seed)
    names = [f"leaf_{row:05d}" for row in range(rows)]
    plants = [f"plant {row // 3}" for row in range(rows)]
    plan = Plan(
        [
            Picture(f"leaves/{name}.png", _spotted(has, plant))
            for name, has, plant in zip(names, train + test, plants, strict=True)
        ]
    )
    cells = list(zip(names, plants, train + test, strict=True))
    header = ("leaf", "plant_id", *_SYMPTOMS)
    plan.texts["train.csv"] = csv_text(header, [(name, plant, *has) for name, plant, has in cells[: len(train)]])
    even = (0.5,) * len(_SYMPTOMS)
    asked = [(name, *even) for name in names[len(train) :]]
    plan.texts["sample_submission.csv"] = csv_text(("leaf", *_SYMPTOMS), asked)
    answers = [(name, *has) for name, _, has in cells[len(train) :]]
    plan.texts[TEST_LABELS_NAME] = csv_text(("leaf", *_SYMPTOMS), answers)
    return plan


def _symptoms(rows: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Which symptoms each training and each test row has; every one stands in some training rows."""
    drawn = generator("standin-symptoms", seed).random((rows, len(_SYMPTOMS))) < np.array(_SYMPTOM_SHARES)
    hot = drawn.astype(int)
    for symptom in range(len(_SYMPTOMS)):  # three plants apart, so that folds of whole plants have it too
        hot[symptom : symptom + 16 : 3, symptom] = 1
    test = round(rows / 4)
    return hot[: rows - test].tolist(), hot[rows - test :].tolist()


def _spotted(has: list[int], plant: str = "") -> Look:
    """A light bar along the upper edge for each symptom, dark where it is missing."""
    return Look(hue=0.3, backdrop=plant, cues=tuple(0.9 if one else 0.1 for one in has))


def folders(rows: int, seed: int) -> Plan:
    """No table. The same file names in every class's folder, endings in capitals, and files that are no images."""
    train, test = split_rows(rows, _SPECIES_ROWS, seed)
    plan = Plan()
    numbers = [0] * len(_SPECIES)
    for label in train:
        numbers[label] += 1
        ending = (".png", ".PNG", ".jpg")[numbers[label] % 3]
        path = f"train/{_SPECIES[label]}/{numbers[label]}{ending}"
        plan.pictures.append(Picture(path, _leaf(label, len(_SPECIES)), (40 + 8 * (numbers[label] % 4), 64)))
    numbers_drawn = generator("standin-names", seed).choice(16**6, len(test), replace=False)
    names = [f"{number:09x}.png" for number in numbers_drawn.tolist()]
    plan.pictures += [
        Picture(f"test/{name}", _leaf(label, len(_SPECIES))) for name, label in zip(names, test, strict=True)
    ]
    plan.texts["sample_submission.csv"] = csv_text(("file", "species"), [(name, _SPECIES[0]) for name in names])
    answers = [(name, _SPECIES[label]) for name, label in zip(names, test, strict=True)]
    plan.texts[TEST_LABELS_NAME] = csv_text(("file", "species"), answers)
    plan.in_the_way |= {
        "train/.DS_Store": b"\0\0\0\1",
        "train/Charlock/._1.png": b"\0\5\x16\7",
        "train/Charlock/Thumbs.db": b"\xd0\xcf",
        "train/readme.txt": b"twelve species\n",
        "test/._1.png": b"\0\5\x16\7",
    }
    return plan


def _cassava(rows: int, seed: int, share_2019: float) -> Plan:
    train, test = split_rows(rows, _CASSAVA_ROWS, seed)
    random = generator("standin-cassava", seed)
    names = [f"{number}.jpg" for number in (random.choice(4_000_000, rows, replace=False) + 1000).tolist()]
    train_names, test_names = names[: len(train)], names[len(train) :]
    years = np.where(np.arange(len(train)) % 5 < round(share_2019 * 5), 2019, 2020).tolist()
    plan = Plan()
    for name, label, year in zip(train_names, train, years, strict=True):
        plan.pictures.append(Picture(f"train_images/{name}", _leaf(label, len(_DISEASES), 0.5 * (year == 2019))))
    plan.pictures += [
        Picture(f"test_images/{name}", _leaf(label, len(_DISEASES)))
        for name, label in zip(test_names, test, strict=True)
    ]
    columns: list[list[object]] = [[*train_names], [*train], *([[*years]] if share_2019 else [])]
    header = ("image_id", "label", *(("source",) if share_2019 else ()))
    plan.texts["train.csv"] = csv_text(header, zip(*columns, strict=True))
    plan.texts["label_num_to_disease_map.json"] = json.dumps(dict(enumerate(_DISEASES)))
    plan.texts["sample_submission.csv"] = csv_text(("image_id", "label"), [(name, 4) for name in test_names])
    plan.texts[TEST_LABELS_NAME] = csv_text(("image_id", "label"), zip(test_names, test, strict=True))
    return plan


def _leaf(label: int, classes: int, shift: float = 0.0) -> Look:
    """A shape and a colour for each class; another year's colours are shifted."""
    return Look(hue=(label / classes + shift / classes) % 1, shape=label % 6)
