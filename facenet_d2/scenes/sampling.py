"""Values of a scene for its statistics."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UserError

if TYPE_CHECKING:
    from .raster import Raster

SIDE = 64
WINDOWS = 256
ENOUGH_PIXELS = 1 << 16


def sample_pixels(raster: Raster) -> np.ndarray:
    """Return values of valid pixels that are spread evenly over the whole scene.

    The sample is always the same: windows of 64x64 pixels of the working grid, at the centres of
    about 256 equal parts of the scene, which are all pixels of a scene of up to about 1024x1024. If
    fewer than 65,536 pixels in them are valid, the number of windows is multiplied by 4 until
    enough pixels are valid or the windows cover the scene. Overviews are not used, because
    averaging makes extreme values rarer. The area of interest is ignored, so that it does not
    change the statistics.

    Returns:
        ``(bands, pixels)`` float32, with at least one pixel.

    Raises:
        UserError: if no pixel of the scene is valid, or the file cannot be read.
    """
    count = WINDOWS
    while True:
        rows, columns = intervals(raster.height, raster.width, count)
        parts = []
        for top, bottom in rows:
            for left, right in columns:
                values, valid = raster.read((left, top, right, bottom), within_area=False)
                parts.append(values[:, valid].astype(np.float32))
        sample = np.concatenate(parts, axis=1)
        size = sum(b - a for a, b in rows) * sum(b - a for a, b in columns)
        if sample.shape[1] >= ENOUGH_PIXELS or size == raster.height * raster.width:
            break
        count *= 4
    if not sample.shape[1]:
        raise UserError(f"{raster.name} has no valid pixels.")
    return sample


def intervals(
    height: int, width: int, count: int
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the intervals of rows and of columns whose products are the windows of a sample.

    There are at least ``count`` windows, or as many as cover the scene. They do not overlap, and
    are at most 64 pixels high and wide.
    """
    most_rows, most_columns = math.ceil(height / SIDE), math.ceil(width / SIDE)
    rows = min(most_rows, max(1, round(math.sqrt(count * height / width))))
    columns = min(most_columns, math.ceil(count / rows))
    rows = min(most_rows, math.ceil(count / columns))
    return _centres(height, rows), _centres(width, columns)


def _centres(length: int, parts: int) -> list[tuple[int, int]]:
    edges = [i * length // parts for i in range(parts + 1)]
    starts = [a + max(0, b - a - SIDE) // 2 for a, b in pairwise(edges)]
    return [(start, min(end, start + SIDE)) for start, end in zip(starts, edges[1:])]
