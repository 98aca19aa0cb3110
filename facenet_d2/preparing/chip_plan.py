"""Plan of a data set of chips: rasters with their labels, areas, splits and windows."""

from __future__ import annotations

import glob
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from ..errors import UserError
from ..scenes.area import Area
from ..scenes.coordinates import converted
from ..scenes.raster import Raster
from ..scenes.sources import public_name
from .chips import Chip, Objects, Site
from .label_sources import LabelReport
from .patches import patch_name
from .splits import assign, block_windows, distance_between, too_close


@dataclass(frozen=True)
class SplitRules:
    """How chips are divided into splits.

    Attributes:
        parts: for each split its share as text, or a pattern of rasters, or a vector file with its
            area; all of one kind.
        by: "blocks" or "rasters", the units that shares are made of.
        block_size: number of chips along the side of a block.
        gap: minimum distance in pixels of chips of different splits.
        seed: seed of the order of units with equal weights.
    """

    parts: Mapping[str, str]
    by: str = "blocks"
    block_size: int = 4
    gap: int = 64
    seed: int = 0

    @property
    def shares(self) -> dict[str, float] | None:
        """Share of each split, or None if rasters or areas are given."""
        shares = {}
        for name, part in self.parts.items():
            with suppress(ValueError):
                shares[name] = float(part)
        if not shares:
            return None
        if len(shares) < len(self.parts):
            raise UserError(
                "--split has shares and files; give shares, rasters or areas for all splits."
            )
        if not all(0 < share < float("inf") for share in shares.values()):
            raise UserError(f"--split: the shares {list(shares.values())} must be positive.")
        return shares

    @property
    def first(self) -> str:
        """The split for training."""
        return next(iter(self.parts))


@dataclass(frozen=True)
class ChipPlan:
    """Chips of a data set, before any of them is read.

    Attributes:
        chips: (site, chips) pairs, the chips in groups that are processed together.
        objects: objects of each scene, by its name.
        labels: report on the labels.
        dropped: number of chips that are left out because one of another split is too close.
        distance: smallest distance in pixels between two splits; None if there is one split, or no
            raster has the areas of two.
    """

    chips: list[tuple[Site, tuple[Chip, ...]]]
    objects: dict[str, Objects]
    labels: LabelReport
    dropped: int
    distance: float | None


# Chips that are processed together; the unit of parallel work and of a resumed run.
_GROUP = 16


def scene_names(paths: Sequence[str]) -> list[str]:
    """Return the name of each raster, that of its file without suffix.

    Raises:
        UserError: if two rasters have the same name.
    """
    names = [Path(public_name(path)).stem for path in paths]
    for name, number in Counter(names).items():
        if number > 1:
            raise UserError(
                f"{number} rasters are called {name!r}; give them different names, which become "
                "those of the chips."
            )
    return names


