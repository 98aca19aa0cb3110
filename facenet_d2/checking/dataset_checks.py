"""Checks of a COCO data set that report all faults, not only the first one."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..data.coco_entries import (
    clean_annotations,
    clean_categories,
    clean_images,
    is_box,
    number_annotations,
)
from ..data.coco_json import read_coco_lists, read_size
from ..data.faults import Fault, Report
from ..data.image_names import ImageFinder
from ..data.readers import ImageReader, PillowReader
from ..data.rle import compress_rle
from ..parallel import parallel_map
from .fault_kinds import NOTE_KINDS
from .image_checks import MAX_DRAWN_PIXELS, ImageJob, ImageResult, check_image
from .objects import GridSettings, Objects
from .segmentations import PIXEL_TOLERANCE, clip_polygons


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
    crowds_as_objects: bool = False,
    reader: ImageReader | None = None,
) -> DatasetReport:
    """Check every image and annotation of a COCO data set.

    Args:
        json_file: the annotations.
        image_root: folder that the file names are relative to.
        workers: number of processes that decode images and draw masks.
        settings: input size at which the best possible masks are computed; None to skip them.
        crowds_as_objects: whether to turn crowds into objects, for tools that mark all RLE as
            crowds.
        reader: reader of the images; by default Pillow's.

    Raises:
        UserError: if the file is not JSON, or does not have the three lists of COCO JSON.
    """
    content = read_coco_lists(Path(json_file), "file")
    faults: list[Fault] = []
    notes: list[Fault] = []

    def report(fault: Fault) -> None:
        (notes if fault.kind in NOTE_KINDS else faults).append(fault)

    finder = ImageFinder(image_root)
    categories = _check_categories(content["categories"], report)
    listed = clean_images(
        content["images"], report, finder.find, lambda name: read_size(Path(image_root) / name)
    )
    images, same_as = _merge_images(listed, report)
    annotations = clean_annotations(
        content.get("annotations", []), listed, list(categories.values()), report, mend_mask
    )
    for annotation in annotations:
        annotation["image_id"] = same_as[annotation["image_id"]]
        if crowds_as_objects and annotation["iscrowd"]:
            where = f"annotation {annotation.get('id')}"
            report(Fault("crowd", where, "is a crowd", "marked as an object"))
            annotation["iscrowd"] = 0

    by_image: dict[int, list[dict[str, Any]]] = {i: [] for i in images}
    for annotation in annotations:
        by_image[annotation["image_id"]].append(annotation)
    reader = reader or PillowReader()
    jobs = [
        ImageJob(Path(image_root) / image["file_name"], image, by_image[i], settings, reader)
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
    number_annotations(kept, report)
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


def _check_categories(entries: list[Any], report: Report) -> dict[int, dict[str, Any]]:
    """Return the usable categories by id."""
    kept: dict[int, dict[str, Any]] = {}
    for entry in clean_categories(entries, report):
        if entry["name"] in {c["name"] for c in kept.values()}:
            # There is no fix, since annotations may mean either of the two.
            message = f"has the same name, {entry['name']!r}, as another category"
            report(Fault("category-name-twice", f"category {entry['id']}", message))
        kept[entry["id"]] = entry
    return kept


def _merge_images(
    entries: list[dict[str, Any]], report: Report
) -> tuple[dict[int, dict[str, Any]], dict[int, int]]:
    """Return the images by id, and for each id the one that its annotations are moved to."""
    kept: dict[int, dict[str, Any]] = {}
    same_as: dict[int, int] = {}
    first_of_file: dict[str, int] = {}
    for entry in entries:
        number, file_name = entry["id"], os.path.normpath(entry["file_name"])
        same_as[number] = first_of_file.setdefault(file_name, number)
        if same_as[number] == number:
            kept[number] = entry
        else:
            message = f"{file_name} is also listed as image {same_as[number]}"
            fix = "image removed, its annotations moved to the other"
            report(Fault("image-file-twice", f"image {number}", message, fix))
    return kept, same_as


def mend_mask(
    annotation: dict[str, Any], image: dict[str, Any]
) -> tuple[list[Any] | dict[str, Any], str] | None:
    """Repair a mask that the reader of annotations refuses.

    Polygons far outside the image are clipped to it. For an RLE whose height and width are
    exchanged, either the size or the mask is wrong; its box decides.

    Returns:
        A usable segmentation and a description of the change, or None if there is none.
    """
    segmentation = annotation["segmentation"]
    size = [image["height"], image["width"]]
    box = annotation.get("bbox")
    if isinstance(segmentation, list):
        polygons = clip_polygons(segmentation, *size)
        return (polygons, "clipped to the image") if polygons else None
    if not is_box(box) or size[0] * size[1] > MAX_DRAWN_PIXELS:
        return None
    try:
        rle = compress_rle(segmentation, *size[::-1])
    except ValueError:
        return None
    transposed = mask_util.encode(np.asfortranarray(mask_util.decode(rle).T))
    for candidate, change in (
        ({"size": size, "counts": rle["counts"]}, "its height and width exchanged"),
        (transposed, "its mask transposed"),
    ):
        deviations = np.abs(mask_util.toBbox(candidate) - np.asarray(box, dtype=float))
        if deviations.max() <= PIXEL_TOLERANCE:
            return {"size": size, "counts": candidate["counts"].decode()}, change
    return None
