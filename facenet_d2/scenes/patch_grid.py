"""Patches of a scene as tiles: windows of any place and size, of which some may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
from shapely import union_all

from .groups import Box
from .suppression import as_boxes
from .tiles import Tile


class PatchGrid:
    """The patches of a scene, row by row; a :class:`~facenet_d2.scenes.tiles.Grid`.

    Patches that begin with the same row of pixels form a row.

    Attributes:
        height: height of the scene in pixels.
        width: width of the scene in pixels.
        overlap: 0: with patches missing, no object is sure to lie within one.
        is_overlapping: whether there are patches that overlap.
    """

    overlap = 0

    def __init__(self, windows: Iterable[Box], *, size: tuple[int, int] | None = None) -> None:
        """
        Args:
            windows: left, top, right and bottom of each patch in pixels of the scene; right and
                bottom are exclusive.
            size: height and width of the scene; by default, and beyond them, the scene ends with
                its patches.

        Raises:
            ValueError: if there are no windows, or two are equal.
        """
        ordered = sorted(windows, key=lambda box: (box[1], box[0], box[3], box[2]))
        if not ordered or len(set(ordered)) < len(ordered):
            raise ValueError("a scene needs patches, each of them once")
        height, width = size or (0, 0)
        self.height = max(height, *(box[3] for box in ordered))
        self.width = max(width, *(box[2] for box in ordered))
        self._tiles: list[list[Tile]] = []
        for row, (_, boxes) in enumerate(groupby(ordered, key=lambda box: box[1])):
            self._tiles.append([self._make(row, *item) for item in enumerate(boxes)])
        self._flat = [tile for tiles in self._tiles for tile in tiles]
        self._windows = np.array(ordered)
        areas = [(right - left) * (bottom - top) for left, top, right, bottom in ordered]
        self.is_overlapping = union_all(as_boxes(ordered)).area < sum(areas)

    def _make(self, row: int, column: int, box: Box) -> Tile:
        left, top, right, bottom = box
        inner = (left > 0, top > 0, right < self.width, bottom < self.height)
        return Tile(row, column, left, top, right, bottom, inner)

    @property
    def tops(self) -> list[int]:
        """First row of pixels of each row of patches."""
        return [tiles[0].top for tiles in self._tiles]

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and the largest number of patches in a row."""
        return len(self._tiles), max(map(len, self._tiles))

    def __len__(self) -> int:
        return len(self._flat)

    def __iter__(self) -> Iterator[Tile]:
        return iter(self._flat)

    def row(self, row: int) -> list[Tile]:
        """Return the patches of a row, from left to right."""
        return self._tiles[row]

    def tile(self, row: int, column: int) -> Tile:
        """Return one patch."""
        return self._tiles[row][column]

    def tiles_around(self, box: Box) -> Iterator[Tile]:
        """Yield the patches that contain a box (left, top, right, bottom)."""
        first, last = self._windows[:, :2], self._windows[:, 2:]
        around = (first <= box[:2]).all(axis=1) & (last >= box[2:]).all(axis=1)
        for index in np.flatnonzero(around).tolist():
            yield self._flat[index]
