"""The image a scene is drawn into, and the shapes things are drawn with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np
from shapely import affinity
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.ops import unary_union

CLASSES = ("ship", "airplane", "storage_tank", "vehicle", "tennis_court")

# Vertices are drawn to 1/16 of a pixel.
_SHIFT = 4
Color = tuple[float, float, float]


@dataclass
class Scene:
    """An image being drawn and what stands on it.

    Attributes:
        size: side of the square image in pixels.
        rng: source of all randomness.
        image: ``(size, size, 3)`` float32, BGR, 0-255.
        objects: (class index, polygon) of each instance; a pixel (x, y) covers [x, x+1) x [y, y+1).
        taken: ground that no further object may stand on.
    """

    size: int
    rng: np.random.Generator
    image: np.ndarray
    objects: list[tuple[int, Polygon]] = field(default_factory=list)
    taken: list[Polygon] = field(default_factory=list)

    def color(self, base: Color, spread: float = 12.0) -> Color:
        return tuple(float(c) for c in np.clip(np.add(base, self.rng.normal(0, spread, 3)), 0, 255))

    def fill(self, polygon: Polygon | MultiPolygon, color: Color, opacity: float = 1.0) -> None:
        """Paint a polygon; with ``opacity`` under one, what is below shines through."""
        for part in getattr(polygon, "geoms", [polygon]):
            if part.is_empty:
                continue
            # OpenCV puts a pixel's centre on the integer, annotations put its corner there.
            points = np.round((np.asarray(part.exterior.coords) - 0.5) * 2**_SHIFT).astype(np.int32)
            if opacity == 1.0:
                cv2.fillPoly(self.image, [points], color, cv2.LINE_AA, _SHIFT)
            else:
                layer = self.image.copy()
                cv2.fillPoly(layer, [points], color, cv2.LINE_AA, _SHIFT)
                self.image += opacity * (layer - self.image)

    def texture(self, strength: float, cell: int) -> None:
        """Add smooth brightness noise whose spots are about ``cell`` pixels wide."""
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
        """Put an object down where there is room for it; returns whether it was.

        At least half of it must lie in the image.
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
    """A shape of unit length along x, scaled, turned by ``angle`` radians and moved."""
    c, s = math.cos(angle), math.sin(angle)
    turned = length * shape @ np.array([[c, s], [-s, c]])
    return Polygon(turned + np.asarray(center))


def mirrored(half: list[tuple[float, float]]) -> np.ndarray:
    """A closed outline, symmetric to the x axis, from its upper half (front to back)."""
    upper = np.array(half)
    return np.concatenate([upper, (upper * [1, -1])[::-1]])


def rectangle(ratio: float) -> np.ndarray:
    return mirrored([(0.5, ratio / 2), (-0.5, ratio / 2)])
