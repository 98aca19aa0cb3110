"""Statistics of how SOLOv2's grids and scale ranges match the objects of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from ..modeling.grids.layout import GridLayout
from ..modeling.grids.targets import assign_cells
from ..structures.masks import MASK_STRIDE
from .objects import GridSettings, Objects

# Fractions of all objects: settings whose numbers of lost objects differ by at most NEGLIGIBLE are
# equally good, and the present settings are kept unless others lose fewer by more than NOTABLE.
NEGLIGIBLE = 0.001
NOTABLE = 0.005


@dataclass(frozen=True)
class GridStudy:
    """Numbers of objects that settings can and cannot find.

    Attributes:
        num_objects: number of all objects.
        no_cell: objects whose size is in no level's scale range; they are not trained on.
        sharing: objects that share a cell with another object of the same level.
        no_own_cell: objects all of whose cells are assigned to later objects; their class is never
            trained, and the output has no place for them.
        too_small: objects with a cell whose mask does not exceed ``min_mask_areas`` on any of their
            levels; they are trained on, but dropped in inference.
        per_level: objects assigned to each level; an object can be assigned to two.
        lost: objects in no_cell, no_own_cell or too_small.
    """

    num_objects: int
    no_cell: int
    sharing: int
    no_own_cell: int
    too_small: int
    per_level: tuple[int, ...]
    lost: int


def study_grids(objects: Objects, settings: GridSettings) -> GridStudy:
    """Assign the objects of each image to grid cells, and count the ones that are lost.

    Args:
        objects: the objects, in pixels of their images.
        settings: the grids and the input size.
    """
    number = len(objects)
    if number == 0:
        return GridStudy(0, 0, 0, 0, 0, (0,) * len(settings.layout.num_grids), 0)
    objects = objects.scaled(settings)
    step = settings.divisibility
    padded = np.ceil(objects.image_sizes / step) * step
    extents = torch.from_numpy(padded[objects.image_of])
    pairs = assign_cells(
        torch.from_numpy(objects.boxes),
        torch.from_numpy(objects.centers[:, 0]),
        torch.from_numpy(objects.centers[:, 1]),
        (extents[:, :1], extents[:, 1:]),
        settings.layout,
    )
    has_cell, has_own, shares = (np.zeros(number, dtype=bool) for _ in range(3))
    large_enough = np.zeros(number, dtype=bool)
    per_level = []
    mask_areas = objects.areas / MASK_STRIDE**2
    for pair, grid, min_area in zip(
        pairs, settings.layout.num_grids, settings.min_mask_areas, strict=True
    ):
        owner, cell = (indices.numpy() for indices in pair)
        place = objects.image_of[owner] * grid**2 + cell
        # Objects are in the order of their images, and the last of an image's takes a cell.
        _, group, times = np.unique(place, return_inverse=True, return_counts=True)
        last = np.zeros(len(times), dtype=int)
        np.maximum.at(last, group, owner)
        has_cell[owner] = True
        has_own[owner[last[group] == owner]] = True
        shares[owner[times[group] > 1]] = True
        large_enough[owner[mask_areas[owner] > min_area]] = True
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


def suggest_grids(objects: Objects, settings: GridSettings) -> tuple[GridSettings, GridStudy]:
    """Search for settings that lose fewer objects, with as few cells as possible.

    The candidates have scale ranges halved up to three times, grids up to twice as fine on the
    finest ``L // 2 + 1`` of the L levels, and minimum mask areas that at most a thousandth of a
    level's objects fall below.

    Args:
        objects: the objects, in pixels of their images.
        settings: the present settings, which are kept unless a candidate is notably better.
    """
    present = study_grids(objects, settings)
    candidates = [(present, settings)]
    for halvings in range(4):
        for refinement in (1, 1.25, 1.5, 2):
            layout = _scale_layout(settings.layout, 0.5**halvings, refinement)
            candidate = _lower_min_areas(objects, replace(settings, layout=layout))
            candidates.append((study_grids(objects, candidate), candidate))
    fewest = min(study.lost for study, _ in candidates)
    if present.lost <= fewest + NOTABLE * len(objects):
        return settings, present
    good = [c for c in candidates if c[0].lost <= fewest + NEGLIGIBLE * len(objects)]
    # min() takes the first of equals, whose scale ranges are closest to the present ones.
    study, best = min(good, key=lambda candidate: candidate[1].layout.num_cells)
    return best, study


def _scale_layout(layout: GridLayout, ranges: float, refinement: float) -> GridLayout:
    levels = len(layout.num_grids)
    bounds: list[list[float]] = [
        [max(1, round(a * ranges)), max(2, round(b * ranges))] for a, b in layout.scale_ranges
    ]
    # The outermost bounds stay, so that the smallest and the largest objects remain covered.
    bounds[0][0] = layout.scale_ranges[0][0]
    bounds[-1][1] = layout.scale_ranges[-1][1]
    grids = [
        round(grid * refinement) if level <= levels // 2 else grid
        for level, grid in enumerate(layout.num_grids)
    ]
    scale_ranges = tuple((low, high) for low, high in bounds)
    return GridLayout(tuple(grids), scale_ranges, layout.center_scale)


def _lower_min_areas(objects: Objects, settings: GridSettings) -> GridSettings:
    objects = objects.scaled(settings)
    sides, mask_areas = objects.sides, objects.areas / MASK_STRIDE**2
    areas: list[int] = []
    for (low, high), present in zip(
        settings.layout.scale_ranges, settings.min_mask_areas, strict=True
    ):
        own = mask_areas[(sides >= low) & (sides <= high)]
        smallest = np.quantile(own, NEGLIGIBLE) if len(own) else np.inf
        areas.append(int(max(0, min(present, np.ceil(smallest) - 1))))
    return replace(settings, min_mask_areas=tuple(areas))
