"""Valid images of all kinds, with known pixels, and damaged ones.

  python tests/fuzz/images.py --cases 600 --seed 0

Every second case is a valid file: its pixels must be those that the file was made from, and a
layout whose contents would be lost must be refused. The others are damaged, and may be accepted or
refused. Training, evaluation and the checker must agree on every file.
"""

from __future__ import annotations

import io
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import PIL
import pytest
from detectron2.config import get_cfg
from image_files import (
    NEW_SUBFILE_TYPE,
    NODATA,
    ORIENTATION,
    chunk,
    exif,
    tiff_page,
    turn,
    write_png,
    write_tiff,
)
from PIL import Image

import facenet_d2
import facenet_d2.compat
from facenet_d2 import UserError
from facenet_d2.checking.image_checks import ImageJob, check_image
from facenet_d2.data import SceneMapper, read_image
from facenet_d2.data.images import BACKGROUND, ImageError, image_size

Image.init()
HAS_AVIF = "AVIF" in Image.SAVE
PILLOW = int(PIL.__version__.split(".")[0])


@dataclass(frozen=True)
class Sample:
    """An image file and what it shows.

    Attributes:
        data: contents of the file.
        suffix: suffix of its name.
        pixels: the upright picture as ``(H, W, 3)`` RGB; None if the file must be refused.
        refusal: kind of the refusal; None if any is right.
        tolerance: maximum difference of a value.
    """

    data: bytes
    suffix: str
    pixels: np.ndarray | None = None
    refusal: str | None = None
    tolerance: int = 0


