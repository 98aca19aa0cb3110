"""Polygons of masks along the edges of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import shapely
from affine import Affine
from rasterio.features import shapes

# Masks up to this side are traced together: a call of GDAL costs more than a small mask.
_PACKED_SIDE = 256
_CANVAS_SIZE = 2048

Ring = list[tuple[float, float]]


def mask_polygons(masks: Sequence[np.ndarray], origins: Sequence[tuple[int, int]]) -> np.ndarray:
    """Trace masks along the edges of their pixels.

    Pixels that share a side are in one part; pixels that share only a corner are in two. All
    polygons are therefore valid, and their area is the number of pixels.

    Args:
        masks: N bool arrays ``(h, w)``, each with at least one True.
        origins: (column, row) of the first pixel of each mask in the scene.

    Returns:
        Array of N shapely MultiPolygons, with holes, in pixels of the scene: x is the column, y the
        row, and (0, 0) the outer corner of the scene's first pixel.
    """
    parts: list[list[shapely.Polygon]] = [[] for _ in masks]
    small = [i for i, mask in enumerate(masks) if max(mask.shape) <= _PACKED_SIDE]
    for canvas, places in _packed(masks, small):
        for rings, label in _traced(canvas):
            i, column, row = places[label - 1]
            shift = (origins[i][0] - column, origins[i][1] - row)
            parts[i].append(_polygon(rings, shift))
    for i in sorted(set(range(len(masks))) - set(small)):
        for rings, _ in _traced(masks[i].astype(np.uint8)):
            parts[i].append(_polygon(rings, origins[i]))
    polygons = np.empty(len(masks), dtype=object)
    polygons[:] = [shapely.MultiPolygon(p) for p in parts]
    return polygons


class _Place(NamedTuple):
    """Position of a mask in a canvas."""

    mask: int
    column: int
    row: int


def _packed(
    masks: Sequence[np.ndarray], chosen: Sequence[int]
) -> Iterator[tuple[np.ndarray, list[_Place]]]:
    """Yield canvases of masks, and the places of the masks with label 1, 2 ... in each canvas.

    The masks stand on shelves, the tallest first, with a pixel of background between them.
    """
    ordered = sorted(chosen, key=lambda i: (-masks[i].shape[0], i))
    start = 0
    while start < len(ordered):
        places: list[_Place] = []
        column = row = shelf_height = 0
        for i in ordered[start:]:
            height, width = masks[i].shape
            if column and column + width > _CANVAS_SIZE:
                column, row, shelf_height = 0, row + shelf_height + 1, 0
            if row and row + height > _CANVAS_SIZE:
                break
            places.append(_Place(i, column, row))
            column, shelf_height = column + width + 1, max(shelf_height, height)
        start += len(places)
        bottom = max(place.row + masks[place.mask].shape[0] for place in places)
        right = max(place.column + masks[place.mask].shape[1] for place in places)
        canvas = np.zeros((bottom, right), np.int32)
        for label, place in enumerate(places, start=1):
            mask = masks[place.mask]
            height, width = mask.shape
            rows = slice(place.row, place.row + height)
            canvas[rows, place.column : place.column + width][mask] = label
        yield canvas, places


def _traced(canvas: np.ndarray) -> Iterator[tuple[list[Ring], int]]:
    """Yield the rings of each 4-connected region, shell first, and the region's value."""
    for geometry, value in shapes(canvas, mask=canvas != 0, connectivity=4):
        yield geometry["coordinates"], int(value)


def _polygon(rings: Sequence[Ring], shift: tuple[int, int]) -> shapely.Polygon:
    shell, *holes = (np.array(ring) + shift for ring in rings)
    return shapely.Polygon(shell, holes)


def transformed(polygons: np.ndarray, transform: Affine) -> np.ndarray:
    """Apply an affine transform to geometries.

    Each vertex is computed from its own pixel coordinates, so that equal corners of pixels get
    equal coordinates in all geometries.

    Args:
        polygons: array of shapely geometries in pixels of the scene.
        transform: transform of the scene.

    Returns:
        New array of geometries in the scene's coordinate reference system.
    """
    x, y = shapely.get_coordinates(polygons).T
    a, b, c, d, e, f = tuple(transform)[:6]
    coordinates = np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)
    return shapely.set_coordinates(polygons.copy(), coordinates)


def simplified(polygons: np.ndarray, tolerance: float) -> np.ndarray:
    """Simplify polygons by the algorithm of Douglas and Peucker.

    Holes and parts are kept and the results are valid: where they would not be, the tolerance of
    this polygon is halved until they are.

    Args:
        polygons: array of valid MultiPolygons.
        tolerance: maximum distance of a removed vertex from the new outline, in units of the
            polygons; 0 returns them unchanged.

    Returns:
        Array of MultiPolygons.
    """
    result = polygons.copy()
    if tolerance <= 0:
        return result
    limit = tolerance * (1 + 1e-9)
    pending = np.arange(len(polygons))
    for _ in range(8):
        exact = polygons[pending]
        candidates = shapely.simplify(exact, tolerance, preserve_topology=True)
        good = shapely.is_valid(candidates) & (_rings(candidates) == _rings(exact))
        # GEOS may remove the first vertex of a ring without regard to the tolerance.
        good &= shapely.hausdorff_distance(exact, candidates) <= limit
        result[pending[good]] = [_as_multi(geometry) for geometry in candidates[good]]
        pending = pending[~good]
        tolerance /= 2
    return result


def _rings(polygons: np.ndarray) -> np.ndarray:
    """Return the number of rings of each geometry, shells and holes."""
    parts, owners = shapely.get_parts(polygons, return_index=True)
    rings = 1 + shapely.get_num_interior_rings(parts)
    return np.bincount(owners, rings, minlength=len(polygons))


def _as_multi(geometry: shapely.Geometry) -> shapely.MultiPolygon:
    return shapely.MultiPolygon([geometry]) if geometry.geom_type == "Polygon" else geometry


def single_parts(polygons: np.ndarray) -> np.ndarray:
    """Replace MultiPolygons of one part by Polygons."""
    result = polygons.copy()
    single = shapely.get_num_geometries(polygons) == 1
    result[single] = shapely.get_geometry(polygons[single], 0)
    return result
