"""Mixed-precision training in bfloat16, on CPUs and GPUs."""

from __future__ import annotations

import logging
import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer

from ..modeling.acceleration import AUTOCAST

logger = logging.getLogger(__name__)


def amp_dtype(cfg: CfgNode) -> torch.dtype:
    """Return the data type of ``SOLVER.AMP.DTYPE``; by default float16 on a GPU, bfloat16 on a CPU.

    Raises:
        ValueError: If the name is unknown, or fp16 is set for a CPU.
    """
    name = cfg.SOLVER.AMP.DTYPE
    if name not in ("", *AUTOCAST):
        raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}; it must be one of {[*AUTOCAST]} or empty")
    on_cpu = _on_cpu(cfg)
    if name == "fp16" and on_cpu:
        raise ValueError("SOLVER.AMP.DTYPE fp16 needs a GPU; on a CPU it must be bf16 or empty")
    return AUTOCAST[name or ("bf16" if on_cpu else "fp16")]


def _on_cpu(cfg: CfgNode) -> bool:
    return torch.device(cfg.MODEL.DEVICE).type == "cpu"


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU has bfloat16 instructions (AVX-512 BF16 or AMX)."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, check, bool)() for check in checks)


def training_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the data type of mixed-precision training, or None for float32.

    On a CPU without bfloat16 instructions, where bfloat16 is slower than float32, a warning is
    logged and float32 is used.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    dtype = amp_dtype(cfg)
    if _on_cpu(cfg) and not cpu_has_bfloat16():
        logger.warning(
            "SOLVER.AMP.ENABLED is True, but this CPU has no bfloat16 instructions (AVX-512 BF16 "
            "or AMX); training in float32."
        )
        return None
    return dtype


class BFloat16Trainer(SimpleTrainer):
    """``SimpleTrainer`` with the forward pass under bfloat16 autocast.

    bfloat16 has the exponent range of float32, so the loss is not scaled.
    """

    def run_step(self) -> None:
        """Run one training step."""
        assert self.model.training, "the model was set to evaluation mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        device = next(self.model.parameters()).device
        with torch.autocast(device.type, dtype=torch.bfloat16):
            losses = self.model(data)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()
