"""Numbers averaged over the processes of distributed training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from detectron2.utils import comm


def mean_over_processes(value: float, device: torch.device) -> float:
    """Average a number over the processes of distributed training.

    Losses are divided by the mean number of positive positions or matched objects, as published.
    Detectron2's FCOS divides by a moving average, which checkpoints do not contain: a resumed run
    would differ from an uninterrupted one.
    """
    if comm.get_world_size() == 1:
        return value
    mean = torch.tensor(float(value), device=device)
    dist.all_reduce(mean)
    return mean.item() / comm.get_world_size()
