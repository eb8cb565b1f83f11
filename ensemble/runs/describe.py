"""`init`: from a folder of images to a description and a recipe, as files or, for `--data DIR`, in memory.

What the folder holds is recognised in `data/recognise.py`. Here the recipe is fitted to it and to the machine, both get
their comments, and the files are written: both or none, and never over a file that is there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.core.complaints import counted
from ensemble.core.dataset import DatasetDescription
from ensemble.core.files import save_text
from ensemble.core.labels import class_pairs
from ensemble.core.notebook import check_arguments
from ensemble.core.parallel import usable_cores
from ensemble.core.plain_file import read_plain
from ensemble.core.run import RESERVED_NAMES, check_run_name
from ensemble.data.folds import given_folds
from ensemble.data.layout import PLAIN_FOLDERS, Choice, Layout, part_of
from ensemble.data.recognise import recognise
from ensemble.data.table import Table, load_table
from ensemble.errors import InputError
from ensemble.images.headers import BadImage, read_header
from ensemble.recipe.find import datasets_by_name, recipes_by_name, shipped_folder
from ensemble.recipe.layers import nested
from ensemble.recipe.load import GivenDataset, load_dataset, load_recipe
from ensemble.recipe.yaml import format_yaml
from ensemble.runs.devices import list_gpus

_FOLDS = 5
_SAMPLED = 64  # images whose headers are read: enough for the middle of their sizes
_NATURAL_SIZES = ((200, 224), (112, 128), (56, 64))
"""Shorter side from which on a network's input size loses little; below all of them 32."""
_CPU_SIZE = 64  # at most: four times the pixels take four times as long, and a baseline is wanted within minutes
_GPU_SIZE = 64  # at least: a ResNet-50 divides the side by 32
_CPU_RATE = 720 * 32 * 32  # pixels a second and core: `quickstart` on two cores, its five folds in about a minute
_GPU_RATE = 1000 * 224 * 224  # pixels a second of ResNet-50 in bf16 on a data centre's GPU, decoding included
_DECODE_RATE = 1000  # images a second and core that are decoded and made small, once
_START_S = 15.0  # imports, workers, the audit
_CPU_IMAGES = 30_000  # that a fold sees in all: a small net has learned what it can from as many, augmented
_MANY_ROWS = 50_000  # from which on half of the epochs do


@dataclass(frozen=True)
class StarterRecipe:
    """A recipe fitted to a dataset and a machine: values by dotted key on top of a recipe that ships, with reasons."""

    base: str
    values: dict[str, Any]
    notes: dict[str, str]
    device: str
    """`cpu` or `gpu`."""
    folds: int
    """How many there are: five, or those that the table gives."""
    seconds: float
    """Estimated time of all of them on this machine."""

    @property
    def sets(self) -> list[str]:
        """As `--set` words."""
        return [f"{key}={value}" for key, value in self.values.items()]

    @property
    def models(self) -> str:
        """How many are trained, for a person."""
        return counted(self.folds, "fold")

    @property
    def duration(self) -> str:
        """The estimate for a person, no more exact than it is."""
        minutes = self.seconds / 60
        rough = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.0f} hours"
        rough = "a minute" if minutes < 1.5 else rough
        # Cards differ by more than ten times, cores far less; and no card at all was asked for `_GPU_RATE`.
        return f"about {rough}, {'an estimate' if self.device == 'cpu' else 'not measured on this card'}"


@dataclass(frozen=True, eq=False)
class FolderDescription:
    """A folder recognised and read once: its layout, its rows, its images' usual size."""

    name: str
    layout: Layout
    table: Table
    side: int
    """The middle of the images' shorter sides, in pixels."""

    @property
    def image_size(self) -> int:
        """The size that loses little of the images."""
        return next((size for least, size in _NATURAL_SIZES if self.side >= least), 32)

    @property
    def given(self) -> GivenDataset:
        """As a dataset without a file."""
        description = self.layout.description
        if description.image_size is None:
            description = description.model_copy(update={"image_size": self.image_size})
        return GivenDataset(self.name, self.layout.folder.absolute(), description)

    @property
    def summary(self) -> str:
        """What was recognised, in a line."""
        table = self.table
        groups = f", {counted(len(set(table.groups)), 'group')}" if table.groups is not None else ""
        test = counted(len(table.test.ids), "test row") if table.test is not None else "no test rows"
        images = f"{counted(len(table.train.ids), 'image')} of {len(table.classes)} classes"  # two at least
        return f"{self.layout.kind}: {images}{groups}, {test}"

    @cached_property
    def recipe(self) -> StarterRecipe:
        """The recipe for this machine."""
        return _starter(self, bool(list_gpus()))


