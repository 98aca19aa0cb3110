"""The grids, and the object sizes each of them is responsible for."""

from __future__ import annotations

import itertools
from dataclasses import dataclass


@dataclass(frozen=True)
class GridLayout:
    """The grids and the instance sizes each is responsible for.

    Attributes:
        num_grids: S of each level.
        scale_ranges: (least, greatest) square root of a box's area, in pixels of the network's
            input, both included, of each level.
        center_scale: side of the centre region as a share of the box's (the papers' epsilon, 0.2).
    """

    num_grids: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    center_scale: float = 0.2

    @property
    def first_cells(self) -> list[int]:
        """The number of each level's first cell, and after the last level that of all cells."""
        return list(itertools.accumulate((s * s for s in self.num_grids), initial=0))

    @property
    def num_cells(self) -> int:
        return self.first_cells[-1]
