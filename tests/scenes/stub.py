"""Scenes without pictures for the tests of tiles and merge: generated objects, and detectors.

A scene is a label map: ``(H, W)`` int32, 0 for background, or the object's number from 1. The
class of an object is ``(number - 1) % classes``. Objects do not touch each other.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass

import cv2
import numpy as np

from facenet_d2.scenes.detections import Detections, TileDetections
from facenet_d2.scenes.merge import MergeReport, MergeSettings, SceneInstances, merge_rows
from facenet_d2.scenes.tiles import Tile, TileGrid

# A pixel and its four neighbours.
CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
# Kinds of objects of a dense scene: share, length and width in pixels. Cars stand in rows.
DENSE_KINDS = (
    ("car", 0.80, (12, 12), (5, 5)),
    ("ship", 0.06, (30, 60), (8, 14)),
    ("building", 0.11, (25, 100), (20, 60)),
    ("hall", 0.025, (130, 450), (40, 120)),
    ("pier", 0.005, (600, 1000), (12, 20)),
)


def draw_object(scene: np.ndarray, label: int, shape: np.ndarray, x: int, y: int) -> bool:
    """Draw an object, bool ``(h, w)``, with its upper left corner at (x, y).

    Returns False, with the scene unchanged, if it would touch another object or leave the scene.
    """
    h, w = shape.shape
    if x < 0 or y < 0 or x + w > scene.shape[1] or y + h > scene.shape[0]:
        return False
    around = scene[max(0, y - 1) : y + h + 1, max(0, x - 1) : x + w + 1]
    padded = np.pad(shape, ((y > 0, 0), (x > 0, 0)))
    padded = np.pad(
        padded, ((0, around.shape[0] - padded.shape[0]), (0, around.shape[1] - padded.shape[1]))
    )
    grown = cv2.dilate(padded.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    if (around[grown] > 0).any():
        return False
    scene[y : y + h, x : x + w][shape] = label
    return True


def rotated_rectangle(length: float, width: float, angle: float) -> np.ndarray:
    """Return a rectangle, bool, cropped to its pixels; the angle is in degrees."""
    side = int(np.hypot(length, width)) + 3
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    a = np.deg2rad(angle)
    along, across = x * np.cos(a) + y * np.sin(a), y * np.cos(a) - x * np.sin(a)
    return cropped((abs(along) <= length / 2) & (abs(across) <= width / 2))


def ellipse(length: float, width: float, angle: float) -> np.ndarray:
    """Return an ellipse, bool, cropped to its pixels; the angle is in degrees."""
    side = int(max(length, width)) + 3
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    a = np.deg2rad(angle)
    along, across = x * np.cos(a) + y * np.sin(a), y * np.cos(a) - x * np.sin(a)
    return cropped((2 * along / length) ** 2 + (2 * across / width) ** 2 <= 1)


def blob(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a random connected shape with concavities and holes, bool, at most ``size`` wide."""
    noise = cv2.GaussianBlur(rng.normal(size=(size, size)), (0, 0), max(0.8, size / 9))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(
        (noise > 0).astype(np.uint8), connectivity=4
    )
    largest = 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA]) if len(stats) > 1 else -1
    return cropped(labels == largest)


def cropped(mask: np.ndarray) -> np.ndarray:
    """Return a mask cropped to its pixels, or one pixel if it has none."""
    if not mask.any():
        return np.ones((1, 1), bool)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def random_scene(
    rng: np.random.Generator, height: int, width: int, count: int, largest: int
) -> np.ndarray:
    """Return a scene with up to ``count`` objects of at most ``largest`` pixels a side."""
    scene = np.zeros((height, width), np.int32)
    label = 1
    for _ in range(count):
        length, breadth = rng.uniform(1, largest, 2)
        kind = rng.integers(3)
        if kind == 0:
            shape = blob(rng, int(max(length, breadth)))
        else:
            make = (rotated_rectangle, ellipse)[kind - 1]
            shape = make(length, breadth, rng.uniform(0, 180))[:largest, :largest]
        # Cropping can separate a shape, and thin rotated rectangles have gaps.
        connected = cv2.connectedComponents(shape.astype(np.uint8), connectivity=4)[0] == 2
        x, y = rng.integers(-2, width), rng.integers(-2, height)
        if connected and draw_object(scene, label, shape, int(x), int(y)):
            label += 1
    return scene


