"""Advice for a training whose loss has become infinite or NaN."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from detectron2.config import CfgNode

from ..unpickling import load_tensors
from .checkpointer import resumable_checkpoints

# The largest parameter of a trained model is rarely above 100; while a training diverges, it grows
# by orders of magnitude.
MAX_PARAMETER = 1000.0
MAX_GROWTH = 10.0


def largest_parameter(parameters: Iterable[torch.Tensor]) -> float:
    """Return the largest absolute value of the parameters; infinity if one is infinite or NaN."""
    largest = 0.0
    for parameter in parameters:
        if parameter.numel() and parameter.is_floating_point():
            value = float(parameter.detach().abs().max())
            largest = max(largest, value if value == value else float("inf"))
    return largest


def last_healthy_checkpoint(
    folder: str | Path, names: Iterable[str], largest_at_start: float
) -> Path | None:
    """Return the newest checkpoint whose parameters are not much larger than earlier ones.

    Args:
        folder: output folder of the run.
        names: names of the model's parameters.
        largest_at_start: largest parameter at the start of the session.
    """
    files = resumable_checkpoints(folder)
    files.sort(key=lambda f: f.stat().st_mtime_ns, reverse=True)
    names = list(names)
    limit = MAX_PARAMETER
    for reference in (largest_at_start, *(_largest(f, names) for f in files[-1:])):
        limit = min(limit, MAX_GROWTH * reference)
    return next((f for f in files if _largest(f, names) <= limit), None)


def _largest(file: Path, names: Iterable[str]) -> float:
    try:
        state = load_tensors(file)["model"]
        return largest_parameter(state[name] for name in names)
    except Exception:  # Damaged files make PyTorch raise errors of many types.
        return float("inf")


def divergence_advice(cfg: CfgNode, dtype: torch.dtype | None, healthy: Path | None) -> str:
    """Say which settings to change, and which checkpoint to continue from.

    Args:
        cfg: config of the run.
        dtype: data type of mixed-precision training, or None.
        healthy: result of :func:`last_healthy_checkpoint`.
    """
    solver = cfg.SOLVER
    advice = (
        f"Lower SOLVER.BASE_LR (now {solver.BASE_LR}) or lengthen SOLVER.WARMUP_ITERS (now "
        f"{solver.WARMUP_ITERS})"
    )
    if dtype == torch.float16:
        advice += (
            ", or set SOLVER.AMP.DTYPE to bf16 or SOLVER.AMP.ENABLED to False, since float16 "
            "overflows above 65504"
        )
    elif dtype is not None:
        advice += ", or set SOLVER.AMP.ENABLED to False, since bfloat16 has only 3 digits"
    if healthy is None:
        return (
            f"{advice}; then start without --resume, since no checkpoint in {cfg.OUTPUT_DIR} is "
            "from before the divergence."
        )
    return (
        f"{advice}. The last checkpoint from before the divergence is {healthy.name}: to continue "
        f"from it with --resume, write this name into {healthy.with_name('last_checkpoint')}."
    )
