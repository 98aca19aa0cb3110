"""YOLACT's losses (YOLACT, sections 3.2 and 5), each of one image."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...structures.masks import crop_to_boxes


def around_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Which pixels a mask is made of: those in its box, and one more on every side, as published.

    Args:
        boxes: ``(N, 4)``, in pixels of the prototypes.
        size: (h, w) of the prototypes.

    Returns:
        ``(N, h, w)`` bool.
    """
    return crop_to_boxes(boxes + boxes.new_tensor([-1, -1, 1, 1]), size)


def assemble(coefficients: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Mask logits, the prototypes' sums by coefficients: ``(P, k)`` and ``(k, h, w)`` to
    ``(P, h, w)``.
    """
    # Half precision would move the masks' borders.
    with torch.autocast(prototypes.device.type, enabled=False):
        return torch.einsum("pk,khw->phw", coefficients.float(), prototypes.float())


def hard_negative_loss(logits: torch.Tensor, labels: torch.Tensor, ratio: float) -> torch.Tensor:
    """Cross-entropy of the positive anchors and of the hardest negative ones, summed.

    Args:
        logits: ``(R, C + 1)``, background last.
        labels: ``(R,)``: a class, C for background, -1 for what does not count.
        ratio: so many negatives count for each positive.

    Returns:
        a scalar.
    """
    background = logits.shape[1] - 1
    loss = F.cross_entropy(logits, labels, ignore_index=-1, reduction="none")
    positive = (labels >= 0) & (labels < background)
    negatives = loss[labels == background]
    count = min(len(negatives), int(ratio * positive.sum()))
    return loss[positive].sum() + negatives.topk(count).values.sum()


def lincomb_loss(
    coefficients: torch.Tensor,
    prototypes: torch.Tensor,
    masks: torch.Tensor,
    owners: torch.Tensor,
    boxes: torch.Tensor,
) -> torch.Tensor:
    """Binary cross-entropy of assembled masks around their objects' boxes, over the boxes' areas.

    Args:
        coefficients: ``(P, k)``.
        prototypes: ``(k, h, w)``.
        masks: of the objects, ``(N, h, w)`` bool.
        owners: ``(P,)`` int64, the object of each.
        boxes: of the objects, ``(N, 4)``, in pixels of the prototypes.

    Returns:
        ``(P,)``.
    """
    logits = assemble(coefficients, prototypes)
    loss = F.binary_cross_entropy_with_logits(logits, masks[owners].float(), reduction="none")
    inside = around_boxes(boxes, masks.shape[-2:])[owners]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    return (loss * inside).flatten(1).sum(dim=1) / sides.prod(dim=1)[owners]


def semantic_loss(logits: torch.Tensor, masks: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of each class at each pixel, summed over classes, mean over pixels.

    Args:
        logits: ``(C, h, w)``.
        masks: of the objects, ``(N, 2h, 2w)`` bool.
        classes: ``(N,)`` int64.

    Returns:
        a scalar.
    """
    # A pixel is of a class where any of the four below is of an object of it. In the published code
    # their mean must be above one half, which leaves small objects out.
    small = F.max_pool2d(masks[:, None].float(), 2).flatten(1)
    of_class = F.one_hot(classes, len(logits)).T.float()
    target = (of_class @ small > 0).float().view_as(logits)
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="sum")
    return loss / (logits.shape[1] * logits.shape[2])
