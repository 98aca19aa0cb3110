"""Resizing of images to the size that a model was made for, with Detectron2's results."""

from __future__ import annotations

import numpy as np
from PIL import Image


def network_size(size: tuple[int, int], min_size: int, max_size: int) -> tuple[int, int]:
    """Return the (height, width) to which ``ResizeShortestEdge`` resizes an image.

    Args:
        size: (height, width) of the image.
        min_size: length of the shorter side; 0 to keep the size.
        max_size: maximum length of the longer side.
    """
    height, width = size
    if min_size == 0:
        return size
    scale = min_size * 1.0 / min(height, width)
    new_height, new_width = scale * height, scale * width
    if height < width:
        new_height = min_size
    else:
        new_width = min_size
    if max(new_height, new_width) > max_size:
        scale = max_size * 1.0 / max(new_height, new_width)
        new_height, new_width = new_height * scale, new_width * scale
    return max(1, int(new_height + 0.5)), max(1, int(new_width + 0.5))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image by Pillow's antialiased bilinear filter.

    Args:
        image: ``(H, W, C)`` uint8 or float32.
        size: (height, width) of the result.

    Returns:
        The resized image, of the same type.
    """
    if image.shape[:2] == size:
        return image
    if image.dtype == np.uint8 and image.shape[2] == 3:
        picture = Image.fromarray(np.ascontiguousarray(image))
        return np.asarray(picture.resize(size[::-1], Image.Resampling.BILINEAR))
    # Pillow has images of one band of any type, and of several bands of 8 bits.
    bands = [
        Image.fromarray(np.ascontiguousarray(image[:, :, band])).resize(
            size[::-1], Image.Resampling.BILINEAR
        )
        for band in range(image.shape[2])
    ]
    return np.stack([np.asarray(band) for band in bands], axis=2)
