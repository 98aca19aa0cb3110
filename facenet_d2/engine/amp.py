"""Mixed-precision training in bfloat16, on CPUs and GPUs."""

from __future__ import annotations

import logging
import time

import torch
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer

logger = logging.getLogger(__name__)

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def amp_dtype(cfg: CfgNode) -> torch.dtype:
    """The type that ``SOLVER.AMP.DTYPE`` names; where it is empty, float16 on a GPU, else bfloat16.

    Raises:
        ValueError: for an unknown name, or float16 on a CPU, which has no gradient scaler for it.
    """
    name = cfg.SOLVER.AMP.DTYPE
    if name not in ("", *DTYPES):
        raise ValueError(f"SOLVER.AMP.DTYPE is {name!r}; it must be one of {[*DTYPES]}, or empty")
    on_cpu = cfg.MODEL.DEVICE == "cpu"
    if name == "fp16" and on_cpu:
        raise ValueError("SOLVER.AMP.DTYPE fp16 needs a GPU; on a CPU it must be bf16 or empty")
    return DTYPES[name or ("bf16" if on_cpu else "fp16")]


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies in bfloat16 (AVX-512 BF16 or AMX); otherwise it is emulated."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def training_dtype(cfg: CfgNode) -> torch.dtype | None:
    """The type of mixed precision to train in, or None for float32 throughout.

    On a CPU that only emulates bfloat16, ``SOLVER.AMP`` is not used, with a warning: it would be
    slower than float32.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    dtype = amp_dtype(cfg)
    if cfg.MODEL.DEVICE == "cpu" and not cpu_has_bfloat16():
        logger.warning(
            "SOLVER.AMP.ENABLED is True, but this CPU does not multiply in bfloat16 (AVX-512 BF16 "
            "or AMX): training in float32, which takes longer."
        )
        return None
    return dtype


class BFloat16Trainer(SimpleTrainer):
    """``SimpleTrainer`` with the forward pass under bfloat16 autocast.

    bfloat16 has the exponents of float32, so the loss needs no scaling.
    """

    def run_step(self) -> None:
        """One step: forward, backward, update."""
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
