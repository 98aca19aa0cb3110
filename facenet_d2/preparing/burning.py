"""Masks of polygons: which pixels of a window belong to one object."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import shapely

from ..scenes.geo import rasterio

SMALL = 10.0
"""Objects whose box is smaller than this number of pixels in both directions are supersampled."""

SAMPLES = 4
"""Samples per pixel in each direction for small objects."""

# Pixels of a box up to which an object is burned as a whole to count its pixels.
_MAX_WHOLE = 1 << 24

Window = tuple[int, int, int, int]


class Burned(NamedTuple):
    """Pixels of an object in a window.

    Attributes:
        mask: bool ``(h, w)``, the part of the window that the object's box reaches into.
        left: first column of the mask in the scene.
        top: first row of the mask in the scene.
        is_whole: whether the whole box of the object lies in the window.
    """

    mask: np.ndarray
    left: int
    top: int
    is_whole: bool


def burn(polygon: shapely.Geometry, window: Window) -> Burned:
    """Return the pixels of a polygon in a window.

    As in GDAL, a pixel belongs to a polygon if its centre does; holes are left out. The pixels of a
    small object would then depend on its subpixel position, so more than half of a pixel's 4x4
    samples must lie inside, or exactly half and the centre. The result does not depend on the
    window.

    Args:
        polygon: Polygon or MultiPolygon in pixels.
        window: left, top, right and bottom; right and bottom are exclusive.
    """
    bounds = shapely.bounds(polygon)
    low, high = np.floor(bounds[:2]).astype(int), np.ceil(bounds[2:]).astype(int)
    left, top = max(window[0], low[0]), max(window[1], low[1])
    right, bottom = min(window[2], high[0]), min(window[3], high[1])
    shape = (max(0, bottom - top), max(0, right - left))
    is_whole = (left, top, right, bottom) == (*low, *high)
    if 0 in shape:
        return Burned(np.zeros(shape, bool), int(left), int(top), is_whole)
    centres = _rasterize(polygon, left, top, shape, 1)
    if max(bounds[2] - bounds[0], bounds[3] - bounds[1]) < SMALL:
        samples = _rasterize(polygon, left, top, shape, SAMPLES)
        covered = samples.reshape(shape[0], SAMPLES, shape[1], SAMPLES).sum(axis=(1, 3))
        half = SAMPLES**2 // 2
        centres = (covered > half) | (centres & (covered == half))
    return Burned(centres, int(left), int(top), is_whole)


def _rasterize(
    polygon: shapely.Geometry, left: int, top: int, shape: tuple[int, int], scale: int
) -> np.ndarray:
    moved = shapely.transform(polygon, lambda points: (points - (left, top)) * scale)
    burned: np.ndarray = rasterio.features.rasterize(
        [moved], out_shape=(shape[0] * scale, shape[1] * scale), dtype=np.uint8
    )
    return burned > 0


def count_pixels(polygon: shapely.Geometry) -> float:
    """Return the number of pixels of a whole object; of a very large one, its area."""
    left, top, right, bottom = shapely.bounds(polygon)
    if (right - left + 1) * (bottom - top + 1) > _MAX_WHOLE:
        return float(shapely.area(polygon))
    whole = (math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom))
    return float(burn(polygon, whole).mask.sum())
