"""The four kinds of scenes."""

from __future__ import annotations

import math

import cv2
import numpy as np
from shapely import affinity
from shapely.geometry import MultiPolygon, Polygon, box
from shapely.prepared import prep

from .canvas import Scene, pose, rectangle
from .objects import (
    draw_airplane,
    draw_court,
    draw_roof,
    draw_ship,
    draw_tank,
    draw_tree,
    draw_vehicle,
    strip,
)


def unit_vectors(angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return unit vectors (x, y) along ``angle`` and 90 degrees from it."""
    along = np.array([math.cos(angle), math.sin(angle)])
    return along, np.array([-along[1], along[0]])


def _harbor(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((95, 75, 45))
    scene.texture(7, 8)
    scene.texture(6, 40)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = unit_vectors(angle)
    edge = size / 2 + across * rng.uniform(-0.05, 0.25) * size
    land = strip(scene, edge + across * size, angle, 2 * size)
    scene.fill(affinity.translate(land, 3 * -across[0], 3 * -across[1]), (25, 25, 20), 0.6)
    scene.fill(land, scene.color((150, 155, 160)))
    scene.taken.append(land)
    # Ships moored at the quay, then some under way.
    moored_length = rng.uniform(26, 46)
    side_by_side = rng.random() < 0.5
    step = moored_length * (0.36 if side_by_side else 1.12)
    for t in np.arange(-0.6 * size, 0.6 * size, step):
        length = moored_length * rng.uniform(0.85, 1.1)
        off = (0.55 * length if side_by_side else 0.17 * length) + 2
        center = edge + along * t - across * off
        heading = angle + (np.pi / 2 if side_by_side else 0) + np.pi * rng.integers(2)
        if rng.random() < 0.8:
            draw_ship(scene, tuple(center), heading + rng.normal(0, 0.03), length)
    for _ in range(rng.integers(2, 6)):
        draw_ship(
            scene, tuple(rng.uniform(0, size, 2)), rng.uniform(0, 2 * np.pi), rng.uniform(24, 64)
        )
    scene.taken.remove(land)
    for _ in range(rng.integers(3, 9)):
        spot = edge + along * rng.uniform(-0.6, 0.6) * size + across * rng.uniform(14, 60)
        if rng.random() < 0.5:
            draw_vehicle(scene, tuple(spot), angle + rng.normal(0, 0.1), rng.uniform(14, 18))
        else:
            draw_roof(scene, tuple(spot + across * 10), angle)


def _apron(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((165, 168, 170))
    scene.texture(4, 6)
    scene.texture(5, 50)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = unit_vectors(angle)
    grass = strip(scene, size / 2 + across * rng.uniform(0.45, 0.75) * size, angle, 0.5 * size)
    scene.fill(grass, scene.color((80, 125, 105)))
    middle = rng.uniform(0.35, 0.65, 2) * size
    for offset in (-0.3 * size, 0.12 * size):
        scene.fill(strip(scene, middle + across * offset, angle, 1.5), (70, 190, 210), 0.7)
    length = rng.uniform(28, 52)
    heading = angle + np.pi / 2 + rng.normal(0, 0.25)
    for t in np.arange(-0.6 * size, 0.6 * size, 1.12 * length):
        for row in (-0.32, 0.1):
            if rng.random() < 0.7:
                center = middle + along * t + across * row * size
                turned = heading + np.pi * (row > 0) + rng.normal(0, 0.05)
                draw_airplane(scene, tuple(center), turned, length * rng.uniform(0.85, 1.1))
    for _ in range(rng.integers(2, 7)):
        draw_vehicle(
            scene, tuple(rng.uniform(0, size, 2)), rng.uniform(0, 2 * np.pi), rng.uniform(14, 18)
        )


def _tank_farm(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((115, 145, 150))
    scene.texture(7, 5)
    scene.texture(8, 30)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = unit_vectors(angle)
    diameter = rng.uniform(16, 38)
    pitch = diameter * rng.uniform(1.15, 1.5)
    middle = rng.uniform(0.3, 0.7, 2) * size
    rows, columns = rng.integers(1, 4), rng.integers(2, 5)
    yard = pose(
        rectangle((rows + 0.6) / (columns + 0.6)), tuple(middle), pitch * (columns + 0.6), angle
    )
    scene.fill(yard, scene.color((125, 130, 135)))
    for i in range(columns):
        for j in range(rows):
            if rng.random() < 0.88:
                at = middle + pitch * (
                    along * (i - (columns - 1) / 2) + across * (j - (rows - 1) / 2)
                )
                draw_tank(scene, tuple(at), diameter * rng.uniform(0.92, 1.05))
    road = middle + across * (pitch * (rows / 2 + 0.3) + 12)
    scene.fill(strip(scene, road, angle, 18), scene.color((90, 92, 95), 6))
    for t in np.arange(-0.6 * size, 0.6 * size, 30):
        if rng.random() < 0.5:
            side = 4.5 * rng.choice([-1, 1])
            draw_vehicle(scene, tuple(road + along * t + across * side), angle, rng.uniform(14, 18))
    for _ in range(rng.integers(0, 4)):
        draw_tank(scene, tuple(rng.uniform(0, size, 2)), rng.uniform(13, 24))
    for _ in range(rng.integers(1, 5)):
        draw_roof(scene, tuple(rng.uniform(0, size, 2)), angle)


def _town(scene: Scene) -> None:
    rng, size = scene.rng, scene.size
    scene.image[:] = scene.color((95, 125, 115))
    scene.texture(7, 5)
    scene.texture(8, 30)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = unit_vectors(angle)
    # A road with traffic in two lanes.
    road = size / 2 + across * rng.uniform(-0.35, 0.35) * size
    band = strip(scene, road, angle, 24)
    scene.fill(band, scene.color((88, 90, 92), 6))
    for t in np.arange(-0.7 * size, 0.7 * size, 10):
        scene.fill(pose(rectangle(0.2), tuple(road + along * t), 5, angle), (215, 215, 215), 0.8)
    for lane in (-6, 6):
        for t in np.arange(-0.7 * size, 0.7 * size, rng.uniform(20, 34)):
            if rng.random() < 0.65:
                center = road + along * (t + rng.normal(0, 2)) + across * lane
                heading = angle + np.pi * (lane < 0) + rng.normal(0, 0.03)
                draw_vehicle(scene, tuple(center), heading, rng.uniform(14, 19))
    scene.taken.append(band)
    # Courts, mostly in pairs.
    for _ in range(rng.integers(2, 7)):
        at, length = rng.uniform(0, size, 2), rng.uniform(34, 60)
        turned = angle + rng.choice([0, np.pi / 2])
        offset = 0.6 * length * np.array([-math.sin(turned), math.cos(turned)])
        for k in range(rng.integers(1, 3)):
            draw_court(scene, tuple(at + k * offset), turned, length)
    # A parking lot, its bays side by side.
    bays, lines = rng.integers(4, 10), rng.integers(1, 3)
    lot = road + across * rng.choice([-1, 1]) * rng.uniform(34, 44) + along * rng.uniform(-40, 40)
    length = float(11 * bays + 4)
    ground = pose(rectangle((21 * lines + 4) / length), tuple(lot), length, angle)
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
                    draw_vehicle(scene, tuple(at), angle + np.pi / 2, rng.uniform(14, 18))
        scene.taken.append(ground)
    for _ in range(rng.integers(2, 8)):
        draw_roof(scene, tuple(rng.uniform(0, size, 2)), angle)
    for _ in range(rng.integers(5, 25)):
        draw_tree(scene)


_SCENE_KINDS = (_harbor, _apron, _tank_farm, _town)


def draw_scene(
    seed: int | tuple[int, ...], size: int = 192
) -> tuple[np.ndarray, list[tuple[int, Polygon | MultiPolygon]]]:
    """Draw one scene.

    Args:
        seed: seed for ``numpy.random.default_rng``.
        size: side of the square image in pixels.

    Returns:
        the image, ``(size, size, 3)`` uint8 in BGR, and (class index, outline) of its instances,
        clipped to the image.
    """
    rng = np.random.default_rng(seed)
    scene = Scene(size, rng, np.zeros((size, size, 3), np.float32))
    _SCENE_KINDS[rng.integers(len(_SCENE_KINDS))](scene)
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
