"""Instances of an image between the steps of post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..structures.crops import Crop


class Detected(NamedTuple):
    """N instances at the size of the image.

    Attributes:
        classes: ``(N,)`` int64.
        scores: ``(N,)`` float32.
        boxes: ``(N, 4)`` float32.
        crops: N masks.
    """

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    crops: Sequence[Crop]

    @classmethod
    def none(cls) -> Detected:
        empty = np.zeros(0, np.float32)
        return cls(empty.astype(np.int64), empty, empty.reshape(0, 4), [])

    def visible(self) -> Detected:
        """Return the instances with a mask.

        A mask can vanish when it is scaled to a smaller image or when the padding is cut off.
        """
        kept = np.array([crop.mask.size > 0 for crop in self.crops], bool)
        if kept.all():
            return self
        crops = [crop for crop in self.crops if crop.mask.size > 0]
        return Detected(self.classes[kept], self.scores[kept], self.boxes[kept], crops)
