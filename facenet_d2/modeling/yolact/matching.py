"""An anchor for each object."""

from __future__ import annotations

import torch


@torch.no_grad()
def best_anchors(iou: torch.Tensor) -> torch.Tensor:
    """Give each object one anchor of its own, the pair with the largest IoU first.

    The rule of YOLACT's published code: an object may lose its best anchor to another that fits it
    better, and then has the best of those that are left. All pairs in which each is the other's
    best are taken at once, which gives the same as one pair at a time.

    Args:
        iou: ``(N, R)`` of N objects and R anchors.

    Returns:
        ``(R,)`` int64: the object, or -1 where an anchor is none's. Objects that overlap no free
        anchor have none.
    """
    owners = torch.full(iou.shape[1:], -1, device=iou.device)
    # Anchors that touch no object are most of them.
    anchors = (iou > 0).any(dim=0).nonzero()[:, 0]
    iou = iou[:, anchors]
    objects = (iou > 0).any(dim=1).nonzero()[:, 0]
    iou = iou[objects]
    while len(objects):
        best = iou.argmax(dim=1)
        mutual = iou.argmax(dim=0)[best] == torch.arange(len(objects), device=iou.device)
        owners[anchors[best[mutual]]] = objects[mutual]
        iou[:, best[mutual]] = 0
        iou, objects = iou[~mutual], objects[~mutual]
        left = (iou > 0).any(dim=1)
        iou, objects = iou[left], objects[left]
    return owners
