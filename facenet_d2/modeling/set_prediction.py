"""Losses of models that predict a set of objects, one by each of a fixed number of queries."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

# Cost in place of NaN and infinity: predictions that diverge are matched too, so that the loss,
# which the trainer checks, shows the divergence.
LARGE_COST = 1e8


class Pairs(NamedTuple):
    """Pairs of a query and its object in an image.

    Attributes:
        queries: increasing indices of the queries, ``(K,)`` int64.
        objects: index of the object of each, ``(K,)`` int64.
    """

    queries: torch.Tensor
    objects: torch.Tensor


@torch.no_grad()
def assign(costs: torch.Tensor) -> Pairs:
    """Find the one-to-one assignment with the lowest sum of costs (the Hungarian method).

    Args:
        costs: cost of each query for each object, ``(Q, N)``.

    Returns:
        min(Q, N) pairs. If there are more objects than queries, some have none.
    """
    # Not above: SciPy would add a tenth to the start of every command.
    from scipy.optimize import linear_sum_assignment

    clean = costs.float().nan_to_num(LARGE_COST, LARGE_COST, -LARGE_COST)
    queries, objects = linear_sum_assignment(clean.cpu().numpy())
    return Pairs(*(torch.as_tensor(x, device=costs.device) for x in (queries, objects)))


def query_labels(
    pairs: Pairs, gt_classes: torch.Tensor, num_queries: int, num_classes: int
) -> torch.Tensor:
    """Return the class of each query's object, ``num_classes`` for none, ``(Q,)`` int64."""
    labels = torch.full((num_queries,), num_classes, device=gt_classes.device)
    labels[pairs.queries] = gt_classes[pairs.objects]
    return labels


def batch_labels(
    pairs: Sequence[Pairs], gt_instances: Sequence[Instances], num_queries: int, num_classes: int
) -> torch.Tensor:
    """Return the :func:`query_labels` of all images, ``(N, Q)`` int64."""
    return torch.stack(
        [
            query_labels(own, gt.gt_classes, num_queries, num_classes)
            for own, gt in zip(pairs, gt_instances, strict=True)
        ]
    )


def count_without_query(gt_instances: Sequence[Instances], num_queries: int) -> int:
    """Count the objects that exceed the queries, and record their mean number per image.

    The name in ``metrics.json`` is ``objects_without_query``.
    """
    missed = sum(max(0, len(gt) - num_queries) for gt in gt_instances)
    get_event_storage().put_scalar("objects_without_query", missed / len(gt_instances))
    return missed


def no_loss(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Return a zero that gives tensors a gradient of zero, whatever their values are.

    DistributedDataParallel waits for a gradient of every parameter, also for those that a batch
    without objects does not need.
    """
    # The sum of an empty slice does not depend on infinite values.
    return torch.stack([x[None][:0].sum().float() for x in tensors]).sum()
