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

# Maximum length of edges in metres before reprojection, which turns straight lines into curves.
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
    plane = _plane(reference, files)
    placed = [_placed(file, plane) for file in files]
    return placed, metres_per_unit(plane)


def _plane(crs: CRS, files: Sequence[VectorFile]) -> CRS:
    """Return the files' CRS if it is true to scale, otherwise a projection around one of them."""
    file = next((file for file in files if len(file) and file.crs == crs), None)
    if file is None or not is_on_earth(crs):
        return crs
    x0, y0, x1, y1 = shapely.total_bounds(file.polygons)
    corners = np.array([((x0 + x1) / 2, (y0 + y1) / 2), (x0, y0), (x0, y1), (x1, y0), (x1, y1)])
    if is_true_to_scale(crs, corners):
        return crs
    points = _without_jump(converted(shapely.get_coordinates(file.polygons), crs, WGS84))
    return local_equal_area(*(points.min(axis=0) + points.max(axis=0)) / 2)


def _without_jump(points: np.ndarray) -> np.ndarray:
    """Return longitudes and latitudes ``(N, 2)``, with longitudes that do not jump by 360 degrees.

    Those of places on both sides of the antimeridian become 0 to 360 degrees.
    """
    width = np.ptp(points[:, 0])
    if width > 180 and np.ptp(points[:, 0] % 360) < width:
        points = np.stack([points[:, 0] % 360, points[:, 1]], axis=1)
    return points


def _placed(file: VectorFile, plane: CRS) -> np.ndarray:
    if file.crs == plane or not len(file):
        return file.polygons
    assert file.crs is not None
    polygons = file.polygons
    if file.crs.is_geographic:
        polygons = shapely.transform(polygons, _without_jump)
    metres = metres_per_unit(file.crs) or math.radians(EARTH_RADIUS)
    polygons = reprojected(shapely.segmentize(polygons, _MAX_EDGE / metres), file.crs, plane)
    # Parts that were cut at the antimeridian meet again.
    return np.where(shapely.is_valid(polygons), polygons, shapely.make_valid(polygons))
