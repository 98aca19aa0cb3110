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
        device_type: type of the tensors' device, "cuda" or "cpu".
    """
    matmul = torch.backends.cuda.matmul
    tf32 = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.autocast(device_type, enabled=False):
            yield
    finally:
        matmul.allow_tf32 = tf32


def set_tf32(enabled: bool) -> None:
    """Allow or forbid TF32 in float32 matrix products and convolutions on GPUs that support it."""
    torch.backends.cuda.matmul.allow_tf32 = enabled
    torch.backends.cudnn.allow_tf32 = enabled
