"""Enlargement of stride-4 mask probabilities to crops of binary masks at the image's size.

The result is that of :mod:`facenet_d2.structures.enlarge`: probabilities are scaled to the size of
the padded input, cropped to the image, and scaled to its own size, bilinearly both times.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from ..stride import MASK_STRIDE
from .prediction import EMPTY_CROP, Crop, tight_box

# Number of floats of the enlarged rows that exist at a time; they fit into the cache.
BAND_FLOATS = 2**20
# A part of a map needs this number of pixels around those above the threshold: an interpolated
# value lies between its neighbours, and the second pixel is a neighbour at the first.
MARGIN = 2


class Part(NamedTuple):
    """A part of a map of mask probabilities; elsewhere, the map has no pixel above the threshold.

    Attributes:
        values: ``(h, w)`` float32, with :data:`MARGIN` pixels around those above the threshold, or
            less at the border of the map.
        x: column of the map at which the part starts.
        y: row of the map at which it starts.
    """

    values: np.ndarray
    x: int
    y: int


class Lines(NamedTuple):
    """Where bilinear scaling samples the lines of one axis.

    Attributes:
        first: index of the first of the two old neighbours of each new line.
        weight: weight of the second one, float32.
    """

    first: np.ndarray
    weight: np.ndarray


def window(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the box of a ``(h, w)`` bool mask and its :data:`MARGIN`; None for an empty mask.

    Returns:
        left, top, right and bottom within the mask.
    """
    x0, y0, x1, y1 = tight_box(mask)
    if x1 == x0:
        return None
    height, width = mask.shape
    return (
        max(0, x0 - MARGIN),
        max(0, y0 - MARGIN),
        min(width, x1 + MARGIN),
        min(height, y1 + MARGIN),
    )


class Enlarger:
    """Enlarges the masks of one image."""

    def __init__(
        self, input_size: tuple[int, int], image_size: tuple[int, int], threshold: float
    ) -> None:
        """
        Args:
            input_size: (height, width) of the network's input without padding.
            image_size: (height, width) of the result.
            threshold: probability above which a pixel is set.
        """
        self.input_size = input_size
        self.image_size = image_size
        self.threshold = np.float32(threshold)
        self._rows, self._columns = (
            None if old == new else _sampled_lines(old, new)
            for old, new in zip(input_size, image_size)
        )

    def __call__(self, part: Part) -> Crop:
        """Return the mask of the part at the size of the image."""
        x0, y0 = part.x * MASK_STRIDE, part.y * MASK_STRIDE
        height, width = part.values.shape
        if height == 0 or width == 0 or x0 >= self.input_size[1] or y0 >= self.input_size[0]:
            return EMPTY_CROP
        # The part's columns and rows of the network's input, and then those of the image.
        x1 = min(x0 + MASK_STRIDE * width, self.input_size[1])
        y1 = min(y0 + MASK_STRIDE * height, self.input_size[0])
        left, right = _span(self._columns, x0, x1)
        top, bottom = _span(self._rows, y0, y1)
        mask = np.empty((bottom - top, right - left), bool)
        step = max(1, BAND_FLOATS // (MASK_STRIDE * width))
        for first in range(top, bottom, step):
            last = min(first + step, bottom)
            band = self._band(part, first, last, x1 - x0, y1 - y0)
            if self._columns is not None:
                band = _resample(band, x0, _cut(self._columns, left, right), axis=1)
            np.greater(band, self.threshold, out=mask[first - top : last - top])
        x0, y0, x1, y1 = tight_box(mask)
        if x1 == x0:
            return EMPTY_CROP
        return Crop(left + x0, top + y0, mask[y0:y1, x0:x1])

    def _band(self, part: Part, first: int, last: int, width: int, height: int) -> np.ndarray:
        """Return rows of the image, whose columns are still those of the network's input.

        Args:
            part: the part.
            first: first row.
            last: row after the last one.
            width: number of columns of the part in the network's input.
            height: number of rows of the part in the network's input.
        """
        offset = part.y * MASK_STRIDE
        if self._rows is None:
            return _enlarged_rows(part.values, first - offset, last - offset)[:, :width]
        lines = _cut(self._rows, first, last)
        # Rows of the input that are sampled, within the part.
        low = min(max(int(lines.first[0]) - offset, 0), height - 1)
        high = min(max(int(lines.first[-1]) + 1 - offset, 0), height - 1)
        rows = _enlarged_rows(part.values, low, high + 1)[:, :width]
        return _resample(rows, offset + low, lines, axis=0)


def _enlarged_rows(values: np.ndarray, first: int, last: int) -> np.ndarray:
    """Return rows ``first`` to ``last`` of a map that is enlarged by the stride."""
    height, width = values.shape
    # With a neighbour on each side, the rows do not depend on where the map is cut.
    low = max(0, first // MASK_STRIDE - 1)
    high = min(height, (last - 1) // MASK_STRIDE + 2)
    size = (width * MASK_STRIDE, (high - low) * MASK_STRIDE)
    enlarged = cv2.resize(values[low:high], size, interpolation=cv2.INTER_LINEAR)
    return enlarged[first - low * MASK_STRIDE : last - low * MASK_STRIDE]


def _sampled_lines(old: int, new: int) -> Lines:
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    places = np.maximum(places - np.float32(0.5), 0)
    first = np.minimum(np.floor(places).astype(np.int64), old - 1)
    return Lines(first, places - first.astype(np.float32))


def _span(lines: Lines | None, start: int, stop: int) -> tuple[int, int]:
    """Return the new lines that sample the old lines from ``start`` to ``stop``."""
    if lines is None:
        return start, stop
    first, last = np.searchsorted(lines.first, (start - 1, stop)).tolist()
    return first, last


def _cut(lines: Lines, start: int, stop: int) -> Lines:
    return Lines(lines.first[start:stop], lines.weight[start:stop])


def _resample(part: np.ndarray, offset: int, lines: Lines, axis: int) -> np.ndarray:
    """Scale a part of an image along one axis.

    Lines beyond the part are taken to equal its outermost ones.

    Args:
        part: ``(h, w)``.
        offset: line of the image at which the part starts.
        lines: the new lines.
        axis: the axis.
    """
    last = part.shape[axis] - 1
    places = lines.first - offset
    low = part.take(places.clip(0, last), axis=axis)
    high = part.take((places + 1).clip(0, last), axis=axis)
    weight = lines.weight[:, None] if axis == 0 else lines.weight
    low *= 1 - weight
    high *= weight
    low += high
    return low
