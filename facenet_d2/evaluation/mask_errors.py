"""What is wrong with predicted masks: the four kinds of error of the paper's Figures 4-6.

The paper marks them by hand: aliasing masks, poor masks, missing segmentation, false alarms. Here
they are found by matching predictions with the ground truth. Two overlaps decide, as in TIDE (Bolya
et al., ECCV 2020): from an IoU of 0.5 on a mask is right, from 0.1 on it is of that object at all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

# Of a prediction; of an object.
RIGHT, POOR, ALIASING, FALSE_ALARM = "right", "poor", "aliasing", "false_alarm"
ALIASED, MISSED = "aliased", "missed"
# A crowd, and a prediction inside of one, are neither right nor wrong.
IGNORED = "ignored"

RELATED_IOU = 0.1
# Share of an object that a mask must cover to be over it.
COVERED = 0.5


@dataclass(frozen=True)
class Verdicts:
    """Of one image.

    Attributes:
        predictions: RIGHT, POOR, ALIASING, FALSE_ALARM or IGNORED for each prediction.
        objects: RIGHT, POOR, ALIASED, MISSED or IGNORED for each object.
    """

    predictions: list[str]
    objects: list[str]


def judge(
    objects: Sequence[dict[str, Any]],
    predictions: Sequence[dict[str, Any]],
    *,
    good_iou: float = 0.5,
) -> Verdicts:
    """Judge every prediction and every object of an image; each class by itself.

    - aliasing: a mask over at least half of each of several objects. An object does not count that
      lies, by half at least, inside the one the mask fits best: annotated masks may overlap.
    - right: an IoU of ``good_iou`` or more. From the best score on, each prediction takes the
      object it overlaps most and that is not taken.
    - poor: with the objects that are left, an IoU of 0.1 or more.
    - false alarm: any other prediction, a second one of an object included.
    - aliased: an object under an aliasing mask that no other prediction is right or poor of.
    - missed: any other object.

    Args:
        objects: ``category_id``, ``segmentation`` (run lengths), and ``iscrowd`` where it is one.
        predictions: ``category_id``, ``segmentation`` (run lengths) and ``score``.
        good_iou: from which on a mask is right.
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
        class_verdicts = _judge_class(masks, found_masks, good_iou)
        in_crowd = _shares(found_masks, [objects[i]["segmentation"] for i in crowds])
        for i, verdict, shares in zip(found, class_verdicts.predictions, in_crowd, strict=True):
            crowded = verdict == FALSE_ALARM and (shares >= COVERED).any()
            of_predictions[i] = IGNORED if crowded else verdict
        for i, verdict in zip(own, class_verdicts.objects, strict=True):
            of_objects[i] = verdict
    return Verdicts(of_predictions, of_objects)


def _judge_class(objects: list[dict], predictions: list[dict], good_iou: float) -> Verdicts:
    """As :func:`judge`, for run lengths of one class, the predictions from the best score on."""
    of_predictions = [FALSE_ALARM] * len(predictions)
    of_objects = [MISSED] * len(objects)
    if not objects or not predictions:
        return Verdicts(of_predictions, of_objects)
    ious = mask_util.iou(predictions, objects, [0] * len(objects))
    covered = _shares(objects, predictions).T >= COVERED
    inside = _shares(objects, objects).T >= COVERED
    aliased: set[int] = set()
    for p in range(len(predictions)):
        under = np.flatnonzero(covered[p])
        if not len(under):
            continue
        best = under[ious[p, under].argmax()]
        under = {best, *under[~inside[best, under]]}
        if len(under) > 1:
            of_predictions[p] = ALIASING
            aliased |= under
    free = set(range(len(objects)))
    for verdict, least in ((RIGHT, good_iou), (POOR, RELATED_IOU)):
        for p in range(len(predictions)):
            if of_predictions[p] != FALSE_ALARM or not free:
                continue
            best = max(free, key=lambda o: ious[p, o])
            if ious[p, best] >= least:
                of_predictions[p] = of_objects[best] = verdict
                free.remove(best)
    for o in free & aliased:
        of_objects[o] = ALIASED
    return Verdicts(of_predictions, of_objects)


def _shares(masks: list[dict], others: list[dict]) -> np.ndarray:
    """``(len(masks), len(others))``: which share of each mask lies inside of each other."""
    if not masks or not others:
        return np.zeros((len(masks), len(others)))
    # That is what pycocotools computes where the other is a crowd.
    return mask_util.iou(masks, others, [1] * len(others))


def count(
    objects: Sequence[dict[str, Any]], predictions: Sequence[dict[str, Any]], verdicts: Verdicts
) -> dict[int, Counter]:
    """How many of each kind an image has, by ``category_id``.

    Of each class: ``objects``, the sum of ``right``, ``poor``, ``aliased`` and ``missed``; and
    ``predictions``, the sum of ``right``, ``poor``, ``aliasing`` and ``false_alarm``.
    """
    counts: dict[int, Counter] = defaultdict(Counter)
    for o, verdict in zip(objects, verdicts.objects, strict=True):
        if verdict != IGNORED:
            counts[o["category_id"]].update(["objects", verdict])
    for p, verdict in zip(predictions, verdicts.predictions, strict=True):
        if verdict != IGNORED:
            # RIGHT and POOR are counted with their objects.
            counts[p["category_id"]]["predictions"] += 1
            if verdict in (ALIASING, FALSE_ALARM):
                counts[p["category_id"]][verdict] += 1
    return counts
