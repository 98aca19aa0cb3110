"""A common plane for the vector files of a scene."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import shapely
from rasterio.crs import CRS

from ..errors import UserError
from .coordinates import (
    EARTH_RADIUS,
    WGS84,
    converted,
    describe,
    is_on_earth,
    is_true_to_scale,
    local_equal_area,
    metres_per_unit,
    reprojected,
)
from .vector_reader import VectorFile

# Edges are divided before they are reprojected, since straight lines become curves: in metres.
_MAX_EDGE = 500.0


def in_common_plane(files: Sequence[VectorFile]) -> tuple[list[np.ndarray], float | None]:
    """Bring the polygons of several files into one plane whose lengths are those on the ground.

    The plane is the CRS of the first file if it is true to scale, as UTM and national grids are,
    and an equal-area projection around the file's polygons otherwise. Files without a CRS remain as
    they are.

    Args:
        files: files of one scene.

    Returns:
        The polygons of each file, and the length of the plane's unit in metres, None if unknown.

    Raises:
        UserError: If some files have a CRS and others do not, or a conversion is impossible.
    """
    reference = files[0].crs
    for file in files:
        if (file.crs is None) != (reference is None):
            without, other = (file, files[0]) if file.crs is None else (files[0], file)
            assert other.crs is not None
            raise UserError(
                f"{without.path} has no CRS, but {other.path} has {describe(other.crs)}; assign "
                "the CRS to the file that lacks it."
            )
    if reference is None:
        return [file.polygons for file in files], None
    plane = _plane(reference, _corners(files))
    placed = [_placed(file, plane) for file in files]
    return placed, metres_per_unit(plane)


def _corners(files: Sequence[VectorFile]) -> np.ndarray:
    """Return the corners and centre of the first file that is not empty, in its own CRS."""
    for file in files:
        if len(file) and file.crs == files[0].crs:
            x0, y0, x1, y1 = shapely.total_bounds(file.polygons)
            centre = ((x0 + x1) / 2, (y0 + y1) / 2)
            return np.array([centre, (x0, y0), (x0, y1), (x1, y0), (x1, y1)])
    return np.empty((0, 2))


def _plane(crs: CRS, corners: np.ndarray) -> CRS:
    if not len(corners) or not is_on_earth(crs) or is_true_to_scale(crs, corners):
        return crs
    return local_equal_area(*converted(corners[:1], crs, WGS84)[0])


def _placed(file: VectorFile, plane: CRS) -> np.ndarray:
    if file.crs == plane or not len(file):
        return file.polygons
    assert file.crs is not None
    metres = metres_per_unit(file.crs) or math.radians(EARTH_RADIUS)
    polygons = reprojected(shapely.segmentize(file.polygons, _MAX_EDGE / metres), file.crs, plane)
    # Parts that were cut at the antimeridian meet again.
    return np.where(shapely.is_valid(polygons), polygons, shapely.make_valid(polygons))
