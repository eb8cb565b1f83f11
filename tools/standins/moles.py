"""melanoma: several moles of each patient, patients that nobody knows, and very few malignant ones."""

from __future__ import annotations

import numpy as np

from ensemble.core.randomness import generator
from standins.plan import TEST_LABELS_NAME, Look, Picture, Plan, csv_text

__all__ = ["melanoma"]

_TEST_SHARE, _MALIGNANT_SHARE, _ENOUGH = 0.25, 0.0176, 10
_ROWS_A_PATIENT = 12
_SITES = ("torso", "lower extremity", "upper extremity", "head/neck", "")


def melanoma(rows: int, seed: int) -> Plan:
    """`rows` images, a quarter of them for testing."""
    random = generator("standin-melanoma", seed)
    test = round(rows * _TEST_SHARE)
    plan = Plan()
    numbers = (random.choice(9_000_000, rows, replace=False) + 1_000_000).tolist()
    shared = [_rows(numbers[test:], "train", random), _rows(numbers[:test], "test", random)]
    facts = ("image_name", "patient_id", "sex", "age_approx", "anatom_site_general_challenge")
    for part, (known, targets) in zip(("train", "test"), shared, strict=True):
        for cells, target in zip(known, targets, strict=True):
            patient = cells[1] if cells[1] not in ("", "-1") else ""
            hue = 0.07 + 0.5 * target + random.normal(0, 0.02)
            look = Look(hue=hue % 1, shape=(0, 4)[target], backdrop=patient)
            plan.pictures.append(Picture(f"jpeg/{part}/{cells[0]}.jpg", look))
    (known, targets), (asked, answers) = shared
    more = [
        (*cells, "melanoma" if t else "unknown", "malignant" if t else "benign", t)
        for cells, t in zip(known, targets, strict=True)
    ]
    plan.texts["train.csv"] = csv_text((*facts, "diagnosis", "benign_malignant", "target"), more)
    plan.texts["test.csv"] = csv_text(facts, asked)
    header = ("image_name", "target")
    plan.texts["sample_submission.csv"] = csv_text(header, [(cells[0], 0) for cells in asked])
    right = [(cells[0], target) for cells, target in zip(asked, answers, strict=True)]
    plan.texts[TEST_LABELS_NAME] = csv_text(header, right)
    return plan


def _rows(numbers: list[int], part: str, random: np.random.Generator) -> tuple[list[tuple[str, ...]], list[int]]:
    """Columns and targets; the malignant ones are spread over patients."""
    count = len(numbers)
    patients = max(6, count // _ROWS_A_PATIENT)
    codes = [f"IP_{code:07d}" for code in random.choice(9_999_999, patients, replace=False).tolist()]
    facts = [
        (sex, str(age))
        for sex, age in zip(
            random.choice(["male", "female", "NA"], patients, p=[0.5, 0.48, 0.02]),
            random.integers(3, 18, patients) * 5,
            strict=True,
        )
    ]
    rows = []
    for row, number in enumerate(numbers):
        patient = row % patients
        code = {3: "-1", 7: ""}.get(row % 20, codes[patient])
        rows.append((f"ISIC_{number:07d}", code, *facts[patient], _SITES[row % len(_SITES)]))
    malignant = max(round(count * _MALIGNANT_SHARE), min(_ENOUGH, count // 3))
    targets = np.zeros(count, dtype=int)
    targets[np.linspace(0, count - 1, malignant).astype(int)] = 1
    order = random.permutation(count)
    return [rows[row] for row in order], targets[order].tolist()
