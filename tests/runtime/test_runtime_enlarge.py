"""Masks are enlarged as facenet_d2.structures.enlarge does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from facenet_d2.runtime import enlarge
from facenet_d2.runtime.enlarge import Enlarger, Part, window
from facenet_d2.runtime.prediction import Prediction
from facenet_d2.structures.enlarge import enlarge_masks

SIZES = [(1, 1), (1, 700), (2, 33), (33, 2), (7, 1), (90, 61), (250, 300)]


def random_case(seed):
    """Blobs, noise and rectangles up to the borders; any size of padding, input and image."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    height, width = (int(x) for x in rng.choice([1, 2, 9, 25, 40], 2))
    coarse = int(rng.choice([1, 2, 6]))
    masks = torch.rand(6, 1, -(-height // coarse), -(-width // coarse)) ** rng.choice([0.5, 3])
    masks = F.interpolate(masks, size=(height, width), mode=str(rng.choice(["nearest", "bicubic"])))
    masks = masks[:, 0].clamp(0, 1)
    masks[0] = 0
    for mask in masks[1:4]:
        y0, y1 = np.sort(rng.integers(0, height + 1, 2))
        x0, x1 = np.sort(rng.integers(0, width + 1, 2))
        mask.zero_()
        mask[y0:y1, x0:x1] = 1
    masks[1, :, -1] = masks[2, 0] = 0.9
    input_size = (int(rng.integers(1, 4 * height + 1)), int(rng.integers(1, 4 * width + 1)))
    return masks, input_size, [*SIZES, input_size][seed % 8], float(rng.choice([0.3, 0.5]))


def enlarged(masks, input_size, image_size, threshold):
    resize = Enlarger(masks.shape[1:], input_size, image_size, threshold)
    crops = []
    for mask in masks.numpy():
        left, top, right, bottom = window(mask > threshold) or (0, 0, 0, 0)
        crops.append(resize(Part(mask[top:bottom, left:right], left, top)))
    none = np.zeros(len(masks))
    return Prediction(image_size, ("ship",), none, none, none, crops)


@pytest.mark.parametrize("seed", range(32))
def test_equal_to_the_model(seed, monkeypatch):
    case = random_case(seed)
    # Several blocks.
    monkeypatch.setattr(enlarge, "BLOCK", 50)
    found = enlarged(*case)
    expected = enlarge_masks(*case).numpy()
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
