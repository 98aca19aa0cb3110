"""Windows of cells, in NumPy; see :mod:`facenet_d2.modeling.solov2.window`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np


@lru_cache(maxsize=4)
def cell_positions(num_grids: tuple[int, ...]) -> np.ndarray:
    """Return x and y of each cell's centre, from -0.5 to 0.5, and its grid's S, ``(cells, 3)``."""
    positions = []
    for grid in num_grids:
        y, x = np.meshgrid(_centers(grid), _centers(grid), indexing="ij")
        positions.append(np.stack([x, y, np.full_like(x, grid)], axis=-1).reshape(-1, 3))
    return _constant(np.concatenate(positions))


def window_coefficients(windows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Compute the coefficients of -q for the maps of :func:`position_maps`.

    Args:
        windows: (a, b, c, ox, oy) of K cells, ``(K, 5)``.
        positions: positions of the cells, ``(K, 3)``; see :func:`cell_positions`.

    Returns:
        ``(K, 6)`` float32.
    """
    a, b, c, offset_x, offset_y = windows.T
    x, y, grid = positions.T
    a, b, c = a * grid, b * grid, c * grid
    x, y = x + offset_x / grid, y + offset_y / grid
    xx, xy, yy = a * a + b * b, 2 * b * c, c * c
    constant = xx * x * x + xy * x * y + yy * y * y
    return -np.stack([xx, xy, yy, -2 * xx * x - xy * y, -2 * yy * y - xy * x, constant], axis=1)


@lru_cache(maxsize=4)
def position_maps(height: int, width: int) -> np.ndarray:
    """Return X^2, XY, Y^2, X, Y and 1 at the centres of all pixels, ``(6, height * width)``."""
    y, x = np.meshgrid(_centers(height), _centers(width), indexing="ij")
    maps = np.stack([x * x, x * y, y * y, x, y, np.ones_like(x)])
    return _constant(maps.reshape(6, -1))


def _centers(number: int) -> np.ndarray:
    return (np.arange(number, dtype=np.float32) + np.float32(0.5)) / number - np.float32(0.5)


def _constant(array: np.ndarray) -> np.ndarray:
    """Protect an array that all callers share."""
    array.flags.writeable = False
    return array
