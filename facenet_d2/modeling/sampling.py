"""Selection of the positive positions that take part in a mask loss."""

from __future__ import annotations

import torch


def spread_evenly(count: int, limit: int, device: torch.device) -> torch.Tensor:
    """Select at most ``limit`` of ``count`` items, evenly spaced.

    Unlike a random choice, the selection is the same in every run, so that a resumed run equals an
    uninterrupted one.

    Returns:
        Increasing indices, int64.
    """
    if count <= limit:
        return torch.arange(count, device=device)
    return torch.arange(limit, device=device) * count // limit


def best_of_each(owners: torch.Tensor, scores: torch.Tensor, limit: int) -> torch.Tensor:
    """Select the positions with the highest scores, at most ``limit`` for each object.

    Args:
        owners: object of each position, ``(R,)`` int64; -1 for background.
        scores: score of each position, ``(R,)``.
        limit: maximum number of positions per object.

    Returns:
        Indices of the positions, int64.
    """
    found = (owners >= 0).nonzero()[:, 0]
    found = found[scores[found].argsort(descending=True, stable=True)]
    # Grouped by object, the best score of each group first.
    found = found[owners[found].argsort(stable=True)]
    own = owners[found]
    rank = torch.arange(len(own), device=own.device) - torch.searchsorted(own, own)
    return found[rank < limit]
