"""Differences between files and models are found."""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from small_networks import CLASSES, small_model

from facenet_d2.errors import UserError
from facenet_d2.export import describe
from facenet_d2.export.checks import (
    Comparison,
    matched_ious,
    relative_difference,
    synthetic_pictures,
)
from facenet_d2.structures.rle_masks import RLEMasks


def squares(*places, classes=None):
    """Instances of 4x4 pixels at (x, y) in an image of 20x20."""
    masks = np.zeros((len(places), 20, 20), bool)
    for mask, (x, y) in zip(masks, places):
        mask[y : y + 4, x : x + 4] = True
    result = Instances((20, 20))
    result.pred_masks = RLEMasks.from_dense(masks, (20, 20))
    result.pred_classes = torch.tensor(classes or [0] * len(places))
    return result


def test_masks_are_matched_once():
    expected = squares((0, 0), (10, 10))
    assert matched_ious(expected, expected) == [1.0, 1.0]
    assert matched_ious(expected, squares((0, 2), (10, 10))) == [8 / 24, 1.0]
    assert matched_ious(expected, squares((10, 10), (0, 0))) == [1.0, 1.0]
    assert matched_ious(expected, squares((10, 10))) == [0.0, 1.0]
    assert matched_ious(squares((10, 10)), expected) == [1.0, 0.0]
    assert matched_ious(squares((0, 0), (0, 0)), squares((0, 0), (15, 15))) == [1.0, 0.0]
    assert matched_ious(expected, squares((0, 0), (10, 10), classes=[0, 1])) == [1.0, 0.0]
    assert matched_ious(expected, expected[:0]) == [0.0, 0.0]
    assert matched_ious(expected[:0], expected) == [0.0, 0.0]
    assert matched_ious(expected[:0], expected[:0]) == []


def test_differences_are_relative_to_the_range():
    ours = torch.tensor([0.0, -200.0, 50.0])
    assert relative_difference(ours, ours + 1) == pytest.approx(1 / 200)
    assert relative_difference(ours, ours[:2]) == float("inf")
    assert relative_difference(ours, torch.tensor([0.0, float("nan"), 50.0])) == float("inf")


def test_large_differences_are_errors():
    Comparison(1e-5, 3, 0.9999).check("float32")
    Comparison(1e-5, 0, None).check("float32")
    Comparison(5.0, 3, 0.9).check("int8")
    with pytest.raises(UserError, match=r"differ from PyTorch's by 0\.01 of"):
        Comparison(0.01, 3, 1.0).check("float32")
    with pytest.raises(UserError, match="differ from PyTorch's by nan"):
        Comparison(float("nan"), 3, 1.0).check("float16")
    with pytest.raises(UserError, match=r"mean IoU of 0\.9900"):
        Comparison(1e-5, 3, 0.99).check("float32")


@pytest.mark.parametrize("bands", [(), (1, 2, 3, 4)])
def test_synthetic_pictures_have_the_channels_of_the_model(model_cfg, bands):
    model_cfg.INPUT.BANDS = bands
    if bands:
        model_cfg.MODEL.PIXEL_MEAN = model_cfg.MODEL.PIXEL_STD = [100.0] * 4
    model = small_model(model_cfg)
    description = describe(model, model_cfg, contract="raw", class_names=CLASSES)
    pictures = synthetic_pictures(description)
    assert [p.shape for p in pictures] == [
        (256, 256, 4 if bands else 3),
        (192, 256, 4 if bands else 3),
    ]
    assert {p.dtype for p in pictures} == {np.dtype(np.float32 if bands else np.uint8)}
    for ours, again in zip(pictures, synthetic_pictures(description), strict=True):
        np.testing.assert_array_equal(ours, again)
        assert ours.std() > 10
    if bands:
        np.testing.assert_array_equal(pictures[0][:, :, 3], pictures[0][:, :, 0])
