"""Mask logits of SOLOv2's cells."""

from __future__ import annotations

import math

import torch

from ...structures.cell_masks import ALL, CellMasks
from ..precision import full_precision


class DynamicMasks(CellMasks[torch.Tensor]):
    """SOLOv2's masks: 1x1 convolutions of the mask features with the kernels of the cells."""

    # Products of all kernels and some rows are faster than those of some kernels and all rows.
    BY_ROWS = True

    def __init__(
        self,
        kernels: torch.Tensor,
        features: torch.Tensor,
        window: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> None:
        """
        Args:
            kernels: kernels of K cells, ``(K, D)``.
            features: mask features of one image, ``(D, h, w)``.
            window: coefficients of the cells' windows, ``(K, 6)``, and maps, ``(6, h * w)``.
        """
        self.size = (features.shape[1], features.shape[2])
        kernels, features = kernels.float(), features.float()
        if window is not None:
            coefficients, maps = window
            kernels = torch.cat([kernels, coefficients], dim=1)
            features = torch.cat([features, maps.unflatten(1, self.size)])
        self._kernels = kernels
        self._features = features

    def __len__(self) -> int:
        return len(self._kernels)

    def logits(
        self,
        cells: slice | torch.Tensor = ALL,
        rows: slice = ALL,
        columns: slice = ALL,
        buffer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        kernels, features = self._kernels[cells], self._features[:, rows, columns]
        size = (len(kernels), *features.shape[1:])
        out = None
        if buffer is not None and math.prod(size) <= len(buffer):
            out = buffer[: math.prod(size)].view(len(kernels), size[1] * size[2])
        with full_precision(features.device.type):
            return torch.mm(kernels, features.flatten(1), out=out).view(size)
