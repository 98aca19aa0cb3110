#!/usr/bin/env python3
"""Compare the seam merge with other rules that put together the detections of overlapping tiles.

  compare_merging.py rules                 three dense scenes, with exact and with noisy masks
  compare_merging.py stream --width 100000 time and memory of the merge of a wide scene

SAHI's rows need the package sahi, whose postprocessing runs without its dependencies (pip install
--no-deps --target FOLDER sahi, then PYTHONPATH=FOLDER). They are left out without it. SAHI selects
the pairs; the masks of a pair are united as bits here, where SAHI unites polygons.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple

import numpy as np
import torch
from stub import Change, Faults, corner_rule, dense_scene, find_faults, merge, visible_parts
from torchvision.ops import batched_nms

from facenet_d2.scenes.detections import Detections, TileDetections
from facenet_d2.scenes.merge import MergeSettings, SeamMerger
from facenet_d2.scenes.tiles import Tile, TileGrid

try:
    from sahi.postprocess import combine as sahi
except ImportError:
    sahi = None

# Seed and number of objects of each scene: 3,173 in all.
DENSE_SCENES = ((0, 1026), (1, 1082), (2, 1065))
# One class, so that no rule is helped by different classes of neighbours.
CLASSES = 1
Rule = Callable[[list[TileDetections], TileGrid], Detections]


class Flat:
    """The detections of all tiles in one list."""

    def __init__(self, tiles: list[TileDetections]) -> None:
        found = [tile.detections for tile in tiles]
        self.boxes = np.concatenate([d.boxes for d in found])
        self.scores = np.concatenate([d.scores for d in found])
        self.classes = np.concatenate([d.classes for d in found])
        self.masks = [d.mask(i) for d in found for i in range(len(d))]

    def take(self, groups: list[list[int]]) -> Detections:
        """Return the union of each group, with the class and score of its first member."""
        boxes, crops = [], []
        for group in groups:
            members = self.boxes[group]
            left, top = members[:, :2].min(axis=0)
            right, bottom = members[:, 2:].max(axis=0)
            crop = np.zeros((bottom - top, right - left), bool)
            for i in group:
                x0, y0, x1, y1 = self.boxes[i] - [left, top, left, top]
                crop[y0:y1, x0:x1] |= self.masks[i]
            boxes.append((left, top, right, bottom))
            crops.append(crop)
        first = [group[0] for group in groups]
        return Detections.from_crops(self.classes[first], self.scores[first], boxes, crops)


def keep_all(tiles: list[TileDetections], grid: TileGrid) -> Detections:
    flat = Flat(tiles)
    return flat.take([[i] for i in range(len(flat.masks))])


def box_nms(iou: float) -> Rule:
    def rule(tiles: list[TileDetections], grid: TileGrid) -> Detections:
        flat = Flat(tiles)
        kept = batched_nms(
            torch.from_numpy(flat.boxes).float(),
            torch.from_numpy(flat.scores),
            torch.from_numpy(flat.classes).long(),
            iou,
        )
        return flat.take([[i] for i in kept.tolist()])

    return rule


def sahi_merging(name: str) -> Rule:
    """SAHI's merging by the intersection of boxes over the smaller one, 0.5, class by class."""

    def rule(tiles: list[TileDetections], grid: TileGrid) -> Detections:
        flat = Flat(tiles)
        rows = np.column_stack([flat.boxes, flat.scores, flat.classes]).astype(np.float64)
        pairs = getattr(sahi, name)(rows, match_metric="IOS", match_threshold=0.5)
        groups = []
        for kept, merged in pairs.items():
            group, union = [kept], flat.boxes[kept].astype(float)
            for i in merged:
                # As in SAHI, the box must match what has been merged before.
                if intersection_over_smaller(union, flat.boxes[i]) >= 0.5:
                    group.append(i)
                    union[:2] = np.minimum(union[:2], flat.boxes[i, :2])
                    union[2:] = np.maximum(union[2:], flat.boxes[i, 2:])
            groups.append(group)
        return flat.take(groups)

    return rule


def intersection_over_smaller(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(shared / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))


def seam_merge(tolerance: int) -> Rule:
    def rule(tiles: list[TileDetections], grid: TileGrid) -> Detections:
        return merge(tiles, grid, tolerance=tolerance)[0].detections

    return rule


RULES: dict[str, Rule] = {
    "none": keep_all,
    "box NMS 0.5": box_nms(0.5),
    "box NMS 0.3": box_nms(0.3),
}
if sahi is not None:
    RULES["SAHI greedy NMM (its default)"] = sahi_merging("batched_greedy_nmm")
    RULES["SAHI NMM"] = sahi_merging("batched_nmm")
RULES["corner in the tile's cell (StarDist)"] = corner_rule
RULES["seam merge"] = seam_merge(4)

