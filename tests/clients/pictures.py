"""Masks as other programs draw them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

ZOOM = 8


def painted(polygons: Iterable[Iterable[float]], height: int, width: int) -> np.ndarray:
    """Draw polygons (x0, y0, x1, y1, ...) over each other; return the pixels that they cover.

    They are drawn by Pillow, enlarged, because it counts vertices from the centres of pixels.
    """
    picture = Image.new("L", (width * ZOOM, height * ZOOM))
    for polygon in polygons:
        ImageDraw.Draw(picture).polygon([ZOOM * v for v in polygon], fill=1)
    return np.array(picture)[ZOOM // 2 :: ZOOM, ZOOM // 2 :: ZOOM] > 0


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return np.logical_and(a, b).sum() / max(np.logical_or(a, b).sum(), 1)
