"""Mask logits of SOLO's cells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..grids.cell_masks import CellMasks
from ..grids.layout import GridLayout
from ..shapes import spatial_size
from .heads import MaskHead, enlarged_logits


class LevelMasks(CellMasks):
    """Masks from the maps of the levels, resized to the size of the finest level's map."""

    def __init__(
        self,
        head: MaskHead,
        maps: Sequence[torch.Tensor],
        cells: torch.Tensor,
        layout: GridLayout,
    ) -> None:
        """
        Args:
            head: head that computed the maps.
            maps: one image's map per level, ``(..., 2 H_l, 2 W_l)``.
            cells: indices of K cells, ``(K,)`` int64.
            layout: grids.
        """
        self.size = spatial_size(maps[0])
        self.device = maps[0].device
        self._head = head
        self._maps = maps
        self._cells = cells
        self._first_cells = layout.first_cells

    def __len__(self) -> int:
        return len(self._cells)

    def blocks(self, floats: int) -> Iterator[tuple[slice, slice]]:
        # A mask is resized as a whole.
        step = max(1, floats // (self.size[0] * self.size[1]))
        return ((slice(i, i + step), slice(None)) for i in range(0, len(self), step))

    def logits(
        self,
        cells: slice | torch.Tensor = slice(None),
        rows: slice = slice(None),
        columns: slice = slice(None),
        buffer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        own = self._cells[cells]
        logits = torch.empty((len(own), *self.size), device=self.device)
        for level, maps in enumerate(self._maps):
            first, end = self._first_cells[level : level + 2]
            of_level = (own >= first) & (own < end)
            if of_level.any():
                small = self._head.logits(maps, level, own[of_level] - first)
                logits[of_level] = enlarged_logits(small, self.size)
        return logits[:, rows, columns]
