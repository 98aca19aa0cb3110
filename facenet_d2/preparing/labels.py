"""Labels of vector files: their classes, their cleaning, and their place on a raster."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from ..errors import UserError
from ..scenes.coordinates import converted, describe
from ..scenes.geo import GDAL_ERRORS, known_crs, reason
from ..scenes.polygons import single_parts, transformed
from ..scenes.raster import Raster
from ..scenes.vector_reader import read_polygons
from .label_classes import LEFT_OUT, ClassRules

SAME_AS_RASTER = "raster"
"""Value of ``crs`` for labels whose coordinates are those of the raster, whatever the file says."""

# An edge is straight in the reference system of the labels, not in that of the raster. A piece of
# this share of the scene is straight in both: the error is below 0.1 pixels for scenes of up to
# 100,000 pixels of 10 m.
_PIECE = 1 / 200
# Points in each direction that show where the raster lies in the reference system of the labels.
_GRID_POINTS = 21
# Share of the raster's size up to which labels are looked for around it.
_MARGIN = 0.1


@dataclass(frozen=True)
class Labels:
    """Labelled objects.

    Attributes:
        path: the file, for messages.
        polygons: array of N valid Polygons and MultiPolygons.
        classes: ``(N,)`` int, index of the class, or -1 for labels whose pixels are ignored.
        source_ids: ``(N,)`` int, id of the feature in the file.
        crs: coordinate reference system, None, or :data:`SAME_AS_RASTER`.
        counts: numbers of features that were repaired or left out, by reason.
    """

    path: str
    polygons: np.ndarray
    classes: np.ndarray
    source_ids: np.ndarray
    crs: Any
    counts: Counter[str]

    def __len__(self) -> int:
        return len(self.polygons)


def read_labels(
    path: str,
    rules: ClassRules,
    *,
    layer: str | None = None,
    crs: str | None = None,
    explode: bool = False,
) -> Labels:
    """Read labels from a vector file.

    Invalid polygons are repaired; features without an area, and repetitions of a geometry with the
    same class, are left out.

    Args:
        path: any vector format of GDAL, or GeoParquet.
        rules: classes.
        layer: layer of the file, if it has several.
        crs: reference system of the coordinates if the file lacks it or has a wrong one, or
            :data:`SAME_AS_RASTER`.
        explode: whether each part of a MultiPolygon is an object of its own.

    Raises:
        UserError: if the file cannot be read, or has labels without a known class.
    """
    file = read_polygons(path, layer=layer)
    counts = Counter(repaired=file.repaired, without_area=file.dropped)
    classes = rules.apply(file)
    kept = classes != LEFT_OUT
    counts["left_out_by_class"] = int((~kept).sum())
    polygons, classes, ids = file.polygons[kept], classes[kept], file.ids[kept]
    if explode:
        polygons, sources = shapely.get_parts(polygons, return_index=True)
        classes, ids = classes[sources], ids[sources]
    polygons = single_parts(polygons)
    keys = [shapely.to_wkb(shapely.normalize(polygon)) for polygon in polygons]
    first = {key: i for i, key in reversed(list(enumerate(zip(keys, classes.tolist()))))}
    chosen = np.array(sorted(first.values()), int)
    counts["repeated"] = len(polygons) - len(chosen)
    counts["repeated_with_another_class"] = len(chosen) - len(set(keys))
    system = _label_crs(path, file.crs, crs)
    return Labels(path, polygons[chosen], classes[chosen], ids[chosen], system, counts)


def _label_crs(path: str, declared: Any, given: str | None) -> Any:
    if given is None:
        return known_crs(declared)
    if given == SAME_AS_RASTER:
        return SAME_AS_RASTER
    try:
        return known_crs(given)
    except GDAL_ERRORS as error:
        raise UserError(
            f"--labels-crs {given!r} is not a coordinate reference system ({reason(error)}); give "
            "one such as EPSG:32633, or raster."
        ) from error


def labels_on_raster(labels: Labels, raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels that reach into a raster, in pixels of its working grid.

    Long edges get further vertices before the conversion, and each vertex is converted on its own,
    so that rotated and south-up rasters are exact.

    Returns:
        indices: ``(M,)`` int, which labels they are.
        polygons: array of M geometries; they may reach beyond the raster.

    Raises:
        UserError: if only one of the two has a reference system, or labels cannot be converted.
    """
    same = labels.crs == SAME_AS_RASTER
    if not same and (labels.crs is None) != (raster.crs is None):
        lacking = raster.name if raster.crs is None else labels.path
        raise UserError(
            f"{labels.path} cannot be placed on {raster.name}, because {lacking} has no coordinate "
            "reference system; give that of the labels with --labels-crs, which may be raster."
        )
    source = raster.crs if same else labels.crs
    try:
        indices, polygons = _near(labels.polygons, source, raster)
    except UserError as error:
        raise UserError(f"{labels.path} cannot be placed on {raster.name}: {error}") from error
    if not len(indices):
        return indices, polygons
    polygons = transformed(polygons, ~raster.transform)
    invalid = ~shapely.is_valid(polygons)
    polygons[invalid] = [_area_of(g) for g in shapely.make_valid(polygons[invalid])]
    left, top, right, bottom = shapely.bounds(polygons).T
    # NaN for one whose area the conversion has made zero.
    inside = (right > 0) & (bottom > 0) & (left < raster.width) & (top < raster.height)
    return indices[inside], polygons[inside]


