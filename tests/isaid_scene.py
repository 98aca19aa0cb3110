"""Scenes in iSAID's published layout, for tests and benchmarks.

python tests/isaid_scene.py --size 12000 --instances 3000 --output FOLDER
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from facenet_d2.data.datasets.isaid import ANNOTATION_COLORS


def draw(height: int, width: int, instances: int, seed: int):
    """Draw a noisy scene, its ID image and its class image, each (H, W, 3) uint8 RGB."""
    rng = np.random.default_rng(seed)
    tile = rng.integers(60, 140, (512, 512, 3), dtype=np.uint8)
    repeats = (-(-height // 512), -(-width // 512), 1)
    image = np.tile(tile, repeats)[:height, :width].copy()
    ids, classes = np.zeros_like(image), np.zeros_like(image)
    # Distinct colours; the first ones differ from black in the lowest bit of a channel.
    codes = np.concatenate([[1, 256, 65536], rng.permutation(np.arange(2, 1 << 24, 997))])
    for i in range(instances):
        code = int(codes[i])
        instance_color = (code >> 16, code >> 8 & 255, code & 255)
        class_color = ANNOTATION_COLORS[rng.integers(len(ANNOTATION_COLORS))]
        center = rng.uniform(0, (width, height))
        # Long objects cross several patches; the smallest have a few pixels.
        sides = rng.uniform(3, 60, 2) if i % 10 else rng.uniform((300, 40), (1500, 200))
        angle = rng.uniform(0, 180)
        corners = cv2.boxPoints((tuple(center), tuple(sides), angle)).round().astype(np.int32)
        paint = tuple(int(v) for v in rng.integers(150, 255, 3))
        for canvas, color in ((ids, instance_color), (classes, class_color), (image, paint)):
            cv2.fillPoly(canvas, [corners], color)
    return image, ids, classes


def write(folder: Path, name: str, image, ids, classes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for suffix, pixels in (
        ("", image),
        ("_instance_id_RGB", ids),
        ("_instance_color_RGB", classes),
    ):
        if pixels is not None:
            assert cv2.imwrite(str(folder / f"{name}{suffix}.png"), pixels[..., ::-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--instances", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    write(args.output / "train" / "images", "P0002", *draw(args.size, args.size, args.instances, 0))
