"""Group normalisation in operators that need no other memory order."""

from __future__ import annotations

import torch
from torch import nn

from .replacing import replace_modules


class ExportedGroupNorm(nn.Module):
    """A :class:`torch.nn.GroupNorm` in means over pixels and products of channels.

    The exporter's own form joins the pixels and channels of a group in one dimension. On a CPU,
    ONNX Runtime and OpenVINO compute convolutions in other memory orders, in which this needs two
    copies of the map, which cost as much as the convolution.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise ``(N, C, H, W)``."""
        norm = self.norm
        centred = x - self._group_means(x.mean(dim=(2, 3)))
        # One operator, ReduceL2: squares would be one more map to write and to read.
        norms = torch.linalg.vector_norm(centred, dim=(2, 3))
        pixels = x.shape[2] * x.shape[3]
        scale = torch.rsqrt(self._group_means(norms * norms / pixels) + norm.eps)
        if not norm.affine:
            return centred * scale
        return centred * (scale * norm.weight[:, None, None]) + norm.bias[:, None, None]

    def _group_means(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over each channel's group, ``(N, C)`` to ``(N, C, 1, 1)``."""
        groups = self.norm.num_groups
        size = self.norm.num_channels // groups
        means = values.reshape(-1, groups, size).mean(dim=2, keepdim=True)
        return means.expand(-1, -1, size).reshape(-1, groups * size, 1, 1)


def replace_group_norm(module: nn.Module) -> None:
    """Replace the group normalisation inside a module, which is changed. Subclasses stay."""
    replace_modules(module, lambda m: ExportedGroupNorm(m) if type(m) is nn.GroupNorm else None)
