"""COCO JSON: reading and validating annotation files, and their segmentations as RLE."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import pycocotools.mask as mask_util

from ..errors import UserError
from ..files import read_json


def read_coco(
    json_file: str | Path, label: str, hint: str = "", *, compact: bool = False
) -> dict[str, Any]:
    """Read and validate a file of COCO instance annotations.

    Args:
        json_file: the file.
        label: name of the file in error messages, such as "--json".
        hint: sentence added to the error message if the file is not COCO JSON.
        compact: whether to convert polygons to arrays, which need a third of the memory.

    Raises:
        UserError: if the file is missing or unreadable, or :func:`coco_problem` finds a problem.
    """
    json_file = Path(json_file)
    if not json_file.is_file():
        raise UserError(f"{label} {json_file} does not exist.")
    content, problem = read_json(json_file, _compact_polygons if compact else None)
    problem = problem or coco_problem(content)
    if problem:
        raise UserError(f"{label} {json_file} is not COCO JSON: {problem}. {hint}".rstrip())
    return content


def _compact_polygons(entry: dict[str, Any]) -> dict[str, Any]:
    if isinstance(entry.get("segmentation"), list):
        entry["segmentation"] = [_to_array(p) for p in entry["segmentation"]]
    return entry


def _to_array(polygon: Any) -> Any:
    """Convert a list of numbers to an array; return anything else unchanged, to be reported."""
    if isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon):
        try:
            return np.array(polygon, dtype=float)
        except OverflowError:
            pass
    return polygon


def coco_problem(content: Any) -> str | None:
    """Return the first reason why parsed JSON is not COCO instance annotations, or None.

    Checked is everything that Detectron2 and pycocotools rely on: the three lists, the fields and
    types of their entries, and that ids are unique and refer to existing entries.
    """
    if not isinstance(content, dict):
        return f"its top level is a {type(content).__name__}, not an object"
    for key in FIELDS:
        if key == "annotations" and key not in content:
            continue  # A test set whose annotations are not published.
        entries = content.get(key)
        if not isinstance(entries, list):
            return f'it has no list "{key}"'
        for i, entry in enumerate(entries):
            problem = entry_problem(entry, key)
            if problem:
                joint = ": " if problem.startswith("its ") else " "
                return f"entry {i} of {key!r}{joint}{problem}"
        ids = [entry["id"] for entry in entries]
        if len(set(ids)) < len(ids):
            return f"some {key} share an id"
    categories = {c["id"] for c in content["categories"]}
    sizes = {i["id"]: (i["height"], i["width"]) for i in content["images"]}
    for a in content.get("annotations", ()):
        if a["category_id"] not in categories:
            return (
                f"annotation {a['id']} has category_id {a['category_id']}, which is not among its "
                f"categories {sorted(categories)}"
            )
        if a["image_id"] not in sizes:
            return f"annotation {a['id']} has image_id {a['image_id']}, which is not listed"
        # pycocotools exhausts the memory, or crashes, on polygons far outside their image.
        reach = 2 * max(sizes[a["image_id"]])
        if isinstance(a["segmentation"], list) and any(
            np.abs(polygon).max() > reach for polygon in a["segmentation"]
        ):
            return f"annotation {a['id']} has a polygon far outside its image"
    return None


def entry_problem(entry: Any, key: str) -> str | None:
    """Return the first problem with the fields of an entry, or None.

    Args:
        entry: the entry.
        key: name of the list it is from: "categories", "images" or "annotations".
    """
    if not isinstance(entry, dict):
        return f"is a {type(entry).__name__}, not an object"
    for field, is_valid, expected in FIELDS[key]:
        if field not in entry and field not in OPTIONAL_FIELDS:
            return f"has no {field!r}"
        if field in entry and not is_valid(entry[field]):
            return f"its {field!r} must be {expected}, not {repr(entry[field])[:80]}"
    return None


def segmentation_to_rle(segmentation: Any, height: int, width: int) -> dict[str, Any]:
    """Return the mask of an annotation as compressed RLE.

    Args:
        segmentation: polygons or RLE, compressed or not.
        height: height of the image.
        width: width of the image.

    Raises:
        ValueError: if the segmentation is not usable for an image of this size.
    """
    if isinstance(segmentation, dict):
        return compress_rle(segmentation, height, width)
    if not segmentation or any(len(p) < 6 or len(p) % 2 for p in segmentation):
        raise ValueError("its polygons are not lists of three or more x, y pairs")
    return mask_util.merge(mask_util.frPyObjects(segmentation, height, width))


def compress_rle(rle: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    """Validate an RLE, and compress it if it is not.

    Args:
        rle: ``size`` and ``counts`` as in COCO JSON; the counts are a string or a list.
        height: height of the image.
        width: width of the image.

    Raises:
        ValueError: if the RLE has another size than the image, or is damaged. pycocotools does not
            check this before it writes to memory.
    """
    if list(rle["size"]) != [height, width]:
        raise ValueError(f"its RLE has the size {rle['size']}, not {[height, width]}")
    counts = rle["counts"]
    try:
        if isinstance(counts, list):
            if not all(isinstance(c, int) for c in counts):
                raise ValueError("its counts are not integers")
            if sum(counts) != height * width or min(counts, default=-1) < 0:
                raise ValueError("its counts do not add up to the image")
            return mask_util.frPyObjects(rle, height, width)
        compressed = {"size": [height, width], "counts": counts.encode("ascii")}
        if _decoded_length(compressed["counts"]) != height * width:
            raise ValueError("its counts do not add up to the image")
        return compressed
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"its RLE is broken: {error}") from error


def _decoded_length(text: bytes) -> int:
    """Return the sum of the counts of a compressed RLE."""
    counts: list[int] = []
    value = shift = 0
    for byte in text:
        byte -= 48
        if not 0 <= byte < 64:
            raise ValueError("its counts contain an invalid character")
        value |= (byte & 31) << shift
        shift += 5
        if byte & 32:
            continue
        if byte & 16:
            value -= 1 << shift
        # From the third count on, the difference to the count two places earlier is stored.
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        if counts[-1] < 0:
            raise ValueError("one of its counts is negative")
        value = shift = 0
    if shift:
        raise ValueError("its last count is incomplete")
    return sum(counts)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number that can be a coordinate or an area."""
    # Compared, not converted: an integer in JSON can be too large for a float.
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -MAX_NUMBER < value < MAX_NUMBER
    )


