"""Overlays of instances on images."""

from __future__ import annotations

import colorsys
import functools
from collections.abc import Iterable, Sequence

import cv2
import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from matplotlib.font_manager import FontProperties, findfont
from PIL import Image, ImageDraw, ImageFont

from ..structures.rle_masks import RLEMasks

# Smaller images are enlarged to about this longest side, so that labels are legible.
MIN_LONGEST_SIDE = 800

# Opacity of masks and of the background of labels, as in Detectron2's Visualizer.
MASK_ALPHA, LABEL_ALPHA = 0.4, 0.8

# Objects with a box of fewer pixels, or less high, have their label at a corner.
SMALL_AREA, SMALL_HEIGHT = 1000, 40

Color = Sequence[int]


def draw_instances(
    image: np.ndarray, instances: Instances, metadata: Metadata, *, with_labels: bool = True
) -> np.ndarray:
    """Draw masks with outlines, class names and scores on an image, with one colour per class.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        instances: predictions with ``pred_masks``, ``pred_classes`` and ``scores``, on the CPU.
        metadata: ``thing_classes`` and optionally ``thing_colors``.
        with_labels: whether to draw class names and scores.

    Returns:
        RGB uint8 image of the same size or, for a small image, of a multiple of it.
    """
    classes = instances.pred_classes.tolist()
    names = metadata.thing_classes
    labels = [f"{names[c]} {score:.0%}" for c, score in zip(classes, instances.scores.tolist())]
    return draw_masks(
        image, instances.pred_masks, classes, metadata, labels=labels, with_labels=with_labels
    )


def draw_masks(
    image: np.ndarray,
    masks: RLEMasks | Iterable[np.ndarray],
    classes: Sequence[int],
    metadata: Metadata,
    *,
    labels: Sequence[str] | None = None,
    boxes: np.ndarray | None = None,
    with_labels: bool = True,
) -> np.ndarray:
    """Draw masks with outlines on an image, with one colour per class.

    The overlay looks like one of Detectron2's ``Visualizer``, which is not used because it needs
    9 GB for an image of 9000x9000 pixels. Only the crop of one mask exists at a time.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        masks: N masks; an iterable of ``(H, W)`` masks is used one after the other.
        classes: class indices of the N masks.
        metadata: ``thing_classes`` and optionally ``thing_colors``.
        labels: N labels; by default the names of the classes.
        boxes: optional boxes to draw, ``(N, 4)`` as (x0, y0, x1, y1).
        with_labels: whether to draw labels.

    Returns:
        RGB uint8 image of the same size or, for a small image, of a multiple of it.
    """
    height, width = image.shape[:2]
    if not isinstance(masks, RLEMasks):
        masks = RLEMasks.from_dense(masks, (height, width))
    if labels is None:
        labels = [metadata.thing_classes[c] for c in classes]
    palette = np.array(metadata.get("thing_colors", None) or colormap(rgb=True), int).tolist()
    colors = [palette[c % len(palette)] for c in classes]
    canvas = _Canvas(image)
    extents = masks.boxes() if boxes is None else torch.as_tensor(boxes)
    places: dict[int, tuple[float, float]] = {}
    # Smaller objects are drawn over larger ones, and labels over all objects.
    for i in np.argsort(-masks.areas(), kind="stable").tolist():
        crop, x, y = masks.crop(i)
        if crop.size:
            canvas.draw_mask(crop, x, y, colors[i])
            places[i] = _label_place(crop, x, y, height, canvas.scale)
        if boxes is not None:
            canvas.draw_box(boxes[i], colors[i])
            places[i] = (boxes[i, 0], boxes[i, 1])
    if with_labels:
        heights = (extents[:, 3] - extents[:, 1]).tolist()
        for i, place in places.items():
            canvas.draw_label(labels[i], place, colors[i], heights[i], centered=boxes is None)
    return canvas.pixels


def _label_place(crop: np.ndarray, x: int, y: int, height: int, scale: int) -> tuple[float, float]:
    """Return the median pixel of a mask or, for a small one, a corner of its box."""
    h, w = crop.shape
    if h * w < SMALL_AREA * scale or h < SMALL_HEIGHT * scale:
        return (x + w, y) if y + h >= height - 5 else (x, y + h)
    of_columns, of_rows = (crop.sum(axis=axis).cumsum() for axis in (0, 1))
    middle = of_rows[-1] / 2
    return float(x + of_columns.searchsorted(middle)), float(y + of_rows.searchsorted(middle))


