"""Image files: bit depth, size as EXIF orientation turns it, and decoding of large scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import EpsImagePlugin, ExifTags, Image, ImageFile
from PIL.PngImagePlugin import PngImageFile

from ..errors import UserError


def _refuse_eps(*_: Any, **__: Any) -> Any:
    raise OSError("it is an EPS file, which only the program Ghostscript can read")


# Pillow recognises EPS whatever the name of the file, and runs Ghostscript, which has executed code
# in such files.
EpsImagePlugin.Ghostscript = _refuse_eps


class DepthError(ValueError):
    """Raised for an image with more than 8 bits per channel."""


def check_depth(file: str | Path) -> None:
    """Raise a :class:`DepthError` for an image with more than 8 bits per channel.

    Pillow would decode it without an error, but lose its contents: with a single channel, values
    are clipped at 255; with several, only the upper 8 of 16 bits are kept, of which an image with a
    depth of 11 bits uses 3.
    """
    with Image.open(file) as image:
        _check_depth(image)


def _check_depth(image: ImageFile.ImageFile) -> None:
    # The pixel format in the file, such as "RGB;16B".
    # The fourth entry of a tile is its `args`, by name only in Pillow 11 and newer.
    raw_mode = " ".join(str(tile[3]) for tile in image.tile)
    if image.mode == "F" or image.mode.startswith("I") or ";16" in raw_mode:
        raise DepthError(
            f"it does not have 8 bits per channel (mode {image.mode}); scale its pixels to 0-255"
        )


def _is_turned(image: Image.Image) -> bool:
    # Orientations 5 to 8 swap width and height.
    return image.getexif().get(ExifTags.Base.Orientation, 1) >= 5


def image_size(file: str | Path) -> tuple[int, int]:
    """Return (height, width) of an image after its EXIF orientation, as Detectron2 reads it.

    The pixels are not decoded.

    Raises:
        OSError: if the file is missing or not an image.
    """
    with Image.open(file) as image:
        width, height = image.size
        return (width, height) if _is_turned(image) else (height, width)


def size_problem(file: str | Path, entry: dict[str, Any]) -> str | None:
    """Decode an image and compare its size with its annotation entry.

    Args:
        file: the image.
        entry: entry of the image in COCO JSON, with ``width`` and ``height``.

    Returns:
        a description of the mismatch, or None if the sizes agree.

    Raises:
        DepthError: see :func:`check_depth`.
        Exception: if Pillow cannot decode the image; the type depends on the format.
    """
    with Image.open(file) as image:
        _check_depth(image)
        image.load()
        size, is_turned = image.size, _is_turned(image)
    if is_turned:
        size = size[::-1]
    if size == (entry["width"], entry["height"]):
        return None
    reason = " after its EXIF orientation" if is_turned else ""
    return (
        f"is {size[0]}x{size[1]} pixels{reason}, but annotated as "
        f"{entry['width']}x{entry['height']}"
    )


def open_rgb(file: Path) -> Image.Image:
    """Open and decode an image as RGB; a PNG may be larger than Pillow's size limit.

    Raises:
        UserError: if the image is missing, broken or has more than 8 bits per channel.
    """
    try:
        with _open_scene(file) as image:
            _check_depth(image)
            return image.convert("RGB")
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{file} cannot be used: {reason}.") from error


def _open_scene(file: Path) -> ImageFile.ImageFile:
    # Aerial scenes exceed the size from which Image.open suspects an attack. Its limit is a global
    # of the process; the class of the format has none.
    try:
        return PngImageFile(file)
    except SyntaxError:
        return Image.open(file)
