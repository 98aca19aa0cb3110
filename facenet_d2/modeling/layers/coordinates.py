"""Normalised coordinates as feature channels (CoordConv), as SOLOv2 uses them."""

from __future__ import annotations

import torch


def append_coordinates(x: torch.Tensor) -> torch.Tensor:
    """Append two channels with the x and y of each position, from -1 (first) to 1 (last).

    Args:
        x: features, ``(N, C, H, W)``.

    Returns:
        ``(N, C + 2, H, W)`` of the same data type.
    """
    n, _, h, w = x.shape
    xs, ys = _ramp(w, x), _ramp(h, x)
    coordinates = torch.stack([xs.expand(h, w), ys[:, None].expand(h, w)]).expand(n, 2, h, w)
    if x.is_contiguous(memory_format=torch.channels_last):
        # Keeps x's memory format.
        coordinates = coordinates.contiguous(memory_format=torch.channels_last)
    return torch.cat([x, coordinates], dim=1)


def _ramp(steps: int, like: torch.Tensor) -> torch.Tensor:
    if not torch.compiler.is_compiling():
        return torch.linspace(-1, 1, steps, device=like.device, dtype=like.dtype)
    # torch.compile specialises linspace on the number of steps, but not arange.
    indices = torch.arange(steps, device=like.device, dtype=torch.float32)
    return (indices * (2 / max(steps - 1, 1)) - 1).to(like.dtype)
