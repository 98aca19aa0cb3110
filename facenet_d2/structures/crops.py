"""Masks in their tight boxes, as arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np


class Crop(NamedTuple):
    """A mask in its tight box.

    Attributes:
        x: column of the image at which the crop starts.
        y: row of the image at which it starts.
        mask: ``(h, w)`` bool; each side touches a pixel of the mask. ``(0, 0)`` for an empty mask.
    """

    x: int
    y: int
    mask: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom; right and bottom exclusive."""
        height, width = self.mask.shape
        return self.x, self.y, self.x + width, self.y + height

    def within(self, box: Sequence[float]) -> Crop:
        """Return the crop of the pixels whose centres lie in a box.

        Args:
            box: (x0, y0, x1, y1) in pixels of the image, sides included.
        """
        x0, y0, x1, y1 = self.box
        left, top = (max(a, math.ceil(b - 0.5)) for a, b in zip((x0, y0), box[:2]))
        right, bottom = (min(a, math.floor(b - 0.5) + 1) for a, b in zip((x1, y1), box[2:]))
        if (left, top, right, bottom) == self.box:
            return self
        if right <= left or bottom <= top:
            return EMPTY_CROP
        part = self.mask[top - y0 : bottom - y0, left - x0 : right - x0]
        return tight_crop(part, left, top)


EMPTY_CROP = Crop(0, 0, np.zeros((0, 0), bool))


def tight_crop(mask: np.ndarray, x: int, y: int) -> Crop:
    """Return a part of a mask as a crop.

    Args:
        mask: ``(h, w)`` bool, outside of which no pixel is set. It is not copied.
        x: column of the image at which the part starts.
        y: row of the image at which it starts.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return EMPTY_CROP
    return Crop(x + left, y + top, mask[top : top + height, left : left + width])
