"""Checks of one image and its annotations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from ..data.coco_entries import is_number
from ..data.faults import Fault
from ..data.images import ImageError
from ..data.readers import ImageReader, PillowReader
from ..data.rle import segmentation_to_rle
from .mask_ceiling import best_iou
from .objects import GridSettings, Measurement
from .segmentations import PIXEL_TOLERANCE, check_polygons, format_numbers

# Maximum number of pixels of a missing image whose masks are still drawn.
MAX_DRAWN_PIXELS = 2**28
# Deviation of an area that is attributed to rounding, as a share. An area may also include or
# exclude the pixels on the outline.
AREA_TOLERANCE = 0.1


@dataclass(frozen=True)
class ImageJob:
    """An image with its annotations, whose fields have been validated.

    Attributes:
        file: the image file.
        image: the image's entry.
        annotations: entries of its annotations.
        settings: input size for :func:`best_iou`; None to skip it.
        reader: reader of the image.
    """

    file: Path
    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    settings: GridSettings | None = None
    reader: ImageReader = field(default_factory=PillowReader)


@dataclass
class ImageResult:
    """The result of checking one image.

    Attributes:
        faults: faults and notes, in the order of the annotations.
        usable: whether the image can be trained on.
        annotations: the cleaned annotations.
        measurements: a measurement for each cleaned annotation that is not a crowd.
    """

    faults: list[Fault] = field(default_factory=list)
    usable: bool = True
    annotations: list[dict[str, Any]] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)


def check_image(job: ImageJob) -> ImageResult:
    """Decode an image, and draw and measure the masks of its annotations."""
    result = ImageResult()
    size = (job.image["height"], job.image["width"])
    fault = _image_fault(job)
    if fault is not None:
        result.faults.append(fault)
        result.usable = False
        if fault.kind == "image-size" or size[0] * size[1] > MAX_DRAWN_PIXELS:
            # Masks cannot be checked without the image's size.
            return result
    seen: dict[tuple[int, bytes], Any] = {}
    for annotation in job.annotations:
        where = f"annotation {annotation.get('id')} of {job.image['file_name']}"
        faults, checked = _check_annotation(annotation, *size, where)
        result.faults += faults
        if checked is None:
            continue
        cleaned, rle = checked
        key = (cleaned["category_id"], bytes(rle["counts"]))
        if key in seen:
            message = f"has the class and mask of annotation {seen[key]}"
            result.faults.append(Fault("annotation-twice", where, message, "annotation removed"))
            continue
        seen[key] = annotation.get("id")
        result.annotations.append(cleaned)
        if not cleaned["iscrowd"]:
            settings = job.settings
            iou = math.nan if settings is None else best_iou(cleaned, rle, size, settings)
            result.measurements.append(_measure(cleaned["category_id"], rle, iou))
    return result


def _image_fault(job: ImageJob) -> Fault | None:
    where = f"image {job.image['file_name']}"
    removed = "image removed, with its annotations"
    try:
        problem = job.reader.size_problem(job.file, job.image)
    except ImageError as error:
        return Fault(error.kind, where, error.reason, removed)
    return Fault("image-size", where, problem, removed) if problem else None


def _measure(category_id: int, rle: dict[str, Any], iou: float) -> Measurement:
    x, y, w, h = mask_util.toBbox(rle)
    part = mask_util.decode(rle)[int(y) : int(y + h), int(x) : int(x + w)]
    area = part.sum(dtype=np.int64)
    # Pixel indices, as in SOLOv2's targets.
    center_x = part.sum(axis=0) @ np.arange(part.shape[1]) / area + int(x)
    center_y = part.sum(axis=1) @ np.arange(part.shape[0]) / area + int(y)
    return Measurement(
        category_id=category_id,
        box=(x, y, x + w, y + h),
        area=float(area),
        center=(float(center_x), float(center_y)),
        best_iou=iou,
    )


def _check_annotation(
    annotation: dict[str, Any], height: int, width: int, where: str
) -> tuple[list[Fault], tuple[dict[str, Any], dict[str, Any]] | None]:
    """Return the faults, and the cleaned annotation with its RLE; None if it is unusable."""
    cleaned = dict(annotation)
    faults: list[Fault] = []
    polygons = annotation["segmentation"]
    if isinstance(polygons, list):
        polygons = check_polygons(polygons, height, width, where, faults)
        cleaned["segmentation"] = polygons
    rle = segmentation_to_rle(polygons, height, width) if polygons else None
    if rle is not None and mask_util.area(rle) == 0:
        faults.append(Fault("mask-empty", where, "its mask has no pixels", "annotation removed"))
        rle = None
    own_boxes = [] if rle is None else _boxes_of(cleaned["segmentation"], rle)
    if "bbox" in annotation:
        faults += _box_faults(annotation["bbox"], height, width, where, own_boxes)
    elif own_boxes:
        fix = f"set to {format_numbers(own_boxes[0])}"
        faults.append(Fault("box-missing", where, "has no box of four numbers", fix))
    if cleaned["iscrowd"]:
        message = "is a crowd: not trained on, and ignored in evaluation"
        faults.append(Fault("crowd", where, message))
    if rle is None:
        return faults, None
    area = int(mask_util.area(rle))
    stated = annotation.get("area")
    if not is_number(stated):
        faults.append(Fault("area-missing", where, "has no area", f"set to {area}"))
        cleaned["area"] = area
    elif abs(stated - area) > max(AREA_TOLERANCE * area, _outline_length(rle)):
        message = f"its area is {stated:g}, but its mask has {area} pixels"
        faults.append(Fault("area-disagrees", where, message, f"set to {area}"))
        cleaned["area"] = area
    if any(f.kind.startswith("box") for f in faults):
        cleaned["bbox"] = own_boxes[0]
    return faults, (cleaned, rle)


def _outline_length(rle: dict[str, Any]) -> int:
    """Return the number of pixels just outside a mask."""
    x, y, w, h = (int(v) for v in mask_util.toBbox(rle))
    part = np.pad(mask_util.decode(rle)[y : y + h, x : x + w], 1)
    return int((cv2.dilate(part, np.ones((3, 3), np.uint8)) > part).sum())


def _boxes_of(segmentation: list[Any] | dict[str, Any], rle: dict[str, Any]) -> list[list[float]]:
    """Return the boxes (x, y, width, height) that match a segmentation.

    The first is the mask's. Another encloses the points of polygons, whose thin ends may not cover
    any pixel.
    """
    boxes = [[float(v) for v in mask_util.toBbox(rle)]]
    if isinstance(segmentation, list):
        points = np.concatenate([np.reshape(p, (-1, 2)) for p in segmentation])
        low, high = points.min(axis=0), points.max(axis=0)
        boxes.append([float(v) for v in (*low, *(high - low))])
    return boxes


def _box_faults(
    box: list[float], height: int, width: int, where: str, own_boxes: list[list[float]]
) -> list[Fault]:
    x, y, w, h = box
    text = format_numbers(box)
    fix = "replaced by the box of its segmentation"
    if w <= 0 or h <= 0:
        return [Fault("box-empty", where, f"its box {text} has no width or height", fix)]
    if max(-x, -y, x + w - width, y + h - height) > PIXEL_TOLERANCE:
        message = f"its box {text} extends beyond the {width}x{height} image"
        return [Fault("box-outside", where, message, fix)]
    for bx, by, bw, bh in own_boxes:
        sides = (x - bx, y - by, x + w - bx - bw, y + h - by - bh)
        if max(map(abs, sides)) <= PIXEL_TOLERANCE:
            return []
    if not own_boxes:
        return []
    message = f"its box is {text}, but that of its segmentation {format_numbers(own_boxes[0])}"
    return [Fault("box-disagrees", where, message, fix)]
