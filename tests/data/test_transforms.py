"""Transforms of float images with any number of bands, against Pillow and those of 8 bits."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from facenet_d2.data.augmentation import BAND_OPERATIONS, OPERATIONS, RandAugment
from facenet_d2.data.transforms import AffineTransform, ResizeTransform

RNG = np.random.default_rng(3)


@pytest.mark.parametrize(
    ("old", "new"),
    [((60, 90), (20, 31)), ((61, 37), (13, 74)), ((30, 41), (90, 55)), ((7, 300), (1, 40))],
)
def test_float_images_are_resized_as_pillow_does(old, new):
    bands = RNG.integers(0, 256, (*old, 5)).astype(np.uint8)
    transform = ResizeTransform(*old, *new)
    resized = transform.apply_image(bands.astype(np.float32))
    assert resized.dtype == np.float32
    assert resized.shape == (*new, 5)
    for i in range(5):
        size = new[::-1]
        pillow = np.asarray(Image.fromarray(bands[..., i]).resize(size, Image.Resampling.BILINEAR))
        # Pillow rounds after each of its two passes.
        assert np.abs(resized[..., i] - pillow).max() <= 1.01
        exact = Image.fromarray(bands[..., i].astype(np.float32))
        exact = np.asarray(exact.resize(size, Image.Resampling.BILINEAR))
        assert np.allclose(resized[..., i], exact, atol=1e-2)
    colours = bands[..., :3]
    image = Image.fromarray(colours).resize(new[::-1], Image.Resampling.BILINEAR)
    assert np.array_equal(transform.apply_image(colours), np.asarray(image))
    mask = (bands[..., 0] > 99).astype(np.uint8)
    nearest = Image.fromarray(mask).resize(new[::-1], Image.Resampling.NEAREST)
    assert np.array_equal(transform.apply_segmentation(mask), np.asarray(nearest))
    assert transform.inverse().apply_image(resized).shape == (*old, 5)


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_warps_move_each_band_alike(count):
    image = (255 * RNG.random((40, 50, count))).astype(np.float32)
    fill = tuple(float(i) for i in range(count))
    transform = AffineTransform.rotation(25, 40, 50, fill)
    warped = transform.apply_image(image)
    for i in range(count):
        one = AffineTransform.rotation(25, 40, 50, (fill[i],)).apply_image(image[..., i])
        assert np.array_equal(warped[..., i], one)
        assert warped[0, 0, i] == fill[i]


PILLOW = {
    "Identity": lambda image, level: image,
    "AutoContrast": lambda image, level: ImageOps.autocontrast(image),
    "Solarize": lambda image, level: ImageOps.solarize(image, round(256 * (1 - level))),
    "Contrast": lambda image, level: ImageEnhance.Contrast(image).enhance(1 + 0.9 * level),
    "Brightness": lambda image, level: ImageEnhance.Brightness(image).enhance(1 + 0.9 * level),
    "Sharpness": lambda image, level: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * level),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", sorted(BAND_OPERATIONS))
def test_operations_on_bands_are_pillows_on_grey_images(name, sign):
    bands = RNG.integers(20, 200, (30, 40, 6)).astype(np.uint8)
    operation = RandAugment(1, 20, fill=(0.0,) * 6, of_bands=True).operation(name, sign, 30, 40)
    result = operation.apply_image(bands.astype(np.float32))
    assert result.dtype == np.float32
    assert result.shape == bands.shape
    level = (sign if OPERATIONS[name][0] == "signed" else 1) * 20 / 30
    for i in range(6):
        pillow = PILLOW[name](Image.fromarray(bands[..., i]), level)
        # Pillow rounds the mean of the contrast and the result.
        assert np.abs(result[..., i] - np.asarray(pillow)).max() <= 2, name
    constant = np.full((8, 9, 2), 77, np.float32)
    assert np.isfinite(operation.apply_image(constant)).all()
