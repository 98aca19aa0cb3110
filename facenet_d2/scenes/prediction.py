"""From a raster to the instances of a scene: detection in tiles, and the merge over their seams."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeVar

import numpy as np

from .description import SceneInstance
from .detections import Detections, TileDetections
from .merge import MergeReport, MergeSettings, SeamMerger
from .raster import Raster
from .stretch import Stretch
from .tile_store import TileSource, TileStore
from .tiles import Grid, Tile, TileGrid


class TileImage(NamedTuple):
    """The pixels of a tile.

    Attributes:
        values: ``(bands, size, size)`` float32 or uint8, 0 to 255 after the stretch.
        valid: ``(size, size)`` bool; elsewhere the values are 0.
    """

    values: np.ndarray
    valid: np.ndarray


class TileInstances(NamedTuple):
    """Detections in the pixels of a tile.

    Attributes:
        classes: N class indices.
        scores: N scores.
        boxes: ``(N, 4)`` int; left, top, right, bottom of the crops.
        crops: N masks ``(bottom - top, right - left)`` bool.
        capped: whether the maximum number of detections was reached.
    """

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    crops: Sequence[np.ndarray]
    capped: bool = False


Detector = Callable[[Sequence[TileImage]], Sequence[TileInstances]]
"""A function that detects the instances in tiles of equal size."""


@dataclass(frozen=True)
class Scene:
    """A raster, and how its pixels are given to the detector.

    Attributes:
        raster: the raster.
        stretch: stretch of its values, the same for all tiles.
        grid: the tiles.
    """

    raster: Raster
    stretch: Stretch
    grid: TileGrid

    def read(self, tile: Tile) -> TileImage:
        """Read and stretch a tile; the part beyond the scene is not valid."""
        values, valid = self.raster.read((tile.left, tile.top, tile.right, tile.bottom))
        return TileImage(self.stretch.apply(values, valid), valid)


def tile_batches(
    grid: TileGrid, batch_size: int, shard: int = 0, num_shards: int = 1
) -> list[list[Tile]]:
    """Return the batches of tiles that one of several processes detects instances in.

    A tile is always in the same batch, since a network's output can depend on the other images in
    a batch by rounding errors.

    Args:
        grid: the tiles of the scene.
        batch_size: maximum number of tiles in a batch.
        shard: number of the process, from 0.
        num_shards: number of processes; each has a part of the batches without gaps.
    """
    number = -(-len(grid) // batch_size)
    first, end = (number * i // num_shards for i in (shard, shard + 1))
    tiles = islice(grid, first * batch_size, end * batch_size)
    return list(iter(lambda: list(islice(tiles, batch_size)), []))


def missing_batches(batches: Iterable[Sequence[Tile]], store: TileStore) -> list[Sequence[Tile]]:
    """Return the batches of which a tile is not in a store."""
    return [batch for batch in batches if not all(tile in store for tile in batch)]


def detect_tiles(
    scene: Scene,
    batches: Iterable[Sequence[Tile]],
    detect: Detector,
    store: TileStore,
    *,
    on_batch: Callable[[int], object] = lambda number: None,
) -> None:
    """Detect the instances in tiles, and keep them in a store.

    Batches that are in the store already, and the pixels of tiles without a valid pixel, are not
    given to the detector. Of the masks, valid pixels are kept.

    Args:
        scene: the scene.
        batches: tiles of its grid, from :func:`tile_batches`.
        detect: the detector.
        store: store of the detections.
        on_batch: called with the number of tiles of each batch that is added to the store.
    """
    missing = missing_batches(batches, store)
    tiles = [tile for batch in missing for tile in batch]
    images = _read_ahead(tiles, scene.read, 2 * max(map(len, missing), default=0))
    for batch in missing:
        read = [next(images) for _ in batch]
        filled = [i for i, image in enumerate(read) if image.valid.any()]
        found = detect([read[i] for i in filled]) if filled else []
        results = dict(zip(filled, found, strict=True))
        for i, tile in enumerate(batch):
            store.save(tile, _to_detections(scene.grid, tile, read[i], results.get(i)))
        on_batch(len(batch))


def _to_detections(
    grid: TileGrid, tile: Tile, image: TileImage, found: TileInstances | None
) -> TileDetections:
    if found is None:
        return TileDetections(tile.row, tile.column, Detections.from_crops([], [], [], []))
    crops = [
        crop & image.valid[top:bottom, left:right]
        for crop, (left, top, right, bottom) in zip(found.crops, found.boxes.tolist(), strict=True)
    ]
    return TileDetections.from_crops(
        grid, tile, found.classes, found.scores, found.boxes, crops, capped=found.capped
    )


ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


def _read_ahead(
    items: Sequence[ItemT], read: Callable[[ItemT], ResultT], number: int
) -> Iterator[ResultT]:
    """Yield what is read for each item, reading the next ones in another thread."""
    with ThreadPoolExecutor(1, thread_name_prefix="tiles") as executor:
        waiting: deque[Future[ResultT]] = deque()
        try:
            for item in items:
                waiting.append(executor.submit(read, item))
                if len(waiting) > number:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            executor.shutdown(wait=True, cancel_futures=True)


class InstanceStream:
    """The instances of a scene, merged while they are iterated over.

    Attributes:
        report: counts of the merge; complete at the end of the iteration.
    """

    def __init__(
        self,
        grid: Grid,
        store: TileSource,
        settings: MergeSettings,
        *,
        min_score: float = 0.0,
        on_row: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
            grid: the tiles of the scene.
            store: source of the detections of all tiles.
            settings: settings of the merge.
            min_score: minimum score of the instances, after the merge.
            on_row: called after each row of tiles.
        """
        self._grid = grid
        self._on_row = on_row
        self._store = store
        self._min_score = min_score
        self._merger = SeamMerger(grid, settings)

    @property
    def report(self) -> MergeReport:
        return self._merger.report

    def __iter__(self) -> Iterator[SceneInstance]:
        """Yield the instances, with ids from 1 in the order of the merge."""
        grid, number = self._grid, 0
        for row in range(grid.shape[0]):
            merged = self._merger.add_row(self._store.load(tile) for tile in grid.row(row))
            found = merged.detections
            for i, box in enumerate(found.boxes.tolist()):
                if found.scores[i] < self._min_score:
                    continue
                number += 1
                left, top, right, bottom = box
                yield SceneInstance(
                    id=number,
                    class_index=int(found.classes[i]),
                    score=float(found.scores[i]),
                    x0=left,
                    y0=top,
                    mask=found.mask(i),
                    tiles=int(merged.tiles[i]),
                    cut=left == 0 or top == 0 or right == grid.width or bottom == grid.height,
                )
            self._on_row()
