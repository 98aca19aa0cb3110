"""Random masks, scenes, and areas by other formulas."""

from __future__ import annotations

import cv2
import numpy as np
from affine import Affine
from rasterio.crs import CRS

from facenet_d2.scenes.description import SceneDescription, SceneInstance

FLATTENING = 1 / 298.257223563
EQUATOR = 6378137.0
ECCENTRICITY = (FLATTENING * (2 - FLATTENING)) ** 0.5
# Transforms with the same pixel area of 0.25 square units.
NORTH_UP = Affine(0.5, 0, 400_000, 0, -0.5, 5_800_000)
SOUTH_UP = Affine(0.5, 0, 400_000, 0, 0.5, 5_790_000)
ROTATED = Affine.translation(400_000, 5_800_000) * Affine.rotation(33) * Affine.scale(0.5, -0.5)
SHEARED = Affine(0.5, 0.3, 400_000, 0, -0.5, 5_800_000)


def describe(transform, code, size=(600, 700), names=("ship", "plane", "tank"), **fields):
    crs = CRS.from_epsg(code) if code else None
    return SceneDescription("site 1", *size, transform, crs, names, **fields)


def ellipse(height, width, hole=0):
    mask = np.zeros((height, width), np.uint8)
    axes = (max(1, width // 2 - 1), max(1, height // 2 - 1))
    cv2.ellipse(mask, (width // 2, height // 2), axes, 0, 0, 360, 1, -1)
    if hole:
        cv2.circle(mask, (width // 2, height // 2), hole, 0, -1)
    return mask.astype(bool)


def noise(rng, height, width):
    mask = rng.random((height, width)) < rng.uniform(0.2, 0.95)
    mask[rng.integers(height), rng.integers(width)] = True
    return mask


def random_instances(rng, scene, count, largest=50):
    """Instances with ellipses, rings and noise, some of them in several parts or overlapping."""
    instances = []
    for number in range(1, count + 1):
        height, width = rng.integers(2, largest, 2)
        kind = rng.integers(3)
        mask = noise(rng, height, width) if kind == 0 else ellipse(height, width, 2 * (kind == 1))
        mask[0, 0] = True
        x0 = int(rng.integers(scene.width - width + 1))
        y0 = int(rng.integers(scene.height - height + 1))
        index = int(rng.integers(len(scene.class_names)))
        score = float(np.round(rng.random(), 2))
        tiles = int(rng.integers(1, 5))
        instances.append(SceneInstance(number, index, score, x0, y0, mask, tiles, bool(number % 2)))
    return instances


def whole_mask(instance, scene):
    mask = np.zeros((scene.height, scene.width), bool)
    height, width = instance.mask.shape
    mask[instance.y0 : instance.y0 + height, instance.x0 : instance.x0 + width] = instance.mask
    return mask


def authalic(latitude):
    """Area between the equator and a latitude, for a radian of longitude, in square metres."""
    e, sine = ECCENTRICITY, np.sin(np.radians(latitude))
    q = (1 - e**2) * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)
    return EQUATOR**2 * q / 2
