"""Tests of facenet_d2/runtime/prediction.py."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from facenet_d2.engine.exported_predictor import to_instances
from facenet_d2.runtime import Crop, Prediction


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    masks = rng.random((4, 30, 41)) > 0.5
    masks[1] = False
    masks[1, :, 7:9] = True  # Runs from one column to the next.
    masks[2] = True
    masks[3, :, :-1] = False
    return masks


@pytest.fixture
def prediction(masks):
    crops = []
    for mask in masks:
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        crops.append(Crop(int(x), int(y), mask[y : rows.max() + 1, x : columns.max() + 1]))
    boxes = np.array([crop.box for crop in crops], np.float32)
    scores = np.array([0.9, 0.7, 0.5, 0.2], np.float32)
    return Prediction((30, 41), ("ship", "car"), np.array([1, 0, 0, 1]), scores, boxes, crops)


def test_forms_of_masks_are_equal(prediction, masks):
    assert (prediction.to_dense() == masks).all()
    assert (prediction.mask(1) == masks[1]).all()
    assert prediction.areas.tolist() == masks.sum(axis=(1, 2)).tolist()
    decoded = mask_util.decode(prediction.rles()).transpose(2, 0, 1)
    assert (decoded == masks).all()


def test_selection_keeps_all_fields_together(prediction, masks):
    chosen = prediction[prediction.scores > 0.4][[2, 0]]
    assert chosen.names == ["ship", "car"]
    assert chosen.scores.tolist() == prediction.scores[[2, 0]].tolist()
    assert (chosen.to_dense() == masks[[2, 0]]).all()
    assert (chosen.boxes == prediction.boxes[[2, 0]]).all()
    assert len(prediction[:0]) == 0
    assert prediction[:0].to_dense().shape == (0, 30, 41)


def test_conversion_to_instances(prediction, masks):
    instances = to_instances(prediction)
    assert instances.image_size == (30, 41)
    assert (instances.pred_masks.numpy() == masks).all()
    assert torch.equal(instances.pred_boxes.tensor, instances.pred_masks.boxes())
    assert instances.pred_classes.tolist() == [1, 0, 0, 1]
    assert instances.pred_masks.rles() == prediction.rles()
    assert len(to_instances(prediction[:0])) == 0
