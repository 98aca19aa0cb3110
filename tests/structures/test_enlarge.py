"""Masks enlarged part by part are equal to the interpolation of whole maps."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mask_cases import random_case

from facenet_d2.structures import enlarge, enlarger
from facenet_d2.structures.enlarger import Enlarger, Part, box_with_margin

# Rounding may decide about a pixel this close to the threshold.
TOLERANCE = 1e-5


def scale_axis(maps, size, dim):
    """Scale maps bilinearly along an axis, each new line from two old ones."""
    old = maps.shape[dim]
    if old == size:
        return maps
    places = ((torch.arange(size) + 0.5) * (old / size) - 0.5).clamp(min=0)
    first = places.floor().long().clamp(max=old - 1)
    weight = places - first
    weight = weight[:, None] if dim == 1 else weight
    low = maps.index_select(dim, first)
    high = maps.index_select(dim, (first + 1).clamp(max=old - 1))
    return low * (1 - weight) + high * weight


def enlarge_whole_maps(masks, input_size, image_size, threshold, stride=4):
    """Return by how much each pixel of the result is above the threshold."""
    size = (stride * masks.shape[1], stride * masks.shape[2])
    maps = F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps[:, : input_size[0], : input_size[1]]
    maps = scale_axis(scale_axis(maps, image_size[1], 2), image_size[0], 1)
    return maps - threshold


def check_masks(found, margins):
    assert ((found == (margins > 0)) | (margins.abs() < TOLERANCE)).all()


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("seed", range(64))
def test_equal_to_whole_maps(seed, stride, monkeypatch):
    case = random_case(seed, stride)
    # Several blocks.
    monkeypatch.setattr(enlarger, "BLOCK", 50)
    enlarged = enlarge.enlarge_masks(*case, stride=stride).to_tensor()
    margins = enlarge_whole_maps(*case, stride)
    check_masks(enlarged, margins)
    # Rectangles of zeros and ones have no values near the threshold.
    assert torch.equal(enlarged[:4], margins[:4] > 0)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("seed", range(24))
def test_masks_that_end_with_their_boxes(seed, whole, monkeypatch):
    """Logits, with boxes anywhere; by parts as on a CPU, and by whole masks as on a GPU."""
    stride = 4 if seed % 3 else 2
    masks, input_size, image_size, _ = random_case(seed, stride)
    logits = 8 * (masks - 0.4)
    height, width = image_size
    corners = torch.rand(2, len(masks), 2) * torch.tensor([width + 4.0, height + 4.0]) - 2
    boxes = torch.cat([corners.amin(dim=0), corners.amax(dim=0)], dim=1)
    boxes[-1] = torch.tensor([-5.0, -5, width + 5, height + 5])
    monkeypatch.setattr(enlarger, "BLOCK", 50)
    function = enlarge._enlarge_whole if whole else enlarge._enlarge_parts
    enlarged = function(logits, input_size, image_size, -0.4, boxes, stride).to_tensor()
    ys, xs = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    margins = enlarge_whole_maps(logits, input_size, image_size, -0.4, stride)
    for found, margin, (x0, y0, x1, y1) in zip(enlarged, margins, boxes.tolist(), strict=True):
        inside = ((ys >= y0) & (ys <= y1))[:, None] & (xs >= x0) & (xs <= x1)
        check_masks(found, margin.masked_fill(~inside, -1.0))


@pytest.mark.parametrize("seed", range(16))
def test_crops_are_tight(seed):
    masks, *sizes, threshold = random_case(seed)
    resize = Enlarger(masks.shape[1:], *sizes, threshold)
    for mask in masks.numpy():
        left, top, right, bottom = box_with_margin(mask > np.float32(threshold))
        crop = resize(Part(mask[top:bottom, left:right], left, top))
        if crop.mask.size:
            for side in (crop.mask[0], crop.mask[-1], crop.mask[:, 0], crop.mask[:, -1]):
                assert side.any()


def test_the_cases_are_not_empty():
    margins = [enlarge_whole_maps(*random_case(seed)) for seed in range(64)]
    assert sum((m > 0).flatten(1).any(dim=1).sum() for m in margins) > 2 * 64
