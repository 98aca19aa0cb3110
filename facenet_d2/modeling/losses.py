"""Dice losses of masks, shared by the meta-architectures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from .precision import full_precision

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
        coefficients: torch.Tensor,
        maps: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        overlaps, squares = [], []
        for part in _chunks(kernels, features):
            p = _probabilities(kernels[part], features, coefficients[part], maps)
            owner = owners[part]
            overlaps.append((p * masks[owner]).sum(dim=1))
            squares.append(p.square_().sum(dim=1))
        overlap = torch.cat(overlaps)
        areas = masks.sum(dim=1, dtype=torch.float32)[owners]
        denominator = torch.cat(squares) + areas + 2 * eps
        ctx.save_for_backward(
            kernels, features, masks, owners, coefficients, maps, overlap, denominator
        )
        return 1 - 2 * overlap / denominator

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        kernels, features, masks, owners, coefficients, maps = ctx.saved_tensors[:6]
        overlap, denominator = ctx.saved_tensors[6:]
        # d loss / dp = -2 q / D + 4 p O / D^2, with the overlap O and the denominator D.
        by_mask = (-2 * grad / denominator)[:, None]
        by_pred = (4 * grad * overlap / denominator.square())[:, None]
        grad_kernels, grad_features = torch.empty_like(kernels), torch.zeros_like(features)
        grad_coefficients = torch.empty_like(coefficients)
        for part in _chunks(kernels, features):
            p = _probabilities(kernels[part], features, coefficients[part], maps)
            grad_logits = torch.addcmul(by_mask[part] * masks[owners[part]], by_pred[part], p)
            grad_logits *= p.mul_(1 - p).clamp_(min=MIN_SLOPE)
            if len(maps):
                with full_precision(maps.device.type):
                    grad_coefficients[part] = grad_logits @ maps.T
            grad_logits = grad_logits.to(features.dtype)
            grad_kernels[part] = grad_logits @ features.T
            grad_features.addmm_(kernels[part].T, grad_logits)
        return grad_kernels, grad_features, None, None, grad_coefficients, None, None


def _chunks(kernels: torch.Tensor, features: torch.Tensor) -> Iterator[slice]:
    step = max(1, CHUNK_FLOATS // features.shape[1])
    return (slice(start, start + step) for start in range(0, max(1, len(kernels)), step))


def _probabilities(
    kernels: torch.Tensor, features: torch.Tensor, coefficients: torch.Tensor, maps: torch.Tensor
) -> torch.Tensor:
    logits = (kernels @ features).float()
    if len(maps):
        # The terms largely cancel, which needs float32.
        with full_precision(maps.device.type):
            logits.addmm_(coefficients, maps)
    return logits.sigmoid_()


def pair_losses(
    kernels: torch.Tensor,
    features: torch.Tensor,
    masks: torch.Tensor,
    owners: torch.Tensor,
    *,
    window: tuple[torch.Tensor, torch.Tensor] | None = None,
    eps: float = 1e-3,
) -> torch.Tensor:
    """Compute the Dice loss of each pair of a predicted mask and its instance's mask.

    Equals ``dice_loss((kernels @ features).sigmoid(), masks[owners])``, in bounded memory. With a
    window, ``coefficients @ maps`` is added to the product. In the gradient, the sigmoid's
    derivative p (1 - p) is at least 0.001, so that empty masks recover. This differs from the
    published SOLOv2 for probabilities below 0.001 and above 0.999.

    Args:
        kernels: kernel of each predicted mask, ``(P, D)``.
        features: mask features, ``(D, pixels)``.
        masks: ground-truth masks, ``(N, pixels)`` bool.
        owners: index of the ground-truth mask of each pair, ``(P,)`` int64.
        window: coefficients, ``(P, M)``, and maps, ``(M, pixels)``, both float32.
        eps: number added to both sums of the denominator.

    Returns:
        Losses of the pairs, ``(P,)``.
    """
    # The products are computed in the network's data type.
    features, kernels = features.contiguous(), kernels.to(features.dtype)
    if window is None:
        window = kernels.new_empty(len(kernels), 0), kernels.new_empty(0, features.shape[1])
    with torch.autocast(features.device.type, enabled=False):
        return _PairLosses.apply(kernels, features, masks, owners, *window, eps)
