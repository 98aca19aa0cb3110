"""Masks over boxes, as Mask R-CNN predicts them, pasted into an image."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from .enlarge import CHUNK_FLOATS
from .rle_masks import RLEMasks, find_changes, join_changes

# Number of floats of a mask that are computed at a time on a CPU, 4 MiB: a cache has them.
BAND_FLOATS = 2**20


def paste_masks(
    masks: torch.Tensor,
    boxes: torch.Tensor,
    image_size: tuple[int, int],
    threshold: float = 0.5,
) -> RLEMasks:
    """Paste masks over their boxes, with the result of Detectron2's ``paste_masks_in_image``.

    On a GPU this happens in chunks of whole masks; on a CPU mask by mask, around the box of each
    only.

    Args:
        masks: probabilities over the boxes, ``(N, M, M)``.
        boxes: ``(N, 4)`` as (x0, y0, x1, y1), of positive size, inside the image.
        image_size: (height, width) of the image.
        threshold: minimum probability of a mask's pixels.

    Returns:
        N masks of ``image_size``.
    """
    paste = _paste_parts if masks.device.type == "cpu" else _paste_whole
    return RLEMasks(paste(masks, boxes, image_size, threshold), image_size)


def _paste_whole(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], threshold: float
) -> list[np.ndarray]:
    """Paste masks into whole images, chunk by chunk; return the :attr:`RLEMasks.changes`."""
    height, width = image_size
    step = max(1, CHUNK_FLOATS // (2 * height * width))
    changes = []
    for some, theirs in zip(masks.split(step), boxes.split(step)):
        columns = _sample(some, theirs, (0, width), (0, height)) >= threshold
        changes += find_changes(columns, 0, 0, height)
    return changes


def _paste_parts(
    masks: torch.Tensor, boxes: torch.Tensor, image_size: tuple[int, int], threshold: float
) -> list[np.ndarray]:
    """Paste each mask around its box; return the :attr:`RLEMasks.changes`."""
    height, width = image_size
    changes = []
    for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        # One pixel more on each side, as Detectron2 does.
        left, right = max(0, math.floor(x0) - 1), min(width, math.ceil(x1) + 1)
        top, bottom = max(0, math.floor(y0) - 1), min(height, math.ceil(y1) + 1)
        step = max(1, BAND_FLOATS // (bottom - top))
        bands = []
        for start in range(left, right, step):
            xs = (start, min(start + step, right))
            columns = _sample(masks[i : i + 1], boxes[i : i + 1], xs, (top, bottom)) >= threshold
            bands += find_changes(columns, start, top, height)
        changes.append(join_changes(bands))
    return changes


def _sample(
    masks: torch.Tensor, boxes: torch.Tensor, xs: tuple[int, int], ys: tuple[int, int]
) -> torch.Tensor:
    """Interpolate masks at the centres of the image's pixels.

    Args:
        masks: ``(N, M, M)`` float.
        boxes: ``(N, 4)``.
        xs: first and end column.
        ys: first and end row.

    Returns:
        Probabilities, transposed, ``(N, columns, rows)``; 0 outside the boxes.
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)
    x = torch.arange(*xs, device=boxes.device, dtype=torch.float32) + 0.5
    y = torch.arange(*ys, device=boxes.device, dtype=torch.float32) + 0.5
    # From -1 to 1 inside a box.
    x = ((x - x0) / (x1 - x0) * 2 - 1)[:, :, None]
    y = ((y - y0) / (y1 - y0) * 2 - 1)[:, None, :]
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=3).to(masks.dtype)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