@dataclass(frozen=True)
class Initialised:
    """The result of `init`: the files written, and what was recognised. `document` is what `ens init --json` prints."""

    name: str
    dataset_path: Path
    recipe_path: Path
    described: FolderDescription = field(repr=False)
    next_command: str

    @property
    def document(self) -> dict[str, Any]:
        """Plain JSON types."""
        layout, table, recipe = self.described.layout, self.described.table, self.described.recipe
        return {
            "dataset": self.name,
            "folder": str(layout.folder),
            "kind": layout.kind,
            "seen": list(layout.seen),
            "decisions": [asdict(decision) for decision in layout.decisions],
            "remarks": list(layout.remarks),
            "test_labels": asdict(layout.test_labels) if layout.test_labels is not None else None,
            "rows": len(table.train.ids),
            "test_rows": len(table.test.ids) if table.test is not None else 0,
            "classes": list(table.classes),
            "groups": len(set(table.groups)) if table.groups is not None else None,
            "recipe": {"extends": recipe.base, **recipe.values},
            "device": recipe.device,
            "estimated_seconds": round(recipe.seconds),
            "files": [str(self.dataset_path), str(self.recipe_path)],
            "next": self.next_command,
        }


@check_arguments
def init(
    images: Path | str,
    *,
    name: str | None = None,
    label: str | None = None,
    id: str | None = None,
    group: str | None = None,
    test: str | None = None,
    outputs: Path | str = "outputs",
    folder: Path | str = ".",
) -> Initialised:
    """Describe a folder of images: write `recipes/data/NAME.yaml` and `recipes/NAME.yaml`, commented, ready to train.

    `label`, `id` and `group` name columns of the table, `test` a folder or a table of test rows; `none` is for no
    group, and no test rows. Nothing that is there is overwritten.
    """
    place, folder = Path(images), Path(folder)
    wanted = name or dataset_name(place)
    check_run_name(wanted)
    paths = [folder / "recipes" / "data" / f"{wanted}.yaml", folder / "recipes" / f"{wanted}.yaml"]
    existing = [path for path in paths if path.exists()]
    # The description alone may be what a killed command wrote first: its text says so, once it is known.
    if existing and existing != paths[:1]:
        raise _is_there(existing, wanted, folder)
    described = describe_folder(place, wanted, Choice(label, id, group, test), folder=folder, outputs=Path(outputs))
    texts = [dataset_text(described, place, folder), recipe_text(described)]
    if existing and read_plain(paths[0]) != texts[0].encode("utf-8"):
        raise _is_there(existing, wanted, folder)
    for path, text in zip(paths, texts, strict=True):
        try:
            save_text(path, text)
        except BaseException:  # whatever stopped it: half of a pair would be in the way of the next try
            paths[0].unlink(missing_ok=True)
            raise
    _check_written(wanted, paths, folder)
    return Initialised(wanted, paths[0], paths[1], described, f"ens train --recipe {wanted}")


def _is_there(existing: Sequence[Path], name: str, folder: Path) -> InputError:
    there = f"{' and '.join(map(str, existing))}: {'is' if len(existing) == 1 else 'are'} there"
    return InputError(f"{there}, and nothing is overwritten; give another name: --name {_free_name(name, folder)}")


def _check_written(name: str, paths: Sequence[Path], folder: Path) -> None:
    """Load what was written as `ens train` will; a folder that no file can name must not leave files behind."""
    try:
        load_recipe(name, folder=folder)
    except InputError:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def describe_folder(
    place: Path, name: str, choice: Choice | None = None, *, folder: Path, outputs: Path
) -> FolderDescription:
    """Recognise a folder, and read its rows as training would; faults are told beside what was recognised."""
    layout = recognise(place, choice, known=_composed_datasets(), skip=(outputs, folder / "recipes"))
    try:
        table = load_table(name, layout.description, layout.folder.absolute())
    except InputError as error:
        recognised = [f"  recognised: {decision.line}" for decision in layout.decisions]
        advice = "  --label, --id, --group and --test decide otherwise"
        raise InputError(*error.messages, *recognised, advice) from error
    if len(table.classes) < 2:
        raise InputError(f"{layout.folder}: only one class, {table.classes[0]}; two are needed")
    return FolderDescription(name, layout, table, _usual_side(table))


def dataset_name(place: Path) -> str:
    """A name after the folder; after the one above it too, where its own says nothing, as `train` or `images`."""
    path = Path(os.path.abspath(place))
    path = path.parent if path.suffix.lower() == ".csv" else path
    name = path.name
    if (name.lower() in PLAIN_FOLDERS or part_of(name)) and path.parent.name:
        name = f"{path.parent.name}_{name}"
    name = re.sub(r"[^\w.+-]+", "_", name).strip("._+-") or "images"
    return f"{name}_images" if name.casefold() in RESERVED_NAMES else name[:100]


