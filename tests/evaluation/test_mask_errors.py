"""Mask errors in constructed cases, of the ground truth itself, and against plain loops."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
from helpers import REAL_DATA, needs_real
from pycocotools.coco import COCO

from facenet_d2.evaluation.mask_errors import MaskErrors, count_mask_errors, find_mask_errors

SIZE = (60, 200)


def box_mask(x, y, w, h):
    mask = np.zeros(SIZE, bool)
    mask[y : y + h, x : x + w] = True
    return mask


def entry(mask, category=1, **more):
    encoded = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"category_id": category, "segmentation": encoded, "score": 0.9, **more}


# Two objects side by side, one alone, one far off, and one of another class.
OBJECTS = [
    entry(box_mask(0, 0, 20, 20)),
    entry(box_mask(24, 0, 20, 20)),
    entry(box_mask(60, 0, 20, 20)),
    entry(box_mask(100, 30, 20, 20)),
    entry(box_mask(140, 0, 20, 20), category=2),
]


def test_nothing_is_wrong_with_the_ground_truth():
    errors = find_mask_errors(OBJECTS, OBJECTS)
    assert errors == MaskErrors(["right"] * 5, ["right"] * 5)


@pytest.mark.parametrize(
    ("predictions", "of_predictions", "of_objects"),
    [
        pytest.param(
            [entry(box_mask(0, 0, 44, 20)), *OBJECTS[2:]],
            ["aliasing", "right", "right", "right"],
            ["aliased", "aliased", "right", "right", "right"],
            id="one mask over two objects",
        ),
        pytest.param(
            [*OBJECTS, entry(box_mask(0, 0, 44, 20), score=0.95)],
            ["right"] * 5 + ["aliasing"],
            ["right"] * 5,
            id="the same with masks of their own",
        ),
        pytest.param(
            [*OBJECTS[:2], entry(box_mask(60, 0, 20, 8)), *OBJECTS[3:]],
            ["right", "right", "poor", "right", "right"],
            ["right", "right", "poor", "right", "right"],
            id="a mask of two fifths of its object",
        ),
        pytest.param(
            OBJECTS[:4],
            ["right"] * 4,
            ["right"] * 4 + ["missed"],
            id="an object without a mask",
        ),
        pytest.param(
            [*OBJECTS, entry(box_mask(170, 30, 20, 20))],
            ["right"] * 5 + ["false_alarm"],
            ["right"] * 5,
            id="a mask on nothing",
        ),
        pytest.param(
            [*OBJECTS, {**OBJECTS[3], "score": 0.5}],
            ["right"] * 5 + ["false_alarm"],
            ["right"] * 5,
            id="a second mask of an object",
        ),
        pytest.param(
            [*OBJECTS[:4], {**OBJECTS[4], "category_id": 1}],
            ["right"] * 4 + ["false_alarm"],
            ["right"] * 4 + ["missed"],
            id="the wrong class",
        ),
        pytest.param(
            [entry(box_mask(0, 0, 20, 9), score=0.99), *OBJECTS],
            ["false_alarm"] + ["right"] * 5,
            ["right"] * 5,
            id="a poor mask takes no object from a right one of a lower score",
        ),
        pytest.param([], [], ["missed"] * 5, id="no masks"),
    ],
)
def test_each_kind_is_found_and_no_other(predictions, of_predictions, of_objects):
    assert find_mask_errors(OBJECTS, predictions) == MaskErrors(of_predictions, of_objects)


def test_objects_that_overlap_are_no_aliasing():
    # A small object on a large one of the same class, both annotated.
    objects = [entry(box_mask(0, 0, 50, 50)), entry(box_mask(10, 10, 8, 8))]
    assert find_mask_errors(objects, objects) == MaskErrors(["right"] * 2, ["right"] * 2)


def test_crowds_and_what_is_in_them_do_not_count():
    crowd = entry(box_mask(150, 20, 50, 40), iscrowd=1)
    inside = entry(box_mask(160, 30, 10, 10))
    outside = entry(box_mask(135, 30, 20, 20))
    errors = find_mask_errors([*OBJECTS, crowd], [*OBJECTS, inside, outside])
    assert errors.predictions == ["right"] * 5 + ["ignored", "false_alarm"]
    assert errors.objects == ["right"] * 5 + ["ignored"]
    counts = count_mask_errors([*OBJECTS, crowd], [*OBJECTS, inside, outside], errors)
    assert counts[1] == {"objects": 4, "right": 4, "predictions": 5, "false_alarm": 1}
    assert counts[2] == {"objects": 1, "right": 1, "predictions": 1}


def test_a_mask_is_right_from_the_given_iou_on():
    # 16 of 20 columns: an IoU of 0.8.
    predictions = [entry(box_mask(60, 0, 16, 20))]
    for good_iou, kind in ((0.5, "right"), (0.8, "right"), (0.81, "poor")):
        assert find_mask_errors(OBJECTS[2:3], predictions, good_iou=good_iou).predictions == [kind]


def loops(objects, predictions):
    """Apply the documented rules to boolean masks of one class."""

    def iou(a, b):
        return (a & b).sum() / (a | b).sum()

    def inside(a, b):
        return (a & b).sum() >= 0.5 * a.sum()

    of_predictions, of_objects = ["false_alarm"] * len(predictions), ["missed"] * len(objects)
    aliased = set()
    for i, (p, _) in enumerate(predictions):
        under = [o for o in range(len(objects)) if inside(objects[o], p)]
        if not under:
            continue
        best = max(under, key=lambda o: iou(p, objects[o]))
        under = [o for o in under if o == best or not inside(objects[o], objects[best])]
        if len(under) > 1:
            of_predictions[i] = "aliasing"
            aliased.update(under)
    by_score = sorted(range(len(predictions)), key=lambda i: -predictions[i][1])
    for kind, min_iou in (("right", 0.5), ("poor", 0.1)):
        for i in by_score:
            if of_predictions[i] != "false_alarm":
                continue
            best, best_iou = None, 0
            for o in range(len(objects)):
                overlap = iou(predictions[i][0], objects[o])
                if of_objects[o] == "missed" and overlap > best_iou:
                    best, best_iou = o, overlap
            if best_iou >= min_iou:
                of_predictions[i] = of_objects[best] = kind
    for o in aliased:
        if of_objects[o] == "missed":
            of_objects[o] = "aliased"
    return of_predictions, of_objects


def test_random_scenes_against_loops():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(150):
        boxes = [
            [
                (rng.integers(0, 60), rng.integers(0, 40), *rng.integers(4, 30, 2))
                for _ in range(rng.integers(1, 8))
            ]
            for _ in range(2)
        ]
        # Half of the predictions are objects, moved a little.
        moved = [(x + rng.integers(0, 6), y, w + rng.integers(0, 12), h) for x, y, w, h in boxes[0]]
        objects = [box_mask(*b) for b in boxes[0]]
        predictions = [(box_mask(*b), float(rng.random())) for b in boxes[1] + moved]
        expected = loops(objects, predictions)
        errors = find_mask_errors(
            [entry(o) for o in objects], [entry(p, score=s) for p, s in predictions]
        )
        assert (errors.predictions, errors.objects) == expected
        seen |= {*errors.predictions, *errors.objects}
    assert seen == {"right", "poor", "aliasing", "aliased", "missed", "false_alarm"}


@needs_real("nwpu_vhr10")
def test_no_annotation_of_nwpu_is_an_error_of_another():
    coco = COCO(str(REAL_DATA / "nwpu_vhr10" / "annotations.json"))
    for image_id in coco.imgs:
        objects = [
            {"category_id": a["category_id"], "segmentation": coco.annToRLE(a), "score": 1.0}
            for a in coco.imgToAnns[image_id]
        ]
        errors = find_mask_errors(objects, objects)
        assert set(errors.predictions + errors.objects) <= {"right"}, image_id
