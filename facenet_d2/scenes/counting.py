"""Counts of objects in the cells of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely

from ..errors import UserError

_MAX_CELLS = 1_000_000


class CellGrid:
    """Square cells that cover an area; their borders are multiples of their side."""

    def __init__(self, area: shapely.Geometry, side: float) -> None:
        """
        Args:
            area: polygon; it may be empty.
            side: side of a cell, in units of the polygon.

        Raises:
            UserError: If there are too many cells.
        """
        self.side = side
        self._numbers: dict[tuple[int, int], int] = {}
        if area.is_empty:
            return
        x0, y0, x1, y1 = np.array(area.bounds) / side
        # An area that ends at the border of a cell does not reach into the next.
        columns = np.arange(np.floor(x0), max(np.ceil(x1), np.floor(x0) + 1))
        rows = np.arange(np.floor(y0), max(np.ceil(y1), np.floor(y0) + 1))
        if len(columns) * len(rows) > _MAX_CELLS:
            raise UserError(
                f"--cell: the area has {len(columns) * len(rows):,} cells, and at most "
                f"{_MAX_CELLS:,} are possible; choose larger cells."
            )
        x, y = (grid.ravel() for grid in np.meshgrid(columns, rows))
        boxes = shapely.box(x * side, y * side, (x + 1) * side, (y + 1) * side)
        shapely.prepare(area)
        inside = shapely.intersects(area, boxes) & ~shapely.touches(area, boxes)
        for key in zip(x[inside].astype(int).tolist(), y[inside].astype(int).tolist()):
            self._numbers[key] = len(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

    def count(self, polygons: np.ndarray) -> np.ndarray:
        """Return the number of polygons with their centre in each cell, int ``(C,)``."""
        points = shapely.get_coordinates(shapely.centroid(polygons)) / self.side
        keys = map(tuple, np.floor(points).astype(int).tolist())
        numbers = [self._numbers[key] for key in keys if key in self._numbers]
        counts = np.bincount(np.array(numbers, int), minlength=max(1, len(self)))
        # The centre of an object in the area may be outside of all cells: on the border of the
        # last, or beside a concave area.
        counts[0] += len(polygons) - len(numbers)
        return counts[: len(self)]


def summarize_counts(counts: Sequence[np.ndarray], area: float) -> dict[str, Any]:
    """Compare predicted with true numbers.

    Args:
        counts: int arrays ``(2, C)``, one for each scene: true and predicted objects in each cell.
        area: area of all scenes in square metres.

    Returns:
        ``truth``, ``predicted``, ``bias`` (predicted minus true), ``mae`` (mean absolute error of
        a cell), and ``true_density`` and ``predicted_density`` for a square kilometre.
    """
    truth, predicted = np.concatenate(counts, axis=1)
    return {
        "truth": int(truth.sum()),
        "predicted": int(predicted.sum()),
        "bias": int(predicted.sum() - truth.sum()),
        "mae": float(abs(predicted - truth).mean()) if len(truth) else None,
        "true_density": float(truth.sum() / area * 1e6) if area else None,
        "predicted_density": float(predicted.sum() / area * 1e6) if area else None,
    }
