"""The table of albumentations' transforms that a recipe may name, from the installed library.

`python tools/make_transforms.py` writes ensemble/recipe/transforms.txt; with `--check` it exits 1 where that is stale.
The table lets a recipe be checked without the second that importing albumentations takes.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask a registry for news at import

TABLE = Path(__file__).resolve().parents[1] / "ensemble" / "recipe" / "transforms.txt"
_NEEDS_MORE_THAN_AN_IMAGE = {
    *("AtLeastOneBBoxRandomCrop", "BBoxSafeRandomCrop", "ConstrainedCoarseDropout", "CropNonEmptyMaskIfExists"),
    *("FDA", "HistogramMatching", "Lambda", "MaskDropout", "Mosaic", "OverlayElements", "PixelDistributionAdaptation"),
    *("RandomCropNearBBox", "RandomSizedBBoxSafeCrop", "TextImage"),
}
"""Masks, boxes, other images, fonts or code: none of these can be data in a recipe."""
_NO_LONGER_AN_IMAGE = {"FromFloat", "Normalize", "ToFloat", "ToRGB", "ToTensorV2", "ToTensor3D"}
"""They give no (height, width, 3) uint8 pixels, or take none; `core.augmentation` says what to write instead."""
_SPECTROGRAMS = {"FrequencyMasking", "TimeMasking", "TimeReverse"}
_REPLACED = {"PiecewiseAffine", "ShiftScaleRotate"}
"""The library itself warns against them."""
_COMPOSITIONS = {
    "Compose": "p",
    "OneOf": "p",
    "OneOrOther": "p",
    "RandomOrder": "n replace p",
    "ReplayCompose": "p",
    "SelectiveChannelTransform": "channels p",
    "Sequential": "p",
    "SomeOf": "n replace p",
}
_NEVER_DATA = {"mask", "mask_params", "fill_mask", "mask_interpolation", "keypoint_remapping_method"}


def main() -> int:
    """Write the table, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the table is stale")
    table = make_table()
    if parser.parse_args().check:
        is_fresh = TABLE.read_text(encoding="utf-8") == table
        print(f"{TABLE.name} is {'up to date' if is_fresh else 'stale; python tools/make_transforms.py renews it'}")
        return 0 if is_fresh else 1
    TABLE.write_text(table, encoding="utf-8")
    return 0


def make_table() -> str:
    """One line a transform: its name and arguments; `*` marks what must be given, `transforms*` a composition."""
    lines = [f"{name}: {arguments}" for name, arguments in sorted(_rows().items())]
    return "\n".join(["# Made by tools/make_transforms.py; edits are lost.", *lines]) + "\n"


def _rows() -> dict[str, str]:
    import albumentations

    rows = {name: f"transforms* {arguments}" for name, arguments in _COMPOSITIONS.items()}
    left_out = _NEEDS_MORE_THAN_AN_IMAGE | _NO_LONGER_AN_IMAGE | _SPECTROGRAMS | _REPLACED
    kinds = (albumentations.ImageOnlyTransform, albumentations.DualTransform)
    for name, found in inspect.getmembers(albumentations, inspect.isclass):
        is_base = found in (*kinds, albumentations.BasicTransform)
        is_flat = issubclass(found, kinds) and not issubclass(found, albumentations.Transform3D)
        if is_flat and not is_base and name not in left_out:
            rows[name] = _arguments(found)
    return rows


def _arguments(transform: type[Any]) -> str:
    """The arguments of one transform in its own order, without those that are for masks and boxes."""
    parameters = list(inspect.signature(transform.__init__).parameters.items())[1:]
    names = [
        name + "*" * (parameter.default is inspect.Parameter.empty)
        for name, parameter in parameters
        if name not in _NEVER_DATA
    ]
    return " ".join(names)


if __name__ == "__main__":
    sys.exit(main())
