"""InstanceEvaluator on perfect predictions, on none, and on annotations that lack fields."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from facenet_d2.data.datasets.coco import register_coco
from facenet_d2.evaluation import METRICS, InstanceEvaluator


@pytest.fixture
def register(tmp_path, scenes):
    """Register annotations of the scenes' images and load them once, which fills the metadata."""

    def register(annotations):
        name = f"evaluated_{tmp_path.name}"
        register_coco(name, annotations, scenes / "images")
        return name, DatasetCatalog.get(name)

    return register


def evaluate(name, dicts, instances_of, **arguments):
    """Evaluate predictions of a data set, given as a function from dataset dict to Instances."""
    evaluator = InstanceEvaluator(name, **arguments)
    evaluator.reset()
    for record in dicts:
        evaluator.process([record], [{"instances": instances_of(record)}])
    return evaluator.evaluate()


def perfect(coco, shift=0):
    """Return a function that predicts the annotations, with masks moved by some pixels."""

    def predict(record):
        annotations = coco.imgToAnns[record["image_id"]]
        masks = np.array([np.roll(coco.annToMask(a), shift, axis=1) for a in annotations])
        masks = torch.from_numpy(masks).bool()
        boxes = torch.tensor([a["bbox"] for a in annotations])
        boxes[:, 2:] += boxes[:, :2]
        return Instances(
            (record["height"], record["width"]),
            pred_masks=masks,
            pred_boxes=Boxes(boxes + shift),
            pred_classes=torch.tensor([a["category_id"] - 1 for a in annotations]),
            scores=torch.linspace(0.9, 0.5, len(annotations)),
        )

    return predict


def test_perfect_predictions_have_an_ap_of_100(register, scenes, tmp_path):
    name, dicts = register(scenes / "annotations.json")
    coco = COCO(str(scenes / "annotations.json"))
    results = evaluate(name, dicts, perfect(coco), output_dir=str(tmp_path))
    for task in ("segm", "bbox"):
        assert list(results[task])[: len(METRICS)] == list(METRICS)
        assert results[task]["AP"] == pytest.approx(100)
    assert not math.isnan(results["segm"]["AP-ship"])


def test_agrees_with_detectron2(register, scenes, tmp_path):
    name, dicts = register(scenes / "annotations.json")
    predict = perfect(COCO(str(scenes / "annotations.json")), shift=2)
    results = evaluate(name, dicts, predict)
    stock = COCOEvaluator(name, ("bbox", "segm"), use_fast_impl=False)
    stock.reset()
    for record in dicts:
        stock.process([record], [{"instances": predict(record)}])
    expected = stock.evaluate()
    assert 0 < expected["segm"]["AP"] < 90
    assert results["segm"] == pytest.approx(expected["segm"], nan_ok=True)
    # Boxes are those of the masks, which differ from the annotated ones by parts of pixels.
    assert results["bbox"]["AP50"] == pytest.approx(expected["bbox"]["AP50"], abs=3)


@pytest.mark.parametrize(
    "spoil",
    [
        # Annotations without a mask, which the loader leaves out.
        lambda a: {**a, "segmentation": [], "id": 9001},
        lambda a: {**a, "segmentation": [[5, 5, 50, 50]], "id": 9001},
        lambda a: {**a, "segmentation": [[5, 5, 50, 50]], "id": 9001, "area": None},
        # A mask without pixels.
        lambda a: {**a, "segmentation": [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]], "id": 9001},
    ],
)
def test_what_cannot_be_found_is_not_evaluated(register, scenes, tmp_path, spoil):
    content = json.loads((scenes / "annotations.json").read_text())
    content["annotations"].append(spoil(content["annotations"][0]))
    (tmp_path / "set.json").write_text(json.dumps(content))
    name, dicts = register(tmp_path / "set.json")
    results = evaluate(name, dicts, perfect(COCO(str(scenes / "annotations.json"))))
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] == pytest.approx(100)


def test_boxes_and_areas_are_those_of_the_masks(register, scenes, tmp_path):
    content = json.loads((scenes / "annotations.json").read_text())
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a.update(area=1, bbox=[x, y, x + w, y + h])
    (tmp_path / "set.json").write_text(json.dumps(content))
    name, dicts = register(tmp_path / "set.json")
    results = evaluate(name, dicts, perfect(COCO(str(scenes / "annotations.json"))))
    for metric in (results["bbox"]["AP"], results["segm"]["APs"], results["segm"]["APm"]):
        assert metric == pytest.approx(100)


