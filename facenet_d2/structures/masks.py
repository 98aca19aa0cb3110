"""Binary masks: reduction to a lower resolution, centres of mass and tight boxes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances, PolygonMasks

from ..stride import MASK_STRIDE as MASK_STRIDE

MASKS_AT_ONCE = 16
"""Number of full-size masks processed together where an operation copies them to a wider type."""


def full_size_masks(instances: Instances) -> torch.Tensor:
    """Return ground-truth masks as ``(N, H, W)`` bool, from either of Detectron2's formats.

    Detectron2's own mapper sets no ``gt_masks`` on an image without objects.
    """
    height, width = instances.image_size
    if len(instances) == 0:
        device = instances.gt_classes.device
        return torch.zeros((0, height, width), dtype=torch.bool, device=device)
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, height, width).to(instances.gt_classes.device)
    return masks.tensor


def downsample_masks(
    masks: torch.Tensor, size: tuple[int, int], stride: int = MASK_STRIDE
) -> torch.Tensor:
    """Reduce masks by rounded bilinear scaling, padding them to ``size``.

    A pixel is set if at least half of the central 2x2 pixels of its block of ``stride`` x
    ``stride`` pixels are, which is bilinear scaling with a threshold of 0.5. A mask that would
    become empty keeps every block it touches, so that no instance is trained towards an empty mask.

    :func:`downsample_mask` is the same rule for one mask in NumPy; :func:`reduce_masks` is another.

    Args:
        masks: ``(N, H, W)`` bool.
        size: (H', W') of the result; ``stride`` times it is at least (H, W).
        stride: side of a block, an even number.

    Returns:
        ``(N, H', W')`` bool.
    """
    h, w = masks.shape[-2:]
    if (h, w) != (size[0] * stride, size[1] * stride):
        masks = F.pad(masks, (0, size[1] * stride - w, 0, size[0] * stride - h))
    first, second = stride // 2 - 1, stride // 2
    rows = masks[:, first::stride].to(torch.uint8) + masks[:, second::stride]
    small = (rows[:, :, first::stride] + rows[:, :, second::stride]) >= 2
    lost = ~small.flatten(1).any(dim=1)
    if lost.any():
        small[lost] = (
            masks[lost]
            .unflatten(2, (size[1], stride))
            .unflatten(1, (size[0], stride))
            .any(4)
            .any(2)
        )
    return small


def downsample_mask(mask: np.ndarray, stride: int = MASK_STRIDE) -> np.ndarray:
    """Reduce one mask by the rule of :func:`downsample_masks`.

    Args:
        mask: ``(H, W)`` uint8, 0 or 1.
        stride: side of a block, an even number.

    Returns:
        ``(ceil(H / stride), ceil(W / stride))`` bool.
    """
    h, w = mask.shape
    if h % stride or w % stride:
        # np.pad takes longer than the rest of the function.
        padded = np.zeros((h + -h % stride, w + -w % stride), mask.dtype)
        padded[:h, :w] = mask
        mask = padded
    first, second = stride // 2 - 1, stride // 2
    rows = mask[first::stride] + mask[second::stride]
    small = rows[:, first::stride] + rows[:, second::stride] >= 2
    if not small.any():
        h, w = mask.shape
        small = mask.reshape(h // stride, stride, w // stride, stride).any(axis=(1, 3))
    return small


def reduce_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Reduce masks by any integer factor, by the majority of each block.

    A pixel is set if at least half of all pixels of its block are. As in :func:`downsample_masks`,
    which looks at the centre of each block only, a mask that would become empty keeps every block
    it touches.

    Args:
        masks: ``(N, H, W)`` bool.
        size: (h, w), with H / h and W / w the same integer.

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


def masks_field(stride: int) -> str:
    """Return the name of the field for ground-truth masks at a stride, as ``gt_stride4_masks``."""
    return f"gt_stride{stride}_masks"


def strided_masks(
    instances: Instances, size: tuple[int, int], stride: int = MASK_STRIDE
) -> torch.Tensor:
    """Return ground-truth masks at a stride, ``(N, *size)`` bool.

    Args:
        instances: with the field of :func:`masks_field`, as :class:`~facenet_d2.data.SceneMapper`
            sets it, or ``gt_masks``.
        size: (H/stride, W/stride) of the padded batch.
        stride: stride of the masks.
    """
    field = masks_field(stride)
    if not instances.has(field):
        return downsample_masks(full_size_masks(instances), size, stride)
    masks: torch.Tensor = instances.get(field)
    h, w = masks.shape[-2:]
    return masks if (h, w) == size else F.pad(masks, (0, size[1] - w, 0, size[0] - h))


def inside_map(ignore_map: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return whether points lie in a region at stride 4.

    Args:
        ignore_map: ``(h, w)`` bool.
        x: x of the points in pixels of the network's input, any shape.
        y: y of the points, of the same shape.

    Returns:
        bool of the shape of ``x``; False for points outside of the map.
    """
    h, w = ignore_map.shape
    columns, rows = (x / MASK_STRIDE).floor().long(), (y / MASK_STRIDE).floor().long()
    within = (columns >= 0) & (columns < w) & (rows >= 0) & (rows < h)
    return within & ignore_map[rows.clamp(0, h - 1), columns.clamp(0, w - 1)]


