"""The loss (paper, section 3.5): L = L_cate + lambda * L_mask (equation 9)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss

from ..losses import pair_losses
from .targets import ImageTargets


def category_loss(
    logits: torch.Tensor, targets: Sequence[ImageTargets], *, alpha: float, gamma: float
) -> torch.Tensor:
    """Focal loss of all cells, summed and divided by the number of positive cells + 1.

    Args:
        logits: ``(N, cells, C)``.
        targets: of the N images.
        alpha: weight of the positive class.
        gamma: focusing exponent.

    Returns:
        a scalar.
    """
    num_classes = logits.shape[-1]
    categories = torch.stack([t.categories for t in targets])
    one_hot = F.one_hot(categories, num_classes + 1)[..., :num_classes]
    num_positive = (categories < num_classes).sum()
    loss = sigmoid_focal_loss(
        logits.float(), one_hot.to(torch.float32), alpha=alpha, gamma=gamma, reduction="sum"
    )
    return loss / (num_positive + 1)


def mask_loss(
    mask_features: torch.Tensor,
    kernels: torch.Tensor,
    targets: Sequence[ImageTargets],
    *,
    max_pairs: int = 0,
) -> torch.Tensor:
    """Mean Dice loss over all pairs of a positive cell and its instance, equation (10).

    Args:
        mask_features: ``(N, D, H/4, W/4)``.
        kernels: ``(N, cells, D)``.
        targets: of the N images.
        max_pairs: where there are more pairs in the batch, so many of them count, taken evenly from
            all; 0 for no limit.

    Returns:
        a scalar; zero, but still a function of both inputs, where no image has an instance, so that
        no parameter is left without a gradient and distributed training does not hang.
    """
    losses = []
    total = sum(len(t.cells) for t in targets)
    first = 0
    for features, kernel, target in zip(mask_features, kernels, targets, strict=True):
        cells, owners = target.cells, target.instances
        number = len(cells)
        if 0 < max_pairs < total:
            # Of every total / max_pairs pairs of the batch one, wherever an image's begin.
            count = (
                torch.arange(first, first + number + 1, device=cells.device) * max_pairs // total
            )
            kept = count.diff().nonzero()[:, 0]
            cells, owners = cells[kept], owners[kept]
        first += number
        if len(cells):
            losses.append(
                pair_losses(kernel[cells], features.flatten(1), target.masks.flatten(1), owners)
            )
    if not losses:
        return 0.0 * (mask_features.float().sum() + kernels.float().sum())
    return torch.cat(losses).mean()
