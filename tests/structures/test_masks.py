"""The reductions of binary masks: one rule in PyTorch and NumPy, and SOLO's own."""

import numpy as np
import pytest
import torch

from facenet_d2.structures.masks import downsample_mask, downsample_masks, reduce_masks


def random_masks(seed):
    """Dense, sparse, thin and empty masks of a random size."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    densities = [0.0, 0.02, 0.1, 0.3, 0.5, 0.9, 1.0]
    masks = [rng.random((height, width)) < density for density in densities]
    lines = np.zeros((2, height, width), bool)
    lines[0, rng.integers(height)] = lines[1, :, rng.integers(width)] = True
    return np.stack([*masks, *lines])


@pytest.mark.parametrize("seed", range(40))
def test_numpy_and_pytorch_downsample_alike(seed):
    masks = random_masks(seed)
    size = tuple(-(-side // 4) for side in masks.shape[1:])
    expected = downsample_masks(torch.from_numpy(masks), size)
    actual = np.stack([downsample_mask(mask.astype(np.uint8)) for mask in masks])
    assert actual.dtype == bool
    assert np.array_equal(actual, expected.numpy())


def downsample_by_loops(mask, rule):
    """Reduce a mask whose sides are multiples of 4, one 4x4 block after the other."""
    blocks = [
        [mask[y : y + 4, x : x + 4] for x in range(0, mask.shape[1], 4)]
        for y in range(0, mask.shape[0], 4)
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


def test_the_rules_differ():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 0, :4] = mask[0, 3, :4] = True  # Half of a block, but not its centre.
    mask[0, 4:, 4:] = True
    assert downsample_masks(mask, (2, 2)).tolist() == [[[False, False], [False, True]]]
    assert reduce_masks(mask, (2, 2)).tolist() == [[[True, False], [False, True]]]
