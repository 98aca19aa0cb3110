"""Binary masks: reduction to stride 4, centres of mass and tight boxes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances, PolygonMasks

MASK_STRIDE = 4
"""Stride of the mask features, and so of the masks the loss compares with."""


MASKS_AT_ONCE = 16
"""How many full-size masks are worked on together where that needs copies of other types."""


def full_size_masks(instances: Instances) -> torch.Tensor:
    """Ground-truth masks as ``(N, H, W)`` bool, whichever of Detectron2's kinds they are.

    Detectron2's own mapper gives an image without objects no ``gt_masks`` at all.
    """
    height, width = instances.image_size
    if len(instances) == 0:
        device = instances.gt_classes.device
        return torch.zeros((0, height, width), dtype=torch.bool, device=device)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width).to(instances.gt_classes.device)
    return masks.tensor


def downsample_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks at a quarter of their size, padded to ``size``.

    A pixel is set where at least half of the middle 2x2 of its 4x4 block is: bilinear scaling by
    1/4, rounded. An instance too small or thin for that keeps each block it touches, so that none
    is trained towards an empty mask.

    Args:
        masks: ``(N, H, W)`` bool.
        size: (H', W') of the result, with 4H' >= H and 4W' >= W.

    Returns:
        ``(N, H', W')`` bool.
    """
    s = MASK_STRIDE
    h, w = masks.shape[-2:]
    if (h, w) != (size[0] * s, size[1] * s):
        masks = F.pad(masks, (0, size[1] * s - w, 0, size[0] * s - h))
    rows = masks[:, 1::s].to(torch.uint8) + masks[:, 2::s]
    small = (rows[:, :, 1::s] + rows[:, :, 2::s]) >= 2
    lost = ~small.flatten(1).any(dim=1)
    if lost.any():
        small[lost] = (
            masks[lost].unflatten(2, (size[1], s)).unflatten(1, (size[0], s)).any(4).any(2)
        )
    return small


def mass_centers(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean x and y of each mask's pixels, as pixel indices; ``(N, H, W)`` to two ``(N,)`` float64.

    NaN for an empty mask.
    """
    # Summing bool makes a copy of eight bytes a pixel: some masks at a time. Sums of counts are
    # exact in float64, so the centres are.
    chunks = masks.split(MASKS_AT_ONCE)
    columns = torch.cat([m.sum(dim=1).double() for m in chunks])
    rows = torch.cat([m.sum(dim=2).double() for m in chunks])
    area = columns.sum(dim=1)
    xs = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float64)
    ys = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float64)
    return (columns @ xs) / area, (rows @ ys) / area


def stride4_masks(instances: Instances, size: tuple[int, int]) -> torch.Tensor:
    """Ground-truth masks at stride 4, ``(N, *size)`` bool.

    Args:
        instances: with ``gt_stride4_masks`` of :class:`~facenet_d2.data.SceneMapper` or
            ``gt_masks``.
        size: (H/4, W/4) of the padded batch.
    """
    if not instances.has("gt_stride4_masks"):
        return downsample_masks(full_size_masks(instances), size)
    masks = instances.gt_stride4_masks
    h, w = masks.shape[-2:]
    return F.pad(masks, (0, size[1] - w, 0, size[0] - h))


def crop_to_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Which pixels of a map lie in each box: those whose centres do.

    Args:
        boxes: ``(N, 4)``, (x0, y0, x1, y1) in pixels of the map.
        size: (h, w) of the map.

    Returns:
        ``(N, h, w)`` bool.
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)
    xs = torch.arange(size[1], device=boxes.device) + 0.5
    ys = torch.arange(size[0], device=boxes.device) + 0.5
    in_columns = (xs >= x0) & (xs <= x1)
    in_rows = (ys >= y0) & (ys <= y1)
    return in_rows[:, :, None] & in_columns[:, None, :]


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """(x0, y0, x1, y1) around each mask, zeros for an empty one: ``(N, H, W)`` to ``(N, 4)``."""
    sides = []
    for dim in (1, 2):
        seen = masks.any(dim=dim).to(torch.uint8)  # Columns, then rows.
        first = seen.argmax(dim=1)
        end = seen.shape[1] - seen.flip(1).argmax(dim=1)
        sides.append((first, end))
    (x0, x1), (y0, y1) = sides
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return boxes * masks.flatten(1).any(dim=1)[:, None]


def reduce_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks at a whole fraction of their size: set where at least half of a block is.

    One that would vanish keeps each block it touches.

    Args:
        masks: ``(N, H, W)`` bool.
        size: (h, w), with H / h = W / w a whole number.

    Returns:
        ``(N, h, w)`` bool.
    """
    factor = masks.shape[-1] // size[1]
    if factor == 1:
        return masks
    shares = F.avg_pool2d(masks[:, None].float(), factor)[:, 0]
    small = shares >= 0.5
    lost = ~small.flatten(1).any(dim=1)
    small[lost] = shares[lost] > 0
    return small
