"""Image files: bit depth, EXIF orientation, and scenes above Pillow's size limit."""

import threading

import numpy as np
import pytest
from detectron2.data.detection_utils import read_image
from PIL import Image

from facenet_d2 import UserError
from facenet_d2.data.images import DepthError, check_depth, image_size, open_rgb, size_problem


@pytest.mark.parametrize("orientation", range(1, 9))
def test_size_is_that_of_detectron2(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "a.jpg"
    Image.new("RGB", (30, 20)).save(file, exif=exif)
    height, width = read_image(str(file), "RGB").shape[:2]
    assert image_size(file) == (height, width)
    assert size_problem(file, {"width": width, "height": height}) is None
    problem = size_problem(file, {"width": height, "height": width})
    assert problem.startswith(f"is {width}x{height} pixels")
    assert ("EXIF" in problem) == (orientation >= 5)


def test_deep_images_are_refused(tmp_path):
    Image.fromarray(np.full((4, 5), 3000, np.uint16)).save(tmp_path / "deep.png")
    Image.new("L", (5, 4)).save(tmp_path / "gray.png")
    check_depth(tmp_path / "gray.png")
    for function in (check_depth, lambda file: size_problem(file, {"width": 5, "height": 4})):
        with pytest.raises(DepthError, match="8 bits per channel"):
            function(tmp_path / "deep.png")
    with pytest.raises(UserError, match=r"deep\.png cannot be used: .*8 bits per channel"):
        open_rgb(tmp_path / "deep.png")


def test_large_scenes_leave_the_limit_alone(tmp_path, monkeypatch):
    """The limit is a global of the process, which other threads rely on."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    file = tmp_path / "scene.png"
    Image.fromarray(pixels).save(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    limits = []
    convert = Image.Image.convert

    def recorded(image, *args, **kwargs):
        limits.append(Image.MAX_IMAGE_PIXELS)
        return convert(image, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "convert", recorded)
    images = []
    threads = [threading.Thread(target=lambda: images.append(open_rgb(file))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(images) == 4
    assert all(np.array_equal(np.asarray(image), pixels) for image in images)
    assert limits == [100] * 4
    with pytest.raises(Image.DecompressionBombError):
        Image.open(file)


def test_other_formats_and_broken_files(tmp_path):
    Image.new("L", (5, 4), 7).save(tmp_path / "scene.png", format="TIFF")
    assert np.array_equal(np.asarray(open_rgb(tmp_path / "scene.png")), np.full((4, 5, 3), 7))
    (tmp_path / "text.png").write_text("not an image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(UserError, match=f"{name} cannot be used"):
            open_rgb(tmp_path / name)
