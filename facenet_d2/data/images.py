"""Reading of image files: the only place where images are opened, so that all commands agree."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from detectron2.data.detection_utils import convert_PIL_to_numpy
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from .image_headers import (
    JPEG2000_SIGNATURES,
    TIFF_SIGNATURES,
    ImageError,
    TiffHeader,
    check_jpeg2000_header,
    depth_error,
    read_tiff_header,
)

__all__ = [
    "BACKGROUND",
    "FORMATS",
    "MAX_PIXELS",
    "ImageError",
    "convert_image",
    "image_size",
    "open_rgb",
    "read_image",
    "size_problem",
]

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that are read.

Pillow's others are rare; of them, TGA has no signature, and EPS is decoded by another program.
"""

MAX_PIXELS = 2**30
"""Maximum number of pixels of an image. Reading takes up to 7 bytes per pixel."""

BACKGROUND = (124, 116, 104)
"""RGB colour that replaces transparent pixels: the mean of ImageNet, Detectron2's PIXEL_MEAN."""

# Deflate stores at most 8256 pixels of 1 bit in a byte. A PNG with fewer bytes is damaged, and is
# refused before memory for its pixels is allocated.
_MAX_PIXELS_PER_BYTE = 10_000
# Images are converted in strips of this number of pixels, to bound the memory.
_STRIP_PIXELS = 2**22
_WITHOUT_ALPHA = ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
# Pillow stretches the grey values of a PNG to 255, but not the one that is transparent.
_PNG_STRETCH = {"1": 255, "L;2": 85, "L;4": 17}
_CONVERSIONS = {
    ("L", "RGB"): cv2.COLOR_GRAY2RGB,
    ("L", "BGR"): cv2.COLOR_GRAY2BGR,
    ("RGB", "BGR"): cv2.COLOR_RGB2BGR,
}
# For each EXIF orientation, the transform of an array that makes the image upright.
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


def read_image(file: str | Path, format: str = "BGR") -> np.ndarray:
    """Read an image, upright by its EXIF orientation.

    Transparent pixels are blended with :data:`BACKGROUND`; so are pixels of the value that a
    GeoTIFF declares as no data.

    Args:
        file: the image.
        format: "BGR", "RGB", "L" or another one of Detectron2's ``read_image``.

    Returns:
        ``(H, W, C)``; for the formats named above uint8 and contiguous, of 3, 3 and 1 channels.

    Raises:
        ImageError: if the file is missing, damaged or too large, or has bands, bits or several
            pictures whose contents would be lost.
    """
    return _read(file, format)[0]


def _read(file: str | Path, format: str) -> tuple[np.ndarray, bool]:
    """Return the pixels, and whether the orientation has swapped height and width."""
    with _opened(file) as (image, tiff):
        size = tiff.size if tiff else image.size
        image.load()
        # Pillow has applied the orientation of a TIFF.
        orientation = 1 if tiff else _orientation(image)
        pixels = _to_array(image, tiff, format if format in ("BGR", "L") else "RGB")
    pixels = _turned_upright(pixels, orientation)
    is_turned = pixels.shape[1::-1] != size or orientation >= 5
    if format not in ("BGR", "RGB", "L"):
        pixels = convert_PIL_to_numpy(Image.fromarray(pixels), format)
    return pixels, is_turned


def _turned_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    return _UPRIGHT[orientation](pixels).copy() if orientation in _UPRIGHT else pixels


def convert_image(image: Image.Image) -> np.ndarray:
    """Convert an image that Pillow has opened as :func:`read_image` does.

    Returns:
        ``(H, W, 3)`` uint8, BGR.

    Raises:
        ImageError: if the image cannot be decoded, or its mode is not one of colours of 8 bits.
    """
    name = str(getattr(image, "filename", "")) or f"of mode {image.mode}"
    try:
        _check_colours(image)
        image.load()
        # Pillow has applied the orientation of a TIFF.
        orientation = 1 if image.format == "TIFF" else _orientation(image)
        return _turned_upright(_to_array(image, None, "BGR"), orientation)
    except ImageError as error:
        raise ImageError(error.kind, error.reason, name) from error
    except OSError as error:
        raise ImageError("image-unreadable", f"it cannot be decoded ({error})", name) from error


def open_rgb(file: str | Path) -> Image.Image:
    """Read an image as :func:`read_image` does, as an RGB image of Pillow."""
    return Image.fromarray(read_image(file, "RGB"))


