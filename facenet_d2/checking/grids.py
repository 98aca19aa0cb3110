"""How a data set's objects meet SOLOv2's grids and scale ranges at a given input size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from detectron2.config import CfgNode

from ..modeling.grids.layout import GridLayout
from ..modeling.grids.targets import assign_cells
from ..structures.masks import MASK_STRIDE

# As shares of the objects: a setting is as good as the best one up to the first; the present one is
# kept up to the second.
NEGLIGIBLE = 0.001
NOTABLE = 0.005


@dataclass(frozen=True)
class Setting:
    """The keys of a config that decide which objects can be found.

    Attributes:
        layout: the grids and the scale ranges.
        min_mask_areas: of each level; predicted masks of no more pixels, at a quarter of the
            input's size, are dropped.
        shortest: the input's shortest side is scaled to this ...
        longest: ... unless the longest would then be longer than this.
        divisibility: inputs are padded to multiples of it.
    """

    layout: GridLayout
    min_mask_areas: tuple[int, ...]
    shortest: int
    longest: int
    divisibility: int = 32

    @classmethod
    def from_config(cls, cfg: CfgNode, input_size: int | None = None) -> Setting:
        """Of a config at its test size, or with another longest side, in pixels."""
        return cls(
            layout=GridLayout.from_config(cfg),
            min_mask_areas=tuple(cfg.MODEL.SOLOV2.MIN_MASK_AREAS),
            shortest=input_size or cfg.INPUT.MIN_SIZE_TEST,
            longest=input_size or cfg.INPUT.MAX_SIZE_TEST,
        )


@dataclass(frozen=True)
class GridStudy:
    """How many of N objects a setting can find.

    Attributes:
        num_objects: N.
        no_cell: those whose size is in no level's scale range: they are never trained on.
        sharing: those that have to share a cell with another object of the same level.
        no_own_cell: those of which every cell of every level is given to another, later one: their
            class is never trained, and no place is left in the output for them.
        too_small: those with a cell whose mask is under ``min_mask_areas`` on every level that they
            belong to: they are trained on, but dropped when found.
        per_level: objects that belong to each level; some belong to two.
        lost: those of no_cell, no_own_cell and too_small together.
    """

    num_objects: int
    no_cell: int
    sharing: int
    no_own_cell: int
    too_small: int
    per_level: tuple[int, ...]
    lost: int


def scales(sizes: np.ndarray, setting: Setting) -> np.ndarray:
    """Detectron2's ``ResizeShortestEdge`` for each (height, width)."""
    short, long = sizes.min(axis=1), sizes.max(axis=1)
    scale = setting.shortest / short
    return np.where(long * scale > setting.longest, setting.longest / long, scale)


def scaled_objects(
    sizes: np.ndarray, image_of: np.ndarray, measures: np.ndarray, setting: Setting
) -> np.ndarray:
    """Measures of objects (see ``Examination``) in pixels of the network's input."""
    scale = scales(sizes, setting)[image_of][:, None]
    scaled = measures.copy()
    scaled[:, 1:5] *= scale
    scaled[:, 5:6] *= scale**2
    # Centres are pixel indices.
    scaled[:, 6:8] = (scaled[:, 6:8] + 0.5) * scale - 0.5
    return scaled


def study(
    sizes: np.ndarray, image_of: np.ndarray, measures: np.ndarray, setting: Setting
) -> GridStudy:
    """See how a setting's grids would take the objects, each image by itself.

    Args:
        sizes: ``(I, 2)``, height and width of the images.
        image_of: ``(N,)``, the image of each object.
        measures: ``(N, 8)``, as in :class:`~facenet_d2.checking.examine.Examination`.
        setting: the grids, and the size of the input.
    """
    number = len(measures)
    if number == 0:
        return GridStudy(0, 0, 0, 0, 0, (0,) * len(setting.layout.num_grids), 0)
    objects = scaled_objects(sizes, image_of, measures, setting)
    step = setting.divisibility
    padded = np.ceil(np.round(sizes * scales(sizes, setting)[:, None]) / step) * step
    extents = torch.from_numpy(padded[image_of])
    pairs = assign_cells(
        torch.from_numpy(objects[:, 1:5]),
        torch.from_numpy(objects[:, 6]),
        torch.from_numpy(objects[:, 7]),
        (extents[:, :1], extents[:, 1:]),
        setting.layout,
    )
    has_cell, has_own, shares = (np.zeros(number, dtype=bool) for _ in range(3))
    large_enough = np.zeros(number, dtype=bool)
    per_level = []
    mask_areas = objects[:, 5] / MASK_STRIDE**2
    for (owner, cell), grid, least in zip(
        pairs, setting.layout.num_grids, setting.min_mask_areas, strict=True
    ):
        owner, cell = owner.numpy(), cell.numpy()
        place = image_of[owner] * grid**2 + cell
        # Objects are in the order of their images, and the last of an image's takes a cell.
        _, group, times = np.unique(place, return_inverse=True, return_counts=True)
        last = np.zeros(len(times), dtype=int)
        np.maximum.at(last, group, owner)
        has_cell[owner] = True
        has_own[owner[last[group] == owner]] = True
        shares[owner[times[group] > 1]] = True
        large_enough[owner[mask_areas[owner] > least]] = True
        per_level.append(len(np.unique(owner)))
    lost = ~has_own | ~large_enough
    return GridStudy(
        num_objects=number,
        no_cell=int((~has_cell).sum()),
        sharing=int(shares.sum()),
        no_own_cell=int((has_cell & ~has_own).sum()),
        too_small=int((has_cell & ~large_enough).sum()),
        per_level=tuple(per_level),
        lost=int(lost.sum()),
    )


