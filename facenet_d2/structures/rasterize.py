"""Annotations rasterised to masks at the stride of the loss, each within its own box.

A full-size mask per instance takes hundreds of megabytes on a dense image. Here an instance is
drawn at full resolution inside its box only, measured exactly, and reduced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data.transforms import TransformList
from detectron2.structures import Boxes, Instances

from .masks import MASK_STRIDE, downsample_mask, masks_field


@dataclass(frozen=True)
class MaskCrop:
    """A part of a mask, which is empty elsewhere.

    Attributes:
        x: left column in the image, a multiple of ``MASK_STRIDE``.
        y: top row in the image, a multiple of ``MASK_STRIDE``.
        pixels: ``(h, w)`` uint8, 0 or 1.
    """

    x: int
    y: int
    pixels: np.ndarray


def _frame(
    low: np.ndarray, high: np.ndarray, size: tuple[int, int]
) -> tuple[int, int, int, int] | None:
    """Return a box (x0, y0, x1, y1) around points, clipped to the image.

    x0 and y0 are multiples of ``MASK_STRIDE``. None if nothing of the box lies in the image.
    """
    height, width = size
    x0, y0 = (max(0, int(np.floor(v)) - 1) // MASK_STRIDE * MASK_STRIDE for v in low)
    x1, y1 = (min(limit, int(np.ceil(v)) + 1) for v, limit in zip(high, (width, height)))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def rasterize_polygons(polygons: Sequence[np.ndarray], size: tuple[int, int]) -> MaskCrop | None:
    """Draw polygons as pycocotools does.

    Args:
        polygons: the ``(K, 2)`` points of each, in pixels of the image.
        size: (height, width) of the image.

    Returns:
        their joint mask, or None if nothing of it lies in the image.
    """
    points = np.concatenate(polygons)
    frame = _frame(points.min(axis=0), points.max(axis=0), size)
    if frame is None:
        return None
    x0, y0, x1, y1 = frame
    # A shift by whole pixels does not change what pycocotools draws.
    flat = [(p - (x0, y0)).ravel() for p in polygons]
    layers = mask_util.decode(mask_util.frPyObjects(flat, y1 - y0, x1 - x0))
    pixels = layers[..., 0] if len(polygons) == 1 else layers.max(axis=2)
    return MaskCrop(x0, y0, pixels)


def affine_matrix(transforms: TransformList, size: tuple[int, int]) -> np.ndarray | None:
    """Return the ``(2, 3)`` matrix of a chain of transforms, or None if it is not affine.

    Args:
        transforms: the chain; its coordinates are (x, y).
        size: (height, width) of the image before it.
    """
    height, width = size
    points = np.array(
        [[0, 0], [width, 0], [0, height], [width, height], [0.3 * width, 0.6 * height]], dtype=float
    )
    mapped = transforms.apply_coords(points.copy())
    origin = mapped[0]
    linear = np.stack([(mapped[1] - origin) / width, (mapped[2] - origin) / height], axis=1)
    if not np.allclose(points @ linear.T + origin, mapped, atol=1e-6):
        return None
    return np.column_stack([linear, origin])


def warp_rle(
    rle: dict[str, Any], transforms: TransformList, matrix: np.ndarray | None, size: tuple[int, int]
) -> MaskCrop | None:
    """Transform the mask of an RLE.

    Args:
        rle: compressed RLE.
        transforms: transforms from the annotated image to the new one.
        matrix: result of :func:`affine_matrix`. If given, only the mask's box is warped, with a
            single resampling; if None, the whole mask goes through the transforms.
        size: (height, width) of the new image.

    Returns:
        the mask, or None if nothing of it lies in the new image.
    """
    mask = mask_util.decode(rle)
    if matrix is None:
        pixels = transforms.apply_segmentation(mask)
        return MaskCrop(0, 0, np.ascontiguousarray(pixels, dtype=np.uint8))
    x, y, w, h = (int(v) for v in mask_util.toBbox(rle))
    corners = np.array([[x, y], [x + w, y], [x, y + h], [x + w, y + h]], dtype=float)
    mapped = corners @ matrix[:, :2].T + matrix[:, 2]
    frame = _frame(mapped.min(axis=0), mapped.max(axis=0), size)
    if frame is None:
        return None
    x0, y0, x1, y1 = frame
    # OpenCV's integer coordinates are pixel centres; these are relative to the two crops.
    offset = matrix[:, :2] @ (x + 0.5, y + 0.5) + matrix[:, 2] - 0.5 - (x0, y0)
    pixels = cv2.warpAffine(
        np.ascontiguousarray(mask[y : y + h, x : x + w]),
        np.column_stack([matrix[:, :2], offset]),
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_NEAREST,
    )
    return MaskCrop(x0, y0, pixels)


def rasterize_instances(
    annotations: Sequence[dict[str, Any]],
    transforms: TransformList,
    annotated_size: tuple[int, int],
    size: tuple[int, int],
    stride: int = MASK_STRIDE,
) -> Instances:
    """Transform annotations and rasterise them at a stride.

    Args:
        annotations: annotations of a dataset dict, with ``segmentation`` (polygons or RLE) and
            ``category_id``.
        transforms: transforms from the annotated image to the new one.
        annotated_size: (height, width) of the annotated image.
        size: (height, width) of the new image.
        stride: stride of the masks, 2 or 4.

    Returns:
        the N instances with at least one pixel in the new image: ``gt_classes``, ``gt_boxes``
        (tight), ``gt_centers`` ``(N, 2)`` float64 (mean x and y of each mask's pixels),
        ``gt_covariances`` ``(N, 3)`` float64 (as :func:`~.masks.mass_covariances` returns them) and
        the field of :func:`~.masks.masks_field`, ``(N, ceil(H/stride), ceil(W/stride))`` bool.

    Raises:
        ValueError: if a segmentation is neither polygons nor RLE.
    """
    mapped = _map_polygons(annotations, transforms)
    needs_matrix = len(mapped) < len(annotations)
    matrix = affine_matrix(transforms, annotated_size) if needs_matrix else None
    height, width = size
    shape = (-(-height // stride), -(-width // stride))
    masks = torch.zeros((len(annotations), *shape), dtype=torch.bool)
    as_array = masks.numpy()
    classes: list[int] = []
    boxes = np.zeros((len(annotations), 4), dtype=np.float32)
    centers = np.zeros((len(annotations), 2))
    covariances = np.zeros((len(annotations), 3))
    for i, annotation in enumerate(annotations):
        if i in mapped:
            crop = rasterize_polygons(mapped[i], size)
        else:
            rle = annotation["segmentation"]
            if isinstance(rle["counts"], list):
                rle = mask_util.frPyObjects(rle, *rle["size"])
            crop = warp_rle(rle, transforms, matrix, size)
        if crop is None:
            continue
        columns, rows = (
            crop.pixels.sum(axis=0, dtype=np.int64),
            crop.pixels.sum(axis=1, dtype=np.int64),
        )
        area = columns.sum()
        if area == 0:
            continue
        xs, ys = columns.nonzero()[0], rows.nonzero()[0]
        n = len(classes)
        boxes[n] = (
            crop.x + xs[0],
            crop.y + ys[0],
            crop.x + xs[-1] + 1,
            crop.y + ys[-1] + 1,
        )
        # Counts are exact in float64, and so are the centres.
        centers[n] = (
            (columns @ np.arange(crop.x, crop.x + len(columns))) / area,
            (rows @ np.arange(crop.y, crop.y + len(rows))) / area,
        )
        moments = cv2.moments(crop.pixels, binaryImage=True)
        covariances[n] = (
            moments["mu20"] / area + 1 / 12,
            moments["mu11"] / area,
            moments["mu02"] / area + 1 / 12,
        )
        small = downsample_mask(crop.pixels, stride)
        top, left = crop.y // stride, crop.x // stride
        as_array[n, top : top + small.shape[0], left : left + small.shape[1]] = small
        classes.append(int(annotation["category_id"]))
    n = len(classes)
    instances = Instances(size)
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    instances.gt_boxes = Boxes(torch.from_numpy(boxes[:n]))
    instances.gt_centers = torch.from_numpy(centers[:n])
    instances.gt_covariances = torch.from_numpy(covariances[:n])
    instances.set(masks_field(stride), masks[:n])
    return instances


def _map_polygons(
    annotations: Sequence[dict[str, Any]], transforms: TransformList
) -> dict[int, list[np.ndarray]]:
    """Return the transformed polygons of the annotations that have polygons, by their index."""
    polygons: dict[int, list[np.ndarray]] = {}
    for i, annotation in enumerate(annotations):
        segmentation = annotation["segmentation"]
        if isinstance(segmentation, list):
            polygons[i] = [np.asarray(p, dtype=float).reshape(-1, 2) for p in segmentation]
        elif not isinstance(segmentation, dict):
            raise ValueError(
                f"its segmentation is a {type(segmentation).__name__}, not polygons or an RLE"
            )
    parts = [p for own in polygons.values() for p in own]
    if not parts:
        return polygons
    # All points at once, so that the overhead of a transform is paid once per image.
    points = transforms.apply_coords(np.concatenate(parts))
    pieces = iter(np.split(points, np.cumsum([len(p) for p in parts])[:-1]))
    return {i: [next(pieces) for _ in own] for i, own in polygons.items()}
