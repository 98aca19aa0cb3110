"""RDSNet's mask loss, with the hardest background pixels (as in the published code)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ...structures.masks import crop_to_boxes
from ..shapes import spatial_size


def mask_losses(
    logits: Sequence[torch.Tensor],
    masks: torch.Tensor,
    boxes: torch.Tensor,
    negative_ratio: float,
) -> torch.Tensor:
    """Compute the cross-entropy of masks over object pixels and the hardest background pixels.

    A loss is the sum over the counted pixels, divided by their number plus one.

    Args:
        logits: for each of N objects, logits of its P_i masks, ``(P_i, h, w)``.
        masks: masks of the objects, ``(N, h, w)`` bool.
        boxes: boxes of the objects in pixels of the masks; pixels outside are not counted,
            ``(N, 4)``.
        negative_ratio: maximum number of background pixels per object pixel, hardest first.

    Returns:
        Losses of all masks in turn, ``(sum of P_i,)``.
    """
    losses = [torch.zeros(0, device=masks.device)]
    inside = crop_to_boxes(boxes, spatial_size(masks))
    for own, mask, near, (x0, y0, x1, y1) in zip(
        logits, masks, inside, boxes.tolist(), strict=True
    ):
        rows = slice(max(0, math.floor(y0)), math.ceil(y1))
        columns = slice(max(0, math.floor(x0)), math.ceil(x1))
        own, mask, near = own[:, rows, columns], mask[rows, columns], near[rows, columns]
        target = mask.to(own.dtype).expand_as(own)
        loss = F.binary_cross_entropy_with_logits(own, target, reduction="none")
        positives, negatives = loss[:, mask & near], loss[:, ~mask & near]
        count = min(negatives.shape[1], int(negative_ratio * positives.shape[1]))
        hardest = negatives.topk(count, dim=1, sorted=False).values
        total = positives.sum(dim=1) + hardest.sum(dim=1)
        losses.append(total / (positives.shape[1] + count + 1))
    return torch.cat(losses)