# Arguments of Change.
DETECTORS = {
    "exact masks": {"noise": False},
    "masks that stop 0 to 3 pixels short of the tile's side": {"noise": False, "short": 3},
    "noisy masks": {"noise": True},
    "noisy masks that stop short": {"noise": True, "short": 3},
}


def compare_rules(args: argparse.Namespace) -> None:
    scenes = [dense_scene(seed, count) for seed, count in DENSE_SCENES]
    grid = TileGrid(*scenes[0].shape, args.tile, args.overlap)
    for title, faults in DETECTORS.items():
        tiles = [
            visible_parts(
                scene, grid, CLASSES, Change(np.random.default_rng([args.seed, k]), **faults)
            )
            for k, scene in enumerate(scenes)
        ]
        count = sum(len(tile.detections) for of_scene in tiles for tile in of_scene)
        print(f"\n{title}: {count} detections of {sum(s.max() for s in scenes)} objects\n")
        print("| rule | predicted | IoU .5 | IoU .85 | exact | surplus | merged | ms a scene |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|")
        for name, rule in RULES.items():
            total, seconds = Faults(), 0.0
            for scene, of_scene in zip(scenes, tiles):
                start = time.process_time()
                detections = rule(of_scene, grid)
                seconds += time.process_time() - start
                total += find_faults(detections, scene)
            figures = " | ".join(str(value) for value in astuple(total))
            print(f"| {name} | {figures} | {1000 * seconds / len(scenes):.0f} |")


def car_row(grid: TileGrid, row: int, spacing: tuple[int, int]) -> Iterator[TileDetections]:
    """Yield the tiles of a row of a scene with a car of 12x5 pixels in each cell of a lattice."""
    dx, dy = spacing
    for tile in grid.row(row):
        right, bottom = min(tile.right, grid.width), min(tile.bottom, grid.height)
        x, y = np.meshgrid(
            np.arange(max(0, tile.left - 12) // dx * dx, right, dx),
            np.arange(max(0, tile.top - 5) // dy * dy, bottom, dy),
        )
        boxes = np.column_stack([x.ravel(), y.ravel(), x.ravel() + 12, y.ravel() + 5])
        boxes[:, :2] = np.maximum(boxes[:, :2], (tile.left, tile.top))
        boxes[:, 2:] = np.minimum(boxes[:, 2:], (right, bottom))
        boxes = boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)]
        yield full_boxes(tile, boxes)


def full_boxes(tile: Tile, boxes: np.ndarray) -> TileDetections:
    """Return detections whose masks fill their boxes."""
    packed = [
        np.packbits(np.ones((y1 - y0) * (x1 - x0), bool)) for x0, y0, x1, y1 in boxes.tolist()
    ]
    n = len(boxes)
    return TileDetections(
        tile.row, tile.column, Detections.from_packed([0] * n, [0.9] * n, boxes.tolist(), packed)
    )


def lattice_size(grid: TileGrid, spacing: tuple[int, int]) -> int:
    """Return the number of cars in a scene of :func:`car_row`."""
    return -(-grid.width // spacing[0]) * -(-grid.height // spacing[1])


def stream(args: argparse.Namespace) -> None:
    stride = args.tile - args.overlap
    grid = TileGrid((args.rows - 1) * stride + args.tile, args.width, args.tile, args.overlap)
    merger = SeamMerger(grid, MergeSettings(tolerance=4))
    spacing = (args.spacing, args.spacing)
    seconds = 0.0
    for row in range(grid.shape[0]):
        tiles = list(car_row(grid, row, spacing))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        count = len(merger.add_row(tiles))
        elapsed = time.process_time() - start
        seconds += elapsed
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"row {row}: {sum(len(tile.detections) for tile in tiles)} detections in {len(tiles)} "
            f"tiles, {count} instances finished, {elapsed:.1f} s of processor time, "
            f"peak {peak / 1024:.0f} MiB ({(peak - before) / 1024:+.0f})",
            flush=True,
        )
    report = merger.report
    print(
        f"{grid.width}x{grid.height} pixels: {report.detections} detections, {report.instances} "
        f"instances of {lattice_size(grid, spacing)} objects, at most {report.most_open} held "
        f"between rows, {1e6 * seconds / report.detections:.0f} microseconds a detection, "
        f"{1e3 * seconds / report.tiles:.1f} ms a tile"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    rules = commands.add_parser("rules")
    rules.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    rules.set_defaults(run=compare_rules)
    wide = commands.add_parser("stream")
    wide.add_argument("--width", type=int, default=100_000, help="default: 100,000 pixels")
    wide.add_argument("--rows", type=int, default=3, help="rows of tiles (default: 3)")
    wide.add_argument(
        "--spacing", type=int, default=20, help="an object each SPACING pixels (default: 20)"
    )
    wide.set_defaults(run=stream)
    for command in (rules, wide):
        command.add_argument("--tile", type=int, default=512, help="default: 512 pixels")
        command.add_argument("--overlap", type=int, default=128, help="default: 128 pixels")
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
