"""YOLACT's losses (YOLACT, sections 3.2 and 5), for one image each."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ...structures.masks import crop_to_boxes
from ..precision import full_precision
from ..shapes import spatial_size


def around_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Mark the pixels of each box and one more on every side, as published.

    Args:
        boxes: boxes in pixels of the prototypes, ``(N, 4)``.
        size: (h, w) of the prototypes.

    Returns:
        ``(N, h, w)`` bool.
    """
    return crop_to_boxes(boxes + boxes.new_tensor([-1, -1, 1, 1]), size)


def combine_prototypes(coefficients: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """Compute mask logits as linear combinations of the prototypes, in float32.

    Args:
        coefficients: ``(P, k)``.
        prototypes: ``(k, h, w)``.

    Returns:
        Mask logits, ``(P, h, w)``.
    """
    with full_precision(prototypes.device.type):
        return torch.einsum("pk,khw->phw", coefficients.float(), prototypes.float())


def hard_negative_loss(logits: torch.Tensor, labels: torch.Tensor, ratio: float) -> torch.Tensor:
    """Sum the cross-entropy of the positive anchors and of the hardest negative ones.

    Args:
        logits: class logits, background last, ``(R, C + 1)``.
        labels: class of each anchor, C for background, -1 for ignored ones, ``(R,)`` int64.
        ratio: maximum number of negative anchors per positive one.

    Returns:
        The loss, a scalar.
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
    """Sum the binary cross-entropy around each object's box, divided by the box's area.

    Args:
        coefficients: coefficients of P anchors, ``(P, k)``.
        prototypes: ``(k, h, w)``.
        masks: masks of the objects, ``(N, h, w)`` bool.
        owners: object of each anchor, ``(P,)`` int64.
        boxes: boxes of the objects in pixels of the prototypes, ``(N, 4)``.

    Returns:
        Losses, ``(P,)``.
    """
    logits = combine_prototypes(coefficients, prototypes)
    loss = F.binary_cross_entropy_with_logits(logits, masks[owners].float(), reduction="none")
    inside = around_boxes(boxes, spatial_size(masks))[owners]
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1)
    return (loss * inside).flatten(1).sum(dim=1) / sides.prod(dim=1)[owners]


def semantic_loss(
    logits: torch.Tensor,
    masks: torch.Tensor,
    classes: torch.Tensor,
    ignore_map: torch.Tensor | None = None,
) -> torch.Tensor:
    """Compute the binary cross-entropy of each class at each pixel.

    Args:
        logits: class logits, ``(C, h, w)``.
        masks: masks of the objects, ``(N, 2h, 2w)`` bool.
        classes: class of each object, ``(N,)`` int64.
        ignore_map: region of which pixels that belong to no object have no loss, ``(2h, 2w)`` bool.

    Returns:
        The loss, a scalar: summed over classes, averaged over pixels.
    """
    # A pixel is positive if any of its 2x2 mask pixels is. The published code requires a mean above
    # one half, which loses small objects.
    small = F.max_pool2d(masks[:, None].float(), 2).flatten(1)
    of_class = F.one_hot(classes, len(logits)).T.float()
    target = (of_class @ small > 0).float().view_as(logits)
    weight = None
    if ignore_map is not None:
        ignored = F.max_pool2d(ignore_map[None, None].float(), 2)[0] > 0
        weight = (~ignored | (target > 0).any(dim=0)).float().expand_as(target)
    loss = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum")
    return loss / (logits.shape[1] * logits.shape[2])
