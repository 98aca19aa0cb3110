"""Examining one image and its annotations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util

from ..data.coco_json import is_number
from ..data.images import DepthError, size_problem
from .fault_kinds import Fault
from .grids import Setting
from .mask_ceiling import best_iou
from .segmentations import PIXEL_TOLERANCE, check_polygons, check_run_lengths, numbers

# Masks of an image that is not there are drawn up to this size.
DRAWN_PIXELS = 2**28
# What rounding to whole pixels explains of an area, as a share. An area may also be with or without
# the pixels on the outline.
AREA_TOLERANCE = 0.1


@dataclass(frozen=True)
class ImageJob:
    """An image's entry, its file and its annotations, whose fields are all of the right kind.

    Attributes:
        setting: at whose input size masks are to be tried; None not to try them.
    """

    file: Path
    image: dict[str, Any]
    annotations: list[dict[str, Any]]
    setting: Setting | None = None


@dataclass
class ImageResult:
    """What was found in one image.

    Attributes:
        faults: in the order of the annotations.
        usable: whether the image can be trained on.
        annotations: the cleaned ones.
        measures: (category id, x0, y0, x1, y1, area, centre x, centre y) of each cleaned annotation
            that is no crowd, of its mask, in pixels of the image.
        best_ious: of the same, see :func:`best_iou`; NaN where masks are not tried.
    """

    faults: list[Fault] = field(default_factory=list)
    usable: bool = True
    annotations: list[dict[str, Any]] = field(default_factory=list)
    measures: list[tuple[float, ...]] = field(default_factory=list)
    best_ious: list[float] = field(default_factory=list)


def examine_image(job: ImageJob) -> ImageResult:
    """Decode an image, and draw and measure the masks of its annotations."""
    result = ImageResult()
    fault = _image_fault(job)
    if fault is not None:
        result.faults.append(fault)
        result.usable = False
        stated = job.image["height"] * job.image["width"]
        if fault.kind == "image-size" or stated > DRAWN_PIXELS:
            # Nothing can be said of masks where the size is not known.
            return result
    seen: dict[tuple, Any] = {}
    for annotation in job.annotations:
        where = f"annotation {annotation['id']} of {job.image['file_name']}"
        faults, cleaned, rle = _examine_annotation(annotation, job.image, where)
        result.faults += faults
        if cleaned is None:
            continue
        key = (cleaned["category_id"], bytes(rle["counts"]))
        if key in seen:
            result.faults.append(
                Fault(
                    "annotation-twice",
                    where,
                    f"has the class and mask of annotation {seen[key]}",
                    "annotation removed",
                )
            )
            continue
        seen[key] = annotation["id"]
        result.annotations.append(cleaned)
        if not cleaned["iscrowd"]:
            result.measures.append((cleaned["category_id"], *_measure(rle)))
            size = (job.image["height"], job.image["width"])
            tried = job.setting is not None
            result.best_ious.append(
                best_iou(cleaned, rle, size, job.setting) if tried else math.nan
            )
    return result


def _image_fault(job: ImageJob) -> Fault | None:
    where = f"image {job.image['file_name']}"
    removed = "image removed, with its annotations"
    if not job.file.is_file():
        problem = "is no file" if job.file.exists() else "does not exist"
        return Fault("image-missing", where, f"{job.file} {problem}", removed)
    try:
        problem = size_problem(str(job.file), job.image)
    except DepthError as error:
        return Fault("image-depth", where, str(error), removed)
    except Exception as error:
        # Pillow raises errors of many types for broken files.
        return Fault("image-unreadable", where, " ".join(str(error).split()), removed)
    return Fault("image-size", where, problem, removed) if problem else None


def _measure(rle: dict[str, Any]) -> tuple[float, ...]:
    x, y, w, h = mask_util.toBbox(rle)
    part = mask_util.decode(rle)[int(y) : int(y + h), int(x) : int(x + w)]
    area = part.sum(dtype=np.int64)
    # Of pixel indices, as SOLOv2's targets have them.
    center_x = part.sum(axis=0) @ np.arange(part.shape[1]) / area + int(x)
    center_y = part.sum(axis=1) @ np.arange(part.shape[0]) / area + int(y)
    return x, y, x + w, y + h, float(area), float(center_x), float(center_y)


def _examine_annotation(
    annotation: dict[str, Any], image: dict[str, Any], where: str
) -> tuple[list[Fault], dict[str, Any] | None, dict[str, Any] | None]:
    """Faults, the cleaned annotation and its mask; both None where it cannot be used."""
    height, width = image["height"], image["width"]
    cleaned = {**annotation, "iscrowd": int(bool(annotation.get("iscrowd", 0)))}
    faults: list[Fault] = []
    if isinstance(annotation["segmentation"], dict):
        rle = check_run_lengths(annotation["segmentation"], height, width, where, faults)
    else:
        polygons = check_polygons(annotation["segmentation"], height, width, where, faults)
        cleaned["segmentation"] = polygons
        rle = None
        if polygons:
            rle = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
    if rle is not None and mask_util.area(rle) == 0:
        faults.append(Fault("mask-empty", where, "its mask has no pixel", "annotation removed"))
        rle = None
    own_boxes = [] if rle is None else _own_boxes(cleaned["segmentation"], rle)
    faults += _box_faults(annotation["bbox"], height, width, where, own_boxes)
    if cleaned["iscrowd"]:
        faults.append(
            Fault("crowd", where, "is a crowd: not trained on, and ignored in evaluation")
        )
    if rle is None:
        return faults, None, None
    area = int(mask_util.area(rle))
    stated = annotation.get("area")
    if not is_number(stated):
        faults.append(Fault("area-missing", where, "has no area", f"set to {area}"))
        cleaned["area"] = area
    elif abs(stated - area) > max(AREA_TOLERANCE * area, _outline(rle)):
        faults.append(
            Fault(
                "area-disagrees",
                where,
                f"its area is {stated:g}, its mask has {area} pixels",
                f"set to {area}",
            )
        )
        cleaned["area"] = area
    if any(f.kind.startswith("box") for f in faults):
        cleaned["bbox"] = own_boxes[0]
    return faults, cleaned, rle


def _outline(rle: dict[str, Any]) -> int:
    """The number of pixels just outside of a mask."""
    x, y, w, h = (int(v) for v in mask_util.toBbox(rle))
    part = np.pad(mask_util.decode(rle)[y : y + h, x : x + w], 1)
    return int((cv2.dilate(part, np.ones((3, 3), np.uint8)) > part).sum())


def _own_boxes(segmentation: list | dict, rle: dict[str, Any]) -> list[list[float]]:
    """Boxes (x, y, width, height) that a segmentation can be said to have.

    The mask's, and around the points of polygons, whose thin ends need not show in the mask.
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
    text = numbers(box)
    fix = "replaced by its segmentation's box"
    if w <= 0 or h <= 0:
        return [Fault("box-empty", where, f"its box {text} has no extent", fix)]
    if max(-x, -y, x + w - width, y + h - height) > PIXEL_TOLERANCE:
        message = f"its box {text} leaves the {width}x{height} image"
        return [Fault("box-outside", where, message, fix)]
    for bx, by, bw, bh in own_boxes:
        sides = (x - bx, y - by, x + w - bx - bw, y + h - by - bh)
        if max(map(abs, sides)) <= PIXEL_TOLERANCE:
            return []
    if not own_boxes:
        return []
    message = f"its box is {text}, its segmentation's {numbers(own_boxes[0])}"
    return [Fault("box-disagrees", where, message, fix)]
