"""Random augmentation of overhead images: scale jitter, RandAugment, flips and quarter turns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from PIL import Image, ImageEnhance, ImageOps

from ..errors import UserError
from .readers import uses_raster_reader
from .transforms import (
    AffineTransform,
    PlacementTransform,
    QuarterTurnTransform,
    ResizeTransform,
    VerticalFlipTransform,
)

logger = logging.getLogger(__name__)

MAX_MAGNITUDE = 30


class ResizeShortestEdge(T.ResizeShortestEdge):
    """Detectron2's ``ResizeShortestEdge``, antialiased, with sides of at least one pixel.

    The shorter side of a long image, such as 9000x2 pixels, would be rounded to 0.
    """

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if not isinstance(transform, T.ResizeTransform):
            return transform  # A size of 0 switches the resizing off.
        return _antialiased(transform)

    @staticmethod
    def get_output_shape(
        oldh: int, oldw: int, short_edge_length: int, max_size: int
    ) -> tuple[int, int]:
        height, width = T.ResizeShortestEdge.get_output_shape(
            oldh, oldw, short_edge_length, max_size
        )
        return max(height, 1), max(width, 1)


class ResizeScale(T.ResizeScale):
    """Detectron2's ``ResizeScale``, antialiased, with sides of at least one pixel."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        return _antialiased(super().get_transform(image))


def _antialiased(transform: T.ResizeTransform) -> ResizeTransform:
    sides = max(int(transform.new_h), 1), max(int(transform.new_w), 1)
    return ResizeTransform(transform.h, transform.w, *sides, transform.interp)


class RandomPlacement(T.Augmentation):
    """Place an image at a random position on a square canvas, cropping it if it is larger.

    In contrast to Detectron2's ``FixedSizeCrop``, a smaller image is not always at the top left.
    """

    def __init__(self, size: int, fill: Sequence[float]) -> None:
        """
        Args:
            size: height and width of the canvas.
            fill: value of each channel in uncovered areas.
        """
        super().__init__()
        self.size = size
        self.fill = tuple(fill)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        height, width = image.shape[:2]
        x, y = (
            int(np.random.randint(min(free, 0), max(free, 0) + 1))
            for free in (self.size - width, self.size - height)
        )
        return PlacementTransform(x, y, (height, width), (self.size, self.size), self.fill)


class RandomFlip(T.RandomFlip):
    """Detectron2's ``RandomFlip``, also for images with a single column."""

    def get_transform(self, image: np.ndarray) -> T.Transform:
        transform = super().get_transform(image)
        if isinstance(transform, T.VFlipTransform):
            return VerticalFlipTransform(transform.height)
        return transform


class RandomQuarterTurn(T.Augmentation):
    """Rotate an image by 0, 90, 180 or 270 degrees with equal probability."""

    def __init__(self, sideways: bool | None = None) -> None:
        """
        Args:
            sideways: whether to rotate by 90 or 270 degrees (True) or by 0 or 180 degrees (False);
                None to draw from all four.
        """
        super().__init__()
        self.sideways = sideways

    def get_transform(self, image: np.ndarray) -> T.Transform:
        turns = np.random.randint(4)
        if self.sideways is not None:
            turns = turns // 2 * 2 + self.sideways
        return QuarterTurnTransform(turns, *image.shape[:2])