def dataset_text(described: FolderDescription, place: Path, folder: Path) -> str:
    """The content of `recipes/data/NAME.yaml`."""
    layout = described.layout
    where = _reference(layout.folder, folder)
    values: dict[str, Any] = {
        "description": f"{described.summary[:1].upper()}{described.summary[1:]}.",
        "folder": where,
    }
    values |= {key: value for key, value in layout.values.items() if key in ("classes", "metric")}
    values["image_size"] = layout.description.image_size or described.image_size
    values |= layout.values if "description" not in layout.values else {**layout.values, "folder": where}
    notes = _notes(layout) | {"folder": f"from the directory that holds recipes/; --data {described.name}=PATH wins"}
    notes.setdefault("metric", "what runs are ranked by; see docs/metrics.md for others")
    notes["image_size"] = f"the middle of the images' shorter sides is {described.side} pixels"
    remarks = "".join(f"\nNote: {remark}" for remark in layout.remarks)
    comment = f"Written by `ens init {place}`. Change what it got wrong; docs/datasets.md has every key.{remarks}"
    return format_yaml(values, comment=comment, notes=notes)


_KEYS = {
    "training rows": ("train.table", "train.files"),
    "test rows": ("test.table", "test.files"),
    "label": ("train.label",),
    "test labels": ("test.label",),
    "validation": ("validation",),
    "parts": ("train.where",),
    "class": ("train.label",),
    "class names": ("classes",),
    "group": ("train.group",),
    "folds": ("train.fold_column",),
    "box": ("train.box",),
    "submission": ("submission",),
    "several classes a row": ("train.label.separator",),
}
"""The key of the description that each decision stands beside."""


def _notes(layout: Layout) -> dict[str, str]:
    """A comment for each decision, with the other reading as an edit of the file."""
    notes = {}
    for decision in layout.decisions:
        key = next((key for key in _KEYS.get(decision.what, ()) if _holds(layout.values, key)), None)
        other = ""
        if decision.other:
            edit = decision.change
            if edit.startswith("--label "):
                edit = f'value: "{{{edit.removeprefix("--label ")}}}"'
            elif edit == "--group none":
                edit = "delete this line"
            elif edit.startswith("--group "):
                edit = f'"{{{edit.removeprefix("--group ")}}}"'
            other = f"; or {decision.other}: {edit}"
        if key is not None:
            notes[key] = f"{decision.why}{other}".replace("\n", " ")
    return notes | dict(layout.notes)


def _holds(values: Any, key: str) -> bool:
    for part in key.split("."):
        if not isinstance(values, dict) or part not in values:
            return False
        values = values[part]
    return True


def recipe_text(described: FolderDescription) -> str:
    """The content of `recipes/NAME.yaml`."""
    recipe = described.recipe
    machine = f"{usable_cores()} CPU cores" if recipe.device == "cpu" else "a GPU"
    comment = (
        f"Fitted by `ens init` to {len(described.table.train.ids):,} images and {machine}; {recipe.models}: "
        f"{recipe.duration}.\nWhat is not here is as in {recipe.base}: ens recipes {described.name}"
    )
    head = {
        "description": f"A first recipe for {described.name}, fitted to the images and to {machine}.",
        "extends": recipe.base,
        "data": described.name,
    }
    values = head | nested({tuple(key.split(".")): value for key, value in recipe.values.items()})
    return format_yaml(values, comment=comment, notes=recipe.notes)


