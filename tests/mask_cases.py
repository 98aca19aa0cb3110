"""Masks that are enlarged, for the tests of the enlargement in PyTorch and in NumPy."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F


def random_case(seed, stride=4):
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
    input_size = tuple(int(rng.integers(1, stride * side + 1)) for side in (height, width))
    sizes = [(1, 1), (1, 700), (2, 33), (33, 2), (7, 1), (90, 61), (250, 300), input_size]
    return masks, input_size, sizes[seed % len(sizes)], float(rng.choice([0.3, 0.5]))
