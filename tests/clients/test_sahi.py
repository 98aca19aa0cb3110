"""SAHI with this project's models."""

import json
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from clients.pictures import iou

pytest.importorskip("sahi")
from sahi import AutoDetectionModel
from sahi.predict import get_prediction, get_sliced_prediction

from facenet_d2 import UserError
from facenet_d2.clients import sahi as client
from facenet_d2.engine import run_command


@pytest.fixture
def model(predictor):
    return client.FACENetDetectionModel(model=predictor, confidence_threshold=0.0)


def decoded(prediction, height, width):
    rles = mask_util.frPyObjects(prediction.mask.segmentation, height, width)
    return mask_util.decode(mask_util.merge(rles)).astype(bool)


def test_a_prediction_is_that_of_the_predictor(model, predictor, image):
    found = get_prediction(np.ascontiguousarray(image[:, :, ::-1]), model)
    expected = predictor(image)
    expected = expected[torch.from_numpy(expected.pred_masks.areas() > 0)]
    assert len(found.object_prediction_list) == len(expected) > 3
    names = predictor.metadata.thing_classes
    for i, prediction in enumerate(found.object_prediction_list):
        index = int(expected.pred_classes[i])
        assert prediction.score.value == pytest.approx(float(expected.scores[i]))
        assert prediction.category.name == names[index]
        assert prediction.category.id == predictor.category_ids[index]
        assert prediction.bbox.to_xyxy() == expected.pred_masks.boxes()[i].tolist()
        # What SAHI writes as COCO results, read by pycocotools.
        mask = expected.pred_masks[i].numpy()
        np.testing.assert_array_equal(decoded(prediction, *mask.shape), mask)


def test_slices_in_a_batch_are_shifted_to_their_places(model, predictor, image):
    seen = []
    sizes = model.model.predict_batch
    model.model = type("Spy", (), {"predict_batch": lambda _, i: seen.append(len(i)) or sizes(i)})()
    result = get_sliced_prediction(
        np.ascontiguousarray(image[:, :, ::-1]),
        model,
        slice_height=64,
        slice_width=64,
        overlap_height_ratio=0.0,
        overlap_width_ratio=0.0,
        perform_standard_pred=False,
        postprocess_match_threshold=2.0,  # Merges nothing.
        batch_size=3,
        verbose=0,
    )
    assert seen == [3, 1]
    expected = []
    for y, x in ((0, 0), (0, 64), (64, 0), (64, 64)):
        instances = predictor(image[y : y + 64, x : x + 64])
        for mask, score in zip(instances.pred_masks, instances.scores.tolist()):
            full = np.zeros(image.shape[:2], bool)
            full[y : y + 64, x : x + 64] = mask.numpy()
            expected.append((score, full))
    expected = sorted((e for e in expected if e[1].any()), key=lambda e: -e[0])
    found = sorted(result.object_prediction_list, key=lambda p: -p.score.value)
    assert len(found) == len(expected) > 10
    for prediction, (score, full) in zip(found, expected):
        assert prediction.score.value == pytest.approx(score, abs=1e-4)
        assert iou(decoded(prediction, *full.shape), full) > 0.99


def test_the_merged_prediction_of_a_scene(model, image):
    result = get_sliced_prediction(
        np.ascontiguousarray(image[:, :, ::-1]), model, slice_height=96, slice_width=96, verbose=0
    )
    assert 0 < len(result.object_prediction_list) <= 5 * 20


def test_the_model_type_of_sahi(trained, monkeypatch):
    monkeypatch.delitem(sys.modules, "sahi.models.facenet_d2", raising=False)
    client.register()
    config, weights = map(str, trained)
    options = {"model_type": client.MODEL_TYPE, "config_path": config, "model_path": weights}
    model = AutoDetectionModel.from_pretrained(**options, device="cpu", image_size=64)
    assert model.model.cfg.INPUT.MIN_SIZE_TEST == model.model.cfg.INPUT.MAX_SIZE_TEST == 64
    assert model.num_categories == 5
    with pytest.raises(UserError, match=r"no name for the category IDs \[2, 3, 4, 5\]"):
        AutoDetectionModel.from_pretrained(**options, category_mapping={"1": "ship"})


def test_the_command(trained, scenes, tmp_path, monkeypatch):
    config, weights = map(str, trained)
    truth = json.loads((scenes / "annotations.json").read_text())
    # Other IDs than the positions of the images.
    truth["images"] = [{**entry, "id": 70 + i} for i, entry in enumerate(truth["images"][:2])]
    truth["annotations"] = []
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    argv = ["sahi", "predict", "--model_config_path", config, "--model_path", weights]
    argv += ["--source", scenes / "images", "--dataset_json_path", tmp_path / "truth.json"]
    argv += ["--model_device", "cpu", "--model_confidence_threshold", 0.2, "--novisual"]
    argv += ["--no_sliced_prediction", "--project", tmp_path]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    assert run_command(client.main) == 0
    results = json.loads((tmp_path / "exp" / "result.json").read_text())
    assert {r["image_id"] for r in results} == {70, 71}
    names = {c["id"]: c["name"] for c in truth["categories"]}
    assert all(names[r["category_id"]] == r["category_name"] for r in results)
