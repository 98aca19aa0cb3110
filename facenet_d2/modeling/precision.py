"""Numerical precision of matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device_type: str) -> Iterator[None]:
    """Compute float32 matrix products in float32: without autocast and without TF32.

    Both have mantissas of 10 bits or fewer, which moves the borders of masks.

    Args:
        device_type: type of the tensors' device, "cuda", "cpu" or "meta".
    """
    matmul = torch.backends.cuda.matmul
    tf32 = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.autocast(autocast_type(device_type), enabled=False):
            yield
    finally:
        matmul.allow_tf32 = tf32


def autocast_type(device_type: str) -> str:
    """Return the type of device whose autocast applies to tensors of a device.

    Tensors without values, on the device "meta", have no autocast; the CPU's has no effect on them.
    """
    return "cpu" if device_type == "meta" else device_type


def set_tf32(enabled: bool) -> None:
    """Allow or forbid TF32 in float32 matrix products and convolutions on GPUs that support it."""
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled
