"""Images are resized as Detectron2 does with the augmentations of inference."""

import numpy as np
import pytest

from facenet_d2.data.augmentation import ResizeShortestEdge
from facenet_d2.runtime.resizing import network_size, resize


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("size", [(50, 70), (333, 201), (9000, 2), (160, 160), (1, 1)])
def test_pixels_are_those_of_detectron2(size, dtype):
    rng = np.random.default_rng(1)
    channels = 3 if dtype == np.uint8 else 5
    image = rng.integers(0, 256, (*size, channels)).astype(dtype)
    expected = ResizeShortestEdge(160, 400).get_transform(image).apply_image(image)
    found = resize(image, network_size(size, 160, 400))
    assert found.dtype == image.dtype
    # Of floats, the order of additions differs.
    np.testing.assert_allclose(found, expected, atol=0 if dtype == np.uint8 else 1e-3)


def test_sizes_are_those_of_detectron2():
    rng = np.random.default_rng(2)
    for _ in range(500):
        height, width = (int(x) for x in rng.integers(1, 3000, 2))
        low, high = (int(x) for x in np.sort(rng.integers(1, 2000, 2)))
        expected = ResizeShortestEdge.get_output_shape(height, width, low, high)
        assert network_size((height, width), low, high) == expected


def test_a_minimum_of_0_keeps_the_size():
    image = np.zeros((5, 7, 3), np.uint8)
    assert network_size((5, 7), 0, 4) == (5, 7)
    assert resize(image, (5, 7)) is image
