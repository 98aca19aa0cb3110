"""Fast NMS (YOLACT, section 4)."""

from __future__ import annotations

import torch
from torchvision.ops import box_iou


def fast_nms(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    *,
    score_threshold: float,
    iou_threshold: float,
    top_k: int,
    max_instances: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Class by class, drop what overlaps any box of a higher score, itself dropped or not.

    That a dropped box still drops others is what makes it one matrix in place of a loop.

    Args:
        boxes: ``(R, 4)``, one for all classes.
        scores: ``(R, C)``.
        score_threshold: boxes of no higher score of a class are not of that class.
        iou_threshold: an overlap above it is too much.
        top_k: how many boxes of a class are looked at, the best.
        max_instances: how many are kept of all classes, the best.

    Returns:
        the boxes and the classes that are kept, by falling score: ``(M,)`` int64 each.
    """
    rows, classes, values = [], [], []
    for c in (scores > score_threshold).any(dim=0).nonzero()[:, 0].tolist():
        own = (scores[:, c] > score_threshold).nonzero()[:, 0]
        order = scores[own, c].argsort(descending=True, stable=True)[:top_k]
        own = own[order]
        overlap = box_iou(boxes[own], boxes[own]).triu(diagonal=1)
        own = own[overlap.amax(dim=0) <= iou_threshold]
        rows.append(own)
        classes.append(torch.full_like(own, c))
        values.append(scores[own, c])
    if not rows:
        empty = torch.zeros(0, dtype=torch.int64, device=boxes.device)
        return empty, empty
    best = torch.cat(values).argsort(descending=True, stable=True)[:max_instances]
    return torch.cat(rows)[best], torch.cat(classes)[best]
