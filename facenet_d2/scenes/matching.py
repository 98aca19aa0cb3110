"""Matching of predicted and true polygons, and average precision, as COCO defines them.

COCO's own implementation compares masks of images and looks at 100 instances of each. Here a scene
may have any number of polygons; pairs that overlap are found with a tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

# COCO's thresholds of the IoU and of the recall.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0, 1, 101)
# Polygons that follow pixels have IoUs that are fractions of small numbers. Rounding them makes an
# IoU of exactly 0.5 reach the threshold whatever the size of the coordinates.
_IOU_DIGITS = 7


@dataclass(frozen=True)
class Truth:
    """True objects of a class.

    Attributes:
        polygons: array of T valid polygons.
        ignored: bool ``(T,)``: objects that need not be found; a result that matches one is
            ignored.
        regions: array of R valid polygons in which results are ignored, COCO's crowds.
    """

    polygons: np.ndarray
    ignored: np.ndarray
    regions: np.ndarray


@dataclass(frozen=True)
class Results:
    """Predicted objects of a class, in the same scene and coordinates as a :class:`Truth`.

    Attributes:
        polygons: array of N valid polygons.
        scores: ``(N,)``.
        excused: bool ``(N,)``: results that are ignored unless they match an object.
    """

    polygons: np.ndarray
    scores: np.ndarray
    excused: np.ndarray


@dataclass(frozen=True)
class Matches:
    """Matches of results with objects at each of :data:`IOU_THRESHOLDS`.

    Attributes:
        scores: ``(N,)`` scores of the results.
        objects: int ``(10, N)``: index of the matched object, or -1 for none.
        ignored: bool ``(10, N)``: whether the result is ignored.
        counted: bool ``(T,)``: objects that are not ignored.
    """

    scores: np.ndarray
    objects: np.ndarray
    ignored: np.ndarray
    counted: np.ndarray

    def found(self) -> np.ndarray:
        """Return for each threshold and object whether a result matches it, bool ``(10, T)``."""
        found = np.zeros((len(self.objects), len(self.counted)), bool)
        threshold, result = np.nonzero(self.objects >= 0)
        found[threshold, self.objects[threshold, result]] = True
        return found


def match_objects(truth: Truth, results: Results) -> Matches:
    """Match results with objects, the best score first, as COCO's evaluation does.

    A result takes the free object with the largest IoU of at least the threshold; if there is none,
    an ignored object; and if there is none, it may lie in an ignored region: the share of the
    result in it is compared with the threshold.
    """
    count, num_results = len(truth.polygons), len(results.polygons)
    objects = np.full((len(IOU_THRESHOLDS), num_results), -1)
    ignored = np.tile(results.excused, (len(IOU_THRESHOLDS), 1))
    candidates = _candidates(truth, results)
    shares = region_shares(truth.regions, results.polygons)
    # The first sort of COCO is stable, so equal scores keep their order.
    order = np.argsort(-results.scores, kind="stable").tolist()
    for t, threshold in enumerate(IOU_THRESHOLDS.tolist()):
        free = [True] * count
        for result in order:
            best, best_iou, best_ignored = -1, threshold, True
            for index, iou, is_ignored in candidates[result]:
                if best >= 0 and is_ignored and not best_ignored:
                    break
                # Of equal IoUs, COCO takes the last.
                if free[index] and iou >= best_iou:
                    best, best_iou, best_ignored = index, iou, is_ignored
            if best >= 0:
                free[best] = False
                objects[t, result] = best
                ignored[t, result] = best_ignored
            elif shares[result] >= threshold:
                ignored[t, result] = True
    return Matches(results.scores, objects, ignored, ~truth.ignored)


def _candidates(truth: Truth, results: Results) -> list[list[tuple[int, float, bool]]]:
    """Return for each result the (index, IoU, ignored) of overlapping objects, ignored last."""
    candidates: list[list[tuple[int, float, bool]]] = [[] for _ in results.polygons]
    indices, members, shared = _intersections(truth.polygons, results.polygons)
    areas, result_areas = shapely.area(truth.polygons), shapely.area(results.polygons)
    ious = shared / (areas[indices] + result_areas[members] - shared)
    ious = np.round(ious, _IOU_DIGITS)
    for k in np.lexsort((indices, truth.ignored[indices])).tolist():
        index = int(indices[k])
        candidates[members[k]].append((index, float(ious[k]), bool(truth.ignored[index])))
    return candidates


def region_shares(regions: np.ndarray, polygons: np.ndarray) -> np.ndarray:
    """Return the largest share of each polygon that lies in one region."""
    shares = np.zeros(len(polygons))
    _, members, shared = _intersections(regions, polygons)
    np.maximum.at(shares, members, np.round(shared / shapely.area(polygons[members]), _IOU_DIGITS))
    return shares


def _intersections(
    first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return index pairs of polygons whose bounds overlap, and the areas they share."""
    if not len(first) or not len(second):
        empty = np.empty(0, int)
        return empty, empty, np.empty(0)
    members, indices = shapely.STRtree(first).query(second)
    return indices, members, shapely.area(shapely.intersection(first[indices], second[members]))


@dataclass(frozen=True)
class Precision:
    """Average precision of a class, 0 to 1; NaN without objects.

    Attributes:
        ap: ``(10,)`` AP at each of :data:`IOU_THRESHOLDS`.
        recall: ``(10,)`` recall of all results at each threshold.
        objects: number of objects that are not ignored.
    """

    ap: np.ndarray
    recall: np.ndarray
    objects: int


def average_precision(scenes: Sequence[Matches]) -> Precision:
    """Compute COCO's average precision of a class over scenes, with 101 points of the recall."""
    count = sum(int(scene.counted.sum()) for scene in scenes)
    if not count:
        nothing = np.full(len(IOU_THRESHOLDS), np.nan)
        return Precision(nothing, nothing, 0)
    order = np.argsort(-np.concatenate([scene.scores for scene in scenes]), kind="stable")
    matched = np.concatenate([scene.objects >= 0 for scene in scenes], axis=1)[:, order]
    ignored = np.concatenate([scene.ignored for scene in scenes], axis=1)[:, order]
    ap, recalls = [], []
    for right, kept in zip(matched & ~ignored, ~ignored):
        true_positives = np.cumsum(right[kept])
        precision = true_positives / np.arange(1, len(true_positives) + 1)
        recall = true_positives / count
        # The precision at a recall is the best one at this recall or a higher one.
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        positions = np.searchsorted(recall, RECALL_THRESHOLDS, side="left")
        ap.append(float(np.append(envelope, 0.0)[positions].mean()))
        recalls.append(float(recall[-1]) if len(recall) else 0.0)
    return Precision(np.array(ap), np.array(recalls), count)
