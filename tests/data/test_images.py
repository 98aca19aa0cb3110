"""Image files: what is read, what is refused, and in which words."""

import pickle
import struct
import threading
import zlib

import numpy as np
import pytest
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from image_files import chunk, exif, tiff_page, turn, write_png, write_tiff
from PIL import Image

from facenet_d2 import UserError
from facenet_d2.checking.fault_kinds import FAULT_KINDS
from facenet_d2.checking.image_checks import ImageJob, check_image
from facenet_d2.data import SceneMapper, images
from facenet_d2.data.augmentation import ResizeShortestEdge, build_augmentations
from facenet_d2.data.images import (
    BACKGROUND,
    ImageError,
    image_size,
    open_rgb,
    read_image,
    size_problem,
)

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)
FOUR = np.concatenate([RGB, np.full((6, 9, 1), 60, np.uint8)], axis=2)


def tiff(samples, photometric, **options):
    return write_tiff([tiff_page(samples, photometric=photometric, **options)])


def write(folder, data, name="a.tif"):
    file = folder / name
    file.write_bytes(data)
    return file


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(tmp_path, orientation, suffix):
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[:8, :8] = 255  # A white corner at the top left.
    upright[:8, -8:] = 128  # A grey one at the top right.
    file = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    stored = Image.fromarray(turn(upright, orientation))
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    stored.save(file, exif=metadata, **options)
    pixels = read_image(file, "RGB")
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).mean() < 3
    assert np.array_equal(read_image(file, "BGR"), pixels[..., ::-1])
    assert image_size(file) == (24, 40)
    assert size_problem(file, {"width": 40, "height": 24}) is None
    problem = size_problem(file, {"width": 24, "height": 40})
    assert problem.startswith("is 40x24 pixels")
    assert ("EXIF" in problem) == (orientation >= 5)


def test_metadata_after_the_pixels_and_damaged_metadata(tmp_path):
    stored = turn(RGB, 6)
    late = write(tmp_path, write_png(stored, 2, after=chunk(b"eXIf", exif(6))), "late.png")
    assert np.array_equal(read_image(late, "RGB"), RGB)
    assert image_size(late) == (6, 9)
    for data in (b"", b"nonsense", exif(99), exif(0)):
        file = write(tmp_path, write_png(RGB, 2, before=chunk(b"eXIf", data)), "bad.png")
        assert np.array_equal(read_image(file, "RGB"), RGB)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (tiff(FOUR, 2, extra=(0,)), "bands", "4 bands.*RGB.*unspecified.*-b 1 -b 2 -b 3"),
        (tiff(FOUR, 2, extra=(0,), planar=2), "bands", "4 bands.*RGB.*unspecified"),
        (tiff(FOUR, 2), "bands", "4 bands.*RGB.*unspecified"),
        (tiff(FOUR, 2, extra=(2,)), "bands", "marked as alpha.*-b 1 -b 2 -b 3"),
        (tiff(FOUR[..., :2], 1, extra=(0,)), "bands", "2 bands.*MinIsBlack.*-b 1"),
        (tiff(FOUR[..., :2], 1), "bands", "2 bands.*MinIsBlack"),
        (tiff(RGB, 1, extra=(0, 0)), "bands", "3 bands.*MinIsBlack.*PHOTOMETRIC=RGB"),
        (tiff(np.tile(RGB, (1, 1, 3)), 1), "bands", "9 bands.*MinIsBlack"),
        (tiff(FOUR[..., [0, 1, 2, 0, 1]], 2, extra=(0, 0)), "bands", "5 bands"),
        (tiff(FOUR[..., [0, 1, 2, 3, 1]], 2, extra=(2, 0)), "bands", "5 bands.*alpha"),
        (
            tiff(FOUR[..., :2], 1, extra=(1,), planar=2, compression=8),
            "bands",
            "premultiplied alpha.*of grey, with planar configuration 2",
        ),
        (tiff(RGB, 8), "bands", "CIELab"),
        (tiff(RGB[..., :1], 32803), "bands", "CFA"),
        (tiff(RGB[..., :1], None), "bands", "not stated"),
        (tiff(RGB.astype(np.uint16), 2), "depth", "8 bits per channel .16 bits.; scale"),
        (tiff(RGB[..., :1].astype(np.float32), 1, tags={339: 3}), "depth", "32 bits, floating"),
        (tiff(RGB[..., :1].astype(np.int8), 1, tags={339: 2}), "depth", "8 bits, signed"),
        (tiff(RGB, 2, tags={254: 1}), "frames", "preview"),
        (write_tiff([tiff_page(RGB, photometric=2)] * 2), "frames", "several pages"),
        (tiff(RGB, 2, tags={259: 34887}), "unreadable", "compression 34887.*COMPRESS=DEFLATE"),
        (write_tiff([tiff_page(RGB, photometric=2)], ">", True), "unreadable", "big-endian"),
        (b"", "unreadable", "it is empty"),
        (b"hello\n" * 99, "unreadable", "not an image in one of the formats .*PNG"),
        (write_png(RGB, 2)[:-30], "unreadable", "."),
        (b"P5 20000 9000 255\n", "unreadable", "too short for its 20000x9000 pixels"),
        (write_png(RGB.astype(np.uint16), 2, bits=16), "depth", "8 bits per channel .mode RGB"),
    ],
)
def test_what_is_refused(tmp_path, data, kind, words):
    file = write(tmp_path, data)
    with pytest.raises(ImageError, match=f"image {file} cannot be used: .*{words}") as error:
        read_image(file)
    message = str(error.value)
    assert error.value.kind == f"image-{kind}"
    assert error.value.kind in FAULT_KINDS
    assert message.endswith(".")
    assert "\n" not in message
    assert isinstance(error.value, UserError)
    copy = pickle.loads(pickle.dumps(error.value))  # Worker processes pass it on.
    assert (str(copy), copy.kind) == (message, error.value.kind)
    entry = {"file_name": "a.tif", "width": 9, "height": 6}
    result = check_image(ImageJob(file, entry, []))
    assert [(f.kind, f.message) for f in result.faults] == [(error.value.kind, error.value.reason)]


