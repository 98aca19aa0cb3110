"""Results of an evaluation on patches as detections of the tiles of a scene."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...errors import UserError
from ...scenes.detections import Detections, TileDetections
from ...scenes.tiles import Tile
from .places import Patch, Window, mask_crop
from .result_index import ResultIndex


class Found(NamedTuple):
    """A detection of a patch.

    Attributes:
        class_index: class.
        score: score.
        crop: mask within its box, bool.
        x: column of the crop in the patch.
        y: row of the crop in the patch.
    """

    class_index: int
    score: float
    crop: np.ndarray
    x: int
    y: int


def window_of(tile: Tile) -> Window:
    """Return the place of a tile in its scene."""
    return tile.left, tile.top, tile.right, tile.bottom


def detections_of(window: Window, found: Sequence[Found]) -> Detections:
    """Return detections of a patch in pixels of the scene."""
    boxes = [(f.x, f.y, f.x + f.crop.shape[1], f.y + f.crop.shape[0]) for f in found]
    return Detections.from_crops(
        [f.class_index for f in found],
        [f.score for f in found],
        boxes,
        [f.crop for f in found],
        origin=window[:2],
    )


class ResultSource:
    """The results of a scene's patches; a :class:`~facenet_d2.scenes.tile_store.TileSource`.

    Args:
        index: the results of all images.
        patches: patches of the scene.
        class_of: class index of each category id.
    """

    def __init__(
        self, index: ResultIndex, patches: Iterable[Patch], class_of: Mapping[int, int]
    ) -> None:
        self._index = index
        self._patches = {patch.window: patch for patch in patches}
        self._class_of = class_of

    def load(self, tile: Tile) -> TileDetections:
        """Return the results of a patch.

        Raises:
            UserError: if a mask is not usable.
        """
        patch = self._patches[window_of(tile)]
        found = []
        for where, result in self._index.of_image(patch.image_id):
            try:
                crop, x, y = mask_crop(result["segmentation"], *patch.size)
            except ValueError as error:
                raise UserError(f"{where}: {error}.") from error
            score = float(result["score"])
            found.append(Found(self._class_of[result["category_id"]], score, crop, x, y))
        return TileDetections(tile.row, tile.column, detections_of(patch.window, found))
