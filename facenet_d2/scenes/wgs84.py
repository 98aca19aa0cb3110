"""Polygons in longitude and latitude as RFC 7946 requires them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import shapely

from .coordinates import EARTH_RADIUS, WGS84, converted, metres_per_unit
from .description import SceneDescription
from .polygons import single_parts

# Decimals of a degree: 11 mm on the ground. Pixels below 0.1 m need more.
DIGITS = 7
_MAX_DIGITS = 10
_COARSE_PIXEL = 0.1
_METRES_PER_DEGREE = math.radians(EARTH_RADIUS)
# Edges are divided into pieces between these lengths, in pixels.
_MIN_EDGE = 0.05
_MAX_EDGE = 1e5


class LongitudeLatitude:
    """Converts polygons of a scene to longitude and latitude in WGS84.

    Edges are divided where a straight line in the scene's CRS would leave the straight line between
    longitudes and latitudes by more than a hundredth of a pixel. Polygons over the antimeridian are
    cut there (RFC 7946, section 3.1.9), and a polygon around a pole ends at it. Coordinates are
    rounded to :data:`DIGITS` decimals, or to more if pixels are smaller than 0.1 m.
    """

    def __init__(self, scene: SceneDescription) -> None:
        """
        Raises:
            UserError: If the scene's CRS cannot be converted to WGS84.
        """
        assert scene.crs is not None
        self.crs = scene.crs
        self._pixel = scene.pixel_size
        self._pixel_metres = self._pixel * (metres_per_unit(self.crs) or _METRES_PER_DEGREE)
        missing = max(0, math.ceil(math.log10(_COARSE_PIXEL / self._pixel_metres)))
        self.digits = min(DIGITS + missing, _MAX_DIGITS)
        converted(np.array([(scene.transform.c, scene.transform.f)]), self.crs, WGS84)

    def __call__(self, polygons: np.ndarray) -> np.ndarray:
        """Convert MultiPolygons in the scene's CRS.

        Returns:
            Array of valid Polygons and MultiPolygons in degrees.
        """
        if not len(polygons):
            return polygons
        degrees = self._in_degrees(self._divided(polygons))
        west, _, east, _ = shapely.bounds(degrees).T
        for index in np.flatnonzero((east - west > 180) | (west < -180) | (east > 180)):
            degrees[index] = _cut_at_antimeridian(degrees[index])
        rounded = shapely.remove_repeated_points(self._rounded(degrees))
        # Rounding may have moved vertices onto other edges.
        invalid = ~shapely.is_valid(rounded)
        repaired = shapely.set_precision(shapely.make_valid(degrees[invalid]), 10.0**-self.digits)
        rounded[invalid] = [_areas_of(geometry) for geometry in repaired]
        # GEOS's own rounding differs in the last bit.
        return single_parts(self._rounded(rounded))

    def _rounded(self, polygons: np.ndarray) -> np.ndarray:
        points = np.round(shapely.get_coordinates(polygons), self.digits)
        return shapely.set_coordinates(polygons.copy(), points)

    def _divided(self, polygons: np.ndarray) -> np.ndarray:
        """Divide long edges, so that straight lines remain straight to a hundredth of a pixel."""
        if self.crs.is_geographic:
            return polygons
        x0, y0, x1, y1 = shapely.bounds(polygons).T
        corners = np.stack([x0, x1, x0, x1, y0, y0, y1, y1]).reshape(2, -1).T
        corners = converted(corners, self.crs, WGS84)
        latitude = abs(corners[:, 1]).reshape(4, -1).max(axis=0)
        # A chord of length s of a parallel is s^2 tan(latitude) / (8 R) away from it.
        slope = np.tan(np.radians(np.minimum(latitude, 90 - 1e-9)))
        with np.errstate(divide="ignore"):
            edge = np.sqrt(0.08 * EARTH_RADIUS / (self._pixel_metres * slope))
        return shapely.segmentize(polygons, np.clip(edge, _MIN_EDGE, _MAX_EDGE) * self._pixel)

    def _in_degrees(self, polygons: np.ndarray) -> np.ndarray:
        points = converted(shapely.get_coordinates(polygons), self.crs, WGS84)
        return shapely.set_coordinates(polygons.copy(), points)


def _cut_at_antimeridian(polygon: shapely.Geometry) -> shapely.MultiPolygon:
    """Cut a polygon whose longitudes jump or leave -180 to 180 degrees into parts that do not.

    Each ring is made continuous and filled. One that winds around the earth encloses a pole, and is
    closed along the pole's latitude.
    """
    parts = []
    for part in shapely.get_parts(polygon):
        shell, *holes = (
            _filled(np.array(ring.coords)) for ring in (part.exterior, *part.interiors)
        )
        parts.append(shell.difference(shapely.union_all(holes)))
    # Parts that touched at a corner stay separate geometries.
    return _areas_of(shapely.GeometryCollection(parts))


def _filled(ring: np.ndarray) -> shapely.Geometry:
    """Return the area within a ring of longitudes and latitudes, between -180 and 180 degrees."""
    points = _split_poles(ring)
    points[:, 0] = np.unwrap(points[:, 0], period=360)
    winding = points[-1, 0] - points[0, 0]
    if abs(winding) > 180:
        pole = math.copysign(90, points[:, 1].mean())
        ends = [(points[-1, 0], pole), (points[0, 0], pole), tuple(points[0])]
        points = np.concatenate([points, ends])
    area = shapely.make_valid(shapely.Polygon(points))
    first = math.floor((points[:, 0].min() + 180) / 360)
    last = math.floor((points[:, 0].max() + 180) / 360)
    windows = []
    for turn in range(first, last + 1):
        window = shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)
        shift = np.array([-360 * turn, 0])
        windows.append(shapely.transform(area.intersection(window), lambda p, s=shift: p + s))
    return shapely.union_all(windows)


def _split_poles(ring: np.ndarray) -> np.ndarray:
    """Give each vertex on a pole, which has no longitude, those of its neighbours."""
    on_pole = abs(ring[:, 1]) > 90 - 1e-9
    if not on_pole.any():
        return ring.copy()
    start = int(np.argmin(on_pole))
    ring = np.roll(ring[:-1], -start, axis=0)
    points = [ring[0]]
    for before, vertex, after in zip(ring, ring[1:], [*ring[2:], ring[0]]):
        if abs(vertex[1]) > 90 - 1e-9:
            points += [np.array([before[0], vertex[1]]), np.array([after[0], vertex[1]])]
        else:
            points.append(vertex)
    return np.array([*points, ring[0]])


def _areas_of(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    """Return the polygons in a geometry, without points and lines that a repair has left."""
    polygons = []
    for part in shapely.get_parts(geometry):
        if part.geom_type == "Polygon":
            polygons.append(part)
        elif hasattr(part, "geoms"):
            polygons.extend(_areas_of(part).geoms)
    return shapely.MultiPolygon([polygon for polygon in polygons if polygon.area > 0])


def geojson_geometry(geometry: shapely.Geometry) -> dict[str, Any]:
    """Return a Polygon or MultiPolygon as the object of GeoJSON.

    Shells are anticlockwise and holes clockwise (RFC 7946, section 3.1.6).
    """
    if geometry.geom_type == "Polygon":
        return {"type": "Polygon", "coordinates": _rings(geometry)}
    return {"type": "MultiPolygon", "coordinates": [_rings(part) for part in geometry.geoms]}


def _rings(polygon: shapely.Polygon) -> list[list[list[float]]]:
    rings = []
    for number, ring in enumerate((polygon.exterior, *polygon.interiors)):
        coordinates = list(map(list, ring.coords))
        if ring.is_ccw == bool(number):
            coordinates.reverse()
        rings.append(coordinates)
    return rings
