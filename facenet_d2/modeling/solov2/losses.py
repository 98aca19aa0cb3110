"""The loss (paper, section 3.5): L = L_cate + lambda * L_mask (equation 9)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from fvcore.nn import sigmoid_focal_loss

from .targets import ImageTargets


def dice_loss(pred: torch.Tensor, target: torch.Tensor, eps: float = 1e-3) -> torch.Tensor:
    """1 - 2 sum(p q) / (sum p^2 + sum q^2), equation (11).

    Args:
        pred: p, probabilities, ``(P, ...)``.
        target: q, the same shape.
        eps: added to both sums of the denominator, as in the published SOLOv2.

    Returns:
        ``(P,)``, each between 0 and 1.
    """
    pred, target = pred.flatten(1), target.flatten(1)
    overlap = (pred * target).sum(dim=1)
    return 1 - 2 * overlap / (pred.square().sum(dim=1) + target.square().sum(dim=1) + 2 * eps)


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
    mask_features: torch.Tensor, kernels: torch.Tensor, targets: Sequence[ImageTargets]
) -> torch.Tensor:
    """Mean Dice loss over all pairs of a positive cell and its instance, equation (10).

    Args:
        mask_features: ``(N, D, H/4, W/4)``.
        kernels: ``(N, cells, D)``.
        targets: of the N images.

    Returns:
        a scalar; zero, but still a function of both inputs, where no image has an instance, so that
        no parameter is left without a gradient and distributed training does not hang.
    """
    losses = []
    for features, kernel, target in zip(mask_features, kernels, targets, strict=True):
        # Masks by dynamic 1x1 convolution: one matrix product an image.
        logits = kernel[target.cells] @ features.flatten(1)
        masks = target.masks.flatten(1)[target.instances].to(torch.float32)
        losses.append(dice_loss(logits.float().sigmoid(), masks))
    loss = torch.cat(losses)
    if len(loss) == 0:
        return 0.0 * (mask_features.float().sum() + kernels.float().sum())
    return loss.mean()
