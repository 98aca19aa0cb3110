"""Everything that is wrong with COCO annotations, not only the first thing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.coco_json import entry_problem
from ..errors import UserError
from ..files import read_json
from ..parallel import parallel_map
from .fault_kinds import NOTES, Fault
from .grids import Setting
from .image_checks import ImageJob, examine_image


@dataclass
class Examination:
    """What was found in a data set.

    Attributes:
        faults: all of them.
        notes: what may be on purpose, of the kinds in ``NOTES``.
        cleaned: the annotations with everything mended or removed that is at fault.
        categories: (id, name) of those that can be used.
        sizes: ``(I, 2)``, height and width of the usable images.
        image_of: ``(N,)``, of each object, which of these it is in.
        measures: ``(N, 8)``, category id, box (x0, y0, x1, y1), area, mass centre x and y of each
            object's mask, in pixels.
        best_ious: ``(N,)``, of each object's mask, at the input size that was asked for; see
            :func:`~facenet_d2.checking.mask_ceiling.best_iou`. NaN where none was.
    """

    faults: list[Fault]
    notes: list[Fault]
    cleaned: dict[str, Any]
    categories: list[tuple[int, str]]
    sizes: np.ndarray
    image_of: np.ndarray
    measures: np.ndarray
    best_ious: np.ndarray

    def counts(self) -> Counter[str]:
        """How many faults there are of each kind."""
        return Counter(fault.kind for fault in self.faults)


def examine(
    json_file: str | Path,
    image_root: str | Path,
    *,
    workers: int,
    setting: Setting | None = None,
) -> Examination:
    """Look at every image and annotation of a COCO data set.

    Args:
        json_file: the annotations.
        image_root: the folder that the file names are relative to.
        workers: processes that decode images and draw masks.
        setting: at whose input size to see how good masks can be.

    Raises:
        UserError: for a file that is no JSON, or not even in outline COCO's.
    """
    content = _read(Path(json_file))
    faults: list[Fault] = []
    categories = _categories(content["categories"], faults)
    images, same_as = _images(content["images"], faults)
    annotations, notes = _annotations(content.get("annotations") or [], categories, same_as, faults)

    by_image: dict[int, list[dict[str, Any]]] = {i: [] for i in images}
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    jobs = [
        ImageJob(Path(image_root) / image["file_name"], image, by_image[i], setting)
        for i, image in images.items()
    ]
    results = [None] * len(jobs)
    for place, result in parallel_map(
        examine_image, jobs, workers=workers, description="Checking", unit="image"
    ):
        results[place] = result

    kept_images, kept, sizes, image_of, measures, best_ious = [], [], [], [], [], []
    for job, result in zip(jobs, results, strict=True):
        faults += [f for f in result.faults if f.kind not in NOTES]
        notes += [f for f in result.faults if f.kind in NOTES]
        if not result.usable:
            continue
        if not job.annotations:
            notes.append(Fault("image-empty", f"image {job.image['file_name']}", "no annotation"))
        image_of += [len(sizes)] * len(result.measures)
        measures += result.measures
        best_ious += result.best_ious
        sizes.append((job.image["height"], job.image["width"]))
        kept_images.append(job.image)
        kept += result.annotations
    used = {int(m[0]) for m in measures}
    for i, category in categories.items():
        if i not in used:
            notes.append(Fault("category-unused", f"category {category['name']}", "no annotation"))
    ids = [a["id"] for a in kept]
    if len(set(ids)) < len(ids) or 0 in ids:
        kept = [{**a, "id": number} for number, a in enumerate(kept, start=1)]
    cleaned = {**content, "images": kept_images, "categories": list(categories.values())}
    if "annotations" in content:
        cleaned["annotations"] = kept
    return Examination(
        faults=faults,
        notes=notes,
        cleaned=cleaned,
        categories=[(c["id"], c["name"]) for c in categories.values()],
        sizes=np.array(sizes, dtype=float).reshape(-1, 2),
        image_of=np.array(image_of, dtype=int),
        measures=np.array(measures, dtype=float).reshape(-1, 8),
        best_ious=np.array(best_ious, dtype=float),
    )


def _read(json_file: Path) -> dict[str, Any]:
    content, problem = read_json(json_file)
    if problem:
        raise UserError(f"{json_file} is not COCO JSON: {problem}.")
    if not isinstance(content, dict):
        raise UserError(f"{json_file} is not COCO JSON: its top level is no object.")
    for key in ("images", "categories", "annotations"):
        if not isinstance(content.get(key, [] if key == "annotations" else None), list):
            raise UserError(f'{json_file} is not COCO JSON: it has no list "{key}".')
    return content


def _valid_entries(
    entries: list[Any], key: str, kind: str, faults: list[Fault], removed: str
) -> list[tuple[str, dict[str, Any]]]:
    valid = []
    for place, entry in enumerate(entries):
        problem = entry_problem(entry, key)
        name = entry.get("id") if isinstance(entry, dict) else None
        where = f"{kind} {name}" if isinstance(name, int) else f"{kind} entry {place}"
        if problem:
            faults.append(Fault(f"{kind}-entry", where, problem, removed))
        else:
            valid.append((where, entry))
    return valid


def _categories(entries: list[Any], faults: list[Fault]) -> dict[int, dict[str, Any]]:
    kept: dict[int, dict[str, Any]] = {}
    removed = "category removed"
    for where, entry in _valid_entries(entries, "categories", "category", faults, removed):
        if entry["id"] in kept:
            message = f"has the id of {kept[entry['id']]['name']!r}, {entry['id']}"
            faults.append(Fault("category-id-twice", where, message, removed))
            continue
        if entry["name"] in {c["name"] for c in kept.values()}:
            # Which of the two annotations mean cannot be known.
            message = f"another one is called {entry['name']!r}, too"
            faults.append(Fault("category-name-twice", where, message))
        kept[entry["id"]] = entry
    return kept


def _images(
    entries: list[Any], faults: list[Fault]
) -> tuple[dict[int, dict[str, Any]], dict[int, int]]:
    """Images by id, and for every id the one whose annotations its own belong to."""
    kept: dict[int, dict[str, Any]] = {}
    same_as: dict[int, int] = {}
    first_of_file: dict[str, int] = {}
    for where, entry in _valid_entries(
        entries, "images", "image", faults, "image removed, with its annotations"
    ):
        number, file_name = entry["id"], os.path.normpath(entry["file_name"])
        if number in same_as:
            message = f"{file_name} has the id of another image, {number}"
            faults.append(Fault("image-id-twice", where, message, "image removed"))
        elif file_name in first_of_file:
            same_as[number] = first_of_file[file_name]
            message = f"{file_name} is listed as image {same_as[number]}, too"
            fix = "image removed, its annotations given to the other"
            faults.append(Fault("image-file-twice", where, message, fix))
        else:
            first_of_file[file_name] = same_as[number] = number
            kept[number] = entry
    return kept, same_as


def _annotations(
    entries: list[Any],
    categories: dict[int, dict[str, Any]],
    same_as: dict[int, int],
    faults: list[Fault],
) -> tuple[list[dict[str, Any]], list[Fault]]:
    kept, notes = [], []
    seen: set[int] = set()
    removed = "annotation removed"
    unknown: list[tuple[str, str, Callable[[dict[str, Any]], bool]]] = [
        ("category-unknown", "category_id", lambda a: a["category_id"] not in categories),
        ("image-unknown", "image_id", lambda a: a["image_id"] not in same_as),
    ]
    for where, entry in _valid_entries(entries, "annotations", "annotation", faults, removed):
        if entry["id"] in seen:
            message = f"another one has the id {entry['id']}, too"
            faults.append(Fault("annotation-id-twice", where, message, "all numbered anew"))
        seen.add(entry["id"])
        if entry["id"] == 0:
            message = "pycocotools takes a match with it for none (this project does not)"
            notes.append(Fault("annotation-id-zero", where, message, "all numbered anew"))
        for kind, name, lost in unknown:
            if lost(entry):
                message = f"its {name} {entry[name]} is not listed"
                faults.append(Fault(kind, where, message, removed))
                break
        else:
            kept.append({**entry, "image_id": same_as[entry["image_id"]]})
    return kept, notes
