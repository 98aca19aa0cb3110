"""The canvas of a scene, and the shapes of its objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from shapely import affinity
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.ops import unary_union

from . import CLASSES

# Vertices are drawn with a precision of 1/16 pixel.
_SHIFT = 4
# Blue, green and red.
Color = tuple[float, ...]


@dataclass
class Scene:
    """A scene that is being drawn.

    Attributes:
        size: side of the square image in pixels.
        rng: source of all randomness.
        image: ``(size, size, 3)`` float32, BGR, 0-255.
        objects: (class index, polygon) of each instance; a pixel (x, y) covers [x, x+1) x [y, y+1).
        taken: areas on which no further object may be placed.
    """

    size: int
    rng: np.random.Generator
    image: np.ndarray
    objects: list[tuple[int, Polygon]] = field(default_factory=list)
    taken: list[Polygon] = field(default_factory=list)

    def color(self, base: Color, spread: float = 12.0) -> Color:
        return tuple(float(c) for c in np.clip(np.add(base, self.rng.normal(0, spread, 3)), 0, 255))

    def fill(self, polygon: Polygon | MultiPolygon, color: Color, opacity: float = 1.0) -> None:
        """Paint a polygon, blended with the image according to ``opacity``."""
        for part in getattr(polygon, "geoms", [polygon]):
            if part.is_empty:
                continue
            # Integer coordinates are pixel centres in OpenCV, but pixel corners in annotations.
            points = np.round((np.asarray(part.exterior.coords) - 0.5) * 2**_SHIFT).astype(np.int32)
            if opacity == 1.0:
                cv2.fillPoly(self.image, [points], color, cv2.LINE_AA, _SHIFT)
            else:
                layer = self.image.copy()
                cv2.fillPoly(layer, [points], color, cv2.LINE_AA, _SHIFT)
                self.image += opacity * (layer - self.image)

    def texture(self, strength: float, cell: int) -> None:
        """Add smooth brightness noise with spots about ``cell`` pixels wide."""
        n = max(2, self.size // cell)
        noise = self.rng.normal(0, strength, (n, n)).astype(np.float32)
        self.image += cv2.resize(noise, (self.size, self.size), interpolation=cv2.INTER_CUBIC)[
            ..., None
        ]

    def place(
        self,
        class_name: str,
        polygon: Polygon,
        paint: Callable[[Scene, Polygon], None],
        shadow: float,
        gap: float = 1.0,
    ) -> bool:
        """Draw an object if there is room for it.

        At least half of it must lie in the image.

        Args:
            class_name: one of ``CLASSES``.
            polygon: outline of the object.
            paint: function that paints the object inside the outline.
            shadow: length of the shadow in pixels.
            gap: minimum distance to other objects in pixels.

        Returns:
            whether the object was drawn.
        """
        frame = box(0, 0, self.size, self.size)
        if polygon.intersection(frame).area < 0.5 * polygon.area:
            return False
        spot = polygon.buffer(gap)
        if any(spot.intersects(t) for t in self.taken):
            return False
        cast = affinity.translate(polygon, shadow, 0.7 * shadow)
        self.fill(unary_union([polygon, cast]), (20, 20, 20), 0.45)
        paint(self, polygon)
        self.taken.append(polygon)
        self.objects.append((CLASSES.index(class_name), polygon))
        return True


def pose(shape: np.ndarray, center: tuple[float, float], length: float, angle: float) -> Polygon:
    """Scale a shape of unit length along x, rotate it by ``angle`` radians and move it."""
    c, s = math.cos(angle), math.sin(angle)
    turned = length * shape @ np.array([[c, s], [-s, c]])
    return Polygon(turned + np.asarray(center))


def mirrored(half: list[tuple[float, float]]) -> np.ndarray:
    """Return an outline symmetric about the x axis, from its upper half (front to back)."""
    upper = np.array(half)
    return np.concatenate([upper, (upper * [1, -1])[::-1]])


def rectangle(ratio: float) -> np.ndarray:
    """Return a rectangle of unit length and the width ``ratio``."""
    return mirrored([(0.5, ratio / 2), (-0.5, ratio / 2)])
