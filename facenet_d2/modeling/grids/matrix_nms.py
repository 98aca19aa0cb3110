"""Matrix NMS (SOLOv2, section 3.4)."""

from __future__ import annotations

import torch

KERNELS = ("gaussian", "linear")

# Floats in one chunk of masks.
CHUNK_FLOATS = 16 * 2**20


def check_kernel(kernel: str) -> None:
    """Raise a ValueError for an unknown kernel of Matrix NMS."""
    if kernel not in KERNELS:
        raise ValueError(
            f"MODEL.SOLOV2.NMS_KERNEL is {kernel!r}; it must be one of {list(KERNELS)}"
        )


def count_pixels(masks: torch.Tensor) -> torch.Tensor:
    """Set pixels of each of N masks, ``(N, H, W)`` bool to ``(N,)`` float."""
    # PyTorch sums bool by way of a copy of eight bytes a pixel; bytes, as long as they cannot
    # overflow, it sums ten times as fast.
    rows = masks.view(torch.uint8).split(255, dim=1)
    return sum(r.sum(dim=1, dtype=torch.uint8).sum(dim=1, dtype=torch.float32) for r in rows)


def _shared_pixels(masks: torch.Tensor) -> torch.Tensor:
    """Indices of the pixels that two or more of ``(N, pixels)`` masks have."""
    count = torch.zeros_like(masks[0], dtype=torch.uint8)
    for part in masks.view(torch.uint8).split(252):
        count = (count + part.sum(dim=0, dtype=torch.uint8)).clamp(max=2)
    return (count > 1).nonzero()[:, 0]


def _intersections(masks: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Pixels that two masks of the same class share; zero for others, and for a mask with itself.

    Args:
        masks: ``(N, pixels)`` bool.
        classes: ``(N,)`` int64.

    Returns:
        ``(N, N)`` float.
    """
    total = torch.zeros((len(masks),) * 2, device=masks.device)
    for c in classes.unique():
        own = (classes == c).nonzero()[:, 0]
        mine = masks[own]
        # Where masks do not overlap, which is nearly everywhere, there is nothing to be counted.
        shared = _shared_pixels(mine)
        block = torch.zeros((len(own),) * 2, device=masks.device)
        # Counts of pixels overflow half precision.
        with torch.autocast(masks.device.type, enabled=False):
            for columns in shared.split(max(1, CHUNK_FLOATS // len(own))):
                part = mine.index_select(1, columns).float()
                block.addmm_(part, part.T)
        total[own[:, None], own] = block
    return total


def matrix_nms(
    masks: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
) -> torch.Tensor:
    """Lower each score by its overlap with higher-scored masks of its class.

    With iou_ij the overlap of masks of the same class and f(iou) = exp(-sigma iou^2) or 1 - iou:
    score_j times the minimum, over i with a higher score, of f(iou_ij) / f(max over k of iou_ki).

    Args:
        masks: ``(N, H, W)`` bool, none empty, sorted by falling score.
        classes: ``(N,)`` int64.
        scores: ``(N,)`` float, falling.
        kernel: "gaussian" or "linear".
        sigma: of the gaussian kernel.

    Returns:
        ``(N,)``, the new scores.

    Raises:
        ValueError: for an unknown kernel.
    """
    check_kernel(kernel)
    if len(scores) == 0:
        return scores
    area = count_pixels(masks)
    # Row i, column j: the overlap of j with the higher-scored i of its class; zero elsewhere.
    intersection = _intersections(masks.flatten(1), classes).triu(diagonal=1)
    iou = intersection / (area[:, None] + area[None, :] - intersection)
    # How much i itself is covered by higher-scored ones: a suppressed i suppresses less.
    covered = iou.amax(dim=0)[:, None]
    if kernel == "gaussian":
        # The quotient of two exponentials, without their underflow at a large sigma.
        decay = torch.exp(-sigma * (iou.square() - covered.square()))
    else:
        # Exact duplicates make the divisor zero; they are as good as fully suppressed.
        decay = (1 - iou) / (1 - covered).clamp(min=1e-6)
    return scores * decay.amin(dim=0)