class RandAugment(T.Augmentation):
    """RandAugment (Cubuk et al., 2020): N random operations of magnitude M.

    Rotate, ShearX, ShearY, TranslateX and TranslateY move the image, masks and boxes, and fill the
    uncovered area. The others change the image only. Maximum magnitudes are those of the paper and
    of torchvision: 30 degrees, a shear of 0.3, a shift by 150/331 of the side, factors of 1 +- 0.9,
    4 bits, and solarisation of all values. Shears leave the image's centre in place, so that equal
    parts are lost on both sides.

    Operations on colours are Pillow's, for 8-bit images. Those in :data:`BAND_OPERATIONS` have a
    form for float32 images of any bands.
    """

    def __init__(
        self,
        num_ops: int = 2,
        magnitude: int = 9,
        *,
        operations: Sequence[str] = (),
        image_format: str = "BGR",
        fill: Sequence[float] = (128.0, 128.0, 128.0),
        of_bands: bool = False,
    ) -> None:
        """
        Args:
            num_ops: N, the number of operations per image.
            magnitude: M, from 0 to 30.
            operations: names of the operations to draw from; if empty, all of :data:`OPERATIONS`.
            image_format: "BGR", "RGB" or "L"; not used with ``of_bands``.
            fill: value of each channel in uncovered areas.
            of_bands: whether images are float32 with values from 0 to 255, of any bands.

        Raises:
            ValueError: if an argument is invalid.
        """
        super().__init__()
        if num_ops < 0:
            raise ValueError(f"num_ops is {num_ops}; it must not be negative")
        if not 0 <= magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"magnitude is {magnitude}; it must be from 0 to {MAX_MAGNITUDE}")
        unknown = set(operations) - set(OPERATIONS)
        if unknown:
            raise ValueError(
                f"unknown operations {', '.join(sorted(unknown))}; choose from "
                f"{', '.join(OPERATIONS)}"
            )
        if not of_bands and image_format not in ("BGR", "RGB", "L"):
            raise ValueError(f"image format {image_format!r} is not BGR, RGB or L")
        self.num_ops = num_ops
        self.magnitude = magnitude
        self.operations = tuple(operations) or tuple(OPERATIONS)
        self.image_format = image_format
        self.of_bands = of_bands
        self.fill = tuple(fill)

    def get_transform(self, image: np.ndarray) -> T.TransformList:
        names = np.random.choice(self.operations, self.num_ops)
        signs = np.random.choice((-1, 1), self.num_ops)
        return T.TransformList(
            [self.operation(n, int(s), *image.shape[:2]) for n, s in zip(names, signs)]
        )

    def operation(self, name: str, sign: int, height: int, width: int) -> T.Transform:
        """Return the transform of an operation at the magnitude M.

        Args:
            name: one of :data:`OPERATIONS`.
            sign: 1 or -1, the direction of operations that have two.
            height: height of the image.
            width: width of the image.
        """
        level = self.magnitude / MAX_MAGNITUDE
        kind, build = OPERATIONS[name]
        if kind == "geometric":
            return build(sign * level, height, width, self.fill)
        if self.of_bands:
            of_bands = BAND_OPERATIONS[name](sign * level if kind == "signed" else level)
            return T.ColorTransform(lambda image: of_bands(image).clip(0, 255))
        operation = build(sign * level if kind == "signed" else level)

        def apply(image: np.ndarray) -> np.ndarray:
            return _with_pillow(operation, image, self.image_format)

        return T.ColorTransform(apply)


def _with_pillow(
    operation: Callable[[Image.Image], Image.Image], image: np.ndarray, image_format: str
) -> np.ndarray:
    if image_format == "L":
        return np.array(operation(Image.fromarray(image[..., 0])))[..., None]
    if image_format == "RGB":
        return np.array(operation(Image.fromarray(image)))
    rgb = Image.fromarray(np.ascontiguousarray(image[..., ::-1]))
    return np.array(operation(rgb))[..., ::-1]


def _shear_x(level: float, height: int, width: int, fill: tuple[float, ...]) -> AffineTransform:
    return AffineTransform.about_center(np.array([[1, 0.3 * level], [0, 1]]), height, width, fill)


def _shear_y(level: float, height: int, width: int, fill: tuple[float, ...]) -> AffineTransform:
    return AffineTransform.about_center(np.array([[1, 0], [0.3 * level, 1]]), height, width, fill)


def _translate_x(level: float, height: int, width: int, fill: tuple[float, ...]) -> AffineTransform:
    # A shift by whole pixels needs no interpolation.
    return AffineTransform([[1, 0, round(150 / 331 * width * level)], [0, 1, 0]], fill)


