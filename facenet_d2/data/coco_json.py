"""COCO JSON: reading, and the first thing that is wrong with it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import read_json


def read_coco(
    json_file: str | Path, what: str, hint: str = "", *, compact: bool = False
) -> dict[str, Any]:
    """The content of a file of COCO annotations of masks, checked.

    Args:
        json_file: the file.
        what: names it in an error, as in "--json".
        hint: a sentence to add where the file is something else.
        compact: polygons as arrays, which take a third of the memory of lists of numbers.

    Raises:
        UserError: where it is missing, cannot be read, or :func:`coco_problem` finds something.
    """
    json_file = Path(json_file)
    if not json_file.is_file():
        raise UserError(f"{what} {json_file} does not exist.")
    content, problem = read_json(json_file, _compact if compact else None)
    problem = problem or coco_problem(content)
    if problem:
        raise UserError(f"{what} {json_file} is not COCO JSON: {problem}. {hint}".rstrip())
    return content


def _compact(entry: dict[str, Any]) -> dict[str, Any]:
    if isinstance(entry.get("segmentation"), list):
        entry["segmentation"] = [_as_array(p) for p in entry["segmentation"]]
    return entry


def _as_array(polygon: Any) -> Any:
    """Numbers as an array; anything else as it is, to be reported."""
    if isinstance(polygon, list) and all(type(v) in (int, float) for v in polygon):
        try:
            return np.array(polygon, dtype=float)
        except OverflowError:
            pass
    return polygon


def coco_problem(content: Any) -> str | None:
    """The first thing that keeps parsed JSON from being COCO annotations of masks, or None.

    Looked at is what Detectron2 and pycocotools rely on: the three lists, the fields of their
    entries with types, ids that are there and not there twice.
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
            return f"annotation {a['id']} is of image {a['image_id']}, which is not listed"
        # pycocotools takes all memory, or crashes, on polygons far outside of their image.
        reach = 2 * max(sizes[a["image_id"]])
        if isinstance(a["segmentation"], list) and any(
            np.abs(polygon).max() > reach for polygon in a["segmentation"]
        ):
            return f"annotation {a['id']} has a polygon far outside of its image"
    return None


def entry_problem(entry: Any, key: str) -> str | None:
    """What is wrong with the fields of an entry of one of the three lists, or None."""
    if not isinstance(entry, dict):
        return "is no object"
    for field, valid, what in FIELDS[key]:
        if field not in entry and field not in OPTIONAL:
            return f"has no {field!r}"
        if field in entry and not valid(entry[field]):
            return f"its {field!r} must be {what}, not {repr(entry[field])[:80]}"
    return None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be a coordinate or an area."""
    # Compared, not converted: an integer of JSON can be too large for a float.
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


def _is_extent(value: Any) -> bool:
    return _is_int(value) and 0 < value <= MAX_EXTENT


def _is_segmentation(value: Any) -> bool:
    if isinstance(value, dict):
        return isinstance(value.get("counts"), (str, list)) and isinstance(value.get("size"), list)
    # Polygons of two points are left out on loading, with a warning.
    return isinstance(value, list) and all(map(_is_polygon, value))


def _is_polygon(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return len(value) >= 4 and bool((np.abs(value) < MAX_NUMBER).all())
    return isinstance(value, list) and len(value) >= 4 and all(map(is_number, value))


# Of a coordinate, and of an image's height and width.
MAX_NUMBER, MAX_EXTENT = 1e12, 100_000


# Fields that need not be there.
OPTIONAL = ("iscrowd", "ignore")


# (field, test, what it must be) of the entries of each list.
FIELDS: dict[str, tuple[tuple[str, Callable[[Any], bool], str], ...]] = {
    "categories": (
        ("id", _is_int, "an integer"),
        ("name", lambda v: isinstance(v, str) and v != "", "a text"),
    ),
    "images": (
        ("id", _is_int, "an integer"),
        ("file_name", _is_file_name, "the name of a file"),
        ("height", _is_extent, "a positive integer, at most 100,000"),
        ("width", _is_extent, "a positive integer, at most 100,000"),
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
        ("segmentation", _is_segmentation, "polygons or run lengths"),
        ("iscrowd", lambda v: v in (0, 1), "0 or 1"),
        ("ignore", lambda v: v == 0, "0 (Detectron2 has no annotations to ignore, but crowds)"),
    ),
}