def _near(polygons: np.ndarray, source: Any, raster: Raster) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels around a raster in its reference system.

    The others are not converted: a projection has no place for what is far away.
    """
    grid = np.meshgrid(
        np.linspace(0, raster.width, _GRID_POINTS), np.linspace(0, raster.height, _GRID_POINTS)
    )
    points = np.transpose(raster.transform @ (grid[0].ravel(), grid[1].ravel()))
    middle = points[len(points) // 2]
    if source is not None:
        there = converted(points, raster.crs, source)
        if source.is_geographic and source != raster.crs:
            there[:, 0] = _same_turn(there[:, 0], there[len(there) // 2, 0])
    else:
        there = points
    extent = np.ptp(there, axis=0)
    left, bottom = there.min(axis=0) - _MARGIN * extent
    right, top = there.max(axis=0) + _MARGIN * extent
    bounds = shapely.bounds(polygons)
    shifts = np.zeros(len(polygons))
    if source is not None and source.is_geographic:
        # Longitudes that differ by whole turns are the same.
        centres = (bounds[:, 0] + bounds[:, 2]) / 2
        shifts = 360 * np.round(((left + right) / 2 - centres) / 360)
    near = (
        (bounds[:, 2] + shifts >= left)
        & (bounds[:, 0] + shifts <= right)
        & (bounds[:, 3] >= bottom)
        & (bounds[:, 1] <= top)
    )
    indices = np.flatnonzero(near)
    chosen = polygons[indices]
    if shifts.any():
        chosen = np.array(
            [
                shapely.transform(polygon, lambda p, shift=shift: p + (shift, 0))
                for polygon, shift in zip(chosen, shifts[indices])
            ],
            dtype=object,
        )
    if source is None or raster.crs is None or source == raster.crs or not len(indices):
        return indices, chosen
    chosen = shapely.segmentize(chosen, _PIECE * float(max(extent)))
    coordinates = converted(shapely.get_coordinates(chosen), source, raster.crs)
    if raster.crs.is_geographic:
        coordinates[:, 0] = _same_turn(coordinates[:, 0], middle[0])
    return indices, shapely.set_coordinates(chosen, coordinates)


def _same_turn(longitudes: np.ndarray, centre: float) -> np.ndarray:
    turned: np.ndarray = longitudes + 360 * np.round((centre - longitudes) / 360)
    return turned


def _area_of(geometry: shapely.Geometry) -> shapely.Geometry:
    parts = [part for part in shapely.get_parts(geometry) if shapely.area(part) > 0]
    return shapely.union_all(parts)


def check_share_inside(labels: Labels, inside: int, where: str) -> float:
    """Return the share of labels inside the rasters.

    Args:
        labels: all labels of a file.
        inside: number of them that reach into a raster.
        where: the raster or rasters, for the message.

    Raises:
        UserError: if there are no labels, or less than half of them are inside.
    """
    if not len(labels):
        raise UserError(f"{labels.path} contains no labels of the classes.")
    share = inside / len(labels)
    if share < 0.5:
        system = labels.crs if isinstance(labels.crs, str) or labels.crs is None else None
        system = system or (describe(labels.crs) if labels.crs is not None else "none")
        raise UserError(
            f"{labels.path}: only {inside} of {len(labels)} labels ({math.floor(100 * share)} %) "
            f"lie in {where}; check the reference system of the labels, {system}, and that they "
            "belong to the rasters."
        )
    return share
