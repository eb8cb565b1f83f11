"""What a scan says of a set of images as a whole: sizes, shapes, states, colours."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.data.scan import BAD_STATES, ImageScan

__all__ = ["describe_images", "readable"]

_QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_COMMON = 5


def describe_images(scan: ImageScan) -> dict[str, Any]:
    """Counts by state, size and channels; quantiles (0, 5, 50, 95, 100 %); mean and deviation per channel."""
    usable = readable(scan)
    widths, heights = scan.widths[usable], scan.heights[usable]
    sizes = Counter(zip(widths.tolist(), heights.tolist(), strict=True))
    return {
        "images": len(scan.ids),
        "states": dict(sorted(Counter(scan.states).items())),
        "channels": {str(count): number for count, number in sorted(Counter(scan.channels[usable].tolist()).items())},
        "width": _quantiles(widths),
        "height": _quantiles(heights),
        "aspect": _quantiles(widths / np.maximum(heights, 1)),
        "sizes": [
            {"width": width, "height": height, "images": count}
            for (width, height), count in sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:_COMMON]
        ],
        "distinct_sizes": len(sizes),
        **_colours(scan, usable),
    }


def readable(scan: ImageScan) -> npt.NDArray[np.bool_]:
    """Which rows have an image that was read whole."""
    return ~np.isin(np.array(scan.states), BAD_STATES)


def _colours(scan: ImageScan, usable: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Mean and deviation of all pixels, every image counting the same."""
    if not usable.any():
        return {"mean": None, "std": None}
    means, stds = scan.means[usable], scan.stds[usable]
    mean = means.mean(axis=0)
    std = np.sqrt((stds**2 + means**2).mean(axis=0) - mean**2)
    return {"mean": [round(value, 4) for value in mean.tolist()], "std": [round(value, 4) for value in std.tolist()]}


def _quantiles(values: npt.NDArray[Any]) -> list[float] | None:
    if len(values) == 0:
        return None
    return [round(float(value), 4) for value in np.quantile(values, _QUANTILES)]
