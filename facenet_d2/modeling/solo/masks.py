"""Mask logits of SOLO's cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ...structures.cell_masks import ALL, CellMasks
from ..grids.layout import GridLayout
from ..shapes import spatial_size
from .heads import MaskHead, enlarged_logits


class LevelMasks(CellMasks[torch.Tensor]):
    """Masks from the maps of the levels, resized to the size of the finest level's map."""

    # A mask is resized as a whole.
    BY_ROWS = False

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
        self._head = head
        self._maps = maps
        self._prepared: dict[int, torch.Tensor] = {}
        self._cells = cells
        self._first_cells = layout.first_cells

    def __len__(self) -> int:
        return len(self._cells)

    def logits(
        self,
        cells: slice | torch.Tensor = ALL,
        rows: slice = ALL,
        columns: slice = ALL,
        buffer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        own = self._cells[cells]
        logits = torch.empty((len(own), *self.size), device=own.device)
        for level in range(len(self._maps)):
            first, end = self._first_cells[level : level + 2]
            of_level = (own >= first) & (own < end)
            if of_level.any():
                if level not in self._prepared:
                    self._prepared[level] = self._head.prepare(self._maps[level])
                small = self._head.logits(self._prepared[level], level, own[of_level] - first)
                logits[of_level] = enlarged_logits(small, self.size)
        return logits[:, rows, columns]
