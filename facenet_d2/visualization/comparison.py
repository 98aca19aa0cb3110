"""Pictures of the results of several models side by side."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .overlay import Color, one_line, text_font

WHITE, BLACK, DARK = (255, 255, 255), (0, 0, 0), (32, 32, 32)
# All in pixels.
GAP = 6
CAPTION_HEIGHT = 36
# Distance of a rectangle from the mask that it marks, whose outline stays visible.
MARK_MARGIN = 3


def resized(image: np.ndarray, width: int) -> np.ndarray:
    """Resize an image, ``(H, W, 3)``, to a width, keeping its aspect ratio."""
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    shrinks = width < image.shape[1]
    return cv2.resize(
        image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def draw_marks(
    drawing: np.ndarray, marks: Sequence[tuple[Sequence[float], Color]], scale: float
) -> None:
    """Draw rectangles around boxes.

    Args:
        drawing: ``(H, W, 3)`` uint8, drawn into.
        marks: boxes (x, y, width, height) in pixels of the image, and their RGB colours.
        scale: size of ``drawing`` relative to the image.
    """
    for box, color in marks:
        x, y, w, h = (v * scale for v in box)
        corners = (
            (round(x) - MARK_MARGIN, round(y) - MARK_MARGIN),
            (round(x + w) + MARK_MARGIN, round(y + h) + MARK_MARGIN),
        )
        cv2.rectangle(drawing, *corners, color, 2, cv2.LINE_AA)


def with_caption(image: np.ndarray, texts: Sequence[tuple[str, Color]]) -> np.ndarray:
    """Add a dark strip with texts in their RGB colours above an image."""
    strip = Image.new("RGB", (image.shape[1], CAPTION_HEIGHT), DARK)
    draw, font = ImageDraw.Draw(strip), text_font(18)
    x = 8.0
    for text, color in ((one_line(text), color) for text, color in texts):
        draw.text((x, CAPTION_HEIGHT / 2), text, fill=tuple(color), font=font, anchor="lm")
        x += draw.textlength(text, font=font) + 18
    return np.concatenate([np.asarray(strip), image])


def side_by_side(panels: Sequence[np.ndarray]) -> np.ndarray:
    """Join images of the same height in a row, with white gaps between them."""
    gap = np.full((panels[0].shape[0], GAP, 3), 255, np.uint8)
    return np.concatenate([part for p in panels for part in (p, gap)][:-1], axis=1)


def draw_figure(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    legend: Sequence[tuple[str, Color]],
) -> np.ndarray:
    """Arrange panels in a grid with titles above the columns and a legend below.

    Args:
        rows: panels of each row, ``(H, W, 3)`` uint8, RGB. All have the same width, those of a row
            the same height.
        titles: title of each column; those that are too wide are written smaller.
        legend: texts and the RGB colours that they explain.

    Returns:
        The figure, RGB uint8.
    """
    width = rows[0][0].shape[1]
    size = max(12, width // 18)
    strip = 2 * size
    body = [side_by_side(row) for row in rows]
    total = body[0].shape[1]
    below = _legend(legend, size, total)
    height = strip + sum(len(row) + GAP for row in body) + len(below)
    figure = Image.new("RGB", (total, height), WHITE)
    draw = ImageDraw.Draw(figure)
    for column, title in enumerate(map(one_line, titles)):
        middle = column * (width + GAP) + width / 2
        font = _fitting(title, size, width)
        draw.text((middle, strip / 2), title, fill=BLACK, font=font, anchor="mm")
    y = strip
    for row in body:
        figure.paste(Image.fromarray(row), (0, y))
        y += len(row) + GAP
    figure.paste(Image.fromarray(below), (0, y))
    return np.asarray(figure)


def _fitting(text: str, size: int, width: int) -> ImageFont.FreeTypeFont:
    """Return the font of a text that is at most ``width`` pixels wide."""
    length = text_font(size).getlength(text)
    return text_font(max(1, min(size, int(size * width / max(length, 1)))))


def _legend(legend: Sequence[tuple[str, Color]], size: int, width: int) -> np.ndarray:
    """Draw squares of the colours with their texts, in as many lines as the width requires."""
    font = text_font(size)
    margin = size / 2
    places, x, line = [], margin, 0
    for text, _ in legend:
        length = 1.5 * size + font.getlength(text)
        if x > margin and x + length > width:
            x, line = margin, line + 1
        places.append((x, line))
        x += length + 1.5 * size
    image = Image.new("RGB", (width, 2 * size * (line + 1) if legend else 0), WHITE)
    draw = ImageDraw.Draw(image)
    for (text, color), (x, line) in zip(legend, places, strict=True):
        middle = 2 * size * line + size
        draw.rectangle((x, middle - size / 2, x + size, middle + size / 2), fill=tuple(color))
        draw.text((x + 1.5 * size, middle), text, fill=BLACK, font=font, anchor="lm")
    return np.asarray(image)
