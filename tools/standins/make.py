"""From a dataset's name to its stand-in on disk. The table of all layouts stands here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ensemble.core.complaints import any_of, closest
from ensemble.errors import InputError
from standins.drawing import draw_all
from standins.faces import mask18
from standins.moles import melanoma
from standins.plan import Plan
from standins.plants import cassava, cassava_merged, folders, leaf_findings, plant_pathology, plant_pathology_2021
from standins.things import artists, breeds_in_names, cars, class_folders, digits, dog_breeds, row_numbers

__all__ = ["LAYOUTS", "make_standin"]

LAYOUTS: dict[str, Callable[[int, int], Plan]] = {
    "artists": artists,
    "breeds_in_names": breeds_in_names,
    "cars": cars,
    "cassava": cassava,
    "cassava_merged": cassava_merged,
    "class_folders": class_folders,
    "digits": digits,
    "dog_breeds": dog_breeds,
    "folders": folders,
    "leaf_findings": leaf_findings,
    "mask18": mask18,
    "melanoma": melanoma,
    "plant_pathology": plant_pathology,
    "plant_pathology_2021": plant_pathology_2021,
    "row_numbers": row_numbers,
}
"""(rows, seed) to what is to be drawn, by the name of the dataset's description."""

_FEWEST, _MOST = 24, 100_000


def make_standin(
    name: str, folder: Path, rows: int = 240, seed: int = 0, on_progress: Callable[[int], None] = lambda done: None
) -> Plan:
    """Fill `folder`, which must be empty, with `rows` images, training and test together, and their tables."""
    problems = []
    if name not in LAYOUTS:
        near = closest(name, list(LAYOUTS))
        advice = f"did you mean {near}?" if near else f"there are {any_of(list(LAYOUTS), 'and')}"
        problems.append(f"{name}: no such layout; {advice}")
    if not _FEWEST <= rows <= _MOST:
        problems.append(f"--rows {rows}: from {_FEWEST} to {_MOST} images can be drawn")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        problems.append(f"{folder}: is there and not empty; name a new folder")
    if problems:
        raise InputError(*problems)
    plan = LAYOUTS[name](rows, seed)
    draw_all(folder, plan.pictures, seed, on_progress)
    contents = {path: text.encode("utf-8") for path, text in plan.texts.items()} | plan.in_the_way
    for path, content in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return plan
