"""Merge of the detections of overlapping tiles into the instances of a scene."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from shapely import STRtree

from ..errors import UserError
from .detections import Detections, TileDetections
from .groups import (
    Instance,
    Link,
    Part,
    connected_components,
    link_parts,
    make_instances,
    parts_of_tile,
)
from .suppression import DropLeftovers, DropRepeats, Suppression, as_boxes
from .tiles import Grid, Tile


@dataclass(frozen=True)
class MergeSettings:
    """Settings of the merge.

    Attributes:
        tolerance: largest distance in pixels between a mask and a side of its tile at which the
            mask may continue beyond the side; the stride of the masks in scene pixels, or 0 for
            exact masks. Masks of at most twice this width along a side are slivers.
        agreement: agreement above which two detections are of one object; see
            :func:`~facenet_d2.scenes.groups.link_parts`.
        score_ratio: smallest ratio of the lower to the higher score of two detections of one
            object. Without a limit, the many detections with low scores would link what is
            separate.
        repeat_iou: IoU above which only the better of two instances of different classes is kept;
            None to keep both.

    Raises:
        UserError: if a value is out of its range.
    """

    tolerance: int
    agreement: float = 0.5
    score_ratio: float = 0.7
    repeat_iou: float | None = None

    def __post_init__(self) -> None:
        if self.tolerance < 0:
            raise UserError(
                f"The tolerance of the merge is {self.tolerance} pixels; it must not be negative."
            )
        for name, value in (
            ("agreement", self.agreement),
            ("ratio of scores", self.score_ratio),
            ("IoU of repeats", self.repeat_iou),
        ):
            if value is not None and not 0 <= value < 1:
                raise UserError(
                    f"The {name} of the merge is {value}; it must be at least 0 and less than 1."
                )

    @property
    def cut_score_ratio(self) -> float:
        """Ratio of scores if a seam cuts a detection, because networks are less sure of a part."""
        return self.score_ratio / 2


@dataclass
class MergeReport:
    """Counts of a merge.

    Attributes:
        tiles: tiles.
        detections: detections of the tiles.
        instances: instances of the scene.
        united: instances put together from several cut detections, because no tile sees them whole.
        oversized: those of them that are larger than the overlap of the tiles, so that a larger
            overlap would help.
        fragments: other instances that no tile sees whole: one cut detection without a partner.
        slivers: strips along the side of a tile, dropped because a tile that sees more there does
            not report them.
        leftovers: instances dropped because they lie within another one of their class or repeat
            it.
        repeats: instances dropped in favour of a similar one of another class.
        capped: (row, column) of the tiles in which the detector reached its maximum number of
            detections.
        most_open: largest number of detections held between two rows of tiles.
    """

    tiles: int = 0
    detections: int = 0
    instances: int = 0
    united: int = 0
    oversized: int = 0
    fragments: int = 0
    slivers: int = 0
    leftovers: int = 0
    repeats: int = 0
    capped: list[tuple[int, int]] = field(default_factory=list)
    most_open: int = 0


@dataclass(frozen=True, eq=False)
class SceneInstances:
    """Instances of a scene.

    Attributes:
        ids: ``(N,)`` int64; numbers from 1 in the order in which the merge finishes instances,
            which depends on the grid and the detections only.
        detections: their classes, scores, boxes and masks.
        parts: ``(N,)`` int32; number of detections that form the mask.
        tiles: ``(N,)`` int32; number of tiles of these detections.
        whole: ``(N,)`` bool; whether a tile sees the instance whole.
    """

    ids: np.ndarray
    detections: Detections
    parts: np.ndarray
    tiles: np.ndarray
    whole: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def concatenate(cls, batches: Iterable[SceneInstances]) -> SceneInstances:
        """Return the instances of several batches in one."""
        batches = [_scene_instances([], first_id=1), *batches]
        found = [batch.detections for batch in batches]
        return cls(
            np.concatenate([batch.ids for batch in batches]),
            Detections(
                np.concatenate([detections.classes for detections in found]),
                np.concatenate([detections.scores for detections in found]),
                np.concatenate([detections.boxes for detections in found]),
                np.concatenate([detections.bits for detections in found]),
            ),
            np.concatenate([batch.parts for batch in batches]),
            np.concatenate([batch.tiles for batch in batches]),
            np.concatenate([batch.whole for batch in batches]),
        )


class SeamMerger:
    """The merge, fed with one row of tiles after the other.

    1. Detections of one class in two tiles are linked if they agree on the region that both tiles
       saw, and have similar scores.
    2. Links join detections to groups, the best first, with one detection of a tile in a group.
    3. The detection that lies farthest from its tile's sides, and is not cut by them, stands for
       those of its group that it is linked with; the others are grouped again. If all are cut,
       their union stands for the group.
    4. A sliver along the side of a tile is dropped if a tile that sees more there reports none.
    5. A cut mask that lies within another instance of its class is dropped, and so is a whole one
       that other tiles report with a higher score.
    6. Of similar instances of different classes the better one is kept, if that is asked for.

    An instance is returned as soon as no later row can change it, so that only detections near the
    last row are held. The result depends on the grid and the detections only: not on the order of
    the tiles within a row, nor on where and when they were detected.

    Args:
        grid: the tiles of the scene.
        settings: settings of the merge.

    Attributes:
        report: counts up to now; complete after the last row.
    """

    def __init__(self, grid: Grid, settings: MergeSettings) -> None:
        self.grid = grid
        self.settings = settings
        self.report = MergeReport()
        self._next_row = 0
        self._next_serial = 0
        self._open: list[Part] = []
        self._links: list[Link] = []
        self._leftovers = Suppression(DropLeftovers(settings.agreement, settings.cut_score_ratio))
        repeat_iou = settings.repeat_iou
        self._repeats = None if repeat_iou is None else Suppression(DropRepeats(repeat_iou))

    def add_row(self, tiles: Iterable[TileDetections]) -> SceneInstances:
        """Add the next row of tiles, and return the instances that are finished.

        Args:
            tiles: detections of the row's tiles in any order. Tiles without detections may be
                missing; for a row without any, pass an empty sequence.

        Raises:
            ValueError: if a tile is not of this row, is given twice, or has a box that does not lie
                within it.
        """
        row = self._next_row
        if row == self.grid.shape[0]:
            raise ValueError(f"all {row} rows of tiles have been merged")
        new = self._parts(row, tiles)
        self._links += self._new_links(new)
        parts = [*self._open, *new]
        self._next_row += 1
        is_last = self._next_row == self.grid.shape[0]
        # No detection of a later row has a pixel above this one.
        horizon = self.grid.height if is_last else self.grid.tops[self._next_row]
        instances = self._resolve(parts, horizon)
        self.report.most_open = max(self.report.most_open, len(self._open))

        open_boxes = [part.box for part in self._open]
        finished = self._leftovers.add(instances, open_boxes)
        if self._repeats is not None:
            finished = self._repeats.add(finished, open_boxes + self._leftovers.undecided)
        finished.sort(key=lambda x: (x.box[1], x.box[0], x.class_id, x.serial))
        batch = _scene_instances(finished, first_id=self.report.instances + 1)
        self._count(finished)
        return batch

    def _parts(self, row: int, tiles: Iterable[TileDetections]) -> list[Part]:
        """Return the detections of a row in canonical order."""
        parts: list[Part] = []
        seen = set()
        for detections in sorted(tiles, key=lambda tile: tile.column):
            if detections.row != row or detections.column in seen:
                raise ValueError(
                    f"row {row} of tiles is due, with each tile once, and not tile "
                    f"{detections.row}, {detections.column}"
                )
            seen.add(detections.column)
            tile = self.grid.tile(row, detections.column)
            self._check_boxes(tile, detections.detections.boxes)
            parts += parts_of_tile(
                tile,
                detections,
                tolerance=self.settings.tolerance,
                first=self._next_serial + len(parts),
            )
            self.report.tiles += 1
            if detections.capped:
                self.report.capped.append((row, detections.column))
        self._next_serial += len(parts)
        self.report.detections += len(parts)
        return parts

    def _check_boxes(self, tile: Tile, boxes: np.ndarray) -> None:
        if len(boxes) == 0:
            return
        left, top = boxes[:, :2].min(axis=0).tolist()
        right, bottom = boxes[:, 2:].max(axis=0).tolist()
        in_scene = right <= self.grid.width and bottom <= self.grid.height
        if not in_scene or not tile.contains((left, top, right, bottom)):
            raise ValueError(
                f"detections of tile {tile.row}, {tile.column} reach beyond the tile or the scene"
            )

    def _new_links(self, new: Sequence[Part]) -> Iterator[Link]:
        """Yield the links of new detections with each other and with those held."""
        if not new:
            return
        parts = [*self._open, *new]
        boxes = np.array([part.box for part in parts])
        classes = np.array([part.class_id for part in parts])
        scores = np.array([part.score for part in parts])
        cut = np.array([part.cut for part in parts])
        tiles = np.array([part.tile.place for part in parts])
        shapes = as_boxes(boxes)
        i, j = STRtree(shapes).query(shapes[len(self._open) :])
        i += len(self._open)
        # A pair of new detections is found twice, and touching boxes share no pixel.
        keep = (j < i) & (classes[i] == classes[j]) & (tiles[i] != tiles[j]).any(axis=1)
        keep &= (boxes[i, :2] < boxes[j, 2:]).all(axis=1)
        keep &= (boxes[j, :2] < boxes[i, 2:]).all(axis=1)
        settings = self.settings
        limits = np.where(cut[i] | cut[j], settings.cut_score_ratio, settings.score_ratio)
        keep &= np.minimum(scores[i], scores[j]) >= limits * np.maximum(scores[i], scores[j])
        for first, second in sorted(zip(j[keep].tolist(), i[keep].tolist())):
            link = link_parts(parts[first], parts[second], settings.agreement)
            if link is not None:
                yield link

    def _resolve(self, parts: Sequence[Part], horizon: int) -> list[Instance]:
        """Return the instances of detections that can have no later partner; hold the others."""
        no_links: list[Link] = []
        linked = {part.serial for link in self._links for part in (link.first, link.second)}
        clusters = [([part], no_links) for part in parts if part.serial not in linked]
        clusters += connected_components(
            [part for part in parts if part.serial in linked], self._links
        )
        instances: list[Instance] = []
        self._open, self._links = [], []
        for members, links in clusters:
            if max(part.box[3] for part in members) > horizon:
                self._open += members
                self._links += links
            else:
                instances += make_instances(members, links, self.settings.tolerance)
        result = [instance for instance in instances if not self._is_refuted(instance)]
        self.report.slivers += len(instances) - len(result)
        return result

    def _is_refuted(self, instance: Instance) -> bool:
        """Return whether all parts are slivers, and a tile with more context reports none there.

        The edges of masks differ between tiles by a pixel or two, so that a sliver may share no
        pixel with the same object in another tile.
        """
        if not all(part.sliver for part in instance.parts):
            return False
        return any(
            tile.place not in instance.tiles
            and tile.margins(np.array(instance.box))[0] > self.settings.tolerance
            for tile in self.grid.tiles_around(instance.box)
        )

    def _count(self, finished: Sequence[Instance]) -> None:
        report = self.report
        report.instances += len(finished)
        for instance in finished:
            left, top, right, bottom = instance.box
            if len(instance.parts) > 1:
                report.united += 1
                report.oversized += max(right - left, bottom - top) > self.grid.overlap
            elif not instance.whole:
                report.fragments += 1
        report.leftovers = self._leftovers.dropped
        report.repeats = 0 if self._repeats is None else self._repeats.dropped


def _scene_instances(instances: Sequence[Instance], first_id: int) -> SceneInstances:
    return SceneInstances(
        np.arange(first_id, first_id + len(instances), dtype=np.int64),
        Detections.from_packed(
            [instance.class_id for instance in instances],
            [instance.score for instance in instances],
            [instance.box for instance in instances],
            [instance.bits for instance in instances],
        ),
        np.array([len(instance.parts) for instance in instances], np.int32),
        np.array([len({part.tile.place for part in x.parts}) for x in instances], np.int32),
        np.array([instance.whole for instance in instances], bool),
    )


def merge_rows(
    grid: Grid, rows: Iterable[Iterable[TileDetections]], settings: MergeSettings
) -> tuple[SceneInstances, MergeReport]:
    """Merge all rows of tiles, and hold the instances of the whole scene in memory.

    Args:
        grid: the tiles of the scene.
        rows: detections of each row, from the top; see :meth:`SeamMerger.add_row`.
        settings: settings of the merge.
    """
    merger = SeamMerger(grid, settings)
    return SceneInstances.concatenate([merger.add_row(row) for row in rows]), merger.report
