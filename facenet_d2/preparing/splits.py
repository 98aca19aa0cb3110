"""Spatial splits: blocks of chips with gaps between them, and the distance between splits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
import shapely

from ..errors import UserError
from ..scenes.tiles import TileGrid

# Coordinates of footprints are exact to this share of a pixel.
_TOLERANCE = 1e-3


def block_intervals(
    length: int, size: int, overlap: int, chips: int, gap: int
) -> list[tuple[int, int]]:
    """Return the intervals of the blocks along one side of a scene.

    As many blocks of ``chips`` chips as fit best are given equal lengths, at least that of a chip.

    Args:
        length: length of the side in pixels.
        size: side of a chip in pixels.
        overlap: overlap of the chips within a block in pixels.
        chips: number of chips along the side of a block.
        gap: pixels between two blocks, which belong to no chip.
    """
    block = overlap + chips * (size - overlap)
    count = max(1, round((length + gap) / (block + gap)))
    while count > 1 and (length - (count - 1) * gap) // count < size:
        count -= 1
    usable = length - (count - 1) * gap
    edges = [i * usable // count for i in range(count + 1)]
    return [(edges[i] + i * gap, edges[i + 1] + i * gap) for i in range(count)]


def block_windows(
    height: int, width: int, *, size: int, overlap: int, chips: int, gap: int
) -> Iterator[tuple[tuple[int, int, int, int], list[tuple[int, int, int, int]]]]:
    """Yield the blocks of a scene, each with the windows of its chips, row by row.

    Windows are left, top, right and bottom; right and bottom are exclusive. In a block that is
    smaller than a chip, the chip has the size of the block.

    Args:
        height: height of the scene in pixels.
        width: width of the scene in pixels.
        size: side of a chip in pixels.
        overlap: overlap of the chips within a block in pixels.
        chips: number of chips along the side of a block; 0 for a single block.
        gap: pixels between two blocks.
    """
    rows, columns = (
        block_intervals(length, size, overlap, chips, gap) if chips else [(0, length)]
        for length in (height, width)
    )
    for top, bottom in rows:
        for left, right in columns:
            tiles = TileGrid(bottom - top, right - left, size, overlap)
            windows = [
                (
                    left + tile.left,
                    top + tile.top,
                    min(left + tile.right, right),
                    min(top + tile.bottom, bottom),
                )
                for tile in tiles
            ]
            yield (left, top, right, bottom), windows


def assign(weights: Sequence[float], shares: Mapping[str, float], seed: int) -> list[str]:
    """Assign units, such as blocks, to splits, so that their weights have the given shares.

    The heaviest unit comes first, and each goes to the split that lacks most of its share.

    Args:
        weights: weight of each unit.
        shares: share of each split; they are divided by their sum.
        seed: seed of the order of units with the same weight.

    Raises:
        UserError: if a split gets no unit.
    """
    shuffled = np.random.default_rng(seed).permutation(len(weights)).tolist()
    order = sorted(shuffled, key=lambda i: -weights[i])
    total = sum(weights) / sum(shares.values())
    missing = {name: share * total for name, share in shares.items()}
    splits = [""] * len(weights)
    for unit in order:
        split = max(missing, key=lambda name: missing[name])
        splits[unit] = split
        missing[split] -= weights[unit]
    empty = [name for name in shares if name not in splits]
    if empty:
        raise UserError(
            f"--split: {', '.join(empty)} gets nothing; there are {len(weights)} blocks or rasters "
            "to divide. Use smaller blocks (--block-size), larger shares, or a single split "
            "(--split train=1)."
        )
    return splits


def too_close(
    footprints: np.ndarray, splits: Sequence[str], order: Sequence[str], gap: float
) -> np.ndarray:
    """Return the chips to be dropped because one of another split is closer than ``gap``.

    Args:
        footprints: array of N polygons in one plane.
        splits: split of each chip.
        order: splits; chips of the earlier ones stay.
        gap: distance that is allowed, in units of the plane.

    Returns:
        ``(N,)`` bool.
    """
    names = np.array(splits)
    dropped = np.zeros(len(footprints), bool)
    for rank, split in enumerate(order):
        earlier = np.flatnonzero(np.isin(names, order[:rank]) & ~dropped)
        own = np.flatnonzero(names == split)
        if len(earlier) and len(own):
            tree = shapely.STRtree(footprints[earlier])
            found, _ = tree.query(
                footprints[own], predicate="dwithin", distance=gap * (1 - _TOLERANCE)
            )
            dropped[own[np.unique(found)]] = True
    return dropped


def distance_between(footprints: np.ndarray, splits: Sequence[str]) -> float | None:
    """Return the smallest distance between chips of different splits; None if there is one split.

    Args:
        footprints: array of N polygons in one plane.
        splits: split of each chip.
    """
    names = np.array(splits)
    distances = []
    for one, other in combinations(sorted(set(splits)), 2):
        tree = shapely.STRtree(footprints[names == one])
        _, found = tree.query_nearest(footprints[names == other], return_distance=True)
        distances.append(float(found.min()))
    return min(distances, default=None)
