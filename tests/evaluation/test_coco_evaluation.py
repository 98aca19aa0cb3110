"""InstanceEvaluator on perfect predictions, on none, and on annotations that lack fields."""

import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
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


def test_perfect_predictions_have_an_ap_of_100(register, scenes, tmp_path):
    name, dicts = register(scenes / "annotations.json")
    coco = COCO(str(scenes / "annotations.json"))
    evaluator = InstanceEvaluator(name, output_dir=str(tmp_path))
    evaluator.reset()
    for record in dicts:
        annotations = coco.imgToAnns[record["image_id"]]
        boxes = torch.tensor([a["bbox"] for a in annotations])
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances(
            (record["height"], record["width"]),
            pred_masks=torch.from_numpy(np.array([coco.annToMask(a) for a in annotations])).bool(),
            pred_boxes=Boxes(boxes),
            pred_classes=torch.tensor([a["category_id"] - 1 for a in annotations]),
            scores=torch.full((len(annotations),), 0.9),
        )
        evaluator.process([record], [{"instances": instances}])
    results = evaluator.evaluate()
    for task in ("segm", "bbox"):
        assert list(results[task])[: len(METRICS)] == list(METRICS)
        assert results[task]["AP"] == pytest.approx(100)
    assert not math.isnan(results["segm"]["AP-ship"])


def test_annotation_id_zero_counts_as_any_other(register, tmp_path, scenes):
    """pycocotools takes a match with annotation 0 for none; perfect predictions must score 100."""
    content = json.loads((scenes / "annotations.json").read_text())
    image = content["images"][0]
    first = next(a for a in content["annotations"] if a["image_id"] == image["id"])
    # Some data sets have neither area nor crowd flag.
    first = {k: v for k, v in first.items() if k not in ("area", "iscrowd")} | {"id": 0}
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({**content, "images": [image], "annotations": [first]}))
    name, _ = register(file)
    evaluator = InstanceEvaluator(name)
    evaluator.reset()
    result = {k: first[k] for k in ("image_id", "bbox", "segmentation")}
    result |= {"category_id": first["category_id"] - 1, "score": 0.9}
    result["segmentation"] = evaluator._coco_api.annToRLE(first)
    result["segmentation"]["counts"] = result["segmentation"]["counts"].decode()
    evaluator._predictions = [{"image_id": image["id"], "instances": [result]}]
    results = evaluator.evaluate()
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
