"""Costs and losses of Mask2Former at points of the masks, for one image each."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def mask_costs(
    logits: torch.Tensor, labels: torch.Tensor, *, mask_weight: float, dice_weight: float
) -> torch.Tensor:
    """Compute the mask losses of each query for each object.

    Args:
        logits: mask logits of the queries at P points, ``(Q, P)``.
        labels: masks of the objects at the same points, ``(N, P)``.
        mask_weight: weight of the binary cross-entropy.
        dice_weight: weight of the Dice loss.

    Returns:
        ``(Q, N)``.
    """
    target = labels.float().T
    # Binary cross-entropy is log(1 + exp(x)) - x y.
    cross_entropy = F.softplus(logits).mean(dim=1)[:, None] - logits @ target / len(target)
    p = logits.sigmoid()
    sums = p.sum(dim=1)[:, None] + target.sum(dim=0)
    dice = 1 - (2 * (p @ target) + 1) / (sums + 1)
    return mask_weight * cross_entropy + dice_weight * dice


def mask_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the losses of pairs of a query and its object, summed over the pairs.

    Args:
        logits: mask logits of K queries at P points of their own, ``(K, P)``.
        labels: masks of their objects at these points, ``(K, P)`` bool.

    Returns:
        Mean binary cross-entropy of the points, and the Dice loss without squares and with 1 added
        to numerator and denominator, a scalar each.
    """
    target = labels.float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    p = logits.sigmoid()
    overlap, sums = (p * target).sum(dim=1), p.sum(dim=1) + target.sum(dim=1)
    dice = 1 - (2 * overlap + 1) / (sums + 1)
    return cross_entropy.mean(dim=1).sum(), dice.sum()


@torch.no_grad()
def ignored_queries(masks: torch.Tensor, ignore_map: torch.Tensor) -> torch.Tensor:
    """Find the queries of which at least half of the predicted mask is in an ignored region.

    Args:
        masks: mask logits, ``(Q, H/4, W/4)``.
        ignore_map: the region, without the padding, ``(h, w)`` bool.

    Returns:
        ``(Q,)`` bool.
    """
    h, w = ignore_map.shape
    p = masks.float().sigmoid()
    inside = (p[:, :h, :w] * ignore_map).flatten(1).sum(dim=1)
    return inside >= 0.5 * p.flatten(1).sum(dim=1)
