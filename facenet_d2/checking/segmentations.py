"""Whether polygons and run lengths can be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from shapely import make_valid
from shapely.geometry import Polygon
from shapely.validation import explain_validity

from .fault_kinds import Fault

# What rounding to whole pixels explains.
PIXEL_TOLERANCE = 2.0
# A loop that a polygon runs the wrong way round counts from this area on, in pixels.
CROSSING_AREA = 0.5


def numbers(values: Iterable[float]) -> str:
    """Numbers as they stand in JSON, without needless digits."""
    return "[" + ", ".join(f"{v:g}" for v in values) + "]"


def check_run_lengths(
    segmentation: dict[str, Any], height: int, width: int, where: str, faults: list[Fault]
) -> dict[str, Any] | None:
    """Run lengths, compressed; None where they cannot be used, with the reason in ``faults``."""
    removed = "annotation removed"
    if list(segmentation["size"]) != [height, width]:
        size = segmentation["size"]
        faults.append(
            Fault(
                "rle-invalid",
                where,
                f"its run lengths are for {size}, not {[height, width]}",
                removed,
            )
        )
        return None
    counts = segmentation["counts"]
    try:
        if isinstance(counts, list):
            if not all(isinstance(c, int) for c in counts):
                raise ValueError("they are not whole numbers")
            if sum(counts) != height * width or min(counts, default=-1) < 0:
                raise ValueError("they do not add up to the image")
            return mask_util.frPyObjects(segmentation, height, width)
        rle = {"size": [height, width], "counts": counts.encode("ascii")}
        if _decoded_length(rle["counts"]) != height * width:
            raise ValueError("they do not add up to the image")
        return rle
    except (ValueError, TypeError, IndexError, UnicodeError) as error:
        faults.append(Fault("rle-invalid", where, f"its run lengths are broken: {error}", removed))
        return None


def _decoded_length(text: bytes) -> int:
    """The sum of compressed run lengths, which pycocotools does not check before it writes."""
    counts: list[int] = []
    value = shift = 0
    for byte in text:
        byte -= 48
        if not 0 <= byte < 64:
            raise ValueError("there is a character that cannot be in them")
        value |= (byte & 31) << shift
        shift += 5
        if byte & 32:
            continue
        if byte & 16:
            value -= 1 << shift
        # From the third on, each is stored as the difference to the one two before.
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        if counts[-1] < 0:
            raise ValueError("one of them is negative")
        value = shift = 0
    if shift:
        raise ValueError("they end in the middle of one")
    return sum(counts)


def check_polygons(
    polygons: list[list[float]], height: int, width: int, where: str, faults: list[Fault]
) -> list[list[float]]:
    """The polygons that can be used, mended; adds what is wrong with them to ``faults``."""
    kept: list[list[float]] = []
    if not polygons:
        faults.append(Fault("mask-empty", where, "it has no polygon", "annotation removed"))
    for polygon in polygons:
        if len(polygon) < 6 or len(polygon) % 2:
            faults.append(
                Fault(
                    "polygon-degenerate",
                    where,
                    f"a polygon has {len(polygon)} numbers, not three or more x, y pairs",
                    "polygon removed",
                )
            )
            continue
        points = np.reshape(polygon, (-1, 2))
        low, high = points.min(axis=0), points.max(axis=0)
        if (low < -PIXEL_TOLERANCE).any() or (
            high > np.array([width, height]) + PIXEL_TOLERANCE
        ).any():
            faults.append(
                Fault(
                    "polygon-outside",
                    where,
                    f"a polygon, {numbers((*low, *high))}, leaves the {width}x{height} image",
                    "cut at the border",
                )
            )
            # pycocotools takes all memory on points far away.
            kept += _as_lists(_cut(points, height, width))
            continue
        shape = Polygon(points)
        # One that only touches itself is invalid too, but encloses what its area says.
        mended = shape if shape.is_valid else make_valid(shape)
        if mended.area == 0:
            faults.append(
                Fault("polygon-degenerate", where, "a polygon has no area", "polygon removed")
            )
            continue
        if abs(mended.area - shape.area) < CROSSING_AREA:
            kept.append(polygon)
            continue
        faults.append(
            Fault(
                "polygon-self-crossing",
                where,
                f"a polygon crosses itself ({explain_validity(shape)})",
                "mended to the polygons it encloses",
            )
        )
        kept += _as_lists(mended)
    return kept


def _cut(points: np.ndarray, height: int, width: int) -> Any:
    frame = Polygon([(0, 0), (width, 0), (width, height), (0, height)])
    return make_valid(Polygon(points)).intersection(frame)


def _as_lists(shape: Any) -> list[list[float]]:
    """Outlines of the polygons in a shape; lines and points in it are left out."""
    parts = getattr(shape, "geoms", [shape])
    return [
        [float(v) for point in part.exterior.coords[:-1] for v in point]
        for part in parts
        if part.geom_type == "Polygon" and part.area > 0
    ] + [
        outline for part in parts if part.geom_type == "MultiPolygon" for outline in _as_lists(part)
    ]