def _starter(described: FolderDescription, has_gpu: bool) -> StarterRecipe:
    """A small net from scratch for CPUs, a pretrained ResNet-50 for a GPU; epochs and batches by the number of rows."""
    rows = len(described.table.train.ids)
    folds = given_folds(described.table.given_folds or ())[1] or _FOLDS
    fold_rows = max(1, rows * (folds - 1) // folds)
    shared = _shared_groups(described.table)
    if shared:
        folds = _FOLDS
    elif described.table.has_validation:
        folds, fold_rows = 1, (described.table.given_folds or ()).count("train")
    values: dict[str, Any] = {}
    notes: dict[str, str] = {}

    def put(key: str, value: Any, note: str) -> None:
        values[key], notes[key] = value, note

    if shared:  # the audit refuses such a hold-out: whoever is in both parts makes validation easy
        scheme = "multilabel-stratified" if described.table.has_sets else "stratified-group"
        few_groups = ", ".join(shared[:3])
        groups = counted(len(shared), "group is", "groups are")
        note = f"{groups} in training and in validation rows, as {few_groups}: folds of all rows"
        put("folds.scheme", scheme, note)
    if rare := _rare_note(described.table, has_own_folds=not shared):
        put("folds.rare", "allow", rare)
    # Enough steps an epoch, and few enough rows that the smallest fold of uneven groups still fills a batch.
    batch = next((size for size, least in ((64, 1000), (32, 300), (16, 100), (8, 24)) if rows >= least), 4)
    if has_gpu:
        size = max(_GPU_SIZE, described.image_size)
        put("image.size", size, f"their shorter sides are about {described.side} pixels")
        put("train.batch_size", min(batch, 64), f"{-(-fold_rows // batch)} steps an epoch")
        if rows > _MANY_ROWS:
            put("train.epochs", 10, "many images: half of the usual epochs see enough of them")
        epochs, rate = values.get("train.epochs", 20), _GPU_RATE * max(1, len(list_gpus() or ()))
        base, device = "r50_kfold5", "gpu"
    else:
        size = min(_CPU_SIZE, described.image_size)
        put("image.size", size, "small, as a CPU needs; larger ones take longer with the square of it")
        put("train.batch_size", batch, f"{-(-fold_rows // batch)} steps an epoch")
        epochs = int(np.clip(round(_CPU_IMAGES / fold_rows), 5, 30))
        put("train.epochs", epochs, f"{epochs * fold_rows:,} images seen by each fold")
        if batch < 64:  # a rate for smaller steps: AdamW's noise grows as batches shrink
            put("train.lr", round(6e-3 * batch / 64, 6), "for batches of this size")
        base, device, rate = "quickstart", "cpu", _CPU_RATE * usable_cores()
    # Validation costs a third of a training step; every row is trained on by all folds but one, and validated by that.
    seen = (fold_rows + (rows - fold_rows) / 3) * folds * epochs
    seconds = _START_S + rows / (_DECODE_RATE * usable_cores()) + seen * size * size / rate
    return StarterRecipe(base, values, notes, device, folds, seconds)


def _shared_groups(table: Table) -> list[str]:
    """Groups that have training rows and validation rows."""
    if table.groups is None or table.given_folds is None or not table.has_validation:
        return []
    by_part: dict[str, set[str]] = {"train": set(), "validation": set()}
    for group, part in zip(table.groups, table.given_folds, strict=True):
        by_part[part].add(group)
    return sorted(by_part["train"] & by_part["validation"])


def _rare_note(table: Table, *, has_own_folds: bool = True) -> str:
    """Why folds may miss a class: it has fewer rows, or groups, than there are folds; empty where none has."""
    if table.given_folds is not None and has_own_folds:
        return ""
    rows, labels = class_pairs(table.labels)
    groups, count = np.arange(len(table.labels)), len(table.labels)
    if table.groups is not None:
        names, groups = np.unique(np.array(table.groups), return_inverse=True)
        count = len(names)
    pairs = np.unique(labels * count + groups[rows]) // count  # each class once for each of its groups
    counts = np.bincount(pairs, minlength=len(table.classes))
    few = np.flatnonzero(counts < _FOLDS)
    if not len(few):
        return ""
    what = "groups" if table.groups is not None else "rows"
    smallest = few[counts[few].argmin()]
    rare = counted(len(few), "class has", "classes have")
    return f"{rare} fewer {what} than folds, as {table.classes[smallest]} with {counts[smallest]}"


def _usual_side(table: Table) -> int:
    """The middle of the shorter sides of some images, by their headers."""
    paths = table.train.paths
    sides = []
    for path in paths[:: max(1, len(paths) // _SAMPLED)][:_SAMPLED]:
        try:
            sides.append(min(read_header((table.train.folder / path).read_bytes()).upright_size))
        except (OSError, BadImage):
            continue  # the scan names bad images before training
    return int(np.median(sides)) if sides else 224


def _composed_datasets() -> dict[str, DatasetDescription]:
    """Descriptions that ship and whose labels are composed: what no folder shows by itself."""
    known = {}
    for path in sorted((shipped_folder() / "data").glob("*.yaml")):
        if "parts:" in path.read_text(encoding="utf-8"):  # the others need no reading
            description = load_dataset(path.stem, shipped_folder().parent)
            if description.label.parts is not None:
                known[path.stem] = description
    return known


def _reference(place: Path, folder: Path) -> str:
    """A folder as the description names it: relative where it lies below the working directory."""
    path, base = Path(os.path.abspath(place)), Path(os.path.abspath(folder))
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()


def undescribed_folder(data: str, folder: Path) -> Path | None:
    """The folder (or CSV file) that `--data` means, where it is not the name of a described dataset."""
    path = folder / os.path.expanduser(data)
    if data in datasets_by_name(folder) or ("=" in data and not path.exists()):
        return None
    # What is wrong with a path that is not there is told when it is looked at.
    return path if path.exists() or os.sep in data else None


def _free_name(name: str, folder: Path) -> str:
    """The first of `name2`, `name3`, … that no recipe and no dataset has."""
    taken = {*datasets_by_name(folder), *recipes_by_name(folder)}
    return next(free for number in range(2, 10_000) if (free := f"{name}{number}") not in taken)
