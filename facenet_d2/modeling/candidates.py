"""Selection of the candidates that enter non-maximum suppression in dense detectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def best_candidates(
    scores: Sequence[torch.Tensor], threshold: float, limit: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Select pairs of a place and a class by their scores.

    Args:
        scores: scores of the places of each level, ``(R_l, C)``.
        threshold: a candidate has a score above it.
        limit: maximum number of candidates per level, those with the highest scores.

    Returns:
        Places as indices into all levels in turn, classes (int64 both) and scores, ``(K,)`` each;
        level by level, sorted by descending score within a level.
    """
    first, candidates = 0, []
    for level in scores:
        places, classes = (level > threshold).nonzero(as_tuple=True)
        found = level[places, classes]
        best = found.argsort(descending=True, stable=True)[:limit]
        candidates.append((first + places[best], classes[best], found[best]))
        first += len(level)
    places, classes, values = (torch.cat(x) for x in zip(*candidates))
    return places, classes, values
