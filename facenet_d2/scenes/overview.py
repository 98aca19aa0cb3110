"""A picture of a scene with its instances."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import shapely
from affine import Affine
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from .base_writer import SceneWriter, scene_metadata
from .description import SceneDescription
from .polygons import transformed
from .vectors import Batch

_FILL = 0.4
_FONT_SIZE = 14
_MARGIN = 8
# Binary digits of the fractions of pixels in OpenCV's coordinates.
_SHIFT = 4


class OverviewWriter(SceneWriter):
    """Draws instances on a reduced picture of the scene, coloured by class, above a legend."""

    def __init__(self, path: Path, scene: SceneDescription, picture: np.ndarray) -> None:
        """
        Args:
            path: PNG file.
            scene: description of the scene.
            picture: ``(h, w, 3)`` uint8, RGB; the whole scene at any reduction.

        Raises:
            ValueError: If the picture has another shape or type.
        """
        super().__init__(path, scene)
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"a picture is (h, w, 3) uint8, not {picture.shape} {picture.dtype}")
        self._picture = picture
        self._fill = picture.copy()
        self._lines = np.zeros_like(picture)
        self._line_mask = np.zeros(picture.shape[:2], np.uint8)
        self._counts = np.zeros(len(scene.class_names), int)
        height, width = picture.shape[:2]
        # The centre of OpenCV's first pixel is at (0, 0).
        self._reduction = Affine(width / scene.width, 0, -0.5, 0, height / scene.height, -0.5)

    def write(self, batch: Batch) -> None:
        polygons = transformed(batch.features.pixels, self._reduction)
        for instance, polygon in zip(batch.instances, polygons):
            self._counts[instance.class_index] += 1
            color = self.scene.class_colors[instance.class_index]
            for part in polygon.geoms:
                rings = [_fixed_point(ring) for ring in (part.exterior, *part.interiors)]
                cv2.fillPoly(self._fill, rings, color, cv2.LINE_8, _SHIFT)
                cv2.polylines(self._lines, rings, True, color, 1, cv2.LINE_8, _SHIFT)
                cv2.polylines(self._line_mask, rings, True, 1, 1, cv2.LINE_8, _SHIFT)

    def finish(self) -> None:
        mixed = cv2.addWeighted(self._fill, _FILL, self._picture, 1 - _FILL, 0)
        drawing = np.where(self._line_mask[..., None] > 0, self._lines, mixed)
        info = PngInfo()
        info.add_itxt("facenet_d2", json.dumps(scene_metadata(self.scene)))
        image = np.concatenate([drawing, self._legend(drawing.shape[1])])
        Image.fromarray(image).save(self.path, pnginfo=info)

    def _legend(self, width: int) -> np.ndarray:
        """Return a dark strip with the colour, name and number of instances of each class."""
        font = _font()
        line = _FONT_SIZE + _MARGIN
        entries = []
        x = y = _MARGIN
        for name, count, color in zip(
            self.scene.class_names, self._counts, self.scene.class_colors
        ):
            text = f"{name}: {count}"
            entry = line + round(font.getlength(text)) + 2 * _MARGIN
            if x > _MARGIN and x + entry > width:
                x, y = _MARGIN, y + line
            entries.append((x, y, text, color))
            x += entry
        strip = Image.new("RGB", (width, y + line + _MARGIN), (32, 32, 32))
        draw = ImageDraw.Draw(strip)
        for x, y, text, color in entries:
            draw.rectangle((x, y, x + _FONT_SIZE, y + _FONT_SIZE), fill=color)
            draw.text((x + line, y), text, font=font, fill=(255, 255, 255))
        return np.asarray(strip)


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        import matplotlib
    except ImportError:
        # Pillow's own font, which has fewer characters.
        return ImageFont.load_default(_FONT_SIZE)
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _FONT_SIZE)


def _fixed_point(ring: shapely.LinearRing) -> np.ndarray:
    return np.round(shapely.get_coordinates(ring)[:-1] * (1 << _SHIFT)).astype(np.int32)
