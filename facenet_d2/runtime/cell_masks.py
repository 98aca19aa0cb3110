"""Mask logits of cells, computed in parts, in NumPy.

See :mod:`facenet_d2.structures.cell_masks`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import cv2
import numpy as np

from ..structures.cell_masks import ALL, CellMasks
from .arrays import logit, sigmoid
from .description import GridSettings
from .mask_windows import cell_positions, position_maps, window_coefficients


def cell_masks(
    outputs: Mapping[str, np.ndarray], image: int, cells: np.ndarray, settings: GridSettings
) -> CellMasks[np.ndarray]:
    """Return the masks of cells of an image.

    Args:
        outputs: outputs of the network by name, see
            :attr:`~facenet_d2.runtime.description.ModelDescription.output_names`.
        image: index of the image in the batch.
        cells: indices of K cells, ``(K,)``.
        settings: the grids.
    """
    if "mask_features" in outputs:
        return DynamicMasks(outputs, image, cells, settings)
    return LevelMasks(outputs, image, cells, settings)


class DynamicMasks(CellMasks[np.ndarray]):
    """Masks of SOLOv2. The arguments are those of :func:`cell_masks`."""

    # Products of all kernels and some rows are faster than those of some kernels and all rows.
    BY_ROWS = True

    def __init__(
        self,
        outputs: Mapping[str, np.ndarray],
        image: int,
        cells: np.ndarray,
        settings: GridSettings,
    ) -> None:
        features, kernels = outputs["mask_features"][image], outputs["kernels"][image, cells]
        self.size = (features.shape[1], features.shape[2])
        if settings.windows:
            positions = cell_positions(settings.num_grids)[cells]
            coefficients = window_coefficients(outputs["windows"][image, cells], positions)
            maps = position_maps(*self.size).reshape(-1, *self.size)
            kernels = np.concatenate([kernels, coefficients], axis=1)
            features = np.concatenate([features, maps])
        self._kernels = kernels
        self._features = features

    def __len__(self) -> int:
        return len(self._kernels)

    def logits(
        self,
        cells: slice | np.ndarray = ALL,
        rows: slice = ALL,
        columns: slice = ALL,
        buffer: np.ndarray | None = None,
    ) -> np.ndarray:
        kernels, features = self._kernels[cells], self._features[:, rows, columns]
        size = (len(kernels), *features.shape[1:])
        number = math.prod(size)
        if buffer is None or len(buffer) < number:
            buffer = np.empty(number, np.float32)
        product = buffer[:number].reshape(len(kernels), size[1] * size[2])
        np.matmul(kernels, features.reshape(len(features), size[1] * size[2]), out=product)
        return product.reshape(size)


class LevelMasks(CellMasks[np.ndarray]):
    """Masks of SOLO. The arguments are those of :func:`cell_masks`."""

    # A mask is resized as a whole.
    BY_ROWS = False

    def __init__(
        self,
        outputs: Mapping[str, np.ndarray],
        image: int,
        cells: np.ndarray,
        settings: GridSettings,
    ) -> None:
        self._maps = [outputs[f"mask_maps_{i}"][image] for i in range(len(settings.num_grids))]
        self._kernels = None if settings.decoupled else outputs["kernels"]
        self._cells = cells
        self._grids = settings.num_grids
        self._first_cells = [*itertools.accumulate((s * s for s in self._grids), initial=0)]
        height, width = self._maps[0].shape[-2:]
        self.size = (height, width)

    def __len__(self) -> int:
        return len(self._cells)

    def logits(
        self,
        cells: slice | np.ndarray = ALL,
        rows: slice = ALL,
        columns: slice = ALL,
        buffer: np.ndarray | None = None,
    ) -> np.ndarray:
        own = self._cells[cells]
        logits = np.empty((len(own), *self.size), np.float32)
        for level, maps in enumerate(self._maps):
            first, end = self._first_cells[level : level + 2]
            of_level = (own >= first) & (own < end)
            if of_level.any():
                small = self._level_logits(level, maps, own[of_level])
                logits[of_level] = _enlarged_logits(small, self.size)
        return logits[:, rows, columns]

    def _level_logits(self, level: int, maps: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Compute the logits of cells at the size of their level's maps."""
        if self._kernels is None:
            return _decoupled_logits(maps, self._grids[level], own - self._first_cells[level])
        kernels = self._kernels[own]
        product = kernels[:, :-1] @ maps.reshape(len(maps), -1) + kernels[:, -1:]
        return product.reshape(len(own), *maps.shape[1:])


def _decoupled_logits(maps: np.ndarray, grid: int, cells: np.ndarray) -> np.ndarray:
    """Return the logits of the products of decoupled SOLO's factors, ``(K, h, w)``."""
    columns, rows = cells % grid, grid + cells // grid
    # Only the maps of some columns and rows are needed.
    some, places = np.unique(np.concatenate([columns, rows]), return_inverse=True)
    factors = sigmoid(maps[some])
    return logit(factors[places[: len(cells)]] * factors[places[len(cells) :]])


def _enlarged_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize masks by interpolating their probabilities."""
    if logits.shape[1:] == size:
        return logits
    resized = [cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in sigmoid(logits)]
    return logit(np.stack(resized))
