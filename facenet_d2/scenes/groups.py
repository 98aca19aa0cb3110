"""Groups of detections that are parts, or repetitions, of one object."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import fsum
from typing import NamedTuple

import numpy as np

from .detections import TileDetections, unpack_mask
from .tiles import Tile

Box = tuple[int, int, int, int]

SECOND_PIECE_AGREEMENT = 0.8
"""Agreement from which two pieces that one tile sees may belong to the same object."""


@dataclass(eq=False, slots=True, kw_only=True)
class Masked:
    """A mask.

    Attributes:
        box: tight box in scene pixels; left, top, right, bottom.
        bits: packed mask within the box.
        area: number of pixels of the mask.
    """

    box: Box
    bits: np.ndarray
    area: int

    def mask(self) -> np.ndarray:
        """Return the mask within the box, bool."""
        return unpack_mask(self.bits, self.box)


@dataclass(eq=False, slots=True, kw_only=True)
class Part(Masked):
    """A detection of a tile.

    Attributes:
        serial: number that increases with row, column and index of the detection in its tile.
        tile: the tile.
        class_id: class.
        score: score.
        margin: pixels between the mask and the closest inner side of its tile; see
            :meth:`~facenet_d2.scenes.tiles.Tile.margins`.
        cut: whether the mask reaches an inner side of its tile, so that it may continue beyond it.
        sliver: whether the mask is a strip along an inner side, narrow enough for its edge and the
            one in another tile to differ by its width.
    """

    serial: int
    tile: Tile
    class_id: int
    score: float
    margin: float
    cut: bool
    sliver: bool


def parts_of_tile(
    tile: Tile, detections: TileDetections, *, tolerance: int, first: int
) -> list[Part]:
    """Return the detections of a tile as parts.

    Args:
        tile: the tile.
        detections: its detections.
        tolerance: largest distance in pixels of a cut mask from the tile's side; a sliver is at
            most twice as wide.
        first: serial number of the first detection.
    """
    found = detections.detections
    boxes = [(left, top, right, bottom) for left, top, right, bottom in found.boxes.tolist()]
    margins = tile.margins(found.boxes).tolist()
    slivers = (tile.depths(found.boxes) <= 2 * tolerance).tolist()
    classes, scores, areas = found.classes.tolist(), found.scores.tolist(), found.areas.tolist()
    return [
        Part(
            serial=first + i,
            tile=tile,
            class_id=classes[i],
            score=scores[i],
            box=boxes[i],
            # A view would keep the masks of the whole tile in memory as long as one part is open.
            bits=found.packed(i).copy(),
            area=areas[i],
            margin=margins[i],
            cut=margins[i] <= tolerance,
            sliver=slivers[i],
        )
        for i in range(len(found))
    ]


class Link(NamedTuple):
    """Two detections of different tiles that agree on the region that both tiles saw.

    Attributes:
        rank: sort key, smallest for the best link. Links are ranked by IoU because agreement is
            1 for any mask within another; ties are broken by agreement, by the number of shared
            pixels and by the serial numbers, and never by the order of arrival.
        agreement: shared pixels over the smaller number of pixels that a mask has in that region.
        first: part with the smaller serial number.
        second: the other part.
    """

    rank: tuple[float, float, int, int, int]
    agreement: float
    first: Part
    second: Part


def crop_mask(mask: np.ndarray, box: Sequence[int], region: Sequence[int]) -> np.ndarray:
    """Return a mask, given within its box, in a region that lies within the box."""
    left, top, right, bottom = region
    return mask[top - box[1] : bottom - box[1], left - box[0] : right - box[0]]


def shared_box(a: Sequence[int], b: Sequence[int]) -> Box:
    """Return the intersection of two boxes, which may be empty."""
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def count_shared(a: Masked, others: Sequence[Masked]) -> int:
    """Return the number of pixels that a mask shares with the union of other masks."""
    mask = a.mask()
    shared = np.zeros_like(mask)
    for b in others:
        region = shared_box(a.box, b.box)
        if region[0] < region[2] and region[1] < region[3]:
            part = crop_mask(shared, a.box, region)
            part |= crop_mask(b.mask(), b.box, region)
    return int(np.count_nonzero(mask & shared))


def _area_seen_by(part: Part, tile: Tile) -> int:
    """Return the number of pixels of a mask within another tile."""
    if tile.contains(part.box):
        return part.area
    window = (tile.left, tile.top, tile.right, tile.bottom)
    region = shared_box(part.box, window)
    return int(np.count_nonzero(crop_mask(part.mask(), part.box, region)))


def link_parts(a: Part, b: Part, agreement: float) -> Link | None:
    """Return the link of two parts of different tiles, whose boxes intersect, if they agree.

    With C, the pixels that both tiles saw,

        agreement = |a and b| / min(|a within C|, |b within C|)

    is about 1 for parts of one object, however much of it each tile shows, and about 0 for
    neighbours, which share no pixels.

    Args:
        a: a part.
        b: a part with a larger serial number.
        agreement: limit, exclusive.
    """
    shared = count_shared(a, [b])
    if shared == 0:
        return None
    areas = _area_seen_by(a, b.tile), _area_seen_by(b, a.tile)
    agree = shared / min(areas)
    if agree <= agreement:
        return None
    iou = shared / (sum(areas) - shared)
    return Link((-iou, -agree, -shared, a.serial, b.serial), agree, a, b)


@dataclass(eq=False, slots=True, kw_only=True)
class Instance(Masked):
    """An object of the scene.

    Attributes:
        parts: detections whose union is the mask, by serial number: one that no seam cuts, or
            several that are cut.
        tiles: (row, column) of all tiles that see the object.
        score: score; see :func:`make_instances`.
        whole: whether a tile sees the object whole.
    """

    parts: list[Part]
    tiles: frozenset[tuple[int, int]]
    score: float
    whole: bool

    @property
    def class_id(self) -> int:
        """Class, the same for all parts."""
        return self.parts[0].class_id

    @property
    def serial(self) -> int:
        """Serial number of the first part."""
        return self.parts[0].serial


def union_of(parts: Sequence[Part]) -> tuple[Box, np.ndarray]:
    """Return the box and the mask, bool, of the union of masks."""
    box = (
        min(part.box[0] for part in parts),
        min(part.box[1] for part in parts),
        max(part.box[2] for part in parts),
        max(part.box[3] for part in parts),
    )
    mask = np.zeros((box[3] - box[1], box[2] - box[0]), bool)
    for part in parts:
        region = crop_mask(mask, box, part.box)
        region |= part.mask()
    return box, mask


NEARLY_CUT = 4
"""Multiple of the tolerance up to which a mask may stop short of a side that its object crosses."""


def _is_cut_in(part: Part, group: Sequence[Part], tolerance: int) -> bool:
    """Return whether a seam cuts a part, or another part continues where its mask stops short.

    A part that stops far from the side has seen the end of its object; what continues there spans
    several objects.
    """
    reach = NEARLY_CUT * tolerance
    tile, (left, top, right, bottom) = part.tile, part.box
    return part.cut or any(
        (other.box[0] < tile.left and left - tile.left <= reach)
        or (other.box[1] < tile.top and top - tile.top <= reach)
        or (other.box[2] > tile.right and tile.right - right <= reach)
        or (other.box[3] > tile.bottom and tile.bottom - bottom <= reach)
        for other in group
    )


def make_instances(
    parts: Sequence[Part], links: Sequence[Link], tolerance: int
) -> Iterator[Instance]:
    """Yield the instances that detections belong to.

    Detections are joined to groups. Of the members of a group that no seam cuts, the one with the
    largest margin, and so the most context, is the instance. Its score is the mean of all uncut
    members that are linked with it, because a network gives an object different scores in different
    tiles. Members that are not linked with it belong to other objects and joined the group through
    a detection that spans several objects; they are grouped again. If seams cut all members, the
    instance is their union.

    Args:
        parts: detections.
        links: all their links, in any order.
        tolerance: largest distance in pixels of a cut mask from the tile's side.
    """
    partners: dict[int, set[int]] = {part.serial: {part.serial} for part in parts}
    for link in links:
        partners[link.first.serial].add(link.second.serial)
        partners[link.second.serial].add(link.first.serial)
    groups = group_parts(parts, links)
    while groups:
        group = groups.pop()
        whole = [part for part in group if not _is_cut_in(part, group, tolerance)]
        if not whole:
            yield united_instance(group)
            continue
        best = min(whole, key=lambda part: (-part.margin, -part.score, -part.area, part.serial))
        own = partners[best.serial]
        scores = [part.score for part in whole if part.serial in own]
        yield Instance(
            parts=[best],
            tiles=_tiles_of([part for part in group if part.serial in own]),
            score=fsum(scores) / len(scores),
            whole=True,
            box=best.box,
            bits=best.bits,
            area=best.area,
        )
        others = [part for part in group if part.serial not in own]
        left = {part.serial for part in others}
        between = [x for x in links if x.first.serial in left and x.second.serial in left]
        groups += group_parts(others, between)


def united_instance(group: Sequence[Part]) -> Instance:
    """Return the union of cut detections.

    Their scores are averaged by area, because the maximum of several scores is biased upwards.
    """
    parts = sorted(group, key=lambda part: part.serial)
    # fsum is exact, so that the order of the parts does not matter.
    weight = fsum(part.area for part in parts)
    score = fsum(part.score * part.area for part in parts) / weight
    box, mask = union_of(parts)
    return Instance(
        parts=parts,
        tiles=_tiles_of(parts),
        score=score,
        whole=False,
        box=box,
        bits=np.packbits(mask),
        area=int(np.count_nonzero(mask)),
    )


def _tiles_of(parts: Sequence[Part]) -> frozenset[tuple[int, int]]:
    return frozenset(part.tile.place for part in parts)


class _Group:
    """Detections joined so far."""

    def __init__(self, part: Part) -> None:
        self.parts = [part]
        self.by_tile = {part.tile.place: [part]}

    def absorb(self, other: _Group) -> None:
        self.parts += other.parts
        for tile, parts in other.by_tile.items():
            self.by_tile.setdefault(tile, []).extend(parts)


def group_parts(parts: Sequence[Part], links: Sequence[Link]) -> list[list[Part]]:
    """Join detections by their links, the best links first.

    A group has at most one detection of a tile, or several pieces of one object. This is what keeps
    chains of touching objects apart.

    Args:
        parts: detections.
        links: all their links, in any order.
    """
    partners: dict[int, set[int]] = {part.serial: set() for part in parts}
    for link in links:
        if link.agreement > SECOND_PIECE_AGREEMENT:
            partners[link.first.serial].add(link.second.serial)
            partners[link.second.serial].add(link.first.serial)

    def pieces_of_one(a: _Group, b: _Group, tile: tuple[int, int]) -> bool:
        """Return whether the pieces that a tile sees are connected outside of it.

        All are cut, none overlap, and two of them are connected by strong links of the groups, as
        the arms of a U are by the tile that sees the bend.
        """
        in_a, in_b = a.by_tile[tile], b.by_tile[tile]
        if not all(part.cut for part in (*in_a, *in_b)):
            return False
        if any(count_shared(part, in_b) for part in in_a):
            return False
        members = {part.serial for part in (*a.parts, *b.parts)}
        reached: set[int] = set()
        following, others = ({part.serial for part in pieces} for pieces in (in_a, in_b))
        while following and not following & others:
            reached |= following
            following = set().union(*(partners[x] for x in following)) & members - reached
        return bool(following)

    group_of = {part.serial: _Group(part) for part in parts}
    for link in sorted(links, key=lambda link: link.rank):
        a, b = group_of[link.first.serial], group_of[link.second.serial]
        if a is b:
            continue
        if not all(pieces_of_one(a, b, tile) for tile in a.by_tile.keys() & b.by_tile.keys()):
            continue
        if len(a.parts) < len(b.parts):
            a, b = b, a
        a.absorb(b)
        for part in b.parts:
            group_of[part.serial] = a
    return [group.parts for group in {id(group): group for group in group_of.values()}.values()]


def connected_components(
    parts: Sequence[Part], links: Sequence[Link]
) -> Iterator[tuple[list[Part], list[Link]]]:
    """Yield the connected components of detections and their links, with the links of each."""
    parent = {part.serial: part.serial for part in parts}

    def root(serial: int) -> int:
        while parent[serial] != serial:
            parent[serial] = parent[parent[serial]]
            serial = parent[serial]
        return serial

    for link in links:
        parent[root(link.first.serial)] = root(link.second.serial)
    members: dict[int, tuple[list[Part], list[Link]]] = {}
    for part in parts:
        members.setdefault(root(part.serial), ([], []))[0].append(part)
    for link in links:
        members[root(link.first.serial)][1].append(link)
    yield from members.values()