def make_plan(
    rasters: Mapping[str, Raster],
    objects: dict[str, Objects],
    labels: LabelReport,
    *,
    area: Area | None,
    split: SplitRules,
    size: int,
    overlap: int,
    suffix: str,
) -> ChipPlan:
    """Lay out the chips of all rasters, and divide them into splits.

    Args:
        rasters: open rasters by name, without areas.
        objects: objects of each raster.
        labels: report on the labels.
        area: area of interest, or None.
        split: how the chips are divided.
        size: side of a chip in pixels.
        overlap: overlap of chips in pixels.
        suffix: suffix of the chips' files.

    Raises:
        UserError: if a split gets nothing, or areas of splits are too close.
    """
    shares = split.shares
    by_rasters = _split_of_rasters(rasters, split) if shares is None else None
    areas: dict[str, Area | None] = {split.first: area}
    if shares is None and by_rasters is None:
        areas = {name: Area.from_file(part) for name, part in split.parts.items()}
        if area is not None:
            raise UserError("--split has the area of each split, so --aoi cannot be given as well.")
    in_blocks = shares is not None and len(shares) > 1 and split.by == "blocks"
    units: list[_Unit] = []
    reached: set[str] = set()
    problem: UserError | None = None
    distances: list[float] = []
    for name, raster in rasters.items():
        on_grid = {}
        for part, polygons in areas.items():
            if polygons is not None:
                grid = (raster.height, raster.width, raster.transform, raster.crs)
                try:
                    on_grid[part] = polygons.on_grid(raster.name, *grid).geometry
                except UserError as error:
                    problem = error
                    continue
            reached.add(part)
            site = Site(name, raster.path, polygons)
            own = _units_of(site, raster, size, overlap, split, in_blocks, suffix)
            if polygons is not None:
                own = [unit.within(on_grid[part]) for unit in own]
            if len(areas) > 1:
                own = [unit.of_split(part) for unit in own]
            units += [unit for unit in own if unit.chips]
        distances += _distances(on_grid, split.gap, raster.name)
    if problem is not None and set(areas) - reached:
        raise problem
    if problem is not None:
        used = {unit.site.scene for unit in units}
        left_out = [name for name in rasters if name not in used]
        print(
            f"{len(left_out)} of {len(rasters)} rasters are left out ({', '.join(left_out[:5])}): "
            f"{problem}",
            file=sys.stderr,
        )
    if by_rasters is not None:
        units = [unit.of_split(by_rasters[unit.site.scene]) for unit in units]
    elif shares is not None:
        units = _assign_units(units, objects, shares, split)
    if len(areas) > 1:
        return ChipPlan(_grouped(units), objects, labels, 0, min(distances, default=None))
    order = sorted(split.parts, key=lambda part: _weight(units, part))
    footprints = _footprints(units, rasters)
    splits = [chip.split for unit in units for chip in unit.chips]
    dropped = too_close(footprints, splits, order, split.gap)
    kept = np.flatnonzero(~dropped)
    distance = distance_between(footprints[kept], [splits[i] for i in kept])
    groups = _grouped(units, dropped)
    return ChipPlan(groups, objects, labels, int(dropped.sum()), distance)


@dataclass(frozen=True)
class _Unit:
    """Chips that stay together: a block, or a raster."""

    site: Site
    window: tuple[int, int, int, int]
    chips: tuple[Chip, ...]

    def of_split(self, split: str) -> _Unit:
        chips = tuple(Chip(chip.name, chip.window, split) for chip in self.chips)
        return _Unit(self.site, self.window, chips)

    def within(self, geometry: shapely.Geometry) -> _Unit:
        shapely.prepare(geometry)
        chips = [c for c in self.chips if shapely.intersects(geometry, shapely.box(*c.window))]
        return _Unit(self.site, self.window, tuple(chips))


def _units_of(
    site: Site,
    raster: Raster,
    size: int,
    overlap: int,
    split: SplitRules,
    in_blocks: bool,
    suffix: str,
) -> list[_Unit]:
    blocks = block_windows(
        raster.height,
        raster.width,
        size=size,
        overlap=overlap,
        chips=split.block_size if in_blocks else 0,
        gap=split.gap,
    )
    return [
        _Unit(
            site,
            block,
            tuple(
                Chip(patch_name(site.scene, window, whole=False, suffix=suffix), window, "")
                for window in windows
            ),
        )
        for block, windows in blocks
    ]


def _split_of_rasters(rasters: Mapping[str, Raster], split: SplitRules) -> dict[str, str] | None:
    """Return the split of each raster if the parts are patterns of rasters; otherwise None."""
    by_path = {str(Path(raster.path)): name for name, raster in rasters.items()}
    result: dict[str, str] = {}
    matched = {}
    for part, pattern in split.parts.items():
        found = [str(Path(path)) for path in sorted(glob.glob(pattern, recursive=True))]
        if Path(pattern).is_dir():
            found = [path for path in by_path if Path(path).parent == Path(pattern)]
        matched[part] = [by_path[path] for path in found if path in by_path]
    if not any(matched.values()):
        return None
    for part, names in matched.items():
        if not names:
            raise UserError(
                f"--split {part}={split.parts[part]} matches no raster of --input; give shares, "
                "patterns of rasters or areas for all splits."
            )
        for name in names:
            if result.setdefault(name, part) != part:
                raise UserError(f"--split: raster {name!r} is in {result[name]} and in {part}.")
    missing = [name for name in rasters if name not in result]
    if missing:
        raise UserError(f"--split: raster {missing[0]!r} is in no split.")
    return result