def image_size(file: str | Path) -> tuple[int, int]:
    """Return the (height, width) that :func:`read_image` returns, without decoding the pixels.

    Raises:
        ImageError: if the file's header shows that it cannot be used.
    """
    with _opened(file) as (image, tiff):
        width, height = tiff.size if tiff else image.size
        if width != height and _orientation(image, is_loaded=False) >= 5:
            width, height = height, width
    return height, width


def size_problem(file: str | Path, entry: dict[str, Any]) -> str | None:
    """Read an image and compare its size with its annotation entry.

    Args:
        file: the image.
        entry: entry of the image in COCO JSON, with ``width`` and ``height``.

    Returns:
        a description of the mismatch, or None if the sizes agree.

    Raises:
        ImageError: see :func:`read_image`.
    """
    pixels, is_turned = _read(file, "RGB")
    height, width = pixels.shape[:2]
    if (width, height) == (entry["width"], entry["height"]):
        return None
    reason = " after its EXIF orientation" if is_turned else ""
    return (
        f"is {width}x{height} pixels{reason}, but annotated as {entry['width']}x{entry['height']}"
    )


@contextmanager
def _opened(file: str | Path) -> Iterator[tuple[ImageFile.ImageFile, TiffHeader | None]]:
    """Open an image, check its header, and name the file in all errors.

    Yields:
        the image, not decoded, and the header of a TIFF.
    """
    path = Path(file)
    try:
        if not path.is_file():
            reason = "it is not a file" if path.exists() else "it does not exist"
            raise ImageError("image-missing", reason)
        with path.open("rb") as stream, _without_pillow_limit():
            tiff = _check_layout(stream)
            stream.seek(0)
            with Image.open(stream, formats=_available_formats()) as image:
                _check_header(image, tiff, os.fstat(stream.fileno()).st_size)
                yield image, tiff
    except ImageError as error:
        raise ImageError(error.kind, error.reason, str(file)) from error
    except MemoryError as error:
        reason = "it does not fit into memory; cut it into patches"
        raise ImageError("image-large", reason, str(file)) from error
    except UnidentifiedImageError as error:
        names = ", ".join(_available_formats())
        reason = f"it is damaged, or not an image in one of the formats {names}"
        raise ImageError("image-unreadable", reason, str(file)) from error
    except Exception as error:
        # Pillow's decoders raise errors of many types.
        text = getattr(error, "strerror", None) or " ".join(str(error).split())
        reason = f"it cannot be decoded ({text or type(error).__name__})"
        raise ImageError("image-unreadable", reason, str(file)) from error


def _available_formats() -> tuple[str, ...]:
    """Return those of :data:`FORMATS` that this build of Pillow supports."""
    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN)


_limit_lock = threading.Lock()
_limit_users: list[int | None] = []


@contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Lift Pillow's limit on the number of pixels, which aerial scenes exceed.

    The limit is a global of the process: it is restored when no thread is in this context.
    """
    with _limit_lock:
        _limit_users.append(Image.MAX_IMAGE_PIXELS if not _limit_users else _limit_users[0])
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _limit_lock:
            limit = _limit_users.pop()
            if not _limit_users:
                Image.MAX_IMAGE_PIXELS = limit


def _check_layout(stream: IO[bytes]) -> TiffHeader | None:
    """Check the bands, bits and pages of formats of which Pillow drops some."""
    start = stream.read(12)
    if not start:
        raise ImageError("image-unreadable", "it is empty")
    if start.startswith(TIFF_SIGNATURES):
        return read_tiff_header(stream)
    if start.startswith(JPEG2000_SIGNATURES):
        check_jpeg2000_header(stream)
    return None


def _check_header(image: ImageFile.ImageFile, tiff: TiffHeader | None, num_bytes: int) -> None:
    # The second image of an MPO, a camera format, is a preview or the other half of a stereo pair.
    if tiff is None and image.format != "MPO" and getattr(image, "is_animated", False):
        reason = "it has several frames; save the frame to be used as a file of its own"
        raise ImageError("image-frames", reason)
    width, height = tiff.size if tiff else image.size
    if width < 1 or height < 1:
        raise ImageError("image-unreadable", f"it has {width}x{height} pixels")
    if width * height > MAX_PIXELS:
        raise ImageError(
            "image-large",
            f"it has {width}x{height} pixels, more than the limit of {MAX_PIXELS:,}; cut it into "
            "patches",
        )
    is_raw = image.format in ("BMP", "TIFF") and all(tile[0] == "raw" for tile in image.tile)
    is_bounded = is_raw or image.format in ("PNG", "JPEG", "PPM")
    if is_bounded and width * height > _MAX_PIXELS_PER_BYTE * num_bytes:
        raise ImageError("image-unreadable", f"it is too short for its {width}x{height} pixels")
    # Arguments of the decoder: the pixel format in the file, such as "RGB;16B", or PPM's maximum.
    # They are the fourth entry of a tile, by name only in Pillow 11 and newer.
    arguments: list[Any] = []
    for tile in image.tile:
        arguments += tile[3] if isinstance(tile[3], tuple) else [tile[3]]
    is_deep_ppm = image.format == "PPM" and any(isinstance(a, int) and a > 255 for a in arguments)
    is_deep = any(isinstance(a, str) and ";16" in a for a in arguments) or is_deep_ppm
    if is_deep:
        raise depth_error(f"mode {image.mode}")
    _check_colours(image)
    if image.format == "PNG" and "transparency" in image.info and arguments[0] in _PNG_STRETCH:
        value = image.info["transparency"] * _PNG_STRETCH[arguments[0]]
        image.info["transparency"] = min(value, 255)  # New versions stretch that of 1 bit.


def _check_colours(image: Image.Image) -> None:
    if image.mode == "F" or image.mode[0] == "I":
        raise depth_error(f"mode {image.mode}")
    palette = image.palette.mode if image.palette and image.mode in ("P", "PA") else "RGB"
    if image.mode not in ("P", *_WITHOUT_ALPHA, *_WITH_ALPHA) or palette not in ("RGB", "RGBA"):
        name = image.mode if palette == "RGB" else f"a palette of {palette}"
        raise ImageError("image-bands", f"its colours are {name}; convert it to RGB")


def _orientation(image: Image.Image, is_loaded: bool = True) -> int:
    """Return the EXIF orientation, from 1 to 8; 1 if there is none or it is invalid."""
    if not is_loaded and image.format == "PNG" and not _may_be_turned(image):
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:
        return 1  # Damaged EXIF data are common and no reason to refuse an image.
    return next((n for n in range(1, 9) if n == value), 1)


def _may_be_turned(image: Image.Image) -> bool:
    """Return whether a PNG has metadata, which may follow its pixels: Pillow has to decode it."""
    assert isinstance(image, ImageFile.ImageFile)
    assert image.fp is not None
    position = image.fp.tell()
    image.fp.seek(0)
    content = image.fp.read()
    image.fp.seek(position)
    return any(key in content for key in (b"eXIf", b"Raw profile type exif", b"com.adobe.xmp"))


def _to_array(image: Image.Image, tiff: TiffHeader | None, format: str) -> np.ndarray:
    """Convert a decoded image to ``(H, W, C)`` without transparency, in strips."""
    width, height = image.size
    pixels = np.empty((height, width, 1 if format == "L" else 3), dtype=np.uint8)
    rows = max(_STRIP_PIXELS // width, 1)
    translucent = 0
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        colors, alpha = _split_alpha(strip)
        if tiff and tiff.nodata is not None and image.mode in ("L", "RGB"):
            alpha = _mask_nodata(colors, tiff.nodata)
        if alpha is not None:
            translucent += sum(alpha.histogram()[1:255])
            background = Image.new("RGB", strip.size, BACKGROUND)
            colors = Image.composite(colors.convert("RGB"), background, alpha)
        if format == "L":
            colors = colors.convert("L")
        values = np.asarray(colors)
        if (colors.mode, format) in _CONVERSIONS:
            values = cv2.cvtColor(values, _CONVERSIONS[colors.mode, format])
        pixels[top : top + rows] = values.reshape(*values.shape[:2], -1)
    if tiff and tiff.has_alpha and 2 * translucent > width * height:
        # GDAL marks the fourth band of four as alpha unless it is told otherwise.
        raise ImageError(
            "image-bands",
            "its last band is marked as alpha, but more than half of the pixels are neither "
            "transparent nor opaque in it; if it is another band, remove it with gdal_translate "
            "-b 1 -b 2 -b 3",
        )
    return pixels


def _split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return an image in grey or RGB, and its alpha channel if it has transparency."""
    if image.mode in _WITHOUT_ALPHA and "transparency" not in image.info:
        return image.convert("L" if image.mode in ("1", "L") else "RGB"), None
    if image.mode == "La":
        image = image.convert("LA")  # Pillow has no direct conversion.
    rgba = image.convert("RGBA")
    return rgba.convert("RGB"), rgba.getchannel("A")


def _mask_nodata(image: Image.Image, value: int) -> Image.Image:
    """Return an alpha channel in which the pixels with this value in all bands are transparent."""
    has_data = np.asarray(image) != value
    if has_data.ndim == 3:
        has_data = has_data.any(axis=2)
    return Image.fromarray(has_data.astype(np.uint8) * 255)
