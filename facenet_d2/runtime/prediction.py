"""The instances of an image as arrays, with masks as crops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..structures.crops import Crop


@dataclass(frozen=True, eq=False)
class Prediction:
    """N instances of an image, by decreasing score.

    Attributes:
        image_size: (H, W).
        class_names: name of each class index.
        classes: ``(N,)`` int64.
        scores: ``(N,)`` float32.
        boxes: ``(N, 4)`` float32, (x0, y0, x1, y1) in pixels of the image. Those of SOLO, SOLOv2
            and FACENet are the tight boxes of the masks.
        crops: N masks.
        capped: whether the maximum number of instances was reached, so that others may be missing.
    """

    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    crops: Sequence[Crop]
    capped: bool = False

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, selection: Any) -> Prediction:
        """Return some of the instances.

        Args:
            selection: a slice, or an array of bool or of indices.
        """
        chosen = np.arange(len(self))[selection].reshape(-1)
        return Prediction(
            self.image_size,
            self.class_names,
            self.classes[chosen],
            self.scores[chosen],
            self.boxes[chosen],
            [self.crops[i] for i in chosen.tolist()],
            self.capped,
        )

    @property
    def names(self) -> list[str]:
        """Name of each instance's class."""
        return [self.class_names[c] for c in self.classes.tolist()]

    @property
    def areas(self) -> np.ndarray:
        """Number of pixels of each mask, ``(N,)`` int64."""
        return np.array([np.count_nonzero(crop.mask) for crop in self.crops], np.int64)

    def mask(self, index: int) -> np.ndarray:
        """Return one mask at full size, ``(H, W)`` bool."""
        full = np.zeros(self.image_size, bool)
        x0, y0, x1, y1 = self.crops[index].box
        full[y0:y1, x0:x1] = self.crops[index].mask
        return full

    def to_dense(self) -> np.ndarray:
        """Return all masks at full size, ``(N, H, W)`` bool."""
        full = np.zeros((len(self), *self.image_size), bool)
        for target, crop in zip(full, self.crops):
            x0, y0, x1, y1 = crop.box
            target[y0:y1, x0:x1] = crop.mask
        return full

    def rles(self) -> list[dict[str, Any]]:
        """Return the masks as COCO's compressed RLE, with ``counts`` as text, ready for JSON.

        Raises:
            UserError: if pycocotools is not installed.
        """
        try:
            # Not above: only this method needs it.
            import pycocotools.mask as mask_util
        except ImportError as error:
            raise UserError("RLE needs pycocotools: pip install pycocotools.") from error
        rles = []
        for index in range(len(self)):
            rle = mask_util.encode(np.asfortranarray(self.mask(index).view(np.uint8)))
            rles.append({"size": list(self.image_size), "counts": rle["counts"].decode()})
        return rles
