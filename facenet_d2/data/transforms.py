"""Transforms that fvcore lacks: affine, quarter turns and placement, for any bands and bits.

Resizing and flips are Detectron2's, with corrections.
"""

from __future__ import annotations

import math

import cv2
import detectron2.data.transforms as T
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.transforms import Transform, VFlipTransform
from numpy.typing import ArrayLike
from PIL import Image

# OpenCV fills uncovered areas in at most this number of channels at once.
MAX_CHANNELS = 4


class ResizeTransform(T.ResizeTransform):
    """Detectron2's ``ResizeTransform``, antialiased for floating-point images too.

    Detectron2 resizes 8-bit images with Pillow, whose triangle filter widens when an image shrinks,
    but samples others at four pixels, so that details disappear or alias.
    """

    def apply_image(self, img: np.ndarray, interp: int | None = None) -> np.ndarray:
        interp = self.interp if interp is None else interp
        if img.dtype == np.uint8 or interp != Image.Resampling.BILINEAR:
            return super().apply_image(img, interp)
        assert img.shape[:2] == (self.h, self.w)
        bands = torch.from_numpy(np.ascontiguousarray(img.reshape(self.h, self.w, -1)))
        resized = F.interpolate(
            bands.permute(2, 0, 1)[None],
            (self.new_h, self.new_w),
            mode="bilinear",
            antialias=True,
            align_corners=False,
        )[0].permute(1, 2, 0)
        return resized.reshape(self.new_h, self.new_w, *img.shape[2:]).contiguous().numpy()

    def inverse(self) -> ResizeTransform:
        return ResizeTransform(self.new_h, self.new_w, self.h, self.w, self.interp)


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
        if image.ndim == 3 and image.shape[2] > MAX_CHANNELS:
            parts = [
                self._warp(image[..., i : i + MAX_CHANNELS], interpolation, self._fill_of(i, fill))
                for i in range(0, image.shape[2], MAX_CHANNELS)
            ]
            return np.concatenate(parts, axis=2)
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

    @staticmethod
    def _fill_of(first: int, fill: tuple[float, ...]) -> tuple[float, ...]:
        """Return the fill of the channels from ``first``."""
        return fill[first : first + MAX_CHANNELS] if len(fill) > MAX_CHANNELS else fill

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


class PlacementTransform(Transform):
    """A shift by whole pixels on to a canvas of another size.

    What does not fit is cut; uncovered areas are filled in images and empty in masks.
    """

    def __init__(
        self,
        x: int,
        y: int,
        old_size: tuple[int, int],
        new_size: tuple[int, int],
        fill: tuple[float, ...] = (0.0,),
    ) -> None:
        """
        Args:
            x: column of the canvas at which the image starts; may be negative.
            y: row of the canvas at which the image starts; may be negative.
            old_size: (height, width) of the image.
            new_size: (height, width) of the canvas.
            fill: value of each channel in uncovered areas; one value for all channels, or at least
                as many as the image has.
        """
        super().__init__()
        self.x, self.y = x, y
        self.old_size, self.new_size = old_size, new_size
        self.fill = tuple(fill)

    def _place(self, image: np.ndarray, fill: tuple[float, ...]) -> np.ndarray:
        height, width = self.new_size
        values = np.asarray(fill[: image.shape[2]] if image.ndim == 3 else fill[0])
        if np.issubdtype(image.dtype, np.integer):
            values = values.round()
        canvas = np.empty((height, width, *image.shape[2:]), image.dtype)
        canvas[...] = values
        top, bottom = max(self.y, 0), min(self.y + self.old_size[0], height)
        left, right = max(self.x, 0), min(self.x + self.old_size[1], width)
        if top < bottom and left < right:
            canvas[top:bottom, left:right] = image[
                top - self.y : bottom - self.y, left - self.x : right - self.x
            ]
        return canvas

    def apply_image(self, img: np.ndarray) -> np.ndarray:
        return self._place(img, self.fill)

    def apply_segmentation(self, segmentation: np.ndarray) -> np.ndarray:
        return self._place(segmentation, (0,))

    def apply_coords(self, coords: np.ndarray) -> np.ndarray:
        return coords + (self.x, self.y)

    def inverse(self) -> PlacementTransform:
        return PlacementTransform(-self.x, -self.y, self.new_size, self.old_size, self.fill)


class VerticalFlipTransform(VFlipTransform):
    """fvcore's ``VFlipTransform``, fixed for images of one column that were flipped horizontally.

    NumPy regards such an image as contiguous in spite of its negative stride, which PyTorch does
    not accept.
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
