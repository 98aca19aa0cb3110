"""Evaluation on whole scenes: predicted polygons against true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import shapely

from ..errors import UserError
from .counting import CellGrid, summarize_counts
from .matching import (
    IOU_THRESHOLDS,
    Matches,
    Results,
    Truth,
    average_precision,
    match_objects,
    region_shares,
)
from .objects import Objects
from .plane import in_common_plane
from .vector_reader import VectorFile

# An object lies in the area of interest if at most this share of it lies outside.
_OUTSIDE = 1e-6


@dataclass(frozen=True)
class Scene:
    """Truth and results of a scene, in one plane.

    Attributes:
        truth: true objects.
        results: predicted objects.
        area: area of interest, where the truth is complete; None for the bounds of all objects.
        ignored: array of polygons in which results of all classes, and objects that lie in them by
            more than a half, are ignored.
        metres: length of the plane's unit in metres, or None if it is unknown.
    """

    truth: Objects
    results: Objects
    area: shapely.Geometry | None
    ignored: np.ndarray
    metres: float | None


def make_scene(
    truth: tuple[VectorFile, Objects],
    results: tuple[VectorFile, Objects],
    *,
    area: VectorFile | None = None,
    ignored: VectorFile | None = None,
) -> Scene:
    """Bring the files of a scene into one plane, see :func:`.plane.in_common_plane`.

    Raises:
        UserError: If the files cannot be brought into one plane, or the area of interest is empty.
    """
    files = [results[0], truth[0], *(file for file in (area, ignored) if file is not None)]
    (result_polygons, true_polygons, *others), metres = in_common_plane(files)
    region = None
    if area is not None:
        region = shapely.union_all(others.pop(0))
        if region.area == 0:
            raise UserError(f"{area.path} has no polygon; it should have the area of interest.")
        shapely.prepare(region)
    return Scene(
        truth=replace(truth[1], polygons=true_polygons),
        results=replace(results[1], polygons=result_polygons),
        area=region,
        ignored=others.pop() if others else np.empty(0, dtype=object),
        metres=metres,
    )


def evaluate(
    scenes: Sequence[Scene],
    *,
    cell: float = 1000.0,
    size_limits: Sequence[float] | None = None,
    count_score: float = 0.5,
) -> dict[str, Any]:
    """Evaluate results on scenes.

    AP, AP50 and AP75 are COCO's, over the results of all scenes and without a limit of their
    number. An object that the border of the area of interest cuts is ignored, and so is a result
    that is not wholly within the area and matches no object. For counts, results with at least
    ``count_score`` that are not ignored are compared with the objects, in each cell of a grid.

    Args:
        scenes: truth and results.
        cell: side of a cell in metres, or in units of the plane if they are not metres.
        size_limits: areas in square metres that separate the sizes for which the recall is given;
            by default the terciles of the objects.
        count_score: minimum score of results that are counted.

    Returns:
        JSON values: ``AP``, ``AP50`` and ``AP75`` in percent, means over the classes with objects,
        None without any; ``classes``, with these and the counts of each class, and ``all``, with
        the counts of all classes, see :func:`.counting.summarize_counts`, both with their
        ``balanced_score``, see :func:`balanced_score`; ``recall_by_size``;
        ``area`` of the scenes in square metres or pixels, as ``unit`` says; the grid's ``cell`` and
        ``cells``; and ``ignored_truth`` and ``ignored_results`` at IoU 0.5.

    Raises:
        UserError: If the scenes have no class in common or too many cells, or their units differ.
    """
    if len({scene.metres is None for scene in scenes}) > 1:
        raise UserError("some scenes have a CRS and others have none; evaluate them separately.")
    names = _common_classes(scenes)
    kept = [_in_area(scene) for scene in scenes]
    matches = {name: [_match(scene, name) for scene in kept] for name in names}
    regions = [_region(scene) for scene in kept]
    area = sum(r.area * (s.metres or 1.0) ** 2 for r, s in zip(regions, kept))
    grids = [CellGrid(r, cell / (s.metres or 1.0)) for r, s in zip(regions, kept)]
    totals = [np.zeros((2, len(grid)), int) for grid in grids]
    classes, aps = {}, []
    for name in names:
        counts = [
            _count(grid, scene, match, name, count_score)
            for grid, scene, match in zip(grids, kept, matches[name])
        ]
        totals = [total + count for total, count in zip(totals, counts)]
        precision = average_precision(matches[name])
        aps += [precision.ap] if precision.objects else []
        classes[name] = {
            **_in_percent([precision.ap]),
            **summarize_counts(counts, area),
            "balanced_score": balanced_score(matches[name]),
        }
    every = [match for scene_matches in matches.values() for match in scene_matches]
    in_metres = scenes[0].metres is not None
    return {
        **_in_percent(aps),
        "classes": classes,
        "all": {**summarize_counts(totals, area), "balanced_score": balanced_score(every)},
        "recall_by_size": _recall_by_size(kept, matches, size_limits),
        "unit": "m" if in_metres else "px",
        "area": area,
        "cell": cell,
        "cells": sum(map(len, grids)),
        "ignored_truth": sum(int((~match.counted).sum()) for match in every),
        "ignored_results": sum(int(match.ignored[0].sum()) for match in every),
    }


def _common_classes(scenes: Sequence[Scene]) -> list[str]:
    true = {name for scene in scenes for name in scene.truth.classes}
    predicted = {name for scene in scenes for name in scene.results.classes}
    if true and predicted and not true & predicted:
        raise UserError(
            f"the ground truth ({_listed(true)}) and the results ({_listed(predicted)}) have no "
            "class in common; choose the attributes with --class-field and --results-class-field, "
            "or compare all objects with --one-class."
        )
    return sorted(true | predicted)


def _listed(names: set[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:8]) + (", ..." if len(shown) > 8 else "")


def _in_area(scene: Scene) -> Scene:
    """Remove objects outside the area of interest, and mark those that its border cuts."""
    if scene.area is None:
        return scene
    parts = []
    for objects in (scene.truth, scene.results):
        border = ~shapely.contains_properly(scene.area, objects.polygons)
        polygons = objects.polygons[border]
        shares = np.ones(len(objects))
        inside = shapely.area(shapely.intersection(scene.area, polygons))
        shares[border] = inside / shapely.area(polygons)
        marked = replace(objects, cut=shares < 1 - _OUTSIDE)
        parts.append(marked[shares > _OUTSIDE])
    return replace(scene, truth=parts[0], results=parts[1])


def _match(scene: Scene, name: str) -> Matches:
    truth, results = scene.truth.of_class(name), scene.results.of_class(name)
    regions = np.concatenate([truth.polygons[truth.regions], scene.ignored])
    objects = truth[~truth.regions]
    hidden = region_shares(scene.ignored, objects.polygons) > 0.5
    return match_objects(
        Truth(objects.polygons, objects.cut | hidden, regions),
        Results(results.polygons, results.scores, results.cut),
    )


def _region(scene: Scene) -> shapely.Geometry:
    """Return the area of interest or, without one, the bounds of all objects."""
    if scene.area is not None:
        return scene.area
    polygons = np.concatenate([scene.truth.polygons, scene.results.polygons])
    return shapely.box(*shapely.total_bounds(polygons)) if len(polygons) else shapely.Polygon()


def _count(grid: CellGrid, scene: Scene, match: Matches, name: str, min_score: float) -> np.ndarray:
    """Return the numbers of true and predicted objects of a class in each cell, ``(2, C)``."""
    truth, results = scene.truth.of_class(name), scene.results.of_class(name)
    objects = truth.polygons[~truth.regions][match.counted]
    counted = ~match.ignored[0] & (match.scores >= min_score)
    return np.stack([grid.count(objects), grid.count(results.polygons[counted])])


def balanced_score(matches: Sequence[Matches]) -> float | None:
    """Return the minimum score with which the number of results is that of the objects.

    Ignored results and objects do not count.

    Returns:
        The score; None without objects, or with fewer results than objects.
    """
    objects = sum(int(match.counted.sum()) for match in matches)
    scores = np.concatenate([np.empty(0), *(match.scores[~match.ignored[0]] for match in matches)])
    if not 0 < objects <= len(scores):
        return None
    return float(np.sort(scores)[-objects])


def _in_percent(aps: Sequence[np.ndarray]) -> dict[str, float | None]:
    """Return the means of APs, each ``(10,)``, in percent; None without objects."""
    if not len(aps) or np.isnan(aps).any():
        return dict.fromkeys(("AP", "AP50", "AP75"))
    means = np.mean(aps, axis=0) * 100
    middle = int(np.argmin(abs(IOU_THRESHOLDS - 0.75)))
    return {"AP": float(means.mean()), "AP50": float(means[0]), "AP75": float(means[middle])}


def _recall_by_size(
    scenes: Sequence[Scene],
    matches: dict[str, list[Matches]],
    limits: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Return the recall of objects between limits of their area, at IoU 0.5 and over all IoUs."""
    areas, found = [np.empty(0)], [np.empty((len(IOU_THRESHOLDS), 0), bool)]
    for name, class_matches in matches.items():
        for scene, match in zip(scenes, class_matches):
            truth = scene.truth.of_class(name)
            polygons = truth.polygons[~truth.regions][match.counted]
            areas.append(shapely.area(polygons) * (scene.metres or 1.0) ** 2)
            found.append(match.found()[:, match.counted])
    sizes, hits = np.concatenate(areas), np.concatenate(found, axis=1)
    if not len(sizes):
        return []
    if limits is None:
        limits = np.unique(np.quantile(sizes, [1 / 3, 2 / 3])).tolist()
    edges = [0.0, *limits, np.inf]
    rows = []
    for low, high in pairwise(edges):
        chosen = (sizes >= low) & (sizes < high)
        shares = hits[:, chosen].mean(axis=1) * 100 if chosen.any() else None
        rows.append(
            {
                "min_area": float(low),
                "max_area": None if high == np.inf else float(high),
                "truth": int(chosen.sum()),
                "recall50": None if shares is None else float(shares[0]),
                "recall": None if shares is None else float(shares.mean()),
            }
        )
    return rows
