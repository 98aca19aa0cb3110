"""The objects of the five classes, and clutter."""

from __future__ import annotations

import math

import numpy as np
from shapely import affinity
from shapely.geometry import Point, Polygon

from .canvas import Scene, mirrored, pose, rectangle


def draw_ship(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    """Draw a ship with its bow along ``angle``; return whether there was room."""
    ratio = scene.rng.uniform(0.2, 0.3)
    hull = mirrored(
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
        scene.fill(pose(rectangle(1.0), aft, 0.6 * ratio * length, angle), bridge)

    return scene.place("ship", pose(hull, center, length, angle), paint, 0.05 * length)


def draw_airplane(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    """Draw an airplane with its nose along ``angle``; return whether there was room."""
    span = scene.rng.uniform(0.42, 0.52)
    outline = mirrored(
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
        scene.fill(pose(rectangle(0.06), center, 0.8 * length, angle), stripe, 0.5)

    return scene.place("airplane", pose(outline, center, length, angle), paint, 0.07 * length)


def draw_tank(scene: Scene, center: tuple[float, float], diameter: float) -> bool:
    """Draw a round storage tank; return whether there was room."""
    turn = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], axis=1) / 2
    top = scene.color(((215, 218, 220), (190, 195, 200), (120, 150, 165))[scene.rng.integers(3)])

    def paint(scene: Scene, polygon: Polygon) -> None:
        scene.fill(polygon, tuple(0.72 * c for c in top))
        lit = affinity.translate(
            affinity.scale(polygon, 0.86, 0.86), -0.04 * diameter, -0.03 * diameter
        )
        scene.fill(lit, top)
        scene.fill(affinity.scale(polygon, 0.18, 0.18), tuple(0.6 * c for c in top))

    return scene.place("storage_tank", pose(circle, center, diameter, 0.0), paint, 0.16 * diameter)


def draw_vehicle(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    """Draw a car with its front along ``angle``; return whether there was room."""
    ratio = scene.rng.uniform(0.44, 0.52)
    outline = mirrored(
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
            window = mirrored([(depth / 2, 0.4 * ratio), (-depth / 2, 0.4 * ratio)])
            scene.fill(pose(window, at, length, angle), glass)

    return scene.place("vehicle", pose(outline, center, length, angle), paint, 0.12 * length, 0.8)


def draw_court(scene: Scene, center: tuple[float, float], angle: float, length: float) -> bool:
    """Draw a tennis court with its long side along ``angle``; return whether there was room."""
    floor = scene.color(((120, 95, 60), (70, 130, 80), (60, 85, 165))[scene.rng.integers(3)])
    line = (235, 235, 235)

    def paint(scene: Scene, polygon: Polygon) -> None:
        scene.fill(polygon, floor)
        for scale in (1.0, 0.52):
            ring = pose(rectangle(0.46), center, 0.78 * length * (1 if scale == 1 else 0.54), angle)
            scene.fill(ring, line, 0.9)
            scene.fill(ring.buffer(-0.9), tuple(min(255, 1.15 * c) for c in floor))
        scene.fill(
            pose(mirrored([(0.012, 0.26), (-0.012, 0.26)]), center, length, angle), line, 0.9
        )

    return scene.place("tennis_court", pose(rectangle(0.54), center, length, angle), paint, 0.0)


def draw_tree(scene: Scene) -> None:
    """Draw a tree with its shadow at a random place if there is room. Trees are clutter."""
    center = scene.rng.uniform(0, scene.size, 2)
    crown = Point(*center).buffer(scene.rng.uniform(2.0, 6.0), quad_segs=3)
    if any(crown.intersects(t) for t in scene.taken):
        return
    scene.fill(affinity.translate(crown, 2, 1.5), (15, 25, 15), 0.5)
    green = scene.color((45, 85, 50))
    scene.fill(crown, green)
    scene.fill(affinity.scale(crown, 0.5, 0.5), tuple(1.25 * c for c in green))
    scene.taken.append(crown)


def draw_roof(scene: Scene, center: tuple[float, float], angle: float) -> None:
    """Draw a building if there is room. Buildings are clutter."""
    ground = pose(rectangle(scene.rng.uniform(0.4, 0.9)), center, scene.rng.uniform(18, 40), angle)
    if any(ground.buffer(2).intersects(t) for t in scene.taken):
        return
    scene.fill(affinity.translate(ground, 3, 2), (15, 15, 15), 0.5)
    tone = scene.color(((95, 105, 150), (140, 140, 145), (85, 90, 95))[scene.rng.integers(3)])
    scene.fill(ground, tone)
    scene.fill(affinity.scale(ground, 0.85, 0.85), tuple(1.08 * c for c in tone))
    scene.taken.append(ground)


def strip(scene: Scene, origin: np.ndarray, angle: float, width: float) -> Polygon:
    """Return a band across the whole scene, along ``angle`` through ``origin``."""
    length = 3 * scene.size
    return pose(rectangle(width / length), tuple(origin), length, angle)
