"""Enlargement of mask probabilities to binary masks at the image's size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from .crops import Crop
from .enlarger import MARGIN, Enlarger, Part, box_with_margin
from .masks import MASK_STRIDE, crop_to_boxes
from .rle_masks import RLEMasks, find_changes

# Number of floats in one chunk of enlarged masks, 64 MiB: hundreds of instances on a large image
# would not fit into memory as floats.
CHUNK_FLOATS = 16 * 2**20

# Left, top, right and bottom of a part of a map.
Extent = tuple[int, int, int, int]


def enlarge_masks(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
    boxes: torch.Tensor | None = None,
    stride: int = MASK_STRIDE,
) -> RLEMasks:
    """Enlarge mask probabilities to binary masks at the image's size.

    Probabilities are scaled to the size of the padded input, cropped to the image, and scaled to
    ``image_size``, bilinearly both times. On a GPU this happens in chunks of whole masks; on a CPU
    mask by mask, inside the box of each only. Memory does not grow with the number of masks times
    the pixels of the image.

    Args:
        masks: ``(N, H/stride, W/stride)`` probabilities of the padded input.
        input_size: (height, width) of the network's input without padding.
        image_size: (height, width) of the result.
        threshold: probability above which a pixel is set.
        boxes: box of each mask in pixels of the result, ``(N, 4)``; no pixel whose centre lies
            outside is set.
        stride: stride of the masks.

    Returns:
        N masks of ``image_size``.
    """
    enlarge = _enlarge_parts if masks.device.type == "cpu" else _enlarge_whole
    return enlarge(masks, input_size, image_size, threshold, boxes, stride)


def _enlarge_whole(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
    boxes: torch.Tensor | None = None,
    stride: int = MASK_STRIDE,
) -> RLEMasks:
    """Enlarge whole masks, chunk by chunk."""
    padded = (masks.shape[-2] * stride, masks.shape[-1] * stride)
    pixels = max(padded[0] * padded[1], image_size[0] * image_size[1])
    step = max(1, CHUNK_FLOATS // pixels)
    changes = []
    for start, chunk in zip(range(0, len(masks), step), masks[:, None].split(step)):
        chunk = F.interpolate(chunk, size=padded, mode="bilinear", align_corners=False)
        chunk = chunk[:, :, : input_size[0], : input_size[1]]
        if chunk.shape[-2:] != image_size:
            chunk = F.interpolate(chunk, size=image_size, mode="bilinear", align_corners=False)
        pixels_set = chunk[:, 0] > threshold
        if boxes is not None:
            pixels_set &= crop_to_boxes(boxes[start : start + step], image_size)
        changes += find_changes(pixels_set.transpose(1, 2), 0, 0, image_size[0])
    return RLEMasks(changes, image_size)


def _enlarge_parts(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
    boxes: torch.Tensor | None = None,
    stride: int = MASK_STRIDE,
) -> RLEMasks:
    """Enlarge each mask around its pixels."""
    if threshold < 0:
        # Logits; an Enlarger takes values outside of a part for 0.
        masks, threshold = masks - threshold, 0.0
    values = masks.detach().float().numpy()
    enlarge = Enlarger(values.shape[1:], input_size, image_size, threshold, stride)
    extents = [box_with_margin(mask > enlarge.threshold) for mask in values]
    if boxes is not None:
        extents = _intersect(extents, boxes, input_size, image_size, stride)
    parts = (
        Part(mask[top:bottom, left:right], left, top)
        for mask, (left, top, right, bottom) in zip(values, extents)
    )
    crops: Iterable[Crop] = map(enlarge, parts)
    if boxes is not None:
        crops = (crop.within(box) for crop, box in zip(crops, boxes.tolist()))
    return RLEMasks.from_crops(crops, image_size)


def _intersect(
    extents: Sequence[Extent],
    boxes: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    stride: int,
) -> list[Extent]:
    """Reduce extents of masks, in their own pixels, to the parts that boxes in the image need.

    The result is empty where the two do not meet.
    """
    scale_y, scale_x = (old / new / stride for old, new in zip(input_size, image_size))
    near = boxes.double().cpu().numpy() * [scale_x, scale_y, scale_x, scale_y]
    first, end = np.hsplit(np.array(extents, float).reshape(-1, 4), 2)
    low = np.clip(np.floor(near[:, :2]) - 1 - MARGIN, first, end)
    high = np.clip(np.ceil(near[:, 2:]) + 1 + MARGIN, low, end)
    sides = np.concatenate([low, high], axis=1)
    return [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in sides]
