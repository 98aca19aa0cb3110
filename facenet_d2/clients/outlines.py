"""Outlines of masks for formats whose polygons have neither holes nor parts."""

from __future__ import annotations

import math

import numpy as np
import shapely

from ..scenes.extras import require_geo
from ..structures.rle_masks import RLEMasks


def mask_shapes(masks: RLEMasks, tolerance: float = 0.0) -> np.ndarray:
    """Trace masks along the edges of their pixels.

    Args:
        masks: N masks; empty ones become empty shapes.
        tolerance: maximum distance in pixels by which simplification moves an outline; at 0, the
            area of a shape is the number of its pixels.

    Returns:
        ``(N,)`` shapely MultiPolygons. (0, 0) is the outer corner of the first pixel.

    Raises:
        UserError: if the packages of the extra ``geo`` are not installed.
    """
    require_geo()
    from ..scenes.polygons import mask_polygons, simplified

    shapes = np.full(len(masks), shapely.MultiPolygon(), dtype=object)
    filled = np.flatnonzero(masks.areas()).tolist()
    crops = [masks.crop(i) for i in filled]
    traced = mask_polygons([crop for crop, _, _ in crops], [(x, y) for _, x, y in crops])
    shapes[filled] = simplified(traced, tolerance)
    return shapes


def outlines(shape: shapely.MultiPolygon) -> list[np.ndarray]:
    """Divide a shape into polygons without holes.

    A polygon with holes is cut along a vertical line through each of them. The union of the
    results is the shape, and they do not overlap.

    Args:
        shape: a valid MultiPolygon.

    Returns:
        ``(K, 2)`` arrays of the vertices (x, y) of each polygon. The first is not repeated at the
        end.
    """
    found = []
    pending = list(shape.geoms)
    while pending:
        polygon = pending.pop(0)
        if polygon.interiors:
            pending = _halves(polygon) + pending
        else:
            found.append(shapely.get_coordinates(polygon.exterior)[:-1])
    return found


def _halves(polygon: shapely.Polygon) -> list[shapely.Polygon]:
    """Cut a polygon with holes at a column of pixels inside its first hole."""
    left, bottom, right, top = polygon.bounds
    x0, _, x1, _ = polygon.interiors[0].bounds
    middle = (x0 + x1) / 2
    cut = next((c for c in (math.floor(middle), math.ceil(middle)) if x0 < c < x1), middle)
    halves = (shapely.box(left, bottom, cut, top), shapely.box(cut, bottom, right, top))
    parts = shapely.get_parts([shapely.intersection(polygon, half) for half in halves])
    return [part for part in parts if part.geom_type == "Polygon" and part.area > 0]
