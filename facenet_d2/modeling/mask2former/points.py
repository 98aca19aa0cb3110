"""Points at which Mask2Former compares masks.

Coordinates are x and y as shares of the padded input. Points are drawn with PyTorch's generator of
the device, which the trainer seeds before each step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.structures import Instances

from ...structures.masks import full_size_masks


def sample_logits(logits: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Interpolate mask logits at points, as masks are enlarged in inference.

    Args:
        logits: ``(K, h, w)``.
        points: ``(K, P, 2)``.

    Returns:
        ``(K, P)``.
    """
    grid = 2 * points[:, :, None] - 1
    samples = F.grid_sample(logits[:, None], grid, padding_mode="border", align_corners=False)
    return samples[:, 0, :, 0]


def label_points(
    masks: torch.Tensor, points: torch.Tensor, padded_size: tuple[int, int]
) -> torch.Tensor:
    """Return whether points lie in the objects' masks.

    Args:
        masks: masks of K objects without the padding, ``(K, h, w)`` bool.
        points: points of each object, ``(K, P, 2)``.
        padded_size: (height, width) of the padded input in pixels of the masks.

    Returns:
        Value of the pixel that a point lies in, False in the padding, ``(K, P)`` bool.
    """
    h, w = masks.shape[1:]
    columns = (points[..., 0] * padded_size[1]).long().clamp(0, padded_size[1] - 1)
    rows = (points[..., 1] * padded_size[0]).long().clamp(0, padded_size[0] - 1)
    within = (columns < w) & (rows < h)
    owners = torch.arange(len(masks), device=masks.device)[:, None]
    return within & masks[owners, rows.clamp(max=h - 1), columns.clamp(max=w - 1)]


def masks_for_points(
    instances: Instances, padded_size: tuple[int, int]
) -> tuple[torch.Tensor, tuple[int, int]]:
    """Return ground-truth masks for :func:`label_points`.

    Args:
        instances: with ``gt_masks``, or ``gt_stride4_masks``.
        padded_size: (H, W) of the padded input.

    Returns:
        The masks, ``(N, h, w)`` bool, and the (height, width) of the padded input in their pixels.
    """
    if instances.has("gt_stride4_masks"):
        return instances.gt_stride4_masks, (padded_size[0] // 4, padded_size[1] // 4)
    return full_size_masks(instances), padded_size


def surroundings(instances: Instances, padded_size: tuple[int, int]) -> torch.Tensor:
    """Return boxes around the objects that are twice as wide and high as their own.

    Args:
        instances: with ``gt_boxes``.
        padded_size: (H, W) of the padded input.

    Returns:
        Boxes as shares of the padded input, clipped to it, ``(N, 4)``.
    """
    height, width = padded_size
    boxes = instances.gt_boxes.tensor
    margin = (boxes[:, 2:] - boxes[:, :2]) / 2
    boxes = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], dim=1)
    return (boxes / boxes.new_tensor([width, height, width, height])).clamp(0, 1)


def draw_points(boxes: torch.Tensor, count: int, object_ratio: float) -> torch.Tensor:
    """Draw points, a part of them in the box of each object.

    Args:
        boxes: a box for each object, ``(K, 4)``.
        count: number of points P of each object.
        object_ratio: share of the points that are drawn in the box; the others may be anywhere.

    Returns:
        ``(K, P, 2)``.
    """
    points = torch.rand(len(boxes), count, 2, device=boxes.device)
    inside = points[:, : round(object_ratio * count)]
    inside.mul_(boxes[:, None, 2:] - boxes[:, None, :2]).add_(boxes[:, None, :2])
    return points


def draw_common_points(boxes: torch.Tensor, count: int, object_ratio: float) -> torch.Tensor:
    """Draw points that all objects of an image share, an equal part of them in the box of each.

    Args:
        boxes: a box for each of N objects, ``(N, 4)``.
        count: number of points P.
        object_ratio: share of the points that are drawn in the boxes; the others may be anywhere.

    Returns:
        ``(P, 2)``.
    """
    # The objects take turns.
    owners = torch.arange(count, device=boxes.device) % len(boxes)
    number = round(object_ratio * count)
    chosen = boxes[owners]
    chosen[number:] = boxes.new_tensor([0, 0, 1, 1])
    return draw_points(chosen, 1, 1.0)[:, 0]


@torch.no_grad()
def draw_uncertain_points(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    count: int,
    *,
    object_ratio: float,
    oversample_ratio: float,
    importance_ratio: float,
) -> torch.Tensor:
    """Draw points of which a part is where the masks are least certain (PointRend, section 3.1).

    Args:
        logits: mask logits of K queries, ``(K, h, w)``.
        boxes: a box for the object of each, ``(K, 4)``.
        count: number of points P of each.
        object_ratio: see :func:`draw_points`.
        oversample_ratio: number of candidates per point.
        importance_ratio: share of the points that are the least certain candidates.

    Returns:
        ``(K, P, 2)``.
    """
    candidates = draw_points(boxes, max(count, int(oversample_ratio * count)), object_ratio)
    chosen = int(importance_ratio * count)
    certainty = sample_logits(logits, candidates).abs()
    best = certainty.topk(chosen, dim=1, largest=False).indices
    important = candidates.gather(1, best[:, :, None].expand(-1, -1, 2))
    return torch.cat([important, draw_points(boxes, count - chosen, object_ratio)], dim=1)
