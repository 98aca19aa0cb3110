"""Synthetic aerial scenes with exact instance masks.

Four kinds of scene: ships by a quay, aircraft on an apron, storage tanks in a farm, vehicles on
roads and parking lots with tennis courts. Objects are rotated, stand in dense groups, cast shadows
and never overlap; trees, roofs, kerbs, waves and sensor noise are clutter. A scene is a function of
its seed and size alone.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
from shapely import affinity
from shapely.geometry import MultiPolygon, Point, Polygon, box
from shapely.ops import unary_union
from shapely.prepared import prep

from ..errors import UserError

CLASSES = ("ship", "airplane", "storage_tank", "vehicle", "tennis_court")
# To be raised whenever a change makes the same seed give other pixels or annotations.
SCENES_VERSION = 1

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


def _pose(shape: np.ndarray, center: tuple[float, float], length: float, angle: float) -> Polygon:
    """A shape of unit length along x, scaled, turned by ``angle`` radians and moved."""
    c, s = math.cos(angle), math.sin(angle)
    turned = length * shape @ np.array([[c, s], [-s, c]])
    return Polygon(turned + np.asarray(center))


def _mirrored(half: list[tuple[float, float]]) -> np.ndarray:
    """A closed outline, symmetric to the x axis, from its upper half (front to back)."""
    upper = np.array(half)
    return np.concatenate([upper, (upper * [1, -1])[::-1]])


def _rectangle(ratio: float) -> np.ndarray:
    return _mirrored([(0.5, ratio / 2), (-0.5, ratio / 2)])


def _ship(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    ratio = scene.rng.uniform(0.2, 0.3)
    hull = _mirrored(
        [
            (0.5, 0.0),
            (0.4, 0.25 * ratio),
            (0.25, 0.5 * ratio),
            (-0.44, 0.5 * ratio),
            (-0.5, 0.38 * ratio),
        ]
    )
    deck = scene.color(((70, 75, 90), (150, 150, 155), (60, 70, 140))[scene.rng.integers(3)])
    bridge = scene.color((220, 222, 222))

    def paint(scene: Scene, polygon: Polygon) -> None:
        scene.fill(polygon, deck)
        scene.fill(affinity.scale(polygon, 0.8, 0.8), tuple(min(255, c + 18) for c in deck))
        c, s = math.cos(angle), math.sin(angle)
        aft = (center[0] - 0.28 * length * c, center[1] - 0.28 * length * s)
        scene.fill(_pose(_rectangle(1.0), aft, 0.6 * ratio * length, angle), bridge)

    return scene.place("ship", _pose(hull, center, length, angle), paint, 0.05 * length)


def _airplane(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    span = scene.rng.uniform(0.42, 0.52)
    outline = _mirrored(
        [
            (0.5, 0.0),
            (0.44, 0.05),
            (0.14, 0.06),
            (-0.1, span),
            (-0.2, span),
            (-0.1, 0.06),
            (-0.36, 0.045),
            (-0.46, 0.19),
            (-0.52, 0.19),
            (-0.47, 0.02),
        ]
    )
    body = scene.color((228, 228, 228), 8)
    stripe = scene.color(((190, 90, 60), (60, 60, 190), (120, 120, 120))[scene.rng.integers(3)])

    def paint(scene: Scene, polygon: Polygon) -> None:
        scene.fill(polygon, body)
        scene.fill(_pose(_rectangle(0.06), center, 0.8 * length, angle), stripe, 0.5)

    return scene.place("airplane", _pose(outline, center, length, angle), paint, 0.07 * length)


def _tank(scene: Scene, center: tuple[float, float], diameter: float) -> bool:
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1) / 2
    roof = scene.color(((215, 218, 220), (190, 195, 200), (120, 150, 165))[scene.rng.integers(3)])

    def paint(scene: Scene, polygon: Polygon) -> None:
        scene.fill(polygon, tuple(0.72 * c for c in roof))
        lit = affinity.translate(
            affinity.scale(polygon, 0.86, 0.86), -0.04 * diameter, -0.03 * diameter
        )
        scene.fill(lit, roof)
        scene.fill(affinity.scale(polygon, 0.18, 0.18), tuple(0.6 * c for c in roof))

    return scene.place("storage_tank", _pose(circle, center, diameter, 0.0), paint, 0.16 * diameter)


def _vehicle(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    ratio = scene.rng.uniform(0.44, 0.52)
    outline = _mirrored(
        [(0.5, 0.3 * ratio), (0.45, 0.5 * ratio), (-0.45, 0.5 * ratio), (-0.5, 0.4 * ratio)]
    )
    paints = ((235, 235, 235), (40, 40, 45), (50, 50, 190), (170, 110, 60), (60, 190, 215))
    coat = scene.color(paints[scene.rng.integers(len(paints))])
    glass = tuple(0.4 * c for c in coat)

    def paint(scene: Scene, polygon: Polygon) -> None:
        scene.fill(polygon, coat)
        c, s = math.cos(angle), math.sin(angle)
        for offset, depth in ((0.2, 0.14), (-0.3, 0.12)):
            at = (center[0] + offset * length * c, center[1] + offset * length * s)
            window = _mirrored([(depth / 2, 0.4 * ratio), (-depth / 2, 0.4 * ratio)])
            scene.fill(_pose(window, at, length, angle), glass)

    return scene.place("vehicle", _pose(outline, center, length, angle), paint, 0.12 * length, 0.8)


def _court(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    floor = scene.color(((120, 95, 60), (70, 130, 80), (60, 85, 165))[scene.rng.integers(3)])
    line = (235, 235, 235)

    def paint(scene: Scene, polygon: Polygon) -> None:
        scene.fill(polygon, floor)
        for scale in (1.0, 0.52):
            ring = _pose(
                _rectangle(0.46), center, 0.78 * length * (1 if scale == 1 else 0.54), angle
            )
            scene.fill(ring, line, 0.9)
            scene.fill(ring.buffer(-0.9), tuple(min(255, 1.15 * c) for c in floor))
        scene.fill(
            _pose(_mirrored([(0.012, 0.26), (-0.012, 0.26)]), center, length, angle), line, 0.9
        )

    return scene.place("tennis_court", _pose(_rectangle(0.54), center, length, angle), paint, 0.0)


def _tree(scene: Scene) -> None:
    center = scene.rng.uniform(0, scene.size, 2)
    crown = Point(*center).buffer(scene.rng.uniform(2.0, 6.0), quad_segs=3)
    if any(crown.intersects(t) for t in scene.taken):
        return
    scene.fill(affinity.translate(crown, 2, 1.5), (15, 25, 15), 0.5)
    green = scene.color((45, 85, 50))
    scene.fill(crown, green)
    scene.fill(affinity.scale(crown, 0.5, 0.5), tuple(1.25 * c for c in green))
    scene.taken.append(crown)


def _roof(scene: Scene, center: tuple[float, float], angle: float) -> None:
    ground = _pose(
        _rectangle(scene.rng.uniform(0.4, 0.9)), center, scene.rng.uniform(18, 40), angle
    )
    if any(ground.buffer(2).intersects(t) for t in scene.taken):
        return
    scene.fill(affinity.translate(ground, 3, 2), (15, 15, 15), 0.5)
    tone = scene.color(((95, 105, 150), (140, 140, 145), (85, 90, 95))[scene.rng.integers(3)])
    scene.fill(ground, tone)
    scene.fill(affinity.scale(ground, 0.85, 0.85), tuple(1.08 * c for c in tone))
    scene.taken.append(ground)


def _strip(scene: Scene, origin: np.ndarray, angle: float, width: float) -> Polygon:
    """A band across the whole scene, along ``angle`` through ``origin``."""
    length = 3 * scene.size
    return _pose(_rectangle(width / length), tuple(origin), length, angle)


def _harbor(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((95, 75, 45))
    scene.texture(7, 8)
    scene.texture(6, 40)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    edge = size / 2 + across * rng.uniform(-0.05, 0.25) * size
    land = _strip(scene, edge + across * size, angle, 2 * size)
    scene.fill(affinity.translate(land, 3 * -across[0], 3 * -across[1]), (25, 25, 20), 0.6)
    scene.fill(land, scene.color((150, 155, 160)))
    scene.taken.append(land)
    # Moored side by side along the quay, then some under way.
    moored_length = rng.uniform(26, 46)
    side_by_side = rng.random() < 0.5
    step = moored_length * (0.36 if side_by_side else 1.12)
    for t in np.arange(-0.6 * size, 0.6 * size, step):
        length = moored_length * rng.uniform(0.85, 1.1)
        off = (0.55 * length if side_by_side else 0.17 * length) + 2
        center = edge + along * t - across * off
        heading = angle + (np.pi / 2 if side_by_side else 0) + np.pi * rng.integers(2)
        if rng.random() < 0.8:
            _ship(scene, tuple(center), heading + rng.normal(0, 0.03), length)
    for _ in range(rng.integers(2, 6)):
        _ship(scene, tuple(rng.uniform(0, size, 2)), rng.uniform(0, 2 * np.pi), rng.uniform(24, 64))
    scene.taken.remove(land)
    for _ in range(rng.integers(3, 9)):
        spot = edge + along * rng.uniform(-0.6, 0.6) * size + across * rng.uniform(14, 60)
        if rng.random() < 0.5:
            _vehicle(scene, tuple(spot), angle + rng.normal(0, 0.1), rng.uniform(14, 18))
        else:
            _roof(scene, tuple(spot + across * 10), angle)


def _apron(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((165, 168, 170))
    scene.texture(4, 6)
    scene.texture(5, 50)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    grass = _strip(scene, size / 2 + across * rng.uniform(0.45, 0.75) * size, angle, 0.5 * size)
    scene.fill(grass, scene.color((80, 125, 105)))
    middle = rng.uniform(0.35, 0.65, 2) * size
    for offset in (-0.3 * size, 0.12 * size):
        scene.fill(_strip(scene, middle + across * offset, angle, 1.5), (70, 190, 210), 0.7)
    length = rng.uniform(28, 52)
    heading = angle + np.pi / 2 + rng.normal(0, 0.25)
    for t in np.arange(-0.6 * size, 0.6 * size, 1.12 * length):
        for row in (-0.32, 0.1):
            if rng.random() < 0.7:
                center = middle + along * t + across * row * size
                turned = heading + np.pi * (row > 0) + rng.normal(0, 0.05)
                _airplane(scene, tuple(center), turned, length * rng.uniform(0.85, 1.1))
    for _ in range(rng.integers(2, 7)):
        _vehicle(
            scene, tuple(rng.uniform(0, size, 2)), rng.uniform(0, 2 * np.pi), rng.uniform(14, 18)
        )


def _tank_farm(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((115, 145, 150))
    scene.texture(7, 5)
    scene.texture(8, 30)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    diameter = rng.uniform(16, 38)
    pitch = diameter * rng.uniform(1.15, 1.5)
    middle = rng.uniform(0.3, 0.7, 2) * size
    rows, columns = rng.integers(1, 4), rng.integers(2, 5)
    yard = _pose(
        _rectangle((rows + 0.6) / (columns + 0.6)), tuple(middle), pitch * (columns + 0.6), angle
    )
    scene.fill(yard, scene.color((125, 130, 135)))
    for i in range(columns):
        for j in range(rows):
            if rng.random() < 0.88:
                at = middle + pitch * (
                    along * (i - (columns - 1) / 2) + across * (j - (rows - 1) / 2)
                )
                _tank(scene, tuple(at), diameter * rng.uniform(0.92, 1.05))
    road = middle + across * (pitch * (rows / 2 + 0.3) + 12)
    scene.fill(_strip(scene, road, angle, 18), scene.color((90, 92, 95), 6))
    for t in np.arange(-0.6 * size, 0.6 * size, 30):
        if rng.random() < 0.5:
            side = 4.5 * rng.choice([-1, 1])
            _vehicle(scene, tuple(road + along * t + across * side), angle, rng.uniform(14, 18))
    for _ in range(rng.integers(0, 4)):
        _tank(scene, tuple(rng.uniform(0, size, 2)), rng.uniform(13, 24))
    for _ in range(rng.integers(1, 5)):
        _roof(scene, tuple(rng.uniform(0, size, 2)), angle)


def _town(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((95, 125, 115))
    scene.texture(7, 5)
    scene.texture(8, 30)
    angle = rng.uniform(0, 2 * np.pi)
    along = np.array([math.cos(angle), math.sin(angle)])
    across = np.array([-along[1], along[0]])
    # A road with traffic in two lanes.
    road = size / 2 + across * rng.uniform(-0.35, 0.35) * size
    band = _strip(scene, road, angle, 24)
    scene.fill(band, scene.color((88, 90, 92), 6))
    for t in np.arange(-0.7 * size, 0.7 * size, 10):
        scene.fill(_pose(_rectangle(0.2), tuple(road + along * t), 5, angle), (215, 215, 215), 0.8)
    for lane in (-6, 6):
        for t in np.arange(-0.7 * size, 0.7 * size, rng.uniform(20, 34)):
            if rng.random() < 0.65:
                center = road + along * (t + rng.normal(0, 2)) + across * lane
                heading = angle + np.pi * (lane < 0) + rng.normal(0, 0.03)
                _vehicle(scene, tuple(center), heading, rng.uniform(14, 19))
    scene.taken.append(band)
    # Courts, mostly in pairs.
    for _ in range(rng.integers(2, 7)):
        at, length = rng.uniform(0, size, 2), rng.uniform(34, 60)
        turned = angle + rng.choice([0, np.pi / 2])
        beside = 0.6 * length * np.array([-math.sin(turned), math.cos(turned)])
        for k in range(rng.integers(1, 3)):
            _court(scene, tuple(at + k * beside), turned, length)
    # A parking lot, its bays side by side.
    bays, lines = rng.integers(4, 10), rng.integers(1, 3)
    lot = road + across * rng.choice([-1, 1]) * rng.uniform(34, 44) + along * rng.uniform(-40, 40)
    ground = _pose(_rectangle((21 * lines + 4) / (11 * bays + 4)), tuple(lot), 11 * bays + 4, angle)
    if not any(ground.buffer(1).intersects(t) for t in scene.taken):
        scene.fill(ground, scene.color((105, 107, 110), 6))
        for i in range(bays):
            for j in range(lines):
                if rng.random() < 0.8:
                    at = (
                        lot
                        + along * 11 * (i - (bays - 1) / 2)
                        + across * 21 * (j - (lines - 1) / 2)
                    )
                    _vehicle(scene, tuple(at), angle + np.pi / 2, rng.uniform(14, 18))
        scene.taken.append(ground)
    for _ in range(rng.integers(2, 8)):
        _roof(scene, tuple(rng.uniform(0, size, 2)), angle)
    for _ in range(rng.integers(5, 25)):
        _tree(scene)


_KINDS = (_harbor, _apron, _tank_farm, _town)


def draw_scene(
    seed: int | tuple[int, ...], size: int = 192
) -> tuple[np.ndarray, list[tuple[int, Polygon | MultiPolygon]]]:
    """Draw one scene.

    Args:
        seed: anything ``numpy.random.default_rng`` takes; the same seed gives the same scene.
        size: side of the square image in pixels.

    Returns:
        the image, ``(size, size, 3)`` uint8 in BGR, and its instances: the class index and the
        outline, cut at the image's border.
    """
    rng = np.random.default_rng(seed)
    scene = Scene(size, rng, np.zeros((size, size, 3), np.float32))
    _KINDS[rng.integers(len(_KINDS))](scene)
    image = cv2.GaussianBlur(scene.image, (0, 0), rng.uniform(0.4, 0.8))
    image = (image - 128) * rng.uniform(0.85, 1.15) + 128 + rng.normal(0, 10)
    image += rng.normal(0, rng.uniform(2, 7), image.shape)
    frame = box(0, 0, size, size)
    inside = prep(frame)
    objects = [
        (category, polygon if inside.contains(polygon) else polygon.intersection(frame))
        for category, polygon in scene.objects
    ]
    return np.clip(image, 0, 255).astype(np.uint8), objects


def _annotation(polygon: Polygon | MultiPolygon, size: int) -> dict | None:
    parts = [p for p in getattr(polygon, "geoms", [polygon]) if p.geom_type == "Polygon"]
    segmentation = [
        [round(float(v), 2) for point in p.exterior.coords[:-1] for v in point] for p in parts
    ]
    rle = mask_util.merge(mask_util.frPyObjects(segmentation, size, size))
    area = int(mask_util.area(rle))
    if area == 0:
        return None
    # Box and area are the mask's own, in whole pixels, as an evaluation sees them.
    return {
        "segmentation": segmentation,
        "area": area,
        "bbox": [float(v) for v in mask_util.toBbox(rle)],
        "iscrowd": 0,
    }


def write_dataset(out_dir: str | Path, *, num_scenes: int, seed: int, size: int = 192) -> Path:
    """Write scenes as PNG images and one COCO annotation file.

    The folder appears whole or not at all; one that is there already is left as it is.

    Args:
        out_dir: gets ``images/`` and ``annotations.json``.
        num_scenes: how many.
        seed: of the set; scene i depends on (seed, i) alone.
        size: side of the images in pixels.

    Returns:
        the annotation file.

    Raises:
        UserError: where the folder cannot be written.
    """
    out_dir = Path(out_dir)
    beside = out_dir.with_name(f"{out_dir.name}.new{os.getpid()}")
    try:
        (beside / "images").mkdir(parents=True)
        _write_scenes(beside, num_scenes, seed, size)
        try:
            beside.rename(out_dir)
        except OSError:
            # Another process was faster; its scenes are the same.
            if not (out_dir / "annotations.json").is_file():
                raise
    except OSError as error:
        raise UserError(
            f"the synthetic scenes cannot be written to {out_dir} ({error.strerror}); set "
            "DETECTRON2_DATASETS to a folder that can be written."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return out_dir / "annotations.json"


def _write_scenes(folder: Path, num_scenes: int, seed: int, size: int) -> None:
    images, annotations = [], []
    for i in range(num_scenes):
        image, objects = draw_scene((seed, i), size)
        name = f"{i:05d}.png"
        if not cv2.imwrite(str(folder / "images" / name), image):
            raise OSError(28, "an image could not be written")
        images.append({"id": i + 1, "file_name": name, "height": size, "width": size})
        for category, polygon in objects:
            annotation = _annotation(polygon, size)
            if annotation is not None:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "category_id": category + 1,
                        **annotation,
                    }
                )
    content = {
        "info": {"description": "Synthetic aerial scenes", "version": str(SCENES_VERSION)},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