def _assign_units(
    units: list[_Unit], objects: dict[str, Objects], shares: dict[str, float], split: SplitRules
) -> list[_Unit]:
    if len(shares) == 1:
        return [unit.of_split(split.first) for unit in units]
    if split.by == "rasters":
        keys = [unit.site.scene for unit in units]
    else:
        keys = [str(i) for i in range(len(units))]
    num_objects: Counter[str] = Counter()
    num_chips: Counter[str] = Counter()
    for key, unit in zip(keys, units):
        left, top, right, bottom = (
            shapely.bounds(objects[unit.site.scene].polygons).reshape(-1, 4).T
        )
        x, y = (left + right) / 2, (top + bottom) / 2
        a, b, c, d = unit.window
        num_objects[key] += int(((x >= a) & (x < c) & (y >= b) & (y < d)).sum())
        num_chips[key] += len(unit.chips)
    names = list(dict.fromkeys(keys))
    # Objects and chips count alike.
    totals = max(1, num_objects.total()), max(1, num_chips.total())
    weights = [num_objects[k] / totals[0] + num_chips[k] / totals[1] for k in names]
    split_of = dict(zip(names, assign(weights, shares, split.seed)))
    return [unit.of_split(split_of[key]) for key, unit in zip(keys, units)]


def _weight(units: list[_Unit], split: str) -> int:
    return sum(chip.split == split for unit in units for chip in unit.chips)


def _distances(areas: dict[str, shapely.Geometry], gap: int, name: str) -> list[float]:
    """Return the distances between the areas of splits in a raster, in pixels.

    Raises:
        UserError: if one is less than the gap.
    """
    distances = []
    for one, other in combinations(areas, 2):
        distance = float(shapely.distance(areas[one], areas[other]))
        if distance < gap:
            raise UserError(
                f"--split: the areas of {one} and {other} are {distance:.1f} pixels apart in "
                f"{name}, less than --gap {gap}; move them apart, or lower --gap."
            )
        distances.append(distance)
    return distances


def _footprints(units: list[_Unit], rasters: Mapping[str, Raster]) -> np.ndarray:
    """Return the polygons of all chips in a common plane, in pixels of the first raster.

    Rasters without a reference system are put far from each other.
    """
    first = next(iter(rasters.values()))
    places = {name: i for i, name in enumerate(rasters)}
    result: list[shapely.Geometry] = []
    for unit in units:
        raster = rasters[unit.site.scene]
        boxes = np.array([shapely.box(*chip.window) for chip in unit.chips], dtype=object)
        points = shapely.get_coordinates(boxes)
        if raster is not first:
            points = _in_pixels_of(first, raster, points, places[unit.site.scene])
        result += shapely.set_coordinates(boxes, points).tolist()
    return np.array(result, dtype=object)


def _in_pixels_of(first: Raster, raster: Raster, points: np.ndarray, place: int) -> np.ndarray:
    if first.crs is not None and raster.crs is not None:
        try:
            there = np.transpose(raster.transform @ tuple(points.T))
            there = converted(there, raster.crs, first.crs)
            moved: np.ndarray = np.transpose(~first.transform @ tuple(there.T))
            return moved
        except UserError:
            # Too far away for the reference system of the first raster.
            pass
    return points + (1e8 * place, 0)


def _grouped(
    units: list[_Unit], dropped: np.ndarray | None = None
) -> list[tuple[Site, tuple[Chip, ...]]]:
    groups = []
    number = 0
    for unit in units:
        kept = []
        for chip in unit.chips:
            if dropped is None or not dropped[number]:
                kept.append(chip)
            number += 1
        groups += [(unit.site, tuple(kept[i : i + _GROUP])) for i in range(0, len(kept), _GROUP)]
    return groups


def plan_record(plan: ChipPlan) -> list[Any]:
    """Return what identifies the chips of a plan and the labels in them, as JSON values."""
    chips = [[site.scene, *map(_chip_record, chips)] for site, chips in plan.chips]
    areas = sorted(
        {shapely.to_wkb(site.area.geometry, hex=True) for site, _ in plan.chips if site.area}
    )
    labels = [
        [
            name,
            *(shapely.to_wkb(objects.polygons, hex=True).tolist()),
            objects.classes.tolist(),
            objects.source_ids.tolist(),
        ]
        for name, objects in plan.objects.items()
    ]
    return [chips, areas, labels]


def _chip_record(chip: Chip) -> list[Any]:
    return [chip.name, list(chip.window), chip.split]