def _is_file_name(value: Any) -> bool:
    if not isinstance(value, str) or value == "" or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _is_side(value: Any) -> bool:
    return _is_int(value) and 0 < value <= MAX_SIDE


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("counts"), (str, list)) and isinstance(value.get("size"), list)
    # Polygons of two points are valid here: load_coco skips them with a warning.
    return isinstance(value, list) and all(map(_is_polygon, value))


def _is_polygon(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return len(value) >= 4 and bool((np.abs(value) < MAX_NUMBER).all())
    return isinstance(value, list) and len(value) >= 4 and all(map(is_number, value))


# Limits of a coordinate or an area, and of the height and width of an image.
MAX_NUMBER, MAX_SIDE = 1e12, 100_000

OPTIONAL_FIELDS = ("iscrowd", "ignore")

# (field, validator, expected value in words) for the entries of each list.
FIELDS: dict[str, tuple[tuple[str, Callable[[Any], bool], str], ...]] = {
    "categories": (
        ("id", _is_int, "an integer"),
        ("name", lambda v: isinstance(v, str) and v != "", "a non-empty string"),
    ),
    "images": (
        ("id", _is_int, "an integer"),
        ("file_name", _is_file_name, "a file name"),
        ("height", _is_side, "a positive integer, at most 100,000"),
        ("width", _is_side, "a positive integer, at most 100,000"),
    ),
    "annotations": (
        ("id", _is_int, "an integer"),
        ("image_id", _is_int, "an integer"),
        ("category_id", _is_int, "an integer"),
        (
            "bbox",
            lambda v: isinstance(v, list) and len(v) == 4 and all(map(is_number, v)),
            "four numbers",
        ),
        ("segmentation", _is_segmentation, "polygons or an RLE"),
        ("iscrowd", lambda v: v in (0, 1), "0 or 1"),
        ("ignore", lambda v: v == 0, "0 (Detectron2 can only ignore crowds)"),
    ),
}
