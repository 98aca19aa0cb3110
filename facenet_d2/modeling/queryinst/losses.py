"""Assignment costs of QueryInst, for one image and stage."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torchvision.ops import generalized_box_iou


def focal_costs(
    logits: torch.Tensor, gt_classes: torch.Tensor, *, alpha: float, gamma: float
) -> torch.Tensor:
    """Compute how the focal loss changes if a query is assigned to an object.

    Args:
        logits: class logits, ``(Q, C)``.
        gt_classes: class of each object, ``(N,)`` int64.
        alpha: weight of the positive class.
        gamma: focusing exponent.

    Returns:
        Focal loss of the object's class with a positive target minus that with a negative one,
        ``(Q, N)``.
    """
    own = logits[:, gt_classes]
    p = own.sigmoid()
    positive = alpha * (1 - p) ** gamma * F.softplus(-own)
    negative = (1 - alpha) * p**gamma * F.softplus(own)
    return positive - negative


def box_costs(
    boxes: torch.Tensor,
    gt_boxes: torch.Tensor,
    sizes: torch.Tensor,
    *,
    l1_weight: float,
    giou_weight: float,
) -> torch.Tensor:
    """Compare each predicted box with each object's box.

    Args:
        boxes: predicted boxes in pixels, ``(Q, 4)``.
        gt_boxes: boxes of the objects in pixels, ``(N, 4)``.
        sizes: (width, height, width, height) of the image, ``(4,)``.
        l1_weight: weight of the sum of the distances of the corners' coordinates, in shares of the
            image.
        giou_weight: weight of the negative generalised IoU.

    Returns:
        ``(Q, N)``.
    """
    distances = torch.cdist(boxes / sizes, gt_boxes / sizes, p=1)
    return l1_weight * distances - giou_weight * generalized_box_iou(boxes, gt_boxes)
