"""Dice losses of masks, shared by the meta-architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

# Maximum size of a chunk of predicted masks. Several arrays of this size are held at a time.
CHUNK_FLOATS = 8 * 2**20
# Minimum derivative of the sigmoid in the gradient of pair_losses. Without it, a large step can
# make all masks empty, at which the gradient vanishes and training never recovers.
MIN_SLOPE = 1e-3


def dice_loss(pred: torch.Tensor, target: torch.Tensor, eps: float = 1e-3) -> torch.Tensor:
    """Return 1 - 2 sum(p q) / (sum p^2 + sum q^2), equation (11).

    Args:
        pred: probabilities p, ``(P, ...)``.
        target: target q, of the same shape.
        eps: number added to both sums of the denominator, as in the published SOLOv2.

    Returns:
        Losses between 0 and 1, ``(P,)``.
    """
    pred, target = pred.flatten(1), target.flatten(1)
    overlap = (pred * target).sum(dim=1)
    return 1 - 2 * overlap / (pred.square().sum(dim=1) + target.square().sum(dim=1) + 2 * eps)


class _PairLosses(torch.autograd.Function):
    """Dice losses of pairs of a kernel and a mask, computed in chunks of pairs.

    The predicted mask of a pair is as large as the mask features. Kept for the backward pass, those
    of a dense image would take gigabytes, so the backward pass computes them again.
    """

    @staticmethod
    def forward(
        ctx: Any,
        kernels: torch.Tensor,
        features: torch.Tensor,
        masks: torch.Tensor,
        owners: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        overlaps, squares = [], []
        for kernel, owner in _chunks(kernels, features, owners):
            p = (kernel @ features).float().sigmoid_()
            overlaps.append((p * masks[owner]).sum(dim=1))
            squares.append(p.square_().sum(dim=1))
        overlap = torch.cat(overlaps)
        areas = masks.sum(dim=1, dtype=torch.float32)[owners]
        denominator = torch.cat(squares) + areas + 2 * eps
        ctx.save_for_backward(kernels, features, masks, owners, overlap, denominator)
        return 1 - 2 * overlap / denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kernels, features, masks, owners, overlap, denominator = ctx.saved_tensors
        # d loss / dp = -2 q / D + 4 p O / D^2, with the overlap O and the denominator D.
        by_mask = (-2 * grad / denominator)[:, None]
        by_pred = (4 * grad * overlap / denominator.square())[:, None]
        grad_kernels, grad_features = torch.empty_like(kernels), torch.zeros_like(features)
        start = 0
        for kernel, owner in _chunks(kernels, features, owners):
            part = slice(start, start + len(owner))
            start += len(owner)
            p = (kernel @ features).float().sigmoid_()
            grad_logits = torch.addcmul(by_mask[part] * masks[owner], by_pred[part], p)
            grad_logits *= p.mul_(1 - p).clamp_(min=MIN_SLOPE)
            grad_logits = grad_logits.to(features.dtype)
            grad_kernels[part] = grad_logits @ features.T
            grad_features.addmm_(kernel.T, grad_logits)
        return grad_kernels, grad_features, None, None, None


def _chunks(
    kernels: torch.Tensor, features: torch.Tensor, owners: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    step = max(1, CHUNK_FLOATS // features.shape[1])
    return zip(kernels.split(step), owners.split(step))


def pair_losses(
    kernels: torch.Tensor,
    features: torch.Tensor,
    masks: torch.Tensor,
    owners: torch.Tensor,
    eps: float = 1e-3,
) -> torch.Tensor:
    """Compute the Dice loss of each pair of a predicted mask and its instance's mask.

    Equals ``dice_loss((kernels @ features).sigmoid(), masks[owners])``, in bounded memory. In the
    gradient, the sigmoid's derivative p (1 - p) is at least 0.001, so that empty masks recover.
    This differs from the published SOLOv2 for probabilities below 0.001 and above 0.999.

    Args:
        kernels: kernel of each predicted mask, ``(P, D)``.
        features: mask features, ``(D, pixels)``.
        masks: ground-truth masks, ``(N, pixels)`` bool.
        owners: index of the ground-truth mask of each pair, ``(P,)`` int64.
        eps: number added to both sums of the denominator.

    Returns:
        Losses of the pairs, ``(P,)``.
    """
    # The products are computed in the network's data type.
    features, kernels = features.contiguous(), kernels.to(features.dtype)
    with torch.autocast(features.device.type, enabled=False):
        return _PairLosses.apply(kernels, features, masks, owners, eps)
