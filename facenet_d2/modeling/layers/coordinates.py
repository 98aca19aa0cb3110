"""Normalised coordinates as feature channels (CoordConv), as SOLOv2 uses them."""

from __future__ import annotations

import torch


def append_coordinates(x: torch.Tensor) -> torch.Tensor:
    """Append two channels with each position's x, then y, both from -1 (first) to 1 (last).

    Args:
        x: features, ``(N, C, H, W)``.

    Returns:
        ``(N, C + 2, H, W)`` of the same type.
    """
    n, _, h, w = x.shape
    xs = torch.linspace(-1, 1, w, device=x.device, dtype=x.dtype)
    ys = torch.linspace(-1, 1, h, device=x.device, dtype=x.dtype)
    return torch.cat(
        [x, xs.view(1, 1, 1, w).expand(n, 1, h, w), ys.view(1, 1, h, 1).expand(n, 1, h, w)], dim=1
    )
