"""Outlines of masks without holes and parts."""

import cv2
import numpy as np
import pytest
import shapely

from facenet_d2.clients.outlines import mask_shapes, outlines
from facenet_d2.structures.rle_masks import RLEMasks


def random_masks(seed, size):
    rng = np.random.default_rng(seed)
    coarse = rng.random((5, size // 3, size // 3)) < rng.uniform(0.2, 0.9, (5, 1, 1))
    masks = coarse.repeat(3, axis=1).repeat(3, axis=2)
    masks[1] = rng.random(masks[1].shape) < 0.6
    masks[2] = False
    return masks


def filled(polygons, shape):
    """Set the pixels whose centres are inside an odd number of the polygons."""
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    count = np.zeros(shape, int)
    for p in polygons:
        inside = np.zeros(shape, bool)
        for (x0, y0), (x1, y1) in zip(p, np.roll(p, -1, axis=0)):
            if y0 != y1:
                crosses = (y0 > rows) != (y1 > rows)
                inside ^= crosses & (columns < x0 + (rows - y0) * (x1 - x0) / (y1 - y0))
        count += inside
    return count


@pytest.mark.parametrize("seed", range(4))
def test_outlines_have_exactly_the_pixels_of_the_mask(seed):
    masks = random_masks(seed, 30)
    shapes = mask_shapes(RLEMasks.from_dense(masks, masks.shape[1:]))
    with_holes = 0
    for mask, shape in zip(masks, shapes):
        assert shape.area == mask.sum()
        with_holes += sum(len(p.interiors) for p in shape.geoms)
        polygons = outlines(shape)
        assert all(shapely.Polygon(p).is_valid for p in polygons)
        assert all(len(p) >= 4 and (p[0] != p[-1]).any() for p in polygons)
        # Each pixel is in one polygon only.
        np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    assert with_holes > 3


def test_simplified_outlines_stay_close():
    mask = np.zeros((80, 90), np.uint8)
    cv2.ellipse(mask, (40, 38), (33, 20), 25, 0, 360, 1, -1)
    cv2.circle(mask, (45, 40), 8, 0, -1)
    masks = RLEMasks.from_dense([mask], mask.shape)
    exact = mask_shapes(masks)[0]
    shape = mask_shapes(masks, 1.0)[0]
    assert len(shape.geoms[0].interiors) == 1
    assert shapely.get_num_coordinates(shape) < shapely.get_num_coordinates(exact) / 3
    cut = filled(outlines(shape), mask.shape)
    assert cut.max() == 1
    assert (cut & mask).sum() / (cut | mask).sum() > 0.93


def test_no_masks():
    assert len(mask_shapes(RLEMasks([], (10, 10)))) == 0
