"""Checks of a COCO data set that report all faults, not only the first one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.coco_json import entry_problem
from ..errors import UserError
from ..files import read_json
from ..parallel import parallel_map
from .fault_kinds import NOTE_KINDS, Fault
from .image_checks import ImageJob, ImageResult, check_image
from .objects import GridSettings, Objects


@dataclass
class DatasetReport:
    """The result of checking a data set.

    Attributes:
        faults: all faults.
        notes: remarks on what may be intended, of the kinds in ``NOTE_KINDS``.
        cleaned: COCO JSON with every fault repaired, or its entry removed.
        categories: (id, name) of the usable categories.
        objects: the usable objects in the usable images, in pixels of their images.
    """

    faults: list[Fault]
    notes: list[Fault]
    cleaned: dict[str, Any]
    categories: list[tuple[int, str]]
    objects: Objects

    def fault_counts(self) -> Counter[str]:
        """Return the number of faults of each kind."""
        return Counter(fault.kind for fault in self.faults)


def check_dataset(
    json_file: str | Path,
    image_root: str | Path,
    *,
    workers: int,
    settings: GridSettings | None = None,
) -> DatasetReport:
    """Check every image and annotation of a COCO data set.

    Args:
        json_file: the annotations.
        image_root: folder that the file names are relative to.
        workers: number of processes that decode images and draw masks.
        settings: input size at which the best possible masks are computed; None to skip them.

    Raises:
        UserError: if the file is not JSON, or does not have the three lists of COCO JSON.
    """
    content = _read_lists(Path(json_file))
    faults: list[Fault] = []
    categories = _check_categories(content["categories"], faults)
    images, same_as = _check_images(content["images"], faults)
    entries = content.get("annotations") or []
    annotations, notes = _check_annotations(entries, categories, same_as, faults)

    by_image: dict[int, list[dict[str, Any]]] = {i: [] for i in images}
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    jobs = [
        ImageJob(Path(image_root) / image["file_name"], image, by_image[i], settings)
        for i, image in images.items()
    ]
    results: dict[int, ImageResult] = {}
    for place, result in parallel_map(
        check_image, jobs, workers=workers, description="Checking", unit="image"
    ):
        results[place] = result

    kept_images, kept, measurements = [], [], []
    for place, job in enumerate(jobs):
        result = results[place]
        faults += [f for f in result.faults if f.kind not in NOTE_KINDS]
        notes += [f for f in result.faults if f.kind in NOTE_KINDS]
        if not result.usable:
            continue
        if not job.annotations:
            notes.append(Fault("image-empty", f"image {job.image['file_name']}", "no annotation"))
        kept_images.append(job.image)
        kept += result.annotations
        measurements.append(result.measurements)
    objects = Objects.from_measurements(
        measurements, [(image["height"], image["width"]) for image in kept_images]
    )
    used = set(objects.category_ids.tolist())
    for i, category in categories.items():
        if i not in used:
            notes.append(Fault("category-unused", f"category {category['name']}", "no annotation"))
    ids = [a["id"] for a in kept]
    if len(set(ids)) < len(ids) or 0 in ids:
        kept = [{**a, "id": number} for number, a in enumerate(kept, start=1)]
    cleaned = {**content, "images": kept_images, "categories": list(categories.values())}
    if "annotations" in content:
        cleaned["annotations"] = kept
    return DatasetReport(
        faults=faults,
        notes=notes,
        cleaned=cleaned,
        categories=[(c["id"], c["name"]) for c in categories.values()],
        objects=objects,
    )


def _read_lists(json_file: Path) -> dict[str, Any]:
    content, problem = read_json(json_file)
    if problem:
        raise UserError(f"{json_file} is not COCO JSON: {problem}.")
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise UserError(f"{json_file} is not COCO JSON: its top level is a {kind}, not an object.")
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key, [] if key == "annotations" else None), list):
            raise UserError(f'{json_file} is not COCO JSON: it has no list "{key}".')
    return content


def _valid_entries(
    entries: list[Any], key: str, kind: str, faults: list[Fault], fix: str
) -> list[tuple[str, dict[str, Any]]]:
    """Return the entries with valid fields, each with its description for reports."""
    valid = []
    for place, entry in enumerate(entries):
        problem = entry_problem(entry, key)
        number = entry.get("id") if isinstance(entry, dict) else None
        where = f"{kind} {number}" if isinstance(number, int) else f"{kind} entry {place}"
        if problem:
            faults.append(Fault(f"{kind}-entry", where, problem, fix))
        else:
            valid.append((where, entry))
    return valid


def _check_categories(entries: list[Any], faults: list[Fault]) -> dict[int, dict[str, Any]]:
    kept: dict[int, dict[str, Any]] = {}
    fix = "category removed"
    for where, entry in _valid_entries(entries, "categories", "category", faults, fix):
        if entry["id"] in kept:
            message = f"has the same id, {entry['id']}, as {kept[entry['id']]['name']!r}"
            faults.append(Fault("category-id-twice", where, message, fix))
            continue
        if entry["name"] in {c["name"] for c in kept.values()}:
            # There is no fix, since annotations may mean either of the two.
            message = f"has the same name, {entry['name']!r}, as another category"
            faults.append(Fault("category-name-twice", where, message))
        kept[entry["id"]] = entry
    return kept


def _check_images(
    entries: list[Any], faults: list[Fault]
) -> tuple[dict[int, dict[str, Any]], dict[int, int]]:
    """Return the images by id, and for each id the one that its annotations are moved to."""
    kept: dict[int, dict[str, Any]] = {}
    same_as: dict[int, int] = {}
    first_of_file: dict[str, int] = {}
    for where, entry in _valid_entries(
        entries, "images", "image", faults, "image removed, with its annotations"
    ):
        number, file_name = entry["id"], os.path.normpath(entry["file_name"])
        if number in same_as:
            message = f"{file_name} has the same id, {number}, as another image"
            faults.append(Fault("image-id-twice", where, message, "image removed"))
        elif file_name in first_of_file:
            same_as[number] = first_of_file[file_name]
            message = f"{file_name} is also listed as image {same_as[number]}"
            fix = "image removed, its annotations moved to the other"
            faults.append(Fault("image-file-twice", where, message, fix))
        else:
            first_of_file[file_name] = same_as[number] = number
            kept[number] = entry
    return kept, same_as


def _check_annotations(
    entries: list[Any],
    categories: dict[int, dict[str, Any]],
    same_as: dict[int, int],
    faults: list[Fault],
) -> tuple[list[dict[str, Any]], list[Fault]]:
    """Return the annotations of known images and categories, and notes."""
    kept, notes = [], []
    seen: set[int] = set()
    removed, renumbered = "annotation removed", "all annotations renumbered"
    references: list[tuple[str, str, Callable[[dict[str, Any]], bool]]] = [
        ("category-unknown", "category_id", lambda a: a["category_id"] not in categories),
        ("image-unknown", "image_id", lambda a: a["image_id"] not in same_as),
    ]
    for where, entry in _valid_entries(entries, "annotations", "annotation", faults, removed):
        if entry["id"] in seen:
            message = f"has the same id, {entry['id']}, as another annotation"
            faults.append(Fault("annotation-id-twice", where, message, renumbered))
        seen.add(entry["id"])
        if entry["id"] == 0:
            message = "pycocotools treats a match with it as no match (this project does not)"
            notes.append(Fault("annotation-id-zero", where, message, renumbered))
        for kind, name, is_unknown in references:
            if is_unknown(entry):
                message = f"its {name} {entry[name]} is not listed"
                faults.append(Fault(kind, where, message, removed))
                break
        else:
            kept.append({**entry, "image_id": same_as[entry["image_id"]]})
    return kept, notes
