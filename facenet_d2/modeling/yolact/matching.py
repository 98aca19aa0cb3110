"""One-to-one matching of objects and anchors."""

from __future__ import annotations

import torch


@torch.no_grad()
def best_anchors(iou: torch.Tensor) -> torch.Tensor:
    """Give each object an anchor of its own, in the order of descending IoU.

    As in YOLACT's published code, an object whose best anchor is taken gets the best free one. All
    pairs that are each other's best are matched at once; the result is that of one pair at a time.

    Args:
        iou: IoUs of N objects and R anchors, ``(N, R)``.

    Returns:
        Object of each anchor, -1 for none, ``(R,)`` int64. An object that overlaps no free anchor
        has none.
    """
    owners = torch.full(iou.shape[1:], -1, device=iou.device)
    # Most anchors overlap no object.
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