def mass_centers(masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean x and y of each mask's pixels, as pixel indices.

    Args:
        masks: ``(N, H, W)`` bool.

    Returns:
        two ``(N,)`` float64; NaN for an empty mask.
    """
    # A sum over bool first copies the masks to int64, hence the chunks. Counts are exact in
    # float64, and so are the centres.
    chunks = masks.split(MASKS_AT_ONCE)
    columns = torch.cat([m.sum(dim=1).double() for m in chunks])
    rows = torch.cat([m.sum(dim=2).double() for m in chunks])
    area = columns.sum(dim=1)
    xs = torch.arange(masks.shape[2], device=masks.device, dtype=torch.float64)
    ys = torch.arange(masks.shape[1], device=masks.device, dtype=torch.float64)
    return (columns @ xs) / area, (rows @ ys) / area


def mass_covariances(masks: torch.Tensor) -> torch.Tensor:
    """Return the covariance of x and y over the area of each mask, its second central moments.

    A pixel is a square, not a point, which adds 1/12 to both variances.

    Args:
        masks: ``(N, H, W)`` bool.

    Returns:
        variance of x, covariance of x and y, variance of y, in squared pixels, ``(N, 3)`` float64;
        NaN for an empty mask.
    """
    covariances = [torch.zeros((0, 3), device=masks.device, dtype=torch.float64)]
    for mask in masks:
        places = mask.nonzero().double()
        places -= places.mean(dim=0)
        (yy, xy), (_, xx) = places.T @ places / len(places)
        covariances.append(torch.stack([xx + 1 / 12, xy, yy + 1 / 12])[None])
    return torch.cat(covariances)


def crop_to_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return a mask for each box, set at the pixels whose centres lie in it.

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


def widen_boxes(boxes: torch.Tensor, share: float) -> torch.Tensor:
    """Move each side of boxes outwards, by a share of the box's width or height.

    Args:
        boxes: ``(N, 4)``, (x0, y0, x1, y1).
        share: share of the width and of the height; the distance is at least 1.

    Returns:
        ``(N, 4)``.
    """
    margin = ((boxes[:, 2:] - boxes[:, :2]) * share).clamp(min=1)
    return torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)


def flat_nonzero(mask: torch.Tensor) -> torch.Tensor:
    """Return the indices of the true values of a flattened bool tensor, ``(n,)`` int64."""
    if mask.device.type == "cpu":
        # NumPy's is many times as fast where few values are true.
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero()[:, 0]