def suggest(
    sizes: np.ndarray, image_of: np.ndarray, measures: np.ndarray, setting: Setting
) -> tuple[Setting, GridStudy]:
    """The setting with the fewest cells of those that lose next to no more objects than the best.

    Tried are the scale ranges halved up to three times, with the finer levels' grids up to twice as
    fine, and least mask areas that no more than a thousandth of a level's objects is under.

    Args:
        sizes: as for :func:`study`.
        image_of: the same.
        measures: the same.
        setting: what is used now; it is suggested itself where nothing tried is better.
    """
    present = study(sizes, image_of, measures, setting)
    tried = [(present, setting)]
    for halvings in range(4):
        for finer in (1, 1.25, 1.5, 2):
            layout = _scaled(setting.layout, 0.5**halvings, finer)
            other = replace(setting, layout=layout)
            areas = _least_areas(sizes, image_of, measures, other)
            other = replace(other, min_mask_areas=areas)
            tried.append((study(sizes, image_of, measures, other), other))
    fewest = min(s.lost for s, _ in tried)
    if present.lost <= fewest + NOTABLE * present.num_objects:
        return setting, present
    allowed = fewest + NEGLIGIBLE * present.num_objects
    good = [(s, other) for s, other in tried if s.lost <= allowed]
    # Of equals the first, whose scale ranges are nearest to the present ones.
    found, best = min(good, key=lambda t: t[1].layout.num_cells)
    return best, found


def _scaled(layout: GridLayout, ranges: float, finer: float) -> GridLayout:
    levels = len(layout.num_grids)
    bounds = [
        [max(1, round(a * ranges)), max(2, round(b * ranges))] for a, b in layout.scale_ranges
    ]
    # The smallest and the largest objects stay in.
    bounds[0][0] = layout.scale_ranges[0][0]
    bounds[-1][1] = layout.scale_ranges[-1][1]
    # Only the finer half of the levels has crowded cells.
    grids = [
        round(grid * finer) if level <= levels // 2 else grid
        for level, grid in enumerate(layout.num_grids)
    ]
    return GridLayout(tuple(grids), tuple(map(tuple, bounds)), layout.center_scale)


def _least_areas(
    sizes: np.ndarray, image_of: np.ndarray, measures: np.ndarray, setting: Setting
) -> tuple[int, ...]:
    if len(measures) == 0:
        return setting.min_mask_areas
    objects = scaled_objects(sizes, image_of, measures, setting)
    boxes = objects[:, 1:5]
    side = np.sqrt((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    areas: list[int] = []
    for (least, greatest), now in zip(
        setting.layout.scale_ranges, setting.min_mask_areas, strict=True
    ):
        own = objects[(side >= least) & (side <= greatest), 5] / MASK_STRIDE**2
        smallest = np.quantile(own, NEGLIGIBLE) if len(own) else np.inf
        areas.append(int(max(0, min(now, np.ceil(smallest) - 1))))
    return tuple(areas)


def describe(setting: Setting) -> str:
    """The keys of a setting as they stand in a config or on the command line."""
    ranges: Sequence[Sequence[float]] = [list(r) for r in setting.layout.scale_ranges]
    return (
        f"MODEL.SOLOV2.NUM_GRIDS {list(setting.layout.num_grids)} "
        f"MODEL.SOLOV2.SCALE_RANGES {ranges} "
        f"MODEL.SOLOV2.MIN_MASK_AREAS {list(setting.min_mask_areas)}"
    ).replace(", ", ",")
