"""Sizes of feature maps."""

from __future__ import annotations

import torch


def spatial_size(x: torch.Tensor) -> tuple[int, int]:
    """Return the height and width of maps ``(..., H, W)``."""
    height, width = x.shape[-2:]
    return height, width
