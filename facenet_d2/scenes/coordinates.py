"""Conversion of coordinates between reference systems."""

from __future__ import annotations

import numpy as np
import shapely
from rasterio._err import CPLE_BaseError, CPLE_NotSupportedError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as warp

from ..errors import UserError

WGS84 = CRS.from_epsg(4326)
# Mean radius of the earth in metres.
EARTH_RADIUS = 6_371_000.0
# A plane is true to scale if lengths in it differ from those on the ground by this share at most.
# UTM reaches 0.1 % in its zone, national grids 0.3 %; Web Mercator starts at 0.67 %.
MAX_SCALE_ERROR = 0.003


def converted(points: np.ndarray, source: CRS, target: CRS) -> np.ndarray:
    """Convert points; x is the easting or longitude and y the northing or latitude in both systems.

    Args:
        points: ``(N, 2)`` coordinates in ``source``.
        source: coordinate reference system of the points.
        target: coordinate reference system of the result.

    Returns:
        ``(N, 2)`` coordinates in ``target``.

    Raises:
        UserError: If points cannot be converted: they lie outside the domain of ``target``, or on
            another planet.
    """
    if source == target or not len(points):
        return points.copy()
    try:
        x, y = warp(source, target, points[:, 0], points[:, 1])
        result = np.stack([np.asarray(x, float), np.asarray(y, float)], axis=1)
        problem = "" if np.isfinite(result).all() else "some points have no coordinates there"
    except (CPLE_BaseError, CRSError, RasterioError) as error:
        problem = " ".join(str(error).split())
    if problem:
        raise UserError(
            f"coordinates in {describe(source)} cannot be converted to {describe(target)}: "
            f"{problem[:200]}."
        )
    return result


def reprojected(geometries: np.ndarray, source: CRS, target: CRS) -> np.ndarray:
    """Convert the vertices of geometries, see :func:`converted`."""
    points = converted(shapely.get_coordinates(geometries), source, target)
    return shapely.set_coordinates(geometries.copy(), points)


def describe(crs: CRS) -> str:
    """Return the name of a coordinate reference system, such as "EPSG:32633"."""
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else " ".join(crs.to_wkt().split())[:60]


def local_equal_area(longitude: float, latitude: float) -> CRS:
    """Return a Lambert azimuthal equal-area projection in metres with the given centre."""
    return CRS.from_proj4(
        f"+proj=laea +lat_0={latitude:.12g} +lon_0={longitude:.12g} +datum=WGS84 +units=m +no_defs"
    )


def metres_per_unit(crs: CRS) -> float | None:
    """Return the length of the unit of a projected system in metres; None for other systems."""
    try:
        return float(crs.linear_units_factor[1]) if crs.is_projected else None
    except CRSError:
        return None


def is_on_earth(crs: CRS) -> bool:
    """Whether a system has a conversion to WGS84; those of other planets and plans have none."""
    try:
        warp(crs, WGS84, [0.0], [0.0])
    except CPLE_NotSupportedError:
        return False
    except CPLE_BaseError:
        # The conversion exists, but not at this point.
        return True
    return True


def is_true_to_scale(crs: CRS, points: np.ndarray) -> bool:
    """Whether lengths in a projected system are those on the ground, near all given points.

    The sides and diagonals of a square of 100 m are compared with those in a local projection; the
    limit is :data:`MAX_SCALE_ERROR`.

    Args:
        crs: coordinate reference system on the earth.
        points: ``(N, 2)`` coordinates in it.
    """
    metres = metres_per_unit(crs)
    if metres is None:
        return False
    side = 100 / metres
    steps = np.array([(0, 0), (side, 0), (0, side), (side, side)])
    lengths = 100 * np.array([1, 1, 2**0.5, 2**0.5])
    for point in points:
        try:
            plane = local_equal_area(*converted(point[None], crs, WGS84)[0])
            corner, right, up, opposite = converted(point + steps, crs, plane)
        except UserError:
            return False
        measured = np.array([right - corner, up - corner, opposite - corner, up - right])
        if (abs(np.linalg.norm(measured, axis=1) / lengths - 1) > MAX_SCALE_ERROR).any():
            return False
    return True