def dense_scene(seed: int, count: int, side: int = 3000) -> np.ndarray:
    """Return a scene of ``count`` objects, mostly cars in rows one or two pixels apart."""
    rng = np.random.default_rng(seed)
    scene = np.zeros((side, side), np.int32)
    label = 1
    # The largest first, while there is room.
    for name, share, lengths, widths in reversed(DENSE_KINDS[1:]):
        for _ in range(round(count * share)):
            while True:
                length, width = rng.uniform(*lengths), rng.uniform(*widths)
                angle = rng.uniform(0, 180) if name != "building" else 90 * rng.integers(2)
                shape = rotated_rectangle(length, min(length, width), angle)
                x, y = rng.integers(0, side, 2)
                if draw_object(scene, label, shape, int(x), int(y)):
                    break
            label += 1
    while label <= count:
        angle = rng.choice([0, 90, rng.uniform(0, 180)])
        car = rotated_rectangle(12, 5, angle)
        x, y = rng.integers(0, side, 2)
        # Beside each other, with a gap of one or two pixels.
        step = 5 + rng.integers(2, 4)
        a = np.deg2rad(angle)
        for i in range(rng.integers(1, 20)):
            place = round(x - i * step * np.sin(a)), round(y + i * step * np.cos(a))
            if label <= count and draw_object(scene, label, car, *place):
                label += 1
    return scene


def class_of(label: int, classes: int) -> int:
    return (label - 1) % classes


def colour(scene: np.ndarray, classes: int) -> np.ndarray:
    """Return the picture of a scene: uint8, 0 for background or the class plus 1."""
    return np.where(scene > 0, (scene - 1) % classes + 1, 0).astype(np.uint8)


def read_window(picture: np.ndarray, tile: Tile) -> np.ndarray:
    """Return the pixels of a tile, with zeros beyond the scene."""
    pixels = picture[tile.top : tile.bottom, tile.left : tile.right]
    height, width = tile.bottom - tile.top, tile.right - tile.left
    return np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1])))


def detect(picture: np.ndarray) -> tuple[list[int], list[float], list[list[int]], list[np.ndarray]]:
    """Return classes, scores, boxes and crops: the connected pixels of each colour.

    A score depends on the object's area, as scores of a network depend on what is seen.
    """
    classes, scores, boxes, crops = [], [], [], []
    for value in np.unique(picture[picture > 0]):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(
            (picture == value).astype(np.uint8), connectivity=4
        )
        for i, (x, y, w, h, area) in enumerate(stats[1:].tolist(), start=1):
            classes.append(int(value) - 1)
            scores.append(0.6 + 0.3 * area / (area + 200) + area % 7 / 100)
            boxes.append([x, y, x + w, y + h])
            crops.append(labels[y : y + h, x : x + w] == i)
    return classes, scores, boxes, crops


def detect_tiles(picture: np.ndarray, grid: TileGrid) -> list[TileDetections]:
    return [
        TileDetections.from_crops(grid, tile, *detect(read_window(picture, tile))) for tile in grid
    ]


def visible_parts(
    scene: np.ndarray, grid: TileGrid, classes: int, change: Change | None = None
) -> list[TileDetections]:
    """Return the detections of an ideal detector: the visible part of each object in each tile.

    ``change`` makes a detection worse, or leaves it out.
    """
    return [ideal_tile(scene, grid, tile, classes, change) for tile in grid]


def ideal_tile(
    scene: np.ndarray, grid: TileGrid, tile: Tile, classes: int, change: Change | None = None
) -> TileDetections:
    pixels = read_window(scene, tile)
    columns = []
    for label in np.unique(pixels[pixels > 0]).tolist():
        mask = pixels == label
        rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = [int(cols[0]), int(rows[0]), int(cols[-1]) + 1, int(rows[-1]) + 1]
        columns.append((class_of(label, classes), 0.9, box, mask[box[1] : box[3], box[0] : box[2]]))
    if change is not None:
        columns = [new for old in columns if (new := change(tile, *old)) is not None]
    return TileDetections.from_crops(
        grid, tile, *(list(zip(*columns)) if columns else ([], [], [], []))
    )


class Change:
    """Faults of a detector, whose scores vary in any case.

    Args:
        rng: random numbers.
        noise: whether masks are eroded or dilated by a pixel, 3 % of the detections are missed,
            and the scores of cut masks are lower.
        short: largest number of pixels by which masks stop short of the tile's inner sides.
    """

    def __init__(self, rng: np.random.Generator, *, noise: bool, short: int = 0) -> None:
        self.rng, self.noise, self.short = rng, noise, short

    def __call__(self, tile: Tile, class_id, score, box, crop):
        size = tile.right - tile.left
        score += self.rng.normal(0, 0.05)
        # The pixels around the mask; beyond the tile there are none, so that cut sides stay cut.
        left, top = max(0, box[0] - 1), max(0, box[1] - 1)
        right, bottom = min(size, box[2] + 1), min(size, box[3] + 1)
        mask = np.zeros((bottom - top, right - left), np.uint8)
        mask[box[1] - top : box[3] - top, box[0] - left : box[2] - left] = crop
        if self.noise:
            if self.rng.random() < 0.03:
                return None
            mask = (cv2.erode, cv2.dilate)[self.rng.integers(2)](mask, CROSS)
            if tile.margins(np.array([box]) + [tile.left, tile.top] * 2)[0] == 0:
                score -= 0.2
        if self.short:
            x0, y0, x1, y1 = self.rng.integers(0, self.short + 1, 4) * tile.inner
            mask[:, : max(0, x0 - left)] = 0
            mask[: max(0, y0 - top)] = 0
            mask[:, max(0, size - x1 - left) :] = 0
            mask[max(0, size - y1 - top) :] = 0
        return class_id, score, [left, top, right, bottom], mask > 0


