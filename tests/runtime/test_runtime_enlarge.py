"""Masks are enlarged as facenet_d2.structures.enlarge does."""

import numpy as np
import pytest
from mask_cases import random_case

from facenet_d2.runtime import enlarge
from facenet_d2.runtime.enlarge import Enlarger, Part, windows
from facenet_d2.runtime.prediction import Prediction
from facenet_d2.structures.enlarge import enlarge_masks


def enlarged(masks, input_size, image_size, threshold, stride=4):
    resize = Enlarger(masks.shape[1:], input_size, image_size, threshold, stride)
    crops = []
    masks = masks.numpy()
    for mask, (left, top, right, bottom) in zip(masks, windows(masks > threshold)):
        crops.append(resize(Part(mask[top:bottom, left:right], left, top)))
    none = np.zeros(len(masks))
    return Prediction(image_size, ("ship",), none, none, none, crops)


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("seed", range(32))
def test_equal_to_the_model(seed, stride, monkeypatch):
    case = random_case(seed, stride)
    # Several blocks.
    monkeypatch.setattr(enlarge, "BLOCK", 50)
    found = enlarged(*case, stride)
    expected = enlarge_masks(*case, stride=stride).numpy()
    # Rectangles of zeros and ones have no values near the threshold, noise rarely.
    assert (found.to_dense()[:4] == expected[:4]).all()
    differences = (found.to_dense() != expected).sum()
    assert differences <= expected.size / 10_000
    for crop in found.crops:
        if crop.mask.size:
            assert crop.mask[0].any()
            assert crop.mask[-1].any()
            assert crop.mask[:, 0].any()
            assert crop.mask[:, -1].any()


def test_the_cases_are_not_empty():
    filled = [sum(c.mask.size > 0 for c in enlarged(*random_case(s)).crops) for s in range(32)]
    assert sum(filled) > 2 * 32
