"""What a distance between perceptual hashes means: the share of changed copies found, and strangers taken for copies.

.venv/bin/python tools/bench/near_distance.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits, load_sample_images

from ensemble.data.duplicates import COLOUR_TOLERANCE
from ensemble.images.scan import perceptual_hash

_DISTANCES = (0, 2, 4, 6, 8, 10)
_SIDES = (96, 128, 160, 200)

Pixels = npt.NDArray[np.uint8]
Looks = tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]


def main() -> int:
    """Print both tables: copies found, pairs of strangers found."""
    patches = _patches()
    looks = _look_at(patches)
    print(f"{len(patches)} patches of two photographs; share of copies found within a distance of")
    print(f"{'':<22}" + "".join(f"{distance:7d}" for distance in _DISTANCES))
    for name, change in _CHANGES.items():
        near = _near(looks, _look_at([change(patch) for patch in patches]))
        print(f"{name:<22}" + "".join(f"{near(distance).mean():7.1%}" for distance in _DISTANCES))
    digits = [np.repeat(np.rint(scan * (255 / 16)).astype(np.uint8)[:, :, None], 3, 2) for scan in load_digits().images]
    print("pairs of strangers taken for copies (neighbouring patches share half of their pixels)")
    for name, images in {"patches": patches, "digits of 8 x 8 pixels": digits}.items():
        hashes, colours = _look_at(images)
        left, right = np.triu_indices(len(images), 1)
        near = _near((hashes[left], colours[left]), (hashes[right], colours[right]))
        print(f"{name:<22}" + "".join(f"{near(distance).sum():7d}" for distance in _DISTANCES) + f" of {len(left):,}")
    return 0


def _patches() -> list[Pixels]:
    """Square pieces of scikit-learn's two photographs, a little more than half a side apart, without empty sky."""
    found = []
    for photograph in load_sample_images().images:
        for side in _SIDES:
            for top in range(0, photograph.shape[0] - side, side // 2 + 7):
                for left in range(0, photograph.shape[1] - side, side // 2 + 7):
                    found.append(np.ascontiguousarray(photograph[top : top + side, left : left + side]))
    return [patch for patch in found if patch.std() > 6]


def _look_at(images: list[Pixels]) -> Looks:
    """Hashes and colours, as a scan measures them."""
    measured = [cv2.meanStdDev(image) for image in images]
    colours = np.array([np.concatenate([means[:, 0], deviations[:, 0]]) for means, deviations in measured]) / 255
    return np.array([perceptual_hash(image) for image in images], dtype=np.uint64), colours


def _near(one: Looks, other: Looks) -> Callable[[int], npt.NDArray[np.bool_]]:
    """Which pairs are nearly the same, by distance."""
    bits = np.bitwise_count(one[0] ^ other[0])
    close = np.abs(one[1] - other[1]).max(axis=1) <= COLOUR_TOLERANCE
    return lambda distance: np.asarray((bits <= distance) & close)


def _jpeg(patch: Pixels, quality: int) -> Pixels:
    encoded = cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), dtype=np.uint8)


def _half(patch: Pixels) -> Pixels:
    return np.asarray(cv2.resize(patch, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _brighter(patch: Pixels, factor: float) -> Pixels:
    return np.asarray(np.clip(patch * factor, 0, 255), dtype=np.uint8)


def _cropped(patch: Pixels, share: float) -> Pixels:
    edge = int(len(patch) * share / 2)
    return np.ascontiguousarray(patch[edge : len(patch) - edge, edge : len(patch) - edge])


_CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG, quality 90": lambda patch: _jpeg(patch, 90),
    "JPEG, quality 50": lambda patch: _jpeg(patch, 50),
    "half the size": _half,
    "half, JPEG 75": lambda patch: _jpeg(_half(patch), 75),
    "5 % brighter": lambda patch: _brighter(patch, 1.05),
    "20 % brighter": lambda patch: _brighter(patch, 1.2),
    "2 % cropped": lambda patch: _cropped(patch, 0.02),
    "5 % cropped": lambda patch: _cropped(patch, 0.05),
}


if __name__ == "__main__":
    sys.exit(main())
