"""Assignment of objects to anchors (RetinaNet, section 4, as in the published RDSNet)."""

from __future__ import annotations

import torch
from detectron2.modeling.matcher import Matcher


@torch.no_grad()
def match_anchors(iou: torch.Tensor, matcher: Matcher) -> tuple[torch.Tensor, torch.Tensor]:
    """Match anchors by IoU; every object also gets all anchors with its highest IoU.

    An anchor that is the best one of several objects belongs to the last of them. Detectron2's
    ``allow_low_quality_matches`` leaves it to the object with the highest IoU, and would match
    every anchor to an object that overlaps none.

    Args:
        iou: IoUs of N objects and R anchors, N > 0, ``(N, R)``.
        matcher: matcher with labels 0 for background, -1 for ignored and 1 for positive anchors.

    Returns:
        Object of each anchor, and its label of the matcher, ``(R,)`` int64 each.
    """
    owners, kinds = matcher(iou)
    highest = iou.amax(dim=1, keepdim=True)
    objects, anchors = ((iou == highest) & (highest > 0)).nonzero(as_tuple=True)
    chosen = torch.full_like(owners, -1).scatter_reduce(0, anchors, objects, "amax")
    return torch.where(chosen >= 0, chosen, owners), torch.where(chosen >= 0, 1, kinds.long())
