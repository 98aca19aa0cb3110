"""Checks and repairs of polygons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from shapely import make_valid
from shapely.geometry import Polygon
from shapely.validation import explain_validity

from ..data.faults import Fault

# Deviation in pixels that is attributed to rounding.
PIXEL_TOLERANCE = 2.0
# Area in pixels from which a loop of the opposite orientation counts as a self-crossing.
CROSSING_AREA = 0.5


def format_numbers(values: Iterable[float]) -> str:
    """Format numbers as a JSON list, without needless digits."""
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"


def check_polygons(
    polygons: list[list[float]], height: int, width: int, where: str, faults: list[Fault]
) -> list[list[float]]:
    """Return the usable polygons, repaired, and append their faults to ``faults``."""
    kept: list[list[float]] = []
    for polygon in polygons:
        points = np.reshape(polygon, (-1, 2))
        low, high = points.min(axis=0), points.max(axis=0)
        if (low < -PIXEL_TOLERANCE).any() or (
            high > np.array([width, height]) + PIXEL_TOLERANCE
        ).any():
            box = format_numbers((*low, *high))
            faults.append(
                Fault(
                    "polygon-outside",
                    where,
                    f"a polygon with the box {box} extends beyond the {width}x{height} image",
                    "clipped to the image",
                )
            )
            kept += clip_polygons([polygon], height, width)
            continue
        shape = Polygon(points)
        # A polygon that merely touches itself is invalid too, but its area is right.
        valid = shape if shape.is_valid else make_valid(shape)
        if valid.area == 0:
            faults.append(
                Fault("polygon-degenerate", where, "a polygon has no area", "polygon removed")
            )
            continue
        if abs(valid.area - shape.area) < CROSSING_AREA:
            kept.append(polygon)
            continue
        faults.append(
            Fault(
                "polygon-self-crossing",
                where,
                f"a polygon crosses itself ({explain_validity(shape)})",
                "replaced by the polygons that it encloses",
            )
        )
        kept += _to_polygons(valid)
    return kept


def clip_polygons(polygons: Iterable[Any], height: int, width: int) -> list[list[float]]:
    """Return the parts of polygons that lie in an image, as flat lists of x, y."""
    frame = Polygon([(0, 0), (width, 0), (width, height), (0, height)])
    return [
        part
        for polygon in polygons
        if len(polygon) >= 6 and len(polygon) % 2 == 0
        for part in _to_polygons(
            make_valid(Polygon(np.reshape(polygon, (-1, 2)))).intersection(frame)
        )
    ]


def _to_polygons(shape: Any) -> list[list[float]]:
    """Return the outlines of the polygons in a shape; its lines and points are left out."""
    parts = getattr(shape, "geoms", [shape])
    return [
        [float(v) for point in part.exterior.coords[:-1] for v in point]
        for part in parts
        if part.geom_type == "Polygon" and part.area > 0
    ] + [
        outline
        for part in parts
        if part.geom_type == "MultiPolygon"
        for outline in _to_polygons(part)
    ]
