"""Matrix NMS (SOLOv2, section 3.4)."""

from __future__ import annotations

import torch

KERNELS = ("gaussian", "linear")


def check_kernel(kernel: str) -> None:
    """Raise a ValueError for an unknown kernel of Matrix NMS."""
    if kernel not in KERNELS:
        raise ValueError(
            f"MODEL.SOLOV2.NMS_KERNEL is {kernel!r}; it must be one of {list(KERNELS)}"
        )


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
    flat = masks.flatten(1).float()
    # Counts of pixels overflow half precision.
    with torch.autocast(masks.device.type, enabled=False):
        intersection = flat @ flat.T
    area = flat.sum(dim=1)
    iou = intersection / (area[:, None] + area[None, :] - intersection)
    same_class = classes[:, None] == classes[None, :]
    # Row i, column j: the overlap of j with the higher-scored i; zero elsewhere.
    iou = (iou * same_class).triu(diagonal=1)
    # How much i itself is covered by higher-scored ones: a suppressed i suppresses less.
    covered = iou.amax(dim=0)[:, None]
    if kernel == "gaussian":
        # The quotient of two exponentials, without their underflow at a large sigma.
        decay = torch.exp(-sigma * (iou.square() - covered.square()))
    else:
        # Exact duplicates make the divisor zero; they are as good as fully suppressed.
        decay = (1 - iou) / (1 - covered).clamp(min=1e-6)
    return scores * decay.amin(dim=0)
