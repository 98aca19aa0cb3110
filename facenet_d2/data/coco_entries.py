"""Entries of COCO JSON: validation, and repair of what other tools write differently.

The reader of training and evaluation and the checker of data sets share these functions, which
change the entries in place and report the faults that they find. The reader stops at the first
fatal one, the checker lists all.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import numpy as np

from .faults import Fault, Report
from .rle import num_pixels, size_or_list_problem

# Limits of a coordinate or an area, and of the height and width of an image.
MAX_NUMBER, MAX_SIDE = 1e12, 100_000

Entry = dict[str, Any]
# Function of an annotation and its image that returns a usable segmentation and a description of
# the change, or None if the segmentation cannot be repaired.
Mend = Callable[[Entry, Entry], tuple[Any, str] | None]


def is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether a value is a number that can be a coordinate or an area."""
    # Compared, not converted: an integer in JSON can be too large for a float.
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and -MAX_NUMBER < value < MAX_NUMBER
    )


def is_box(value: Any) -> bool:
    """Return whether a value is a list of four numbers."""
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def clean_categories(entries: list[Any], report: Report) -> list[Entry]:
    """Return the usable categories, with integer ids and names as text.

    Args:
        entries: the list "categories".
        report: called with each fault.
    """
    kept: dict[int, Entry] = {}
    for where, entry in _objects(entries, "category", report):
        name = entry.get("name")
        if is_number(name):
            entry["name"] = f"{name:g}"
            report(Fault("field-type", where, "its name is a number", "name converted to text"))
        elif not isinstance(name, str) or not name.strip() or not _is_encodable(name):
            problem = f"its 'name' must be a non-empty string, not {_short(name)}"
            report(_unusable("category", where, problem))
            continue
        if entry["id"] in kept:
            message = f"has the same id, {entry['id']}, as {kept[entry['id']]['name']!r}"
            report(Fault("category-id-twice", where, message, "category removed", is_fatal=True))
            continue
        kept[entry["id"]] = entry
    return list(kept.values())


def clean_images(
    entries: list[Any],
    report: Report,
    find_file: Callable[[str], str | None] | None = None,
    read_size: Callable[[str], tuple[int, int] | None] | None = None,
) -> list[Entry]:
    """Return the usable images, with integer ids, existing files, and sizes.

    Args:
        entries: the list "images".
        report: called with each fault.
        find_file: function that returns the actual name of a file, or None if there is none; by
            default, files are not looked for.
        read_size: function that reads (height, width) from a file, or returns None; by default,
            images without a size are unusable.
    """
    kept: dict[int, Entry] = {}
    names: dict[str, int] = {}
    changed: set[int] = set()
    for where, entry in _objects(entries, "image", report):
        if not _is_file_name(entry.get("file_name")):
            problem = f"its 'file_name' must be a file name, not {_short(entry.get('file_name'))}"
            report(_unusable("image", where, problem))
            continue
        if entry["id"] in kept:
            message = f"{entry['file_name']} has the same id, {entry['id']}, as another image"
            report(Fault("image-id-twice", where, message, "image removed", is_fatal=True))
            continue
        named = f"image {entry['file_name']}"
        found = find_file(entry["file_name"]) if find_file else entry["file_name"]
        if found is not None and found != entry["file_name"]:
            message = f"this file does not exist, but {found} does"
            report(Fault("image-name", named, message, "image renamed to the existing file"))
            entry["file_name"] = found
            changed.add(entry["id"])
        same = names.setdefault(os.path.normpath(entry["file_name"]), entry["id"])
        if same != entry["id"] and {same, entry["id"]} & changed:
            message = f"its file, {found}, is already that of image {same}"
            report(Fault("image-name", named, message, "image removed", is_fatal=True))
            continue
        if not (_is_side(entry.get("height")) and _is_side(entry.get("width"))):
            size = read_size(entry["file_name"]) if read_size and found is not None else None
            stated = f"{_short(entry.get('height'))} and {_short(entry.get('width'))}"
            if size is None:
                message = (
                    "its 'height' and 'width' must be positive integers, at most "
                    f"{MAX_SIDE:,}, not {stated}"
                )
                report(_unusable("image", where, message))
                continue
            message = f"its height and width are {stated}"
            report(Fault("image-no-size", named, message, "size read from the image"))
            entry["height"], entry["width"] = size
        kept[entry["id"]] = entry
    return list(kept.values())