def rows_of(tiles: list[TileDetections], grid: TileGrid) -> list[list[TileDetections]]:
    rows = [[] for _ in range(grid.shape[0])]
    for tile in tiles:
        rows[tile.row].append(tile)
    return rows


def merge(
    tiles: list[TileDetections], grid: TileGrid, tolerance: int = 0, **settings: float
) -> tuple[SceneInstances, MergeReport]:
    return merge_rows(grid, rows_of(tiles, grid), MergeSettings(tolerance, **settings))


def corner_rule(tiles: list[TileDetections], grid: TileGrid) -> Detections:
    """Return the detections whose upper left corner lies in the cell of their own tile.

    This is StarDist's rule. The cells divide the scene: they begin one pixel after the tile, since
    a mask that begins with the tile may be cut. The rule is exact if masks do not depend on the
    tile and objects are smaller than the overlap by two pixels.
    """
    found = []
    for tile in tiles:
        cell = [
            (starts[k] + 1 if k else 0, starts[k + 1] + 1 if k + 1 < len(starts) else np.inf)
            for starts, k in ((grid.lefts, tile.column), (grid.tops, tile.row))
        ]
        detections = tile.detections
        for i, (x, y, *_) in enumerate(detections.boxes.tolist()):
            if cell[0][0] <= x < cell[0][1] and cell[1][0] <= y < cell[1][1]:
                found.append(
                    (
                        detections.classes[i],
                        detections.scores[i],
                        detections.boxes[i],
                        detections.mask(i),
                    )
                )
    return Detections.from_crops(*(zip(*found) if found else ([], [], [], [])))


@dataclass
class Faults:
    """Comparison of instances with the objects of a scene; the classes are not compared.

    Attributes:
        predicted: instances.
        hit: objects that have an instance with an IoU of at least 0.5.
        good: objects that have one with an IoU of at least 0.85.
        exact: objects that have one with the same pixels.
        surplus: instances whose largest part lies in an object that another instance claims, too.
        merged: instances that contain more than half of two objects or more.
    """

    predicted: int = 0
    hit: int = 0
    good: int = 0
    exact: int = 0
    surplus: int = 0
    merged: int = 0

    def __add__(self, other: Faults) -> Faults:
        return Faults(*(a + b for a, b in zip(astuple(self), astuple(other))))


def find_faults(detections: Detections, scene: np.ndarray) -> Faults:
    areas = np.bincount(scene.ravel())
    best = np.zeros(len(areas))
    claimed = set()
    faults = Faults(predicted=len(detections))
    for i, (left, top, right, bottom) in enumerate(detections.boxes.tolist()):
        mask = detections.mask(i)
        shared = np.bincount(scene[top:bottom, left:right][mask], minlength=len(areas))
        shared[0] = 0
        k = int(shared.argmax())
        faults.merged += int((2 * shared > areas).sum() > 1)
        if shared[k]:
            claimed.add(k)
            best[k] = max(best[k], shared[k] / (mask.sum() + areas[k] - shared[k]))
    faults.surplus = len(detections) - len(claimed)
    faults.hit, faults.good, faults.exact = (int((best >= x).sum()) for x in (0.5, 0.85, 1))
    return faults


def as_set(detections: Detections) -> set[tuple]:
    """Return the instances as comparable values: class, box and mask."""
    return {
        (class_id, tuple(box), detections.mask(i).tobytes())
        for i, (class_id, box) in enumerate(
            zip(detections.classes.tolist(), detections.boxes.tolist())
        )
    }


def objects_of(scene: np.ndarray, classes: int) -> set[tuple]:
    """Return the objects of a scene in the form of :func:`as_set`, counted without a detector."""
    found = set()
    for label in np.unique(scene[scene > 0]).tolist():
        ys, xs = np.nonzero(scene == label)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        mask = scene[box[1] : box[3], box[0] : box[2]] == label
        found.add((class_of(label, classes), box, mask.tobytes()))
    return found
