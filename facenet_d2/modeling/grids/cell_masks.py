"""Mask logits of cells, computed in parts."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch

from ..precision import full_precision


class CellMasks(ABC):
    """The masks of K cells of an image.

    All logits together may take more than a gigabyte, so they are computed where they are needed.

    Attributes:
        size: (h, w), height and width of the padded input divided by the stride of the masks.
        device: device of the logits.
    """

    size: tuple[int, int]
    device: torch.device

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def blocks(self, floats: int) -> Iterator[tuple[slice, slice]]:
        """Divide the masks into blocks for :meth:`logits`.

        Args:
            floats: number of logits in a block; blocks of one row or one mask may have more.

        Yields:
            cells and rows of a block.
        """

    @abstractmethod
    def logits(
        self,
        cells: slice | torch.Tensor = slice(None),
        rows: slice = slice(None),
        columns: slice = slice(None),
        buffer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute a part of the logits.

        Args:
            cells: slice of the K cells, or k indices.
            rows: slice of the h rows.
            columns: slice of the w columns.
            buffer: ``(n,)`` float32 that may hold the result. On a CPU, new memory for each block
                would take longer than the product.

        Returns:
            ``(k, rows, columns)`` float32.
        """


class DynamicMasks(CellMasks):
    """SOLOv2's masks: 1x1 convolutions of the mask features with the kernels of the cells."""

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
        self.device = features.device
        kernels, features = kernels.float(), features.float()
        if window is not None:
            coefficients, maps = window
            kernels = torch.cat([kernels, coefficients], dim=1)
            features = torch.cat([features, maps.unflatten(1, self.size)])
        self._kernels = kernels
        self._features = features

    def __len__(self) -> int:
        return len(self._kernels)

    def blocks(self, floats: int) -> Iterator[tuple[slice, slice]]:
        # Products of all kernels and some rows are faster than those of some kernels and all rows.
        height, width = self.size
        step = max(1, floats // max(1, len(self) * width))
        return ((slice(None), slice(row, row + step)) for row in range(0, height, step))

    def logits(
        self,
        cells: slice | torch.Tensor = slice(None),
        rows: slice = slice(None),
        columns: slice = slice(None),
        buffer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        kernels, features = self._kernels[cells], self._features[:, rows, columns]
        size = (len(kernels), *features.shape[1:])
        out = None
        if buffer is not None and math.prod(size) <= len(buffer):
            out = buffer[: math.prod(size)].view(len(kernels), -1)
        with full_precision(self.device.type):
            return torch.mm(kernels, features.flatten(1), out=out).view(size)