def clean_annotations(
    entries: list[Any],
    images: list[Entry],
    categories: list[Entry],
    report: Report,
    mend: Mend | None = None,
) -> list[Entry]:
    """Return the usable annotations, in the form that Detectron2 and pycocotools expect.

    They have the ids of listed images and categories, ``iscrowd`` 0 or 1, and a mask: polygons of
    three or more points, or an RLE of the image's size. ``bbox`` is left out if it is not four
    numbers.

    Args:
        entries: the list "annotations".
        images: images from :func:`clean_images`.
        categories: categories from :func:`clean_categories`.
        report: called with each fault.
        mend: repairs masks that the reader refuses: RLE of another size than the image, and
            polygons far outside it.
    """
    image_of = {image["id"]: image for image in images}
    category_ids = {c["id"] for c in categories}
    removed = "annotation left out"
    kept: list[Entry] = []
    compressed: list[int] = []
    for where, entry in _objects(entries, "annotation", report, needs_id=False):
        references = _references(entry, where, report)
        if references is None:
            continue
        image_id, category_id = references
        image = image_of.get(image_id)
        if image is None:
            message = f"its image_id {image_id} is not listed"
            report(Fault("image-unknown", where, message, removed))
            continue
        where = f"{where} of {image['file_name']}"
        if category_id not in category_ids:
            message = f"its category_id {category_id} is not among {_short(sorted(category_ids))}"
            report(Fault("category-unknown", where, message, removed, is_fatal=True))
            continue
        crowd = _crowd(entry, where, report)
        if crowd is None:
            continue
        mask = _mask(entry, image, where, report, mend)
        if mask is None:
            continue
        entry |= {
            "image_id": image_id,
            "category_id": category_id,
            "iscrowd": crowd,
            "segmentation": mask,
        }
        entry.pop("ignore", None)
        if not is_box(entry.get("bbox")):
            entry.pop("bbox", None)
        if isinstance(mask, dict) and isinstance(mask["counts"], str):
            compressed.append(len(kept))
        kept.append(entry)

    pixels = num_pixels([kept[i]["segmentation"]["counts"] for i in compressed])
    broken = set()
    for i, number in zip(compressed, pixels.tolist(), strict=True):
        height, width = kept[i]["segmentation"]["size"]
        if number != height * width:
            image = image_of[kept[i]["image_id"]]
            where = f"annotation {kept[i].get('id')} of {image['file_name']}"
            message = "its compressed counts are damaged, or do not add up to the image"
            report(Fault("rle-invalid", where, message, removed, is_fatal=True))
            broken.add(i)
    return [entry for i, entry in enumerate(kept) if i not in broken]


def number_annotations(entries: list[Entry], report: Report) -> None:
    """Renumber annotations from 1 unless all have unique ids other than 0.

    Args:
        entries: annotations from :func:`clean_annotations`; changed in place.
        report: called with each fault.
    """
    fix = "all annotations renumbered"
    seen: set[int] = set()
    renumbers = False
    for entry in entries:
        number = as_int(entry.get("id"))
        if number is None:
            where = f"annotation {entry.get('id')} of image {entry['image_id']}"
            report(Fault("annotation-id-missing", where, "has no integer id", fix))
        elif number in seen:
            message = f"has the same id, {number}, as another annotation"
            report(Fault("annotation-id-twice", f"annotation {number}", message, fix))
        elif number == 0:
            # pycocotools marks a matched detection with the id of its annotation.
            message = "pycocotools treats a match with id 0 as no match"
            report(Fault("annotation-id-zero", "annotation 0", message, fix))
        else:
            entry["id"] = number
            seen.add(number)
            continue
        renumbers = True
    if renumbers:
        for number, entry in enumerate(entries, start=1):
            entry["id"] = number


def _objects(
    entries: list[Any], kind: str, report: Report, *, needs_id: bool = True
) -> Iterator[tuple[str, Entry]]:
    """Yield the entries that are objects with an id, with their description."""
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            problem = f"is a {type(entry).__name__}, not an object"
            report(_unusable(kind, f"{kind} entry {place}", problem))
            continue
        number = as_int(entry.get("id"))
        where = f"{kind} entry {place}" if number is None else f"{kind} {number}"
        if not needs_id:
            yield where, entry
        elif number is None:
            problem = f"its 'id' must be an integer, not {_short(entry.get('id'))}"
            report(_unusable(kind, where, problem))
        else:
            if type(entry["id"]) is not int:
                message = f"its id is {_short(entry['id'])}"
                report(Fault("field-type", where, message, "id converted to an integer"))
            entry["id"] = number
            yield where, entry


def _references(entry: Entry, where: str, report: Report) -> tuple[int, int] | None:
    """Return the ids of the image and the category, or None after reporting why not."""
    values = []
    for field in ("image_id", "category_id"):
        value = as_int(entry.get(field))
        if value is None:
            problem = f"its {field!r} must be an integer, not {_short(entry.get(field))}"
            report(_unusable("annotation", where, problem))
            return None
        if type(entry[field]) is not int:
            message = f"its {field} is {_short(entry[field])}"
            report(Fault("field-type", where, message, f"{field} converted to an integer"))
        values.append(value)
    return values[0], values[1]