class _Canvas:
    """An image to draw on, in coordinates of the original one, with sizes as in Detectron2's."""

    def __init__(self, image: np.ndarray) -> None:
        height, width = image.shape[:2]
        self.scale = max(1, round(MIN_LONGEST_SIDE / max(height, width)))
        self.pixels = self._enlarged(np.array(image, order="C"))
        self.geometric_side = (height * width) ** 0.5
        self.points = max(self.geometric_side // 90, 10 // self.scale)

    def draw_mask(self, crop: np.ndarray, x: int, y: int, color: Color) -> None:
        """Blend a mask, ``(h, w)`` bool that starts at (x, y), with the image; draw its outline."""
        s = self.scale
        # Crops are stored by columns, which OpenCV transposes faster than NumPy.
        mask = self._enlarged(cv2.transpose(crop.T.astype(np.uint8)))
        region = self.pixels[y * s : y * s + len(mask), x * s : x * s + mask.shape[1]]
        # The colour that each value of a channel is blended to.
        blended = (1 - MASK_ALPHA) * np.arange(256)[:, None] + MASK_ALPHA * np.array(color)
        cv2.copyTo(cv2.LUT(region, blended.round().astype(np.uint8)[None]), mask, region)
        outlines, _ = cv2.findContours(
            mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x * s, y * s)
        )
        thickness = self._pixels(max(self.points // 15 * s, 1))
        cv2.drawContours(self.pixels, outlines, -1, color, thickness, cv2.LINE_AA)

    def draw_box(self, box: np.ndarray, color: Color) -> None:
        """Draw the outline of a box (x0, y0, x1, y1)."""
        x0, y0, x1, y1 = (round(float(v) * self.scale) for v in box)
        thickness = self._pixels(max(self.points / 4, 1))
        cv2.rectangle(self.pixels, (x0, y0), (x1, y1), color, thickness)

    def draw_label(
        self,
        text: str,
        place: tuple[float, float],
        color: Color,
        height: float,
        *,
        centered: bool,
    ) -> None:
        """Write a text on a dark background.

        Args:
            text: the text.
            place: (x, y) of the middle or the left end of the text's top. Labels that do not fit
                there are moved into the image.
            color: colour of the object.
            height: height of the object, which determines the size of the text.
            centered: whether ``place`` is the middle.
        """
        text = one_line(text)
        factor = min(max((height / self.geometric_side - 0.02) / 0.08 + 1, 1.2), 2) * 0.5
        font = text_font(self._pixels(factor * self.points * self.scale))
        pad = max(1, int(font.size) // 10)
        x0, y0, x1, y1 = (round(v) for v in font.getbbox(text))
        w, h = x1 - x0 + 2 * pad, y1 - y0 + 2 * pad
        left = round(place[0] * self.scale) - (w // 2 if centered else 0)
        left = max(0, min(left, self.pixels.shape[1] - w))
        top = max(0, min(round(place[1] * self.scale), self.pixels.shape[0] - h))
        region = self.pixels[top : top + h, left : left + w]
        label = Image.fromarray((region * (1 - LABEL_ALPHA)).astype(np.uint8))
        ImageDraw.Draw(label).text((pad - x0, pad - y0), text, fill=_lighter(color), font=font)
        region[...] = np.asarray(label)

    def _enlarged(self, pixels: np.ndarray) -> np.ndarray:
        if self.scale == 1:
            return pixels
        return pixels.repeat(self.scale, axis=0).repeat(self.scale, axis=1)

    @staticmethod
    def _pixels(points: float) -> int:
        """Convert points at 100 dots per inch, Matplotlib's default."""
        return max(1, round(points * 100 / 72))


def one_line(text: str) -> str:
    """Return a text that can be drawn: without line breaks and broken characters."""
    # JSON can contain single surrogates, which are not characters.
    return " ".join(text.encode(errors="replace").decode().split())


@functools.lru_cache(maxsize=64)
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """Return the sans-serif font in a size in pixels."""
    # Pillow's other layout engine fails on control characters.
    return ImageFont.truetype(
        findfont(FontProperties(["sans-serif"])), size, layout_engine=ImageFont.Layout.BASIC
    )


def _lighter(color: Color) -> tuple[int, int, int]:
    """Return a lighter shade of a colour that is legible on black."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*(v / 255 for v in color))
    shade = [max(v, 0.2) for v in colorsys.hls_to_rgb(hue, min(1.7 * lightness, 1), saturation)]
    shade[shade.index(max(shade))] = max(0.8, *shade)
    red, green, blue = (round(255 * v) for v in shade)
    return red, green, blue
