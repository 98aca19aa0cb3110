"""Matrix NMS (SOLOv2, section 3.4)."""

from __future__ import annotations

import torch

from ...structures.masks import flat_nonzero
from ..checks import check_choice

KERNELS = ("gaussian", "linear")

# Number of floats of the masks that are compared at a time, 64 MiB.
CHUNK_FLOATS = 16 * 2**20


def _shared_pixels(masks: torch.Tensor) -> torch.Tensor:
    """Return the indices of the pixels that at least two of ``(N, pixels)`` masks contain."""
    count = torch.zeros_like(masks[0], dtype=torch.uint8)
    # 252 masks and the count so far, at most 2, do not overflow a byte.
    for part in masks.view(torch.uint8).split(252):
        count = (count + part.sum(dim=0, dtype=torch.uint8)).clamp(max=2)
    return flat_nonzero(count > 1)


def _intersections(
    masks: torch.Tensor, classes: torch.Tensor, mask_of: torch.Tensor
) -> torch.Tensor:
    """Count the pixels that the masks of two candidates of the same class share.

    Args:
        masks: ``(K, pixels)`` bool.
        classes: class of each candidate, ``(N,)`` int64.
        mask_of: index of each candidate's mask, ``(N,)`` int64.

    Returns:
        ``(N, N)`` float; zero for different classes. The diagonal is not meaningful.
    """
    total = torch.zeros((len(classes),) * 2, device=masks.device)
    for c in classes.unique():
        own = (classes == c).nonzero()[:, 0]
        if len(own) < 2:
            continue
        mine = masks[mask_of[own]]
        # Masks rarely overlap: most pixels need not be counted.
        shared = _shared_pixels(mine)
        block = torch.zeros((len(own),) * 2, device=masks.device)
        # Counts of pixels overflow half precision.
        with torch.autocast(masks.device.type, enabled=False):
            for columns in shared.split(max(1, CHUNK_FLOATS // len(own))):
                # On a CPU, index_select takes six times as long.
                part = mine.gather(1, columns.expand(len(mine), -1)).float()
                block.addmm_(part, part.T)
        total[own[:, None], own] = block
    return total


def matrix_nms(
    masks: torch.Tensor,
    classes: torch.Tensor,
    scores: torch.Tensor,
    mask_of: torch.Tensor,
    areas: torch.Tensor,
    *,
    kernel: str = "gaussian",
    sigma: float = 2.0,
) -> torch.Tensor:
    """Lower each score by the overlap with higher-scored masks of the same class.

    With iou_ij the IoU of masks of the same class and f(iou) = exp(-sigma iou^2) or 1 - iou, the
    new score is score_j times the minimum, over i with a higher score, of
    f(iou_ij) / f(max over k of iou_ki).

    Args:
        masks: ``(K, H, W)`` bool; the candidates' masks are not empty.
        classes: class of each of N candidates, ``(N,)`` int64.
        scores: descending scores of the candidates, ``(N,)`` float.
        mask_of: index of each candidate's mask, ``(N,)`` int64.
        areas: number of pixels of each mask, ``(K,)`` float.
        kernel: "gaussian" or "linear".
        sigma: parameter of the gaussian kernel.

    Returns:
        New scores, ``(N,)``.

    Raises:
        ValueError: for an unknown kernel.
    """
    check_choice("kernel", kernel, KERNELS)
    if len(scores) == 0:
        return scores
    area = areas[mask_of]
    # Row i, column j: overlap of j with the higher-scored i of the same class; zero elsewhere.
    intersection = _intersections(masks.flatten(1), classes, mask_of).triu(diagonal=1)
    iou = intersection / (area[:, None] + area[None, :] - intersection)
    # Largest overlap of i with a higher-scored mask: a suppressed i suppresses less.
    covered = iou.amax(dim=0)[:, None]
    if kernel == "gaussian":
        # The quotient of the exponentials would underflow for a large sigma.
        decay = torch.exp(-sigma * (iou.square() - covered.square()).amax(dim=0))
    else:
        # Exact duplicates make the divisor zero.
        decay = ((1 - iou) / (1 - covered).clamp(min=1e-6)).amin(dim=0)
    return scores * decay
