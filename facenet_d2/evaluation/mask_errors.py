"""The four kinds of mask error in the paper's Figures 4-6.

The paper marks aliasing masks, poor masks, missing segmentation and false alarms by hand. Here they
are found by matching predictions with the ground truth. As in TIDE (Bolya et al., ECCV 2020), there
are two thresholds: a mask is right if its IoU with an object is at least 0.5, and belongs to an
object if it is at least 0.1.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

# RIGHT and POOR apply to predictions and to objects.
RIGHT, POOR = "right", "poor"
# Predictions only.
ALIASING, FALSE_ALARM = "aliasing", "false_alarm"
# Objects only.
ALIASED, MISSED = "aliased", "missed"
# Crowds and predictions inside them are neither right nor wrong.
IGNORED = "ignored"

RELATED_IOU = 0.1
# Minimum share of an object's pixels in a mask that covers it.
COVERED_SHARE = 0.5


@dataclass(frozen=True)
class MaskErrors:
    """Kinds of the predictions and objects of an image.

    Attributes:
        predictions: RIGHT, POOR, ALIASING, FALSE_ALARM or IGNORED for each prediction.
        objects: RIGHT, POOR, ALIASED, MISSED or IGNORED for each object.
    """

    predictions: list[str]
    objects: list[str]


def find_mask_errors(
    objects: Sequence[dict[str, Any]],
    predictions: Sequence[dict[str, Any]],
    *,
    good_iou: float = 0.5,
) -> MaskErrors:
    """Classify every prediction and every object of an image, separately for each class.

    - aliasing: the mask covers at least half of each of several objects. Since annotated masks may
      overlap, objects that lie at least by half inside the best fitting object do not count.
    - right: the IoU is at least ``good_iou``. In the order of decreasing scores, each prediction is
      matched with the free object of the largest IoU.
    - poor: the IoU with an object that is still free is at least 0.1, matched in the same way.
    - false alarm: any other prediction, including a second one of the same object.
    - aliased: an object under an aliasing mask without a right or poor prediction.
    - missed: any other object.

    Args:
        objects: annotations with ``category_id``, ``segmentation`` (RLE) and, for crowds,
            ``iscrowd``.
        predictions: results with ``category_id``, ``segmentation`` (RLE) and ``score``.
        good_iou: minimum IoU of a right mask.
    """
    of_predictions = [FALSE_ALARM] * len(predictions)
    of_objects = [IGNORED if o.get("iscrowd") else MISSED for o in objects]
    for category in {x["category_id"] for x in (*objects, *predictions)}:
        own = [i for i, o in enumerate(objects) if o["category_id"] == category]
        crowds = [i for i in own if objects[i].get("iscrowd")]
        own = [i for i in own if not objects[i].get("iscrowd")]
        found = [i for i, p in enumerate(predictions) if p["category_id"] == category]
        found.sort(key=lambda i: -predictions[i]["score"])
        masks = [objects[i]["segmentation"] for i in own]
        found_masks = [predictions[i]["segmentation"] for i in found]
        class_errors = _find_class_errors(masks, found_masks, good_iou)
        in_crowd = _shares(found_masks, [objects[i]["segmentation"] for i in crowds])
        for i, kind, shares in zip(found, class_errors.predictions, in_crowd, strict=True):
            crowded = kind == FALSE_ALARM and (shares >= COVERED_SHARE).any()
            of_predictions[i] = IGNORED if crowded else kind
        for i, kind in zip(own, class_errors.objects, strict=True):
            of_objects[i] = kind
    return MaskErrors(of_predictions, of_objects)


def _find_class_errors(
    objects: list[dict[str, Any]], predictions: list[dict[str, Any]], good_iou: float
) -> MaskErrors:
    """Apply the rules of :func:`find_mask_errors` to the RLEs of a class.

    Args:
        objects: masks of the objects, without crowds.
        predictions: predicted masks by decreasing score.
        good_iou: minimum IoU of a right mask.
    """
    of_predictions = [FALSE_ALARM] * len(predictions)
    of_objects = [MISSED] * len(objects)
    if not objects or not predictions:
        return MaskErrors(of_predictions, of_objects)
    ious = mask_util.iou(predictions, objects, [0] * len(objects))
    covered = _shares(objects, predictions).T >= COVERED_SHARE
    inside = _shares(objects, objects).T >= COVERED_SHARE
    aliased: set[int] = set()
    for p in range(len(predictions)):
        under = np.flatnonzero(covered[p])
        if not len(under):
            continue
        best = under[ious[p, under].argmax()]
        distinct = {best, *under[~inside[best, under]]}
        if len(distinct) > 1:
            of_predictions[p] = ALIASING
            aliased |= distinct
    free = set(range(len(objects)))
    for kind, min_iou in ((RIGHT, good_iou), (POOR, RELATED_IOU)):
        for p in range(len(predictions)):
            if of_predictions[p] != FALSE_ALARM or not free:
                continue
            best = max(free, key=lambda o: ious[p, o])
            if ious[p, best] >= min_iou:
                of_predictions[p] = of_objects[best] = kind
                free.remove(best)
    for o in free & aliased:
        of_objects[o] = ALIASED
    return MaskErrors(of_predictions, of_objects)


def _shares(masks: list[dict[str, Any]], others: list[dict[str, Any]]) -> np.ndarray:
    """Return ``(len(masks), len(others))``: the share of each mask inside each of the others."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    # pycocotools computes it for crowds.
    return mask_util.iou(masks, others, [1] * len(others))


def count_mask_errors(
    objects: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]], errors: MaskErrors
) -> dict[int, Counter[str]]:
    """Count the kinds in an image by ``category_id``.

    Args:
        objects: annotations of the image.
        predictions: results of the image.
        errors: result of :func:`find_mask_errors` for them.

    Returns:
        For each class the numbers of all kinds, as well as of ``objects``, which is the sum of
        ``right``, ``poor``, ``aliased`` and ``missed``, and of ``predictions``, which is the sum of
        ``right``, ``poor``, ``aliasing`` and ``false_alarm``.
    """
    counts: dict[int, Counter[str]] = defaultdict(Counter)
    for o, kind in zip(objects, errors.objects, strict=True):
        if kind != IGNORED:
            counts[o["category_id"]].update(["objects", kind])
    for p, kind in zip(predictions, errors.predictions, strict=True):
        if kind != IGNORED:
            # RIGHT and POOR are counted with their objects.
            counts[p["category_id"]]["predictions"] += 1
            if kind in (ALIASING, FALSE_ALARM):
                counts[p["category_id"]][kind] += 1
    return counts