def _translate_y(level: float, height: int, width: int, fill: tuple[float, ...]) -> AffineTransform:
    return AffineTransform([[1, 0, 0], [0, 1, round(150 / 331 * height * level)]], fill)


def _rotate(level: float, height: int, width: int, fill: tuple[float, ...]) -> AffineTransform:
    return AffineTransform.rotation(30 * level, height, width, fill)


def _enhancer(kind: type) -> Callable[[float], Callable[[Image.Image], Image.Image]]:
    return lambda level: lambda image: kind(image).enhance(1 + 0.9 * level)


# Name: (kind, factory). The factory's level is from 0 to 1, or from -1 to 1 for "geometric" and
# "signed" operations.
OPERATIONS: dict[str, tuple[str, Callable[..., Any]]] = {
    "Identity": ("plain", lambda level: lambda image: image),
    "AutoContrast": ("plain", lambda level: ImageOps.autocontrast),
    "Equalize": ("plain", lambda level: ImageOps.equalize),
    "Solarize": (
        "plain",
        lambda level: lambda image: ImageOps.solarize(image, round(256 * (1 - level))),
    ),
    "Posterize": (
        "plain",
        lambda level: lambda image: ImageOps.posterize(image, 8 - round(4 * level)),
    ),
    "Color": ("signed", _enhancer(ImageEnhance.Color)),
    "Contrast": ("signed", _enhancer(ImageEnhance.Contrast)),
    "Brightness": ("signed", _enhancer(ImageEnhance.Brightness)),
    "Sharpness": ("signed", _enhancer(ImageEnhance.Sharpness)),
    "Rotate": ("geometric", _rotate),
    "ShearX": ("geometric", _shear_x),
    "ShearY": ("geometric", _shear_y),
    "TranslateX": ("geometric", _translate_x),
    "TranslateY": ("geometric", _translate_y),
}
"""The 14 operations of RandAugment (Cubuk et al., 2020, section 3)."""


def _blend(level: float, image: np.ndarray, degenerate: np.ndarray) -> np.ndarray:
    """Move an image away from a degenerate one, or towards it, as Pillow's enhancers do."""
    blended: np.ndarray = degenerate + np.float32(1 + 0.9 * level) * (image - degenerate)
    return blended


def _smoothed(image: np.ndarray) -> np.ndarray:
    """Return an image under Pillow's filter SMOOTH, which leaves the outermost pixels."""
    kernel = np.ones((3, 3), np.float32)
    kernel[1, 1] = 5
    smooth = image.copy()
    filtered = cv2.filter2D(np.ascontiguousarray(image), -1, kernel / kernel.sum())
    smooth[1:-1, 1:-1] = filtered.reshape(image.shape)[1:-1, 1:-1]
    return smooth


def _stretched(image: np.ndarray) -> np.ndarray:
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    scale = np.where(high > low, 255 / np.maximum(high - low, 1e-6), 1).astype(np.float32)
    return np.where(high > low, (image - low) * scale, image)


BAND_OPERATIONS: dict[str, Callable[[float], Callable[[np.ndarray], np.ndarray]]] = {
    "Identity": lambda level: lambda image: image,
    "AutoContrast": lambda level: _stretched,
    "Solarize": lambda level: (
        lambda image: np.where(image < round(256 * (1 - level)), image, 255 - image)
    ),
    # Each band about its own mean: the bands may measure different things.
    "Contrast": lambda level: lambda image: _blend(level, image, image.mean(axis=(0, 1))),
    "Brightness": lambda level: lambda image: _blend(level, image, np.zeros_like(image)),
    "Sharpness": lambda level: lambda image: _blend(level, image, _smoothed(image)),
}
"""Operations on float32 images ``(H, W, bands)`` from 0 to 255, as functions of the level.

Color is missing because it mixes red, green and blue, Posterize and Equalize because they need
8-bit integers.
"""


