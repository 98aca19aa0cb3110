"""Areas, lengths and directions of objects on the ground."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import shapely
from affine import Affine
from rasterio.crs import CRS

from .coordinates import (
    WGS84,
    converted,
    is_on_earth,
    is_true_to_scale,
    local_equal_area,
    metres_per_unit,
)
from .description import SceneDescription
from .polygons import transformed

Method = Literal["grid", "ground", "pixels"]

# Sides of rectangles that differ by less than this share have the same length.
_SQUARE = 1e-6
# Accuracy of angles in degrees.
_TURN = 1e-3
# Edges are divided into pieces of at most 16 pixels before they are projected: straight lines in
# one coordinate reference system are curves in another.
_MAX_EDGE = 16.0


class Measures(NamedTuple):
    """Measures of N objects, each an array ``(N,)`` of float64.

    Lengths are in metres and areas in square metres, or in pixels for a scene without a place on
    the earth.

    Attributes:
        area: area without holes.
        perimeter: length of the outlines, those of holes included.
        length: longer side of the minimum rotated rectangle.
        width: shorter side of it.
        angle: direction of the longer side in degrees, 0 to 180, clockwise from the direction of
            the y axis of the scene's CRS ("north"), or of the top of a picture without one.
    """

    area: np.ndarray
    perimeter: np.ndarray
    length: np.ndarray
    width: np.ndarray
    angle: np.ndarray


class Measurer:
    """Measures objects of a scene.

    There are three methods:

    - "grid": in the plane of the scene's CRS, so that the area is the number of pixels times the
      area of a pixel. Used if this plane is true to scale in the whole scene (see
      :data:`~facenet_d2.scenes.coordinates.MAX_SCALE_ERROR`), as UTM and national grids are.
    - "ground": in a Lambert azimuthal equal-area projection centred within half a degree of the
      object. Used for other systems on the earth, such as geographic coordinates or Web Mercator.
    - "pixels": without a CRS, or without a conversion of it to metres.
    """

    def __init__(self, scene: SceneDescription) -> None:
        self.transform = scene.transform
        self.crs = scene.crs
        self.method = measuring_method(scene)
        if self.method == "pixels":
            # Rows of a picture count downwards.
            self._plane = Affine(1, 0, 0, 0, -1, 0)
        elif self.method == "grid":
            assert scene.crs is not None
            metres = metres_per_unit(scene.crs)
            assert metres is not None
            a, b, _, d, e, _ = tuple(scene.transform)[:6]
            # Without the offset, coordinates are small and lengths precise.
            self._plane = Affine(*(metres * term for term in (a, b, 0, d, e, 0)))

    @property
    def area_unit(self) -> str:
        """Suffix of the names of areas: "m2" or "px"."""
        return "px" if self.method == "pixels" else "m2"

    @property
    def length_unit(self) -> str:
        """Suffix of the names of lengths: "m" or "px"."""
        return "px" if self.method == "pixels" else "m"

    def __call__(self, polygons: np.ndarray) -> Measures:
        """Measure polygons.

        Args:
            polygons: array of N MultiPolygons in pixels of the scene.
        """
        if not len(polygons):
            return Measures(*np.empty((5, 0)))
        if self.method == "ground":
            return self._on_ground(polygons)
        plane = transformed(polygons, self._plane)
        measures = _in_plane(plane, np.zeros(len(plane)))
        return measures._replace(area=shapely.area(polygons) * abs(self._plane.determinant))

    def _on_ground(self, polygons: np.ndarray) -> Measures:
        crs = self.crs
        assert crs is not None
        placed = transformed(shapely.segmentize(polygons, _MAX_EDGE), self.transform)
        x0, y0, x1, y1 = shapely.bounds(placed).T
        centres = np.stack([(x0 + x1) / 2, (y0 + y1) / 2], axis=1)
        cells = np.round(converted(centres, crs, WGS84))
        step = (0, 10 * abs(self.transform.determinant) ** 0.5)
        columns = np.empty((len(Measures._fields), len(polygons)))
        kinds, members = np.unique(cells, axis=0, return_inverse=True)
        for number, (longitude, latitude) in enumerate(kinds):
            chosen = np.flatnonzero(members.ravel() == number)
            target = _cell_plane(longitude, latitude)
            points = shapely.get_coordinates(placed[chosen])
            plane = shapely.set_coordinates(placed[chosen], converted(points, crs, target))
            ends = np.concatenate([centres[chosen], centres[chosen] + step])
            tails, heads = np.split(converted(ends, crs, target), 2)
            columns[:, chosen] = _in_plane(plane, _bearings(heads - tails))
        return Measures(*columns)


def measuring_method(scene: SceneDescription) -> Method:
    """Return how the objects of a scene are measured, see :class:`Measurer`."""
    crs = scene.crs
    if crs is None:
        return "pixels"
    if not is_on_earth(crs):
        return "pixels" if metres_per_unit(crs) is None else "grid"
    columns, rows = np.meshgrid(np.linspace(0, scene.width, 3), np.linspace(0, scene.height, 3))
    a, b, c, d, e, f = tuple(scene.transform)[:6]
    points = np.stack([a * columns + b * rows + c, d * columns + e * rows + f], axis=-1)
    return "grid" if is_true_to_scale(crs, points.reshape(-1, 2)) else "ground"


@lru_cache(maxsize=1024)
def _cell_plane(longitude: float, latitude: float) -> CRS:
    return local_equal_area(longitude, latitude)


def _bearings(vectors: np.ndarray) -> np.ndarray:
    """Return the directions of vectors ``(N, 2)`` in degrees, clockwise from the y axis."""
    return np.degrees(np.arctan2(vectors[:, 0], vectors[:, 1]))


def _in_plane(polygons: np.ndarray, north: np.ndarray) -> Measures:
    """Measure polygons whose coordinates are metres.

    Args:
        polygons: array of N geometries.
        north: ``(N,)`` directions of the north, in degrees clockwise from the y axis.
    """
    rectangles = shapely.get_exterior_ring(shapely.oriented_envelope(polygons))
    corners = shapely.get_coordinates(rectangles).reshape(-1, 5, 2)
    sides = corners[:, 1:3] - corners[:, 0:2]
    lengths = np.linalg.norm(sides, axis=2)
    longer = np.argmax(lengths, axis=1)
    rows = np.arange(len(polygons))
    angles = (_bearings(sides[rows, longer]) - north) % 180
    # A square has two directions that differ by a right angle: the smaller one is taken.
    square = abs(lengths[:, 0] / lengths[:, 1] - 1) < _SQUARE
    angles[square] %= 90
    return Measures(
        area=shapely.area(polygons),
        perimeter=shapely.length(polygons),
        length=lengths.max(axis=1),
        width=lengths.min(axis=1),
        # A rounding error below zero became an angle just below 180 degrees.
        angle=np.where(angles > 180 - _TURN, 0.0, angles),
    )