def _crowd(entry: Entry, where: str, report: Report) -> int | None:
    """Return whether an annotation is a crowd, as 0 or 1; None after reporting that it is unclear.

    Only crowds are ignored in evaluation, so an annotation with ``ignore`` becomes one.
    """
    values = {}
    for field in ("iscrowd", "ignore"):
        given = entry.get(field, 0)
        value = int(given) if isinstance(given, bool) else 0 if given is None else as_int(given)
        if value not in (0, 1):
            problem = f"its {field!r} must be 0 or 1, not {_short(given)}"
            report(_unusable("annotation", where, problem))
            return None
        if type(given) is not int:
            message = f"its {field} is {_short(given)}"
            report(Fault("field-type", where, message, f"{field} converted to 0 or 1"))
        values[field] = value
    if values["ignore"] and not values["iscrowd"]:
        report(Fault("ignored", where, "it is to be ignored", "marked as a crowd"))
    return max(values.values())


def _mask(entry: Entry, image: Entry, where: str, report: Report, mend: Mend | None) -> Any:
    """Return usable polygons or an RLE, or None after reporting why there are none."""

    def refuse(kind: str, message: str) -> Any:
        mended = mend(entry, image) if mend else None
        if mended is None:
            report(Fault(kind, where, message, left_out, is_fatal=True))
            return None
        report(Fault(kind, where, message, mended[1]))
        return mended[0]

    left_out = "annotation left out"
    segmentation = entry.get("segmentation")
    height, width = image["height"], image["width"]
    if isinstance(segmentation, dict):
        counts, size = segmentation.get("counts"), segmentation.get("size")
        if isinstance(counts, (str, list)) and isinstance(size, list):
            rle = {"counts": counts, "size": [as_int(side) for side in size]}
            problem = size_or_list_problem(rle, height, width)
            return refuse("rle-invalid", problem) if problem else rle
    elif segmentation is None or (isinstance(segmentation, list) and not segmentation):
        report(Fault("mask-missing", where, "it has no segmentation", left_out))
        return None
    elif isinstance(segmentation, list):
        polygons, is_standard = _polygons(segmentation)
        if polygons is not None and all(map(_is_polygon, polygons)):
            if not is_standard:
                message = "its polygons are not lists of x, y, x, y, ..."
                report(Fault("field-type", where, message, "polygons flattened"))
            usable = _usable_polygons(polygons, where, report)
            # pycocotools exhausts the memory, or crashes, on polygons far outside their image.
            reach = 2 * max(height, width)
            if usable and any(np.abs(p).max() > reach for p in usable):
                return refuse("polygon-outside", "a polygon is far outside its image")
            return usable
    message = f"its 'segmentation' must be polygons or an RLE, not {_short(segmentation)}"
    report(_unusable("annotation", where, message))
    return None


def _polygons(segmentation: list[Any]) -> tuple[list[Any] | None, bool]:
    """Return a list of polygons as flat lists, and whether they were that already.

    Some tools write points as pairs, or the only polygon without a list around it. None is returned
    for anything else.
    """

    def is_flat(value: Any) -> bool:
        return isinstance(value, np.ndarray) or (
            isinstance(value, list) and all(map(is_number, value))
        )

    def is_pairs(value: Any) -> bool:
        return isinstance(value, list) and all(is_flat(v) and len(v) == 2 for v in value)

    def flatten(pairs: list[Any]) -> list[float]:
        return [number for pair in pairs for number in pair]

    if all(map(is_flat, segmentation)):
        if len(segmentation) >= 3 and is_pairs(segmentation):
            return [flatten(segmentation)], False
        return segmentation, True
    if is_flat(segmentation):
        return [segmentation], False
    if all(map(is_pairs, segmentation)):
        return [flatten(pairs) for pairs in segmentation], False
    return None, True


def _usable_polygons(polygons: list[Any], where: str, report: Report) -> list[Any] | None:
    """Return the polygons of three or more points, or None after reporting that there are none."""
    usable = [p for p in polygons if len(p) >= 6 and len(p) % 2 == 0]
    if len(usable) < len(polygons):
        lengths = [len(p) for p in polygons if len(p) < 6 or len(p) % 2]
        message = f"a polygon has {lengths[0]} numbers, not three or more x, y pairs"
        fix = "polygon left out" if usable else "annotation left out"
        report(Fault("polygon-degenerate", where, message, fix))
    return usable or None


def _unusable(kind: str, where: str, problem: str) -> Fault:
    fix = f"{kind} left out"
    return Fault(f"{kind}-entry", where, problem, fix, is_fatal=True)


def as_int(value: Any) -> int | None:
    """Return an integer that a tool may have written as text or as a float; None otherwise."""
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", value):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63:
        return value
    return None


def class_key(name: str) -> str:
    """Return what identifies a class by its name, however case, blanks and hyphens are written."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _is_encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_file_name(value: Any) -> bool:
    if not isinstance(value, str) or value == "" or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _is_side(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_SIDE


def _is_polygon(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool((np.abs(value) < MAX_NUMBER).all())
    return all(map(is_number, value))


def _short(value: Any) -> str:
    return repr(value)[:80]
