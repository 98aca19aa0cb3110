"""Terms of the loss L = L_cate + lambda * L_mask (paper, section 3.5, equation 9)."""

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
    """Sum the focal loss of all cells and divide it by the number of positive cells + 1.

    Ignored cells are left out.

    Args:
        logits: class logits, ``(N, cells, C)``.
        targets: targets of the N images.
        alpha: weight of the positive class.
        gamma: focusing exponent.

    Returns:
        The loss, a scalar.
    """
    num_classes = logits.shape[-1]
    categories = torch.stack([t.categories for t in targets])
    one_hot = F.one_hot(categories, num_classes + 1)[..., :num_classes]
    num_positive = (categories < num_classes).sum()
    if any(t.ignored is not None for t in targets):
        used = torch.stack(
            [
                torch.ones_like(t.categories, dtype=torch.bool) if t.ignored is None else ~t.ignored
                for t in targets
            ]
        )
        logits, one_hot = logits[used], one_hot[used]
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
    window: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Average the Dice loss over all pairs of a positive cell and its instance, equation (10).

    Args:
        mask_features: ``(N, D, h, w)``, at the stride of the targets' masks.
        kernels: kernels of all cells, ``(N, cells, D)``.
        targets: targets of the N images.
        max_pairs: maximum number of pairs of the batch, evenly subsampled; 0 for no limit.
        window: coefficients of all cells, ``(N, cells, M)``, and maps, ``(M, h * w)``, both
            float32; see :func:`~facenet_d2.modeling.losses.pair_losses`.

    Returns:
        The loss, a scalar. Without any instance it is zero but still depends on all inputs:
        distributed training hangs if a parameter has no gradient.
    """
    losses = []
    total = sum(len(t.cells) for t in targets)
    first = 0
    for i, (features, kernel, target) in enumerate(
        zip(mask_features, kernels, targets, strict=True)
    ):
        cells, owners = target.cells, target.instances
        number = len(cells)
        if 0 < max_pairs < total:
            # One of every total / max_pairs pairs of the batch, counted across its images.
            count = (
                torch.arange(first, first + number + 1, device=cells.device) * max_pairs // total
            )
            kept = count.diff().nonzero()[:, 0]
            cells, owners = cells[kept], owners[kept]
        first += number
        if len(cells):
            losses.append(
                pair_losses(
                    kernel[cells],
                    features.flatten(1),
                    target.masks.flatten(1),
                    owners,
                    window=None if window is None else (window[0][i, cells], window[1]),
                )
            )
    if not losses:
        inputs = [mask_features, kernels, *(window or ())]
        return 0.0 * sum(x.float().sum() for x in inputs)
    return torch.cat(losses).mean()