def _operations_of_bands(cfg: CfgNode) -> list[str]:
    """Return the operations of ``INPUT.RAND_AUGMENT`` for images of any bands.

    Raises:
        UserError: if an operation is listed that is for 8-bit colours only.
    """
    names = [n for n, (kind, _) in OPERATIONS.items() if kind == "geometric"] + ["Identity"]
    # Without a stretch, the values of an image do not have a known range.
    if cfg.INPUT.STRETCH.split() != ["none"]:
        names += [name for name in BAND_OPERATIONS if name != "Identity"]
    listed = list(cfg.INPUT.RAND_AUGMENT.OPERATIONS)
    unsuited = [name for name in listed or OPERATIONS if name in OPERATIONS and name not in names]
    if listed and unsuited:
        raise UserError(
            f"INPUT.RAND_AUGMENT.OPERATIONS has {', '.join(unsuited)}, which INPUT.BANDS and "
            f"INPUT.STRETCH do not allow; choose from {', '.join(names)}."
        )
    if unsuited:
        logger.info(
            "RandAugment leaves out %s, which need 8-bit colours or a stretch to 0-255.",
            ", ".join(unsuited),
        )
    return listed or names


def build_augmentations(
    cfg: CfgNode, is_train: bool, *, sideways: bool | None = None
) -> list[T.Augmentation]:
    """Return Detectron2's resizing and, in training, flips, quarter turns and RandAugment.

    With ``INPUT.SCALE_JITTER``, training images are resized to a random scale and put on a square
    canvas (large-scale jitter, Ghiasi et al., 2021) instead of Detectron2's resizing.
    ``INPUT.RANDOM_FLIP`` is "none", "horizontal", "vertical" or "both" (each with its own draw).

    Args:
        cfg: the config.
        is_train: whether the augmentations are for training.
        sideways: see :class:`RandomQuarterTurn`.

    Raises:
        UserError: if the value of a key is invalid.
    """
    resize_only = cfg.clone()
    resize_only.defrost()
    resize_only.INPUT.RANDOM_FLIP = "none"
    (resize,) = build_augmentation(resize_only, is_train)
    augmentations: list[T.Augmentation] = [
        ResizeShortestEdge(
            resize.short_edge_length,
            resize.max_size,
            "range" if resize.is_range else "choice",
            resize.interp,
        )
    ]
    if not is_train:
        return augmentations
    jitter = cfg.INPUT.SCALE_JITTER
    if jitter.ENABLED:
        augmentations = [
            ResizeScale(
                jitter.MIN_SCALE, jitter.MAX_SCALE, jitter.SIZE, jitter.SIZE, resize.interp
            ),
            RandomPlacement(jitter.SIZE, cfg.MODEL.PIXEL_MEAN),
        ]
    flip = cfg.INPUT.RANDOM_FLIP
    if flip not in ("none", "horizontal", "vertical", "both"):
        raise UserError(
            f"INPUT.RANDOM_FLIP is {flip!r}; it must be none, horizontal, vertical or both."
        )
    if flip in ("horizontal", "both"):
        augmentations.append(RandomFlip(horizontal=True, vertical=False))
    if flip in ("vertical", "both"):
        augmentations.append(RandomFlip(horizontal=False, vertical=True))
    if cfg.INPUT.RANDOM_QUARTER_TURN:
        augmentations.append(RandomQuarterTurn(sideways))
    if cfg.INPUT.RAND_AUGMENT.ENABLED:
        node = cfg.INPUT.RAND_AUGMENT
        of_bands = uses_raster_reader(cfg)
        try:
            augmentations.append(
                RandAugment(
                    node.NUM_OPS,
                    node.MAGNITUDE,
                    operations=_operations_of_bands(cfg) if of_bands else node.OPERATIONS,
                    image_format=cfg.INPUT.FORMAT,
                    fill=cfg.MODEL.PIXEL_MEAN,
                    of_bands=of_bands,
                )
            )
        except ValueError as error:
            raise UserError(f"INPUT.RAND_AUGMENT: {error}.") from error
    return augmentations