def grid_of_squares(tmp_path, scenes, number, side):
    """Return a file of annotations with squares in one image, and a function that predicts them."""
    image = {"id": 1, "file_name": "00000.png", "height": 128, "width": 128}
    squares = [(x, y) for y in range(0, 128, side + 2) for x in range(0, 128, side + 2)][:number]
    annotations = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1,
            "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
            "bbox": [x, y, side, side],
        }
        for i, (x, y) in enumerate(squares, start=1)
    ]
    categories = [{"id": 1, "name": "square"}]
    file = tmp_path / "squares.json"
    file.write_text(
        json.dumps({"images": [image], "categories": categories, "annotations": annotations})
    )
    return file, perfect(COCO(str(file)))


def test_limit_of_detections(register, scenes, tmp_path, caplog):
    """With 300 objects and a limit of 100, a third can be found; the log says so."""
    file, predict = grid_of_squares(tmp_path, scenes, 300, side=5)
    name, dicts = register(file)
    limited = evaluate(name, dicts, predict)
    # Precision is 1 up to a recall of 1/3: 34 of the 101 recalls from 0 to 1.
    assert limited["segm"]["AP"] == pytest.approx(100 * 34 / 101)
    assert "At best, 33.3 % of all objects can be found" in caplog.text
    assert "in 1 of 1 images, the number of predicted instances reached" in caplog.text
    caplog.clear()
    results = evaluate(name, dicts, predict, max_dets_per_image=1000)
    assert results["segm"]["AP"] == pytest.approx(100)
    assert "DETECTIONS_PER_IMAGE" not in caplog.text


def test_area_ranges(register, scenes, tmp_path):
    file, predict = grid_of_squares(tmp_path, scenes, 3, side=40)
    name, dicts = register(file)
    coco = evaluate(name, dicts, predict)["segm"]
    assert math.isnan(coco["APs"])
    assert coco["APm"] == pytest.approx(100)
    ranges = [[10**2, 144**2], [144**2, 512**2], [512**2, 1e10]]
    isaid = evaluate(name, dicts, predict, area_ranges=ranges)["segm"]
    assert isaid["APs"] == pytest.approx(100)
    assert math.isnan(isaid["APm"])


def test_results_have_the_ids_of_the_data_set(register, scenes, tmp_path):
    content = json.loads((scenes / "annotations.json").read_text())
    for c in content["categories"]:
        c["id"] = 7 * (9 - c["id"])
    for a in content["annotations"]:
        a["category_id"] = 7 * (9 - a["category_id"])
    (tmp_path / "set.json").write_text(json.dumps(content))
    name, dicts = register(tmp_path / "set.json")
    order = sorted(c["id"] for c in content["categories"])
    coco = COCO(str(tmp_path / "set.json"))
    for a in coco.dataset["annotations"]:
        a["category_id"] = order.index(a["category_id"]) + 1
    results = evaluate(name, dicts, perfect(coco), output_dir=str(tmp_path / "out"))
    assert results["segm"]["AP"] == pytest.approx(100)
    written = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert {r["category_id"] for r in written} <= set(order)
    evaluated = coco.loadRes(written)
    assert len(evaluated.anns) == len(content["annotations"])


def test_withheld_annotations_are_not_evaluated(register, scenes, tmp_path):
    content = json.loads((scenes / "annotations.json").read_text())
    del content["annotations"]
    (tmp_path / "set.json").write_text(json.dumps(content))
    name, dicts = register(tmp_path / "set.json")
    predict = perfect(COCO(str(scenes / "annotations.json")))
    assert evaluate(name, dicts, predict, output_dir=str(tmp_path / "out")) == {}
    assert json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())


def test_annotation_id_zero_counts_as_any_other(register, tmp_path, scenes):
    """pycocotools takes a match with annotation 0 for none; perfect predictions must score 100."""
    content = json.loads((scenes / "annotations.json").read_text())
    image = content["images"][0]
    first = next(a for a in content["annotations"] if a["image_id"] == image["id"])
    # Some data sets have neither area nor crowd flag.
    first = {k: v for k, v in first.items() if k not in ("area", "iscrowd")} | {"id": 0}
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({**content, "images": [image], "annotations": [first]}))
    name, dicts = register(file)
    predict = perfect(COCO(str(scenes / "annotations.json")))
    first_only = lambda record: predict(record)[:1]  # noqa: E731
    results = evaluate(name, dicts, first_only)
    assert results["segm"]["AP"] == pytest.approx(100)


def test_no_predictions_are_an_ap_of_zero(register, tmp_path, scenes):
    name, _ = register(scenes / "annotations.json")
    evaluator = InstanceEvaluator(name, output_dir=str(tmp_path / "deep" / "folder"))
    evaluator.reset()
    evaluator._predictions = [{"image_id": 1, "instances": []}]
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == results["bbox"]["AP50"] == results["segm"]["AP-ship"] == 0
    # The scenes are 128 pixels wide, so none of their objects is large.
    assert math.isnan(results["segm"]["APl"])
