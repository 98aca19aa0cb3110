"""Areas of interest: polygons of a vector file on the grid of a raster."""

from __future__ import annotations

import hashlib
import logging
import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely import affinity

from ..errors import UserError
from .geo import GDAL_ERRORS, gdal_settings, known_crs, pyogrio, rasterio, reason

logger = logging.getLogger(__name__)

# Edges are straight in the reference system of the file, not of the raster: each piece of at most a
# hundredth of the scene gets a vertex.
_PIECES = 100
# Points in each direction that show where the scene lies in the reference system of the area; the
# middle one is its centre.
_GRID_POINTS = 21
# Share of the scene's size up to which polygons are kept around it.
_MARGIN = 0.1
# Separates the name of a layer from that of its file.
_LAYER = "|layername="


def file_of_area(name: str) -> str:
    """Return the file of an area of interest without the name of a layer."""
    return name.partition(_LAYER)[0]


class OutsideAreaError(UserError):
    """An area of interest and a scene do not overlap."""


@dataclass(frozen=True)
class Area:
    """Polygons of an area of interest.

    Args:
        name: name for messages.
        geometry: the union of the polygons; valid, with a positive area.
        crs: coordinate reference system (``rasterio.crs.CRS``), or None for coordinates of rasters
            that have none either.
    """

    name: str
    geometry: shapely.Geometry
    crs: Any

    @classmethod
    def from_file(cls, path: str | Path) -> Area:
        """Read the polygons of a vector file, which may be followed by ``|layername=NAME``.

        Points and lines in it are ignored.

        Raises:
            UserError: if it cannot be read, has several layers and none is named, or contains no
                polygon with an area.
        """
        name = str(path)
        file, _, layer = name.partition(_LAYER)
        try:
            layers = [str(row[0]) for row in pyogrio.list_layers(file)]
            if len(layers) > 1 and not layer:
                raise UserError(
                    f"Area of interest {name}: the file has {len(layers)} layers "
                    f"({', '.join(layers[:8])}); name one: {name}|layername={layers[0]}"
                )
            with warnings.catch_warnings():
                # pyogrio warns of measured coordinates, which areas do not use.
                warnings.simplefilter("ignore")
                meta, _, geometries, _ = pyogrio.raw.read(file, layer=layer or None, columns=[])
            crs = known_crs(meta["crs"])
        except (
            *GDAL_ERRORS,
            pyogrio.errors.DataSourceError,
            pyogrio.errors.DataLayerError,
            ValueError,
        ) as error:
            raise UserError(
                f"Area of interest {name}: it cannot be read ({reason(error)})."
            ) from error
        parts = shapely.from_wkb([] if geometries is None else geometries, on_invalid="ignore")
        polygons = _polygons(parts)
        if polygons.is_empty:
            raise UserError(f"Area of interest {name}: it contains no polygon with an area.")
        return cls(name, polygons, crs)

    def on_grid(self, scene: str, height: int, width: int, transform: Any, crs: Any) -> AreaOnGrid:
        """Return the area on the pixel grid of a scene.

        Args:
            scene: name of the scene for messages.
            height: number of rows of the grid.
            width: number of columns of the grid.
            transform: affine transform of the grid.
            crs: coordinate reference system of the grid, or None.

        Raises:
            OutsideAreaError: if scene and area do not overlap.
            UserError: if only one of them has a reference system.
        """
        if (self.crs is None) != (crs is None):
            place = "the scene" if crs is None else "the area"
            raise UserError(
                f"Area of interest {self.name}: it cannot be placed on {scene}, because {place} "
                "has no coordinate reference system."
            )
        columns, rows = np.meshgrid(
            np.linspace(0, width, _GRID_POINTS), np.linspace(0, height, _GRID_POINTS)
        )
        scene_points = np.transpose(transform @ (columns.ravel(), rows.ravel()))
        try:
            with gdal_settings():
                near = self._near(scene_points, crs)
                pixels = _transformed(near, ~transform)
                pixels = _polygons(np.array([pixels])) & shapely.box(0, 0, width, height)
                inside = _converted(_transformed(pixels, transform), crs, self.crs)
        except GDAL_ERRORS as error:
            raise UserError(
                f"Area of interest {self.name}: it cannot be converted to the coordinate reference "
                f"system of {scene} ({reason(error)})."
            ) from error
        if shapely.area(pixels) == 0:
            raise OutsideAreaError(
                f"Area of interest {self.name}: no part of it lies in {scene}; check their "
                f"coordinate reference systems, {_describe(self.crs)} and {_describe(crs)}."
            )
        share = min(1.0, float(shapely.area(inside) / shapely.area(self.geometry)))
        if share < 0.995:
            logger.info(f"{share:.1%} of the area of interest {self.name} lies in {scene}.")
        return AreaOnGrid(pixels, share)

    def _near(self, scene_points: np.ndarray, crs: Any) -> shapely.Geometry:
        """Return the part of the area around a scene, in the scene's reference system.

        The rest is not converted: a projection has no place for what is far away.

        Args:
            scene_points: ``(N, 2)`` points that are spread over the scene.
            crs: the scene's reference system.
        """
        middle = scene_points[len(scene_points) // 2]
        points = _converted_points(scene_points, crs, self.crs)
        points = points[np.isfinite(points).all(axis=1)]
        if not len(points):
            return shapely.Polygon()
        margin = _MARGIN * np.ptp(points, axis=0)
        (left, bottom), (right, top) = points.min(axis=0) - margin, points.max(axis=0) + margin
        area = self.geometry
        if self.crs is not None and self.crs.is_geographic:
            # Around a pole, at most one full turn.
            left, right = max(left, (left + right) / 2 - 180), min(right, (left + right) / 2 + 180)
            # Copies of the area, shifted by whole turns of longitude.
            start, _, end, _ = shapely.bounds(area)
            turns = range(math.ceil((left - end) / 360), math.floor((right - start) / 360) + 1)
            area = shapely.union_all([affinity.translate(area, 360 * turn) for turn in turns])
        area = area & shapely.box(left, bottom, right, top)
        if crs == self.crs:
            return area
        area = shapely.segmentize(area, max(right - left, top - bottom) / _PIECES)
        return _converted(area, self.crs, crs, middle[0])


@dataclass(frozen=True)
class AreaOnGrid:
    """An area of interest in pixels of a scene.

    Attributes:
        geometry: polygons in pixels, within the scene.
        share: share of the area of interest that lies within the scene; NaN if it is unknown.
    """

    geometry: shapely.Geometry
    share: float

    @property
    def digest(self) -> str:
        """A text that differs for areas with other coordinates."""
        return hashlib.sha256(shapely.to_wkb(shapely.normalize(self.geometry))).hexdigest()

    def mask(self, window: tuple[int, int, int, int]) -> np.ndarray:
        """Return which pixels of a window have their centres in the area.

        Args:
            window: left, top, right and bottom; right and bottom are exclusive.

        Returns:
            ``(height, width)`` bool.
        """
        left, top, right, bottom = window
        shape = (bottom - top, right - left)
        # One pixel around the window keeps the edges of clipping away from the pixels' centres.
        near = shapely.clip_by_rect(self.geometry, left - 1, top - 1, right + 1, bottom + 1)
        if near.is_empty or shapely.area(near) == 0:
            return np.zeros(shape, bool)
        burned: np.ndarray = rasterio.features.rasterize(
            [affinity.translate(near, -left, -top)], out_shape=shape, dtype=np.uint8
        )
        return burned > 0


def _polygons(geometries: np.ndarray) -> shapely.Geometry:
    """Return the union of the polygons in geometries of any kind; empty if they have no area."""
    valid = shapely.make_valid(shapely.force_2d(geometries[~shapely.is_missing(geometries)]))
    parts = shapely.get_parts(shapely.get_parts(valid))
    return shapely.union_all(parts[shapely.area(parts) > 0])


def _transformed(geometry: shapely.Geometry, transform: Any) -> shapely.Geometry:
    return shapely.transform(geometry, lambda points: np.transpose(transform @ tuple(points.T)))


def _converted(
    geometry: shapely.Geometry, source: Any, target: Any, longitude: float | None = None
) -> shapely.Geometry:
    return shapely.transform(
        geometry, lambda points: _converted_points(points, source, target, longitude)
    )


def _converted_points(
    points: np.ndarray, source: Any, target: Any, longitude: float | None = None
) -> np.ndarray:
    """Convert points; longitudes become those closest to ``longitude`` or to the middle point's."""
    if source == target or not len(points):
        return points
    x, y = np.array(rasterio.warp.transform(source, target, *points.T))
    if target.is_geographic:
        centre = x[len(x) // 2] if longitude is None else longitude
        x += 360 * np.round((centre - x) / 360)
    return np.transpose([x, y])


def _describe(crs: Any) -> str:
    return crs.to_string()[:60] if crs else "none"
