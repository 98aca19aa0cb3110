"""Reductions of binary masks, one rule in PyTorch and NumPy, and SOLO's own; their covariances."""

import numpy as np
import pytest
import torch

from facenet_d2.structures.masks import (
    downsample_mask,
    downsample_masks,
    mass_covariances,
    reduce_masks,
    widen_boxes,
)


def random_masks(seed):
    """Dense, sparse, thin and empty masks of a random size."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    densities = [0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 1.0]
    masks = [rng.random((height, width)) < density for density in densities]
    lines = np.zeros((2, height, width), bool)
    lines[0, rng.integers(height)] = lines[1, :, rng.integers(width)] = True
    return np.stack([*masks, *lines])


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("seed", range(40))
def test_numpy_and_pytorch_downsample_alike(seed, stride):
    masks = random_masks(seed)
    size = tuple(-(-side // stride) for side in masks.shape[1:])
    expected = downsample_masks(torch.from_numpy(masks), size, stride)
    actual = np.stack([downsample_mask(mask.astype(np.uint8), stride) for mask in masks])
    assert actual.dtype == bool
    assert np.array_equal(actual, expected.numpy())


@pytest.mark.parametrize("seed", range(5))
def test_covariances_by_brute_force(seed):
    """The covariance of points spread finely over the area of the pixels."""
    masks = torch.from_numpy(random_masks(seed))
    masks = masks[masks.flatten(1).any(dim=1)]
    fine = 16
    for mask, found in zip(masks, mass_covariances(masks), strict=True):
        points = []
        for y, x in mask.nonzero().tolist():
            inside = (np.arange(fine) + 0.5) / fine
            ys, xs = np.meshgrid(y + inside, x + inside, indexing="ij")
            points.append(np.stack([xs.ravel(), ys.ravel()]))
        matrix = np.cov(np.concatenate(points, axis=1), bias=True)
        expected = torch.tensor([matrix[0, 0], matrix[0, 1], matrix[1, 1]])
        # 16 points a side have 1/12 less 1/12/16**2.
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=4e-4)


def test_covariances_of_known_masks():
    """A pixel, a line, and none."""
    masks = torch.zeros(3, 5, 9, dtype=torch.bool)
    masks[0, 2, 3] = masks[1, 4, 1:7] = True
    found = mass_covariances(masks)
    wanted = torch.tensor([[1 / 12, 0, 1 / 12], [36 / 12, 0, 1 / 12]], dtype=torch.float64)
    torch.testing.assert_close(found[:2], wanted)
    assert found[2].isnan().all()
    assert mass_covariances(masks[:0]).shape == (0, 3)


def test_boxes_are_widened_by_a_share_of_their_sides():
    boxes = torch.tensor([[10.0, 20, 50, 40], [1, 1, 4, 3]])
    wanted = torch.tensor([[0.0, 15, 60, 45], [0, 0, 5, 4]])
    assert torch.equal(widen_boxes(boxes, 0.25), wanted)


def downsample_by_loops(mask, rule, stride=4):
    """Reduce a mask whose sides are multiples of the stride, one block after the other."""
    blocks = [
        [mask[y : y + stride, x : x + stride] for x in range(0, mask.shape[1], stride)]
        for y in range(0, mask.shape[0], stride)
    ]
    small = np.array([[rule(block) for block in row] for row in blocks])
    return small if small.any() else np.array([[block.any() for block in row] for row in blocks])


@pytest.mark.parametrize("seed", range(10))
def test_the_two_rules(seed):
    """Half of the central 2x2 pixels, and half of all pixels, of a block."""
    masks = random_masks(seed)
    masks = np.pad(masks, [(0, 0), *((0, -side % 4) for side in masks.shape[1:])])
    size = tuple(side // 4 for side in masks.shape[1:])
    center = downsample_masks(torch.from_numpy(masks), size).numpy()
    majority = reduce_masks(torch.from_numpy(masks), size).numpy()
    for i, mask in enumerate(masks):
        expected = downsample_by_loops(mask, lambda block: block[1:3, 1:3].sum() >= 2)
        assert np.array_equal(center[i], expected)
        expected = downsample_by_loops(mask, lambda block: block.sum() >= 8)
        assert np.array_equal(majority[i], expected)


@pytest.mark.parametrize("seed", range(10))
def test_half_of_a_block_at_stride_2(seed):
    masks = random_masks(seed)
    masks = np.pad(masks, [(0, 0), *((0, side % 2) for side in masks.shape[1:])])
    size = tuple(side // 2 for side in masks.shape[1:])
    small = downsample_masks(torch.from_numpy(masks), size, 2).numpy()
    for mask, found in zip(masks, small, strict=True):
        assert np.array_equal(found, downsample_by_loops(mask, lambda b: b.sum() >= 2, stride=2))


def test_the_rules_differ():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 0, :4] = mask[0, 3, :4] = True  # Half of a block, but not its centre.
    mask[0, 4:, 4:] = True
    assert downsample_masks(mask, (2, 2)).tolist() == [[[False, False], [False, True]]]
    assert reduce_masks(mask, (2, 2)).tolist() == [[[True, False], [False, True]]]
