"""The tiles of a scene, against loops over all pixels and windows."""

from math import inf

import numpy as np
import pytest

from facenet_d2.errors import UserError
from facenet_d2.scenes.tiles import TileGrid, tile_starts

SIDES = [
    (length, size, overlap)
    for size in (1, 2, 5, 8)
    for overlap in range(size)
    for length in (*range(1, 40), 8 * size + 1)
]


def test_tiles_cover_a_side_evenly():
    for length, size, overlap in SIDES:
        starts = tile_starts(length, size, overlap)
        assert starts[0] == 0
        if length <= size:
            assert starts == [0]
            continue
        assert starts[-1] + size == length
        strides = np.diff(starts)
        assert strides.min() >= 1
        assert strides.max() <= size - overlap
        assert strides.max() - strides.min() <= 1
        # With one tile less, the strides would have to be longer than the overlap permits.
        assert (len(starts) - 2) * (size - overlap) < length - size


def test_any_interval_up_to_the_overlap_lies_in_a_tile():
    for length, size, overlap in SIDES:
        starts = tile_starts(length, size, overlap)
        for n in range(1, overlap + 1):
            for first in range(length - n + 1):
                assert any(s <= first and first + n <= s + size for s in starts)


def test_tiles_are_in_order_with_their_inner_sides():
    grid = TileGrid(height=11, width=30, size=8, overlap=3)
    tiles = list(grid)
    assert len(tiles) == len(grid) == grid.shape[0] * grid.shape[1]
    assert [t.name for t in tiles] == sorted({t.name for t in tiles})
    assert [grid.tile(t.row, t.column) for t in tiles] == tiles
    for t in tiles:
        assert (t.right - t.left, t.bottom - t.top) == (8, 8)
        assert t.inner == (t.left != 0, t.top != 0, t.right != 30, t.bottom != 11)


@pytest.mark.parametrize(("height", "width"), [(5, 5), (5, 20), (20, 5), (8, 8)])
def test_a_side_shorter_than_a_tile_has_no_inner_sides(height, width):
    grid = TileGrid(height, width, size=8, overlap=2)
    for tile in grid:
        if width <= 8:
            assert (tile.left, tile.right, tile.inner[0], tile.inner[2]) == (0, 8, False, False)
        if height <= 8:
            assert (tile.top, tile.bottom, tile.inner[1], tile.inner[3]) == (0, 8, False, False)


def test_boxes_and_their_distances_from_the_inner_sides():
    grid = TileGrid(height=19, width=23, size=9, overlap=4)
    rng = np.random.default_rng(0)
    for _ in range(300):
        x, y = int(rng.integers(0, 22)), int(rng.integers(0, 18))
        box = (x, y, int(rng.integers(x + 1, 24)), int(rng.integers(y + 1, 20)))
        around = []
        for tile in grid:
            pixels = {(i, j) for i in range(box[0], box[2]) for j in range(box[1], box[3])}
            inside = all(
                tile.left <= i < tile.right and tile.top <= j < tile.bottom for i, j in pixels
            )
            assert tile.contains(box) == inside
            if not inside:
                continue
            around.append(tile)
            # For each inner side, the distances of all pixels from it.
            distances = [
                [pixel_to_side(tile, side, i, j) for i, j in pixels]
                for side in range(4)
                if tile.inner[side]
            ]
            assert tile.margins(np.array([box])) == [min(map(min, distances), default=inf)]
            assert tile.depths(np.array([box])) == [min(map(max, distances), default=inf) + 1]
        assert list(grid.tiles_around(box)) == around


def pixel_to_side(tile, side, i, j):
    return (i - tile.left, j - tile.top, tile.right - 1 - i, tile.bottom - 1 - j)[side]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 8, 2), "5x0 pixels"),
        ((5, 5, 0, 0), "tile size is 0"),
        ((5, 5, 8, 8), "overlap of tiles is 8"),
        ((5, 5, 8, -1), "overlap of tiles is -1"),
    ],
)
def test_impossible_grids_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        TileGrid(*arguments)


def test_a_tile_outside_the_grid_does_not_exist():
    grid = TileGrid(20, 20, 8, 2)
    for row, column in ((-1, 0), (0, 3), (3, 0)):
        with pytest.raises(IndexError, match=f"row {row}, column {column}"):
            grid.tile(row, column)
