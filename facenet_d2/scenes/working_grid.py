"""The pixel grid that a scene is processed in: that of its file, or the same at another scale."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from .coordinates import WGS84, converted, local_equal_area
from .geo import GDAL_ERRORS

# A scale that differs from 1 by no more than this is taken as 1: the network does not see the
# difference, and pixels that are not resampled keep their values.
SCALE_TOLERANCE = 0.01


class WorkingGrid(NamedTuple):
    """Size and place of the pixels that a scene is processed in.

    Attributes:
        height: number of rows.
        width: number of columns.
        transform: affine transform from (column, row) of pixel corners to coordinates of the map;
            rotation and direction of the axes are those of the file.
        ratio: pixels of the file per pixel of this grid, along columns and rows.
    """

    height: int
    width: int
    transform: Any
    ratio: tuple[float, float]


def make_grid(height: int, width: int, transform: Any, scale: tuple[float, float]) -> WorkingGrid:
    """Return the grid of a file at another scale; it covers the same area.

    Args:
        height: number of rows of the file.
        width: number of columns of the file.
        transform: affine transform of the file.
        scale: pixels of the new grid per pixel of the file, along columns and rows. The numbers of
            rows and columns are rounded, and are at least 1.
    """
    if all(abs(s - 1) <= SCALE_TOLERANCE for s in scale):
        return WorkingGrid(height, width, transform, (1.0, 1.0))
    columns, rows = max(1, round(width * scale[0])), max(1, round(height * scale[1]))
    ratio = (width / columns, height / rows)
    return WorkingGrid(rows, columns, transform @ type(transform).scale(*ratio), ratio)


def ground_pixel_size(
    crs: Any, transform: Any, height: int, width: int
) -> tuple[float, float] | None:
    """Return width and height of the central pixel on the ground, in metres.

    They are measured in a local projection around the centre of the scene, so that they are right
    in degrees, in feet, and in Web Mercator. In a system that has no place on the earth, they are
    the lengths in its own units, converted to metres.

    Args:
        crs: coordinate reference system of the raster.
        transform: affine transform of the raster.
        height: number of rows.
        width: number of columns.

    Returns:
        width and height of a pixel, or None if the system has no unit of length.
    """
    column, row = width / 2, height / 2
    corners = [(column, row), (column + 1, row), (column, row + 1)]
    points = np.array([transform @ corner for corner in corners])
    try:
        plane = local_equal_area(*converted(points[:1], crs, WGS84)[0])
        points = converted(points, crs, plane)
    except UserError:
        try:
            points = points * crs.linear_units_factor[1]
        except GDAL_ERRORS:
            return None
    sizes = [math.dist(points[0], point) for point in points[1:]]
    return (sizes[0], sizes[1]) if all(0 < size < math.inf for size in sizes) else None