def test_paths_that_are_no_files(tmp_path):
    for path, words in ((tmp_path, "is not a file"), (tmp_path / "gone.png", "does not exist")):
        with pytest.raises(ImageError, match=words) as error:
            read_image(path)
        assert error.value.kind == "image-missing"


@pytest.mark.parametrize("bits", [1, 8])
def test_white_is_zero(tmp_path, bits):
    values = RNG.integers(0, 2**bits, (6, 9, 1), dtype=np.uint8)
    file = write(tmp_path, tiff(values, 0, bits=bits))
    expected = 255 - values * (255 // (2**bits - 1))
    assert np.array_equal(read_image(file, "RGB"), np.repeat(expected, 3, axis=2))
    assert np.array_equal(read_image(file, "L"), expected)


def test_hidden_colours_do_not_come_back(tmp_path):
    """An orthomosaic with a transparent border over which colours are left."""
    rgba = np.full((6, 9, 4), (200, 10, 10, 255), np.uint8)
    rgba[:, :4, 3] = 0
    rgba[0, 4, 3] = 51
    key = chunk(b"tRNS", bytes([0, 200, 0, 10, 0, 10]))
    files = [
        write(tmp_path, write_png(rgba, 6), "rgba.png"),
        write(tmp_path, tiff(rgba, 2, extra=(2,)), "rgba.tif"),
    ]
    for file in files:
        pixels = read_image(file, "RGB")
        assert (pixels[:, :4] == BACKGROUND).all()
        assert (pixels[:, 5:] == (200, 10, 10)).all()
        soft = np.array((200, 10, 10)) * 0.2 + np.array(BACKGROUND) * 0.8
        assert np.abs(pixels[0, 4] - soft).max() <= 1
    file = write(tmp_path, write_png(rgba[..., :3], 2, before=key), "key.png")
    assert (read_image(file, "RGB") == BACKGROUND).all()
    grey = np.array([[[0], [1], [2], [3]]], np.uint8)
    for bits, value in ((2, 3), (4, 3), (1, 1)):
        png = write_png(grey % 2**bits, 0, bits=bits, before=chunk(b"tRNS", bytes([0, value])))
        pixels = read_image(write(tmp_path, png, "grey.png"), "RGB")
        assert ((pixels[0] == BACKGROUND).all(axis=1) == (grey % 2**bits == value).ravel()).all()


def test_values_without_data(tmp_path):
    samples = RGB.copy()
    samples[:2] = 255
    samples[3, 3] = (255, 0, 255)  # Not in all bands.
    file = write(tmp_path, tiff(samples, 2, tags={42113: "255"}))
    pixels = read_image(file, "RGB")
    assert (pixels[:2] == BACKGROUND).all()
    assert np.array_equal(pixels[2:], samples[2:])
    for text in ("nan", "-9999", "none"):
        file = write(tmp_path, tiff(samples, 2, tags={42113: text}))
        assert np.array_equal(read_image(file, "RGB"), samples)


def test_overviews_and_second_pictures_are_ignored(tmp_path):
    first, small = tiff_page(RGB, photometric=2), tiff_page(RGB[::2, ::2], photometric=2)
    file = write(tmp_path, write_tiff([first, ({**small[0], 254: 1}, small[1])]))
    assert np.array_equal(read_image(file, "RGB"), RGB)
    left, right = (Image.new("RGB", (16, 16), c) for c in ("white", "black"))
    left.save(tmp_path / "camera.mpo", save_all=True, append_images=[right])
    assert (read_image(tmp_path / "camera.mpo") == 255).all()


def test_strips_agree_with_the_whole(tmp_path, monkeypatch):
    rgba = RNG.integers(0, 256, (23, 7, 4), dtype=np.uint8)
    file = write(tmp_path, write_png(rgba, 6), "a.png")
    whole = [read_image(file, f) for f in ("RGB", "BGR", "L")]
    monkeypatch.setattr(images, "_STRIP_PIXELS", 15)
    for format, expected in zip(("RGB", "BGR", "L"), whole, strict=True):
        assert np.array_equal(read_image(file, format), expected)
    assert np.array_equal(whole[2][..., 0], np.asarray(Image.fromarray(whole[0]).convert("L")))


def test_scenes_above_the_limit_of_pillow(tmp_path, monkeypatch):
    """The limit is lifted while an image is read, also in several threads, and then restored."""
    pixels = RNG.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    files = [tmp_path / f"scene.{s}" for s in ("png", "tif", "bmp", "webp")]
    for file in files:
        Image.fromarray(pixels).save(file, **({"lossless": True} if "webp" in file.name else {}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    found = []
    threads = [threading.Thread(target=lambda f=f: found.append(open_rgb(f))) for f in files * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(threads)
    assert all(np.array_equal(np.asarray(image), pixels) for image in found)
    with pytest.raises(ImageError):
        read_image(write(tmp_path, b"text"))
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(Image.DecompressionBombError):
        Image.open(files[0])
    monkeypatch.setattr(images, "MAX_PIXELS", 1199)
    for function in (read_image, image_size):
        with pytest.raises(ImageError, match=r"40x30 pixels, more than .* 1,199; cut") as error:
            function(files[0])
        assert error.value.kind == "image-large"


def test_a_scene_of_180_million_pixels(tmp_path):
    side = 13_400
    packer = zlib.compressobj(1)
    row = bytes([0, *[0b11110000] * (side // 8)])
    content = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b""))
    file = write(tmp_path, b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "scene.png")
    with pytest.raises(Image.DecompressionBombError):
        Image.open(file)
    assert image_size(file) == (side, side)
    pixels = read_image(file)
    assert pixels.shape == (side, side, 3)
    assert (pixels[::1000, :8] == np.repeat([255, 0], 4)[:, None]).all()


def test_an_image_that_does_not_fit_into_the_memory(tmp_path, monkeypatch):
    def fail(*args):
        raise MemoryError

    monkeypatch.setattr(images, "_to_array", fail)
    with pytest.raises(ImageError, match="does not fit into memory; cut it"):
        read_image(write(tmp_path, write_png(RGB, 2)))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9000, 2)])
def test_mapper_accepts_tiny_and_long_images(model_cfg, tmp_path, size):
    """Also if they are mirrored, which gives a side of one pixel a negative stride."""
    samples = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    file = write(tmp_path, write_png(samples, 2), "tiny.png")
    model_cfg.INPUT.RANDOM_FLIP = "both"
    model_cfg.INPUT.RANDOM_QUARTER_TURN = True
    mapper = SceneMapper(model_cfg, is_train=True)
    height, width = size
    polygon = [0.0, 0.0, float(width), 0.0, float(width), float(height), 0.0, float(height)]
    annotation = {"bbox": [0, 0, width, height], "bbox_mode": BoxMode.XYWH_ABS}
    annotation |= {"category_id": 0, "segmentation": [polygon]}
    entry = {"file_name": str(file), "height": height, "width": width, "annotations": [annotation]}
    for _ in range(8):
        inputs = mapper(entry)
        assert min(inputs["image"].shape[1:]) >= 1
        assert inputs["image"].is_contiguous()


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (9000, 2), (2, 9000)])
def test_long_images_keep_both_sides(model_cfg, size):
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    for is_train in (True, False):
        resize = build_augmentations(model_cfg, is_train)[0]
        inputs = T.AugInput(image)
        resize(inputs)
        low, high = sorted(inputs.image.shape[:2])
        assert low >= 1
        assert high <= max(model_cfg.INPUT.MAX_SIZE_TRAIN, model_cfg.INPUT.MAX_SIZE_TEST)
        assert inputs.image.shape[:2] == ResizeShortestEdge.get_output_shape(
            *size, model_cfg.INPUT.MIN_SIZE_TEST, model_cfg.INPUT.MAX_SIZE_TEST
        )
