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
    """Drop each box that overlaps any box of the same class with a higher score.

    Unlike in plain NMS, a dropped box still suppresses others, so that one matrix of overlaps
    replaces the loop.

    Args:
        boxes: boxes, shared by all classes, ``(R, 4)``.
        scores: scores of the boxes, ``(R, C)``.
        score_threshold: candidates of a class have a score above it.
        iou_threshold: boxes with an IoU above it overlap.
        top_k: maximum number of candidates per class, those with the highest scores.
        max_instances: maximum number of kept boxes, those with the highest scores.

    Returns:
        Indices of the kept boxes and their classes, sorted by descending score, ``(M,)`` int64
        each.
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
