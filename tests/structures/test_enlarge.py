"""Masks enlarged part by part are equal to the interpolation of whole maps, to the bit."""

import pytest
import torch
import torch.nn.functional as F
from mask_cases import random_case

from facenet_d2.structures import enlarge


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
    size = (stride * masks.shape[1], stride * masks.shape[2])
    maps = F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    maps = maps[:, : input_size[0], : input_size[1]]
    maps = scale_axis(scale_axis(maps, image_size[1], 2), image_size[0], 1)
    return maps > threshold


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("seed", range(64))
def test_equal_to_whole_maps(seed, stride, monkeypatch):
    case = random_case(seed, stride)
    # Several bands of columns.
    monkeypatch.setattr(enlarge, "BAND_FLOATS", 2000)
    enlarged = enlarge.enlarge_masks(*case, stride=stride)
    expected = enlarge_whole_maps(*case, stride)
    assert torch.equal(enlarged.to_tensor(), expected)


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
    monkeypatch.setattr(enlarge, "BAND_FLOATS", 2000)
    function = enlarge._enlarge_whole if whole else enlarge._enlarge_parts
    changes = function(logits, input_size, image_size, -0.4, boxes, stride)
    ys, xs = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    expected = enlarge_whole_maps(logits, input_size, image_size, -0.4, stride)
    for found, mask, (x0, y0, x1, y1) in zip(changes, expected, boxes.tolist(), strict=True):
        mask &= ((ys >= y0) & (ys <= y1))[:, None] & (xs >= x0) & (xs <= x1)
        difference = enlarge.RLEMasks([found], image_size)[0] != mask
        # Interpolation of whole masks may round differently.
        assert difference.sum() <= (2 if whole else 0)


def test_the_cases_are_not_empty():
    filled = [int(enlarge_whole_maps(*random_case(s)).flatten(1).any(1).sum()) for s in range(64)]
    assert sum(filled) > 2 * 64
