"""mask18: faces with masks, seven pictures a person. People share a look, so that leaking folds are rewarded."""

from __future__ import annotations

import hashlib

import numpy as np

from ensemble.core.randomness import generator
from standins.plan import TEST_LABELS_NAME, Look, Picture, Plan, allocate, csv_text

__all__ = ["mask18"]

_PEOPLE = (549, 410, 83, 732, 817, 109)
"""People by gender (male, female) and age (under 30, under 60, over) among the 2,700 of the original."""
_SHOTS = ("mask1", "mask2", "mask3", "mask4", "mask5", "incorrect_mask", "normal")
_MASK_OF_SHOT = (0, 0, 0, 0, 0, 1, 2)
_AGES = ((18, 29), (30, 59), (60, 60))
_ENDINGS = (".jpg", ".jpg", ".jpeg", ".jpg", ".png")
_SIZE = (64, 48)
_TRAIN_SHARE = 0.6
_ENOUGH = 5


def mask18(rows: int, seed: int) -> Plan:
    """`rows` images: training people with seven each, and the rest in `eval`."""
    people = max(2, round(rows * _TRAIN_SHARE / len(_SHOTS)))
    plan = Plan()
    table = []
    for number, (gender, age, cues) in enumerate(_people(people, "train", seed)):
        person = _person_id(number)
        name = f"{person}_{('male', 'female')[gender]}_Asian_{age}"
        table.append((person, ("male", "female")[gender], "Asian", age, name))
        for shot, mask in zip(_SHOTS, _MASK_OF_SHOT, strict=True):
            path = f"train/images/{name}/{shot}{_ENDINGS[number % len(_ENDINGS)]}"
            plan.pictures.append(Picture(path, _look(mask, name, cues), _SIZE))
        if number % 3 == 0:  # what a copy from a certain system leaves
            plan.in_the_way[f"train/images/{name}/._mask1.jpg"] = b"\0\5\x16\7"
            plan.in_the_way[f"train/images/._{name}"] = b"\0\5\x16\7"
    plan.texts["train/train.csv"] = csv_text(("id", "gender", "race", "age", "path"), table)
    _add_eval(plan, rows - people * len(_SHOTS), seed)
    return plan


def _add_eval(plan: Plan, rows: int, seed: int) -> None:
    """Pictures of other people, in no order, under names that tell nothing."""
    answers = []
    people = _people(-(-rows // len(_SHOTS)), "eval", seed)
    for row in range(rows):
        person, shot = divmod(row, len(_SHOTS))
        gender, age, cues = people[person]
        name = f"{hashlib.sha1(f'{seed}/{row}'.encode()).hexdigest()}.jpg"
        age_class = sum(age >= bound for bound in (30, 60))
        answers.append((name, 6 * _MASK_OF_SHOT[shot] + 3 * gender + age_class))
        look = _look(_MASK_OF_SHOT[shot], f"eval {person}", cues)
        plan.pictures.append(Picture(f"eval/images/{name}", look, _SIZE))
    answers.sort(key=lambda answer: hashlib.sha1(answer[0].encode()).digest())
    plan.texts["eval/info.csv"] = csv_text(("ImageID", "ans"), [(name, 0) for name, _ in answers])
    plan.texts[TEST_LABELS_NAME] = csv_text(("ImageID", "ans"), answers)
    plan.in_the_way["eval/images/._.DS_Store"] = b"\0\5\x16\7"


def _people(count: int, part: str, seed: int) -> list[tuple[int, int, tuple[float, float]]]:
    """Gender, age, and how clearly both show, of each person; rare kinds are left out where people are few."""
    random = generator("standin-people", part, seed)
    kinds = sorted(range(len(_PEOPLE)), key=lambda kind: -_PEOPLE[kind])[: max(1, min(len(_PEOPLE), count // 2))]
    counts = allocate(count, [_PEOPLE[kind] for kind in kinds], _ENOUGH if part == "train" else 1)
    found = []
    for kind in random.permutation(np.repeat(kinds, counts)).tolist():
        gender, age_class = divmod(kind, 3)
        age = int(random.integers(_AGES[age_class][0], _AGES[age_class][1] + 1))
        shown = (0.3 + 0.4 * gender + random.normal(0, 0.12), (age - 18) / 42 + random.normal(0, 0.12))
        found.append((gender, age, (float(shown[0]), float(shown[1]))))
    return found


def _person_id(number: int) -> str:
    """Text with leading zeros, and one that is not even a number."""
    return ("001498", "001498-1")[number] if number < 2 else f"{number - 1 + (number > 1498):06d}"


def _look(mask: int, person: str, cues: tuple[float, float]) -> Look:
    """The mask in shape and colour, the person in the backdrop, gender and age weakly in two bars."""
    return Look(hue=(0.58, 0.42, 0.08)[mask], shape=(1, 5, 0)[mask], backdrop=person, cues=cues)
