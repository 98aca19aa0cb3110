"""Affine transforms and quarter turns, which fvcore lacks, and flips of images with one column."""

from __future__ import annotations

import math

import cv2
import numpy as np
from detectron2.data.transforms import Transform, VFlipTransform
from numpy.typing import ArrayLike


class AffineTransform(Transform):
    """An affine transform that keeps the size of the image.

    Images are sampled bilinearly, masks at the nearest pixel. Uncovered areas are filled in images
    and empty in masks. Coordinates are mapped exactly.
    """

    def __init__(self, matrix: ArrayLike, fill: tuple[float, ...] = (0.0,)) -> None:
        """
        Args:
            matrix: ``(2, 3)`` matrix from old to new coordinates (x, y), in which pixel i covers
                [i, i + 1).
            fill: value of each channel in uncovered areas.
        """
        super().__init__()
        self.matrix = np.asarray(matrix, dtype=np.float64)
        self.fill = tuple(fill)
        # In OpenCV, the centre of pixel i is at i.
        self._cv_matrix = self.matrix.copy()
        self._cv_matrix[:, 2] += self.matrix[:, :2] @ (0.5, 0.5) - 0.5

    @classmethod
    def about_center(
        cls, linear: ArrayLike, height: int, width: int, fill: tuple[float, ...]
    ) -> AffineTransform:
        """Return the transform of a ``(2, 2)`` matrix about the centre of the image."""
        center = np.array([width / 2, height / 2])
        offset = center - np.asarray(linear) @ center
        return cls(np.column_stack([linear, offset]), fill)

    @classmethod
    def rotation(
        cls, degrees: float, height: int, width: int, fill: tuple[float, ...]
    ) -> AffineTransform:
        """Return a counter-clockwise rotation about the centre of the image."""
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        return cls.about_center(np.array([[c, s], [-s, c]]), height, width, fill)

    def _warp(self, image: np.ndarray, interpolation: int, fill: tuple[float, ...]) -> np.ndarray:
        height, width = image.shape[:2]
        warped = cv2.warpAffine(
            image,
            self._cv_matrix,
            (width, height),
            flags=interpolation,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=fill,
        )
        # OpenCV drops a channel dimension of size one.
        return warped.reshape(image.shape)

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._warp(img, cv2.INTER_LINEAR, self.fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        pixels = segmentation.astype(np.uint8) if segmentation.dtype == bool else segmentation
        return self._warp(pixels, cv2.INTER_NEAREST, (0,)).astype(segmentation.dtype, copy=False)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords @ self.matrix[:, :2].T + self.matrix[:, 2]

    def inverse(self) -> AffineTransform:
        back = np.linalg.inv(self.matrix[:, :2])
        return AffineTransform(np.column_stack([back, -back @ self.matrix[:, 2]]), self.fill)


class VerticalFlipTransform(VFlipTransform):
    """fvcore's ``VFlipTransform``, which fails on a column that was flipped horizontally.

    NumPy regards it as contiguous in spite of its negative stride, which PyTorch does not accept.
    """

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.flip(img, axis=-3 if img.ndim > 2 else 0)


class QuarterTurnTransform(Transform):
    """A counter-clockwise rotation by a multiple of 90 degrees, without resampling."""

    def __init__(self, turns: int, height: int, width: int) -> None:
        """
        Args:
            turns: number of quarter turns.
            height: height of the image before the rotation.
            width: width of the image before the rotation.
        """
        super().__init__()
        self.turns, self.height, self.width = turns % 4, height, width

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return np.rot90(img, self.turns)

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        x, y = coords[..., 0], coords[..., 1]
        w, h = self.width, self.height
        x, y = {0: (x, y), 1: (y, w - x), 2: (w - x, h - y), 3: (h - y, x)}[self.turns]
        return np.stack([x, y], axis=-1)

    def inverse(self) -> QuarterTurnTransform:
        size = (self.height, self.width) if self.turns % 2 == 0 else (self.width, self.height)
        return QuarterTurnTransform(-self.turns, *size)
