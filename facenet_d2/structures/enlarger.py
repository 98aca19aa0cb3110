"""Enlargement of parts of mask probabilities to crops of binary masks at the image's size.

Probabilities are scaled to the size of the padded input, cropped to the image, and scaled to its
own size, bilinearly both times. This is for a CPU, and needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from ..stride import MASK_STRIDE
from .crops import EMPTY_CROP, Crop, tight_crop

# Number of lines of the result that are computed at a time. Each depends on few lines of the map,
# so blocks keep the matrix products small.
BLOCK = 256
# Number of pixels that a part of a map needs around those above the threshold. Scaling twice
# interpolates between up to three adjacent pixels along an axis, so a result above the threshold
# depends on pixels at most two away from one that is.
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


class Axis(NamedTuple):
    """Scaling of one axis, from a map to the image, as a matrix.

    Attributes:
        matrix: ``(lines of the image, lines of the map)`` float32; weights of the map's lines.
        first: first line of the map that each line of the image depends on.
        last: last line of the map that it depends on.
        low: ``low[i]`` is the first line of the image that depends on line ``i`` of the map or a
            later one; ``(lines of the map + 1,)``.
        high: ``high[i]`` is the end (exclusive) of the image's lines that depend on a line of the
            map before ``i``; of the same length.
    """

    matrix: np.ndarray
    first: Sequence[int]
    last: Sequence[int]
    low: Sequence[int]
    high: Sequence[int]

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the lines of the image that depend on the map's lines from start to stop."""
        return self.low[start], self.high[stop]


def box_with_margin(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return the box of the pixels of a ``(h, w)`` bool mask with their :data:`MARGIN`.

    Returns:
        left, top, right and bottom within the mask; zeros for an empty mask.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    if width == 0:
        return 0, 0, 0, 0
    right, bottom = min(x + width + MARGIN, mask.shape[1]), min(y + height + MARGIN, mask.shape[0])
    return max(x - MARGIN, 0), max(y - MARGIN, 0), right, bottom


class Enlarger:
    """Enlarges the masks of one image."""

    def __init__(
        self,
        map_size: tuple[int, int],
        input_size: tuple[int, int],
        image_size: tuple[int, int],
        threshold: float,
        stride: int = MASK_STRIDE,
    ) -> None:
        """
        Args:
            map_size: (height, width) of the maps, those of the padded input divided by the stride.
            input_size: (height, width) of the network's input without padding.
            image_size: (height, width) of the result.
            threshold: probability above which a pixel is set.
            stride: stride of the maps.
        """
        self.input_size = input_size
        self.image_size = image_size
        self.threshold = np.float32(threshold)
        self._rows, self._columns = (
            _axis(*sizes, stride) for sizes in zip(map_size, input_size, image_size)
        )

    def __call__(self, part: Part) -> Crop:
        """Return the mask of the part at the size of the image."""
        height, width = part.values.shape
        top, bottom = self._rows.span(part.y, part.y + height)
        left, right = self._columns.span(part.x, part.x + width)
        if bottom <= top or right <= left:
            return EMPTY_CROP
        columns = [
            part.values[:, low:high] @ weights.T
            for _, weights, low, high in _blocks(self._columns, left, right, part.x, width)
        ]
        wide = np.concatenate(columns, axis=1) if len(columns) > 1 else columns[0]
        mask = np.empty((bottom - top, right - left), bool)
        for lines, weights, low, high in _blocks(self._rows, top, bottom, part.y, height):
            np.greater(weights @ wide[low:high], self.threshold, out=mask[lines])
        return tight_crop(mask, left, top)


def _blocks(
    axis: Axis, start: int, stop: int, offset: int, length: int
) -> Iterator[tuple[slice, np.ndarray, int, int]]:
    """Cut a part of an axis into blocks.

    Args:
        axis: the axis.
        start: first line of the image.
        stop: line after the last one.
        offset: line of the map at which a part of it starts. Beyond the part, the map counts as 0,
            which is at most its true value.
        length: number of lines of this part.

    Yields:
        the block's lines, counted from ``start``; their weights of the part's lines that they
        depend on; the first of these lines, and the end of them, counted from ``offset``.
    """
    for first in range(start, stop, BLOCK):
        last = min(first + BLOCK, stop)
        low = max(axis.first[first], offset)
        high = min(axis.last[last - 1] + 1, offset + length)
        weights = axis.matrix[first:last, low:high]
        yield slice(first - start, last - start), weights, low - offset, high - offset


# Images of a video and tiles of a scene have the same sizes.
@lru_cache(maxsize=8)
def _axis(map_lines: int, input_lines: int, image_lines: int, stride: int) -> Axis:
    """Return the scaling of one axis.

    Args:
        map_lines: number of lines of the map.
        input_lines: number of lines of the network's input without padding, to which the enlarged
            map is cropped.
        image_lines: number of lines of the image.
        stride: stride of the map.
    """
    matrix = _bilinear(map_lines, map_lines * stride)[:input_lines]
    if input_lines != image_lines:
        first, second, weight = _neighbours(input_lines, image_lines)
        matrix = matrix[first] * (1 - weight)[:, None] + matrix[second] * weight[:, None]
    used = matrix > 0
    first, last = used.argmax(axis=1), map_lines - 1 - used[:, ::-1].argmax(axis=1)
    every = np.arange(map_lines + 1)
    low, high = np.searchsorted(last, every), np.searchsorted(first, every)
    return Axis(matrix, first.tolist(), last.tolist(), low.tolist(), high.tolist())


def _bilinear(old: int, new: int) -> np.ndarray:
    """Return bilinear scaling as a matrix, ``(new, old)``."""
    first, second, weight = _neighbours(old, new)
    matrix = np.zeros((new, old), np.float32)
    places = np.arange(new)
    matrix[places, first] = 1 - weight
    # At the end, both neighbours are the same line.
    matrix[places, second] += weight
    return matrix


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the two old lines that each new line lies between, and the weight of the second."""
    places = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * np.float32(old / new)
    places = np.maximum(places - np.float32(0.5), 0)
    first = np.minimum(np.floor(places).astype(np.int64), old - 1)
    second = np.minimum(first + 1, old - 1)
    return first, second, places - first.astype(np.float32)
