"""Pasted masks against Detectron2's ``paste_masks_in_image``."""

import numpy as np
import pytest
import torch
from detectron2.layers import paste_masks_in_image

from facenet_d2.structures import paste


# For CPUs and for GPUs; both run on either.
@pytest.mark.parametrize("implementation", ["_paste_parts", "_paste_whole"])
@pytest.mark.parametrize("seed", range(30))
def test_against_detectron2(seed, implementation, monkeypatch):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    height, width = (int(x) for x in rng.choice([1, 2, 17, 90, 203], 2))
    side = int(rng.choice([1, 7, 28]))
    corners = np.sort(rng.random((8, 2, 2)) * [width, height], axis=1).reshape(8, 4)
    boxes = torch.from_numpy(corners).float()
    boxes[0] = torch.tensor([0, 0, width, height])
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    masks = torch.rand(len(boxes), side, side) ** 0.5
    masks[0] = 1
    expected = paste_masks_in_image(masks, boxes, (height, width))
    assert expected.any()
    monkeypatch.setattr(paste, "_paste_parts", getattr(paste, implementation))
    # Several bands and chunks.
    monkeypatch.setattr(paste, "BAND_FLOATS", 500)
    monkeypatch.setattr(paste, "CHUNK_FLOATS", 30000)
    pasted = paste.paste_masks(masks, boxes, (height, width))
    assert torch.equal(pasted.to_tensor(), expected)


def test_nothing_to_paste():
    assert paste.paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), (5, 6)).shape == (0, 5, 6)
