"""Grids of SOLO and SOLOv2, and the object sizes that each of them finds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from detectron2.config import CfgNode

from ..checks import check_equal_lengths


@dataclass(frozen=True)
class GridLayout:
    """One grid of S x S cells and one range of object sizes per level, finest level first.

    Attributes:
        num_grids: number of cells S along each side, per level.
        scale_ranges: (minimum, maximum) square root of a box's area per level, in pixels of the
            network's input, both included.
        center_scale: side of the centre region, whose cells are positive, as a share of the box's
            side (epsilon in the papers).
    """

    num_grids: tuple[int, ...]
    scale_ranges: tuple[tuple[float, float], ...]
    center_scale: float

    def __post_init__(self) -> None:
        check_equal_lengths({"num_grids": self.num_grids, "scale_ranges": self.scale_ranges})

    @classmethod
    def from_config(cls, cfg: CfgNode) -> GridLayout:
        """Read the layout from ``MODEL.SOLOV2``, which SOLO shares.

        Raises:
            ValueError: for lists of different lengths.
        """
        node = cfg.MODEL.SOLOV2
        names = ("NUM_GRIDS", "SCALE_RANGES")
        check_equal_lengths({f"MODEL.SOLOV2.{name}": node[name] for name in names})
        return cls(
            num_grids=tuple(node.NUM_GRIDS),
            scale_ranges=tuple((low, high) for low, high in node.SCALE_RANGES),
            center_scale=node.CENTER_SCALE,
        )

    @property
    def first_cells(self) -> list[int]:
        """Index of each level's first cell, followed by the number of all cells."""
        return list(itertools.accumulate((s * s for s in self.num_grids), initial=0))

    @property
    def num_cells(self) -> int:
        return self.first_cells[-1]