def blend(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Return the colours over the background; alpha ``(H, W)`` from 0 to 255."""
    share = alpha[..., None] / 255
    return np.rint(rgb * share + np.array(BACKGROUND) * (1 - share)).astype(np.uint8)


def gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None].astype(np.uint8), 3, axis=2)


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    if rng.random() < 0.2:
        return [(1, 1), (1, 400), (400, 1), (2, 900), (33, 2), (1, 7)][rng.integers(6)]
    return int(rng.integers(1, 90)), int(rng.integers(1, 90))


def noise(rng: np.random.Generator, channels: int, high: int = 256) -> np.ndarray:
    return rng.integers(0, high, (*random_size(rng), channels), dtype=np.uint8)


def smooth(rng: np.random.Generator) -> np.ndarray:
    """Return a grey picture that lossy formats preserve, ``(H, W)``."""
    height, width = (int(v) for v in rng.integers(16, 90, 2))
    a, b = rng.uniform(0, 110, 2)
    return 20 + a * np.linspace(0, 1, height)[:, None] + b * np.linspace(0, 1, width)


def alpha_of(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return an alpha channel that is mostly transparent or opaque."""
    values = rng.choice(np.array([0, 255], np.uint8), shape)
    soft = rng.random(shape) < 0.2
    return np.where(soft, rng.integers(0, 256, shape), values).astype(np.uint8)


# Valid files --------------------------------------------------------------------------------------


def png(rng: np.random.Generator) -> Sample:
    color_type = int(rng.choice([0, 2, 3, 4, 6]))
    bits = int(rng.choice({0: [1, 2, 4, 8], 3: [1, 2, 4, 8]}.get(color_type, [8])))
    samples = noise(rng, {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color_type], 2**bits)
    before, first = b"", samples[..., 0]
    if color_type == 3:
        colors = rng.integers(0, 256, (2**bits, 3), dtype=np.uint8)
        before = chunk(b"PLTE", colors.tobytes())
        pixels = colors[first]
        if rng.random() < 0.6:
            alphas = rng.choice(np.array([0, 9, 255], np.uint8), int(rng.integers(1, 2**bits + 1)))
            before += chunk(b"tRNS", alphas.tobytes())
            alphas = np.pad(alphas, (0, 2**bits - len(alphas)), constant_values=255)
            pixels = blend(pixels, alphas[first])
    elif color_type in (0, 2):
        pixels = samples if color_type == 2 else gray(first * (255 // (2**bits - 1)))
        if rng.random() < 0.5:
            key = samples[rng.integers(len(samples)), rng.integers(samples.shape[1])]
            before = chunk(b"tRNS", key.astype(">u2").tobytes())
            pixels = blend(pixels, 255 * (samples != key).any(axis=2))
    else:
        samples[..., -1] = alpha_of(rng, first.shape)
        pixels = gray(first) if color_type == 4 else samples[..., :3]
        pixels = blend(pixels, samples[..., -1])
    orientation, after = int(rng.integers(1, 9)), b""
    block = chunk(b"eXIf", exif(orientation))
    if rng.random() < 0.3:
        text = f'<x tiff:Orientation="{orientation}"/>'.encode()
        block = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + text)
    if rng.random() < 0.5:
        before += block
    else:
        after = block
    data = write_png(
        turn(samples, orientation),
        color_type,
        bits=bits,
        interlaced=bool(rng.random() < 0.4),
        before=before,
        after=after,
    )
    return Sample(data, ".png", pixels, tolerance=1)


def tiff(rng: np.random.Generator) -> Sample:
    photometric = int(rng.choice([0, 1, 2, 3, 5]))
    bits = int(rng.choice([1, 2, 4, 8])) if photometric in (0, 1, 3) else 8
    planar, compression = int(rng.choice([1, 1, 2])), int(rng.choice([1, 8]))
    samples = noise(rng, {2: 3, 5: 4}.get(photometric, 1), 2**bits)
    tags: dict[int, object] = {}
    levels = samples[..., 0] * (255 // (2**bits - 1))
    if photometric in (0, 1):
        pixels = gray(255 - levels if photometric == 0 else levels)
    elif photometric == 2:
        pixels = samples
    elif photometric == 3:
        colors = rng.integers(0, 256, (3, 2**bits), dtype=np.uint8)
        tags[320] = (colors.astype(int) * 257).ravel().tolist()
        pixels = colors.T[samples[..., 0]]
    else:
        ink = 255 - samples.astype(float)
        pixels = np.rint(ink[..., :3] * ink[..., 3:] / 255).astype(np.uint8)
    extra: tuple[int, ...] = ()
    if photometric in (1, 2) and bits == 8 and rng.random() < 0.4:
        alpha = alpha_of(rng, samples.shape[:2])
        # Pillow before 10 does not read grey with premultiplied alpha.
        extra = (int(rng.choice([1, 2])) if photometric == 2 or PILLOW >= 10 else 2,)
        pixels = blend(pixels, alpha)
        stored = samples
        if extra == (1,):
            stored = np.rint(samples * (alpha[..., None] / 255)).astype(np.uint8)
        samples = np.concatenate([stored, alpha[..., None]], axis=2)
    elif photometric in (1, 2) and bits == 8 and rng.random() < 0.3:
        value = int(samples[0, 0, 0])
        samples[rng.random(samples.shape[:2]) < 0.5] = value
        tags[NODATA] = str(value)
        pixels = samples if photometric == 2 else gray(samples[..., 0])
        pixels = blend(pixels, 255 * (samples != value).any(axis=2))
    orientation = int(rng.integers(1, 9))
    tags[ORIENTATION] = orientation
    page = tiff_page(
        turn(samples, orientation),
        photometric=photometric,
        bits=bits,
        extra=extra,
        planar=planar,
        tile=int(rng.choice([0, 16, 32])),
        rows_per_strip=int(rng.choice([0, 7])),
        compression=compression,
        fill_order=int(rng.choice([1, 1, 2])) if photometric in (0, 1, 3) and not extra else 1,
        tags=tags,
    )
    pages = [page]
    if rng.random() < 0.3:
        small = np.zeros((2, 2, samples.shape[2]), np.uint8)
        overview = tiff_page(small, photometric=photometric, bits=bits, extra=extra)
        pages.append(({**overview[0], NEW_SUBFILE_TYPE: 1}, overview[1]))
    order, big = str(rng.choice(["<", ">"])), bool(rng.random() < 0.3)
    data = write_tiff(pages, order, big)
    # Layouts that Pillow misreads.
    if order == ">" and big:
        return Sample(data, ".tif", refusal="image-unreadable")
    is_plain = photometric in (1, 3) and bits == 8
    is_misread = planar == 2 and ((samples.shape[2] == 1 and not is_plain) or extra == (1,))
    is_misread |= page[0][266] == 2 and (bits > 1 or photometric == 3)
    is_grey_with_alpha = planar == 2 and extra == (1,) and samples.shape[2] == 2
    if is_grey_with_alpha or (compression == 1 and is_misread):
        return Sample(data, ".tif", refusal="image-bands")
    return Sample(data, ".tif", pixels, tolerance=3 if extra == (1,) else 1)


def refused_tiff(rng: np.random.Generator) -> Sample:
    kind = int(rng.integers(10))
    pages, refusal = [], "image-bands"
    if kind == 0:
        bands = int(rng.integers(2, 9))
        extra = (0,) * (bands - 1)
        pages = [tiff_page(noise(rng, bands), photometric=1, extra=extra)]
    elif kind == 1:
        bands = int(rng.integers(4, 9))
        extra = (0,) * (bands - 3) if rng.random() < 0.5 else ()
        planar = int(rng.choice([1, 2]))
        pages = [tiff_page(noise(rng, bands), photometric=2, extra=extra, planar=planar)]
    elif kind == 2:
        pages = [tiff_page(noise(rng, int(rng.integers(2, 9))), photometric=1)]
    elif kind == 3:
        types = (np.uint16, np.int8, np.int16, np.uint32, np.float32, np.float64)
        dtype = np.dtype(types[rng.integers(len(types))])
        samples = noise(rng, int(rng.choice([1, 3]))).astype(dtype)
        code = {"u": 1, "i": 2, "f": 3}[dtype.kind]
        photometric = 1 if samples.shape[2] == 1 else 2
        tags = {339: [code] * samples.shape[2]}
        pages, refusal = [tiff_page(samples, photometric=photometric, tags=tags)], "image-depth"
    elif kind == 4:
        page = tiff_page(noise(rng, 3), photometric=2)
        number = int(rng.integers(2, 5))
        pages, refusal = [page] * number, "image-frames"
    elif kind == 5:
        page = tiff_page(noise(rng, 3), photometric=2)
        mask = tiff_page(noise(rng, 1, 2), photometric=4, bits=1, tags={NEW_SUBFILE_TYPE: 4})
        pages = [page, mask]
    elif kind == 6:
        photometric = [4, 8, 9, 10, 32803, 34892, None][rng.integers(7)]
        bands = 3 if photometric in (8, 9, 10, 34892) else 1
        pages = [tiff_page(noise(rng, bands), photometric=photometric)]
    elif kind == 7:
        tags = {NEW_SUBFILE_TYPE: int(rng.choice([1, 4]))}
        pages = [tiff_page(noise(rng, 3), photometric=2, tags=tags)]
        refusal = "image-frames"
    elif kind == 8:
        tags = {530: [1, 1] if rng.random() < 0.5 else [2, 2]}
        compression = int(rng.choice([1, 8]))
        pages = [tiff_page(noise(rng, 3), photometric=6, tags=tags, compression=compression)]
    else:
        # A near-infrared band that GDAL has marked as alpha.
        samples = rng.integers(1, 255, (*random_size(rng), 4), dtype=np.uint8)
        pages = [tiff_page(samples, photometric=2, extra=(2,))]
    return Sample(write_tiff(pages, str(rng.choice(["<", ">"]))), ".tif", refusal=refusal)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def by_pillow(rng: np.random.Generator) -> Sample:
    """Return a file of a format that only Pillow writes."""
    formats = ["JPEG", "TIFF", "GIF", "WEBP", "BMP", "JPEG2000", *(["AVIF"] if HAS_AVIF else [])]
    format = str(rng.choice(formats))
    orientation = int(rng.integers(1, 9)) if format in ("JPEG", "WEBP", "AVIF") else 1
    options = {"exif": b"Exif\0\0" + exif(orientation)} if orientation > 1 else {}
    if format in ("JPEG", "TIFF", "AVIF"):
        values = smooth(rng)
        pixels = gray(values)
        mode = str(rng.choice(["L", "RGB", "CMYK"] if format == "JPEG" else ["L", "RGB"]))
        if format == "TIFF":
            options["compression"] = "jpeg"  # RGB becomes YCbCr.
        image = Image.fromarray(turn(pixels, orientation)).convert(mode)
        return Sample(
            saved(image, format, quality=95, **options), f".{format.lower()}", pixels, tolerance=8
        )
    if format == "GIF":
        samples = noise(rng, 1)[..., 0]
        colors = rng.integers(0, 256, (256, 3), dtype=np.uint8)
        image = Image.fromarray(samples, "P")
        image.putpalette(colors.tobytes())
        pixels, key = colors[samples], int(samples[0, 0])
        if rng.random() < 0.5:
            pixels = blend(pixels, np.where(samples == key, 0, 255))
            options["transparency"] = key
        options["optimize"] = False
        return Sample(saved(image, "GIF", **options), ".gif", pixels)
    channels = int(rng.choice({"WEBP": [3, 4], "BMP": [1, 3]}.get(format, [1, 2, 3, 4])))
    samples = noise(rng, channels)
    pixels = gray(samples[..., 0]) if channels < 3 else samples[..., :3]
    if channels in (2, 4):
        samples[..., -1] = alpha_of(rng, samples.shape[:2])
        pixels = blend(pixels, samples[..., -1])
    if format == "WEBP":
        options |= {"lossless": True, "exact": True}
    image = Image.fromarray(turn(samples, orientation).squeeze(2) if channels == 1 else samples)
    if channels > 1:
        image = Image.fromarray(turn(samples, orientation))
    data = saved(image, format, **options)
    if format == "JPEG2000" and channels in (2, 4) and b"cdef" not in data:
        return Sample(data, ".jp2", refusal="image-bands")  # Old versions do not declare alpha.
    return Sample(data, f".{format.lower()}", pixels, tolerance=1)


def refused_by_pillow(rng: np.random.Generator) -> Sample:
    frames = [Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)) for _ in range(3)]
    more = {"save_all": True, "append_images": frames[1:]}
    samples = rng.integers(0, 256, (9, 8, 4), dtype=np.uint8)
    deep = Image.fromarray(samples[..., 0].astype(np.uint16) * 99)
    makers: list[tuple[str, Callable[[], bytes], str | None]] = [
        ("gif", lambda: saved(frames[0], "GIF", **more), "image-frames"),
        ("png", lambda: saved(frames[0], "PNG", **more), "image-frames"),
        ("webp", lambda: saved(frames[0], "WEBP", **more), "image-frames"),
        ("avif", lambda: saved(frames[0], "AVIF", **more), "image-frames"),
        ("tif", lambda: saved(frames[0], "TIFF", compression="tiff_lzw", **more), "image-frames"),
        ("png", lambda: saved(deep, "PNG"), "image-depth"),
        ("jp2", lambda: saved(deep, "JPEG2000"), "image-depth"),
        ("tif", lambda: saved(Image.new("F", (5, 4)), "TIFF"), "image-depth"),
        ("tif", lambda: saved(Image.new("I", (5, 4)), "TIFF"), "image-depth"),
        ("pgm", lambda: b"P5 8 9 4000\n" + bytes(2 * 72), "image-depth"),
        ("ppm", lambda: b"P6 8 9 65535\n" + bytes(6 * 72), "image-depth"),
        ("ppm", lambda: b"P3 1 1 300\n3 2 1\n", "image-depth"),
        ("pfm", lambda: b"Pf\n8 9\n-1.0\n" + bytes(4 * 72), None),
        ("png", lambda: write_png(samples.astype(np.uint16) * 257, 6, bits=16), "image-depth"),
        ("j2k", lambda: saved(Image.fromarray(samples), "JPEG2000", no_jp2=True), "image-bands"),
        ("ico", lambda: saved(frames[0], "ICO"), "image-unreadable"),
        ("tga", lambda: saved(frames[0], "TGA"), "image-unreadable"),
        ("eps", lambda: saved(frames[0], "EPS"), "image-unreadable"),
        ("jpg", lambda: b"", "image-unreadable"),
        ("jpg", lambda: b"not an image\n" * 9, "image-unreadable"),
        ("png", lambda: write_png(samples, 6)[:-40], "image-unreadable"),
        ("jpg", lambda: saved(frames[0], "JPEG")[:-400], "image-unreadable"),
    ]
    makers = [m for m in makers if m[0] != "avif" or HAS_AVIF]
    suffix, make, refusal = makers[rng.integers(len(makers))]
    return Sample(make(), f".{suffix}", refusal=refusal)


def netpbm(rng: np.random.Generator) -> Sample:
    number = int(rng.integers(1, 7))
    highest = 1 if number in (1, 4) else int(rng.choice([255, 255, 1, 100]))
    samples = noise(rng, 3 if number in (3, 6) else 1, highest + 1)
    height, width = samples.shape[:2]
    header = f"P{number}\n# a comment\n{width} {height}\n".encode()
    header += b"" if number in (1, 4) else f"{highest}\n".encode()
    if number < 4:
        body = b"\n".join(b" ".join(b"%d" % v for v in row.ravel()) for row in samples)
    elif number == 4:
        body = np.packbits(samples[..., 0], axis=1).tobytes()
    else:
        body = samples.tobytes()
    levels = np.rint(samples * (255 / highest)).astype(np.uint8)
    if number in (1, 4):
        levels = 255 - levels
    pixels = gray(levels[..., 0]) if levels.shape[2] == 1 else levels
    return Sample(header + body, ".pnm", pixels, tolerance=1)


def large(rng: np.random.Generator) -> Sample:
    """Return a one-bit scene of a few kilobytes, below or above the limit of pixels."""
    shapes = [(9400, 9400), (4000, 6000), (2, 9000), (50000, 50000)]
    height, width = shapes[rng.integers(4)]
    rows, row = (height, bytes([0] + [170] * ((width + 7) // 8)))
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(rows if height < 50000 else 9))
    empty = write_png(np.zeros((1, 1, 1), np.uint8), 0, bits=1)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    header = chunk(b"IHDR", size + b"\1\0\0\0\0")
    body = chunk(b"IDAT", data + packer.flush())
    data = empty[:8] + header + body + chunk(b"IEND", b"")
    if height == 50000:
        return Sample(data, ".png", refusal="image-large")
    values = np.resize(np.array([255, 0], np.uint8), width)
    return Sample(data, ".png", np.broadcast_to(values[None, :, None], (height, width, 3)))


BUILDERS = (png, png, tiff, tiff, tiff, refused_tiff, by_pillow, by_pillow, netpbm)


def valid(rng: np.random.Generator) -> Sample:
    draw = rng.random()
    if draw < 0.02:
        return large(rng)
    if draw < 0.12:
        return refused_by_pillow(rng)
    sample = BUILDERS[rng.integers(len(BUILDERS))](rng)
    if rng.random() < 0.1:
        sample = replace(sample, suffix=str(rng.choice([".png", ".jpg", ".tif", ""])))
    return sample


# Damaged files ------------------------------------------------------------------------------------


def damaged(rng: np.random.Generator) -> Sample:
    sample = BUILDERS[rng.integers(len(BUILDERS))](rng)
    data = bytearray(sample.data)
    for _ in range(rng.integers(1, 4)):
        kind, length = rng.integers(6), max(len(data), 1)
        place = int(rng.integers(length))
        if kind == 0:
            for _ in range(rng.integers(1, 20)):
                data[int(rng.integers(length)) : length] = data[int(rng.integers(length)) : length]
        if kind == 1:
            for i in rng.integers(0, length, rng.integers(1, 20)):
                data[i : i + 1] = bytes([rng.integers(256)])
        elif kind == 2:
            del data[place:]
        elif kind == 3:
            other = BUILDERS[rng.integers(len(BUILDERS))](rng).data
            data[place:] = other[int(rng.integers(max(len(other), 1))) :]
        elif kind == 4:
            data[place : place + 64] = bytes(64)
        else:
            # The header, in which sizes, offsets and counts are.
            for i in rng.integers(0, min(length, 200), rng.integers(1, 6)):
                data[i : i + 1] = bytes([rng.choice([0, 1, 2, 127, 128, 255])])
    return Sample(bytes(data), sample.suffix)


# The check ----------------------------------------------------------------------------------------


@cache
def mappers() -> tuple[SceneMapper, SceneMapper]:
    """Return a mapper of training, with augmentations, and one of evaluation, without resizing."""
    cfg = get_cfg()
    facenet_d2.add_facenet_config(cfg)
    cfg.INPUT.MASK_FORMAT = "stride4"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (64,), 96
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.RAND_AUGMENT.ENABLED = True
    return SceneMapper(cfg, is_train=True), SceneMapper(cfg, is_train=False)


def check(sample: Sample, *, is_damaged: bool) -> None:
    """Read a file in all ways; see :mod:`fuzz.harness` for the errors."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"image{sample.suffix}"
        file.write_bytes(sample.data)
        pixels, problem = None, None
        try:
            pixels = read_image(file, "RGB")
        except ImageError as error:
            # Its traceback would keep the decoded image.
            problem = ImageError(error.kind, error.reason, error.file)
        size = (1, 1) if pixels is None else pixels.shape[:2]
        entry = {"file_name": str(file), "height": size[0], "width": size[1]}
        box = [0, 0, max(size[1] / 2, 1), max(size[0] / 2, 1)]
        x, y = box[2:]
        annotation = {
            "id": 1,
            "bbox": box,
            "bbox_mode": 1,
            "category_id": 0,
            "area": x * y,
            "iscrowd": 0,
            "segmentation": [[0.0, 0.0, x, 0.0, x, y, 0.0, y]],
        }
        result = check_image(ImageJob(file, entry, [annotation]))
        kinds = [f.kind for f in result.faults if f.kind.startswith("image-")]
        if problem is not None:
            message = str(problem)
            assert kinds == [problem.kind], kinds
            assert str(file) in message
            assert "\n" not in message
            assert len(message.replace(str(file), "")) < 400, message
            for mapper in mappers():
                with pytest.raises(UserError) as refused:
                    mapper({**entry, "annotations": [annotation]})
                assert str(file) in str(refused.value)
                assert problem.reason in str(refused.value)
            if not is_damaged:
                assert sample.pixels is None, message
                assert sample.refusal in (None, problem.kind), message
            raise problem
        assert kinds == [], result.faults
        assert image_size(file) == size
        train, test = mappers()
        inputs = train({**entry, "image_id": 1, "annotations": [annotation]})
        assert min(inputs["image"].shape) >= 1
        if pixels.size < 2**27:
            image = test(entry)["image"].permute(1, 2, 0).numpy()
            assert np.array_equal(image[..., ::-1], pixels)
        if is_damaged:
            return
        assert sample.pixels is not None, f"accepted, but expected {sample.refusal}"
        assert pixels.shape == sample.pixels.shape
        error = greatest_difference(pixels, sample.pixels)
        assert error <= sample.tolerance, f"values differ by up to {error}"


def greatest_difference(first: np.ndarray, second: np.ndarray) -> int:
    """Return the greatest difference of two pictures, in 500 rows or more."""
    step = max(len(first) // 500, 1)
    rows = zip(first[::step], second[::step], strict=True)
    return max(int((np.maximum(a, b) - np.minimum(a, b)).max()) for a, b in rows)


def generate(cases: int, seed: int) -> Iterator[tuple[str, Callable[[], None]]]:
    """Yield named checks, every second one of a valid file."""
    for number in range(cases):
        make = damaged if number % 2 else valid

        def run(number: int = number, make: Callable = make) -> None:
            check(make(np.random.default_rng([seed, number])), is_damaged=make is damaged)

        yield f"{number} {make.__name__}", run


if __name__ == "__main__":
    from fuzz import harness

    mappers()
    sys.exit(harness.main(generate, default_cases=600))
