"""Tiles: overlapping windows of a scene."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, inf
from typing import Protocol

import numpy as np

from ..errors import UserError

# Pixels of context between an object and the side of its tile.
OVERLAP_MARGIN = 8


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return the first pixels of the tiles along one side of a scene.

    With the fewest tiles whose neighbours overlap by ``overlap`` pixels, the strides are shrunk
    evenly until the last tile ends with the scene, as in StarDist. A side that is not longer than
    a tile has a single tile, which may reach beyond the scene.

    Args:
        length: length of the side in pixels.
        size: length of a tile in pixels.
        overlap: minimum overlap of neighbouring tiles in pixels, less than ``size``.
    """
    if length <= size:
        return [0]
    strides = -(-(length - size) // (size - overlap))
    return [i * (length - size) // strides for i in range(strides + 1)]


def tile_overlap(object_size: float, tile_size: int) -> int:
    """Return an overlap of tiles with which objects are whole in at least one tile.

    Args:
        object_size: longer side of large objects in pixels.
        tile_size: side of a tile in pixels; the overlap is at most half of it.
    """
    return min(ceil(object_size) + OVERLAP_MARGIN, tile_size // 2)


@dataclass(frozen=True)
class Tile:
    """A window of a scene, in scene pixels; right and bottom are exclusive.

    Attributes:
        row: row of the tile in its grid.
        column: column of the tile in its grid.
        left: first column of pixels.
        top: first row of pixels.
        right: column after the last one; may lie beyond the scene.
        bottom: row after the last one; may lie beyond the scene.
        inner: for left, top, right and bottom, whether the scene continues beyond this side.
    """

    row: int
    column: int
    left: int
    top: int
    right: int
    bottom: int
    inner: tuple[bool, bool, bool, bool]

    @property
    def place(self) -> tuple[int, int]:
        """Row and column in the grid."""
        return self.row, self.column

    @property
    def name(self) -> str:
        """Name for files, whose alphabetical order is that of the tiles in their grid."""
        return f"{self.row:06d}_{self.column:06d}"

    def contains(self, box: tuple[int, int, int, int]) -> bool:
        """Return whether a box (left, top, right, bottom) lies within the window."""
        left, top, right, bottom = box
        return (
            left >= self.left and top >= self.top and right <= self.right and bottom <= self.bottom
        )

    def margins(self, boxes: np.ndarray) -> np.ndarray:
        """Return the distances of boxes within the window to the closest of its inner sides.

        Args:
            boxes: ``(N, 4)`` int; left, top, right, bottom.

        Returns:
            ``(N,)`` float; the number of pixels between box and side, infinity if the window has
            no inner side.
        """
        return self._from_inner_sides(np.asarray(boxes).reshape(-1, 4))

    def depths(self, boxes: np.ndarray) -> np.ndarray:
        """Return how far boxes within the window reach from the closest of its inner sides.

        A box of a mask that the side cuts reaches as far as the tile sees into the object.

        Args:
            boxes: ``(N, 4)`` int; left, top, right, bottom.

        Returns:
            ``(N,)`` float; the number of pixels from the side to the far side of the box, infinity
            if the window has no inner side.
        """
        return self._from_inner_sides(np.asarray(boxes).reshape(-1, 4)[:, [2, 3, 0, 1]])

    def _from_inner_sides(self, sides: np.ndarray) -> np.ndarray:
        """Return the least distance of x, y, x, y from left, top, right, bottom, ``(N,)`` float."""
        window = (self.left, self.top, self.right, self.bottom)
        distances = (sides - np.array(window, np.float64)) * (1, 1, -1, -1)
        distances[:, ~np.array(self.inner)] = inf
        return distances.min(axis=1)


class Grid(Protocol):
    """The tiles of a scene in rows, as the merge needs them.

    The tiles of a row begin with the same row of pixels, and those of later rows further down.
    """

    @property
    def height(self) -> int:
        """Height of the scene in pixels."""

    @property
    def width(self) -> int:
        """Width of the scene in pixels."""

    @property
    def overlap(self) -> int:
        """Largest width and height at which every object lies within at least one tile."""

    @property
    def tops(self) -> Sequence[int]:
        """First row of pixels of each row of tiles."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows of tiles, and the largest number of tiles in a row."""

    def row(self, row: int) -> list[Tile]:
        """Return the tiles of a row, from left to right."""

    def tile(self, row: int, column: int) -> Tile:
        """Return one tile."""

    def tiles_around(self, box: tuple[int, int, int, int]) -> Iterator[Tile]:
        """Yield the tiles that contain a box (left, top, right, bottom)."""


@dataclass(frozen=True)
class TileGrid:
    """The tiles of a scene, row by row.

    Every object that is at most ``overlap`` pixels wide and high lies within at least one tile.

    Attributes:
        height: height of the scene in pixels.
        width: width of the scene in pixels.
        size: side of a tile in pixels.
        overlap: minimum overlap of neighbouring tiles in pixels.

    Raises:
        UserError: if a length is not positive or the overlap is not less than the size.
    """

    height: int
    width: int
    size: int
    overlap: int

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise UserError(
                f"A scene of {self.width}x{self.height} pixels has no tiles; it needs at least one "
                "pixel."
            )
        if self.size < 1:
            raise UserError(f"The tile size is {self.size} pixels; it must be at least 1.")
        if not 0 <= self.overlap < self.size:
            raise UserError(
                f"The overlap of tiles is {self.overlap} pixels; it must be at least 0 and less "
                f"than the tile size, {self.size}."
            )

    @cached_property
    def tops(self) -> list[int]:
        """First row of pixels of each row of tiles."""
        return tile_starts(self.height, self.size, self.overlap)

    @cached_property
    def lefts(self) -> list[int]:
        """First column of pixels of each column of tiles."""
        return tile_starts(self.width, self.size, self.overlap)

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of rows and columns of tiles."""
        return len(self.tops), len(self.lefts)

    def __len__(self) -> int:
        return len(self.tops) * len(self.lefts)

    def __iter__(self) -> Iterator[Tile]:
        for row in range(len(self.tops)):
            yield from self.row(row)

    def row(self, row: int) -> list[Tile]:
        """Return the tiles of a row, from left to right."""
        return [self.tile(row, column) for column in range(len(self.lefts))]

    def tile(self, row: int, column: int) -> Tile:
        """Return one tile.

        Raises:
            IndexError: if the grid has no such row or column.
        """
        if not (0 <= row < len(self.tops) and 0 <= column < len(self.lefts)):
            raise IndexError(
                f"The grid of {self.shape[0]}x{self.shape[1]} tiles has no tile in row {row}, "
                f"column {column}."
            )
        left, top = self.lefts[column], self.tops[row]
        right, bottom = left + self.size, top + self.size
        inner = (left > 0, top > 0, right < self.width, bottom < self.height)
        return Tile(row, column, left, top, right, bottom, inner)

    def tiles_around(self, box: tuple[int, int, int, int]) -> Iterator[Tile]:
        """Yield the tiles that contain a box (left, top, right, bottom)."""
        for row in _starts_around(self.tops, self.size, box[1], box[3]):
            for column in _starts_around(self.lefts, self.size, box[0], box[2]):
                yield self.tile(row, column)


def _starts_around(starts: list[int], size: int, first: int, end: int) -> range:
    """Return the indices of the windows [start, start + size) that contain [first, end)."""
    return range(bisect_left(starts, end - size), bisect_right(starts, first))
