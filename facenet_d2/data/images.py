"""Image files: bit depth, EXIF orientation, size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from ..errors import UserError


class DepthError(ValueError):
    """An image has more than 8 bits a channel."""


def check_depth(file: str) -> None:
    """Raise a ValueError for an image of more than 8 bits a channel that would lose its contents.

    Of one channel Pillow cuts such values off at 255; of several it keeps the upper 8 of 16 bits,
    of which an image of 11 bits has only 3.
    """
    with Image.open(file) as image:
        mode = image.mode
        # How the file's own pixels are packed, "RGB;16B" for instance.
        packed = " ".join(str(tile.args) for tile in image.tile)
    if mode == "F" or mode.startswith("I") or ";16" in packed:
        raise DepthError(f"its pixels (mode {mode}) are not 8 bits a channel; scale them to 0-255")


def size_problem(file: str, entry: dict[str, Any]) -> str | None:
    """How an image's size, as the mapper sees it, is not the ``width`` and ``height`` of its entry.

    Raises:
        DepthError: as :func:`check_depth`.
        Exception: where Pillow cannot decode it; of many types.
    """
    check_depth(file)
    with Image.open(file) as picture:
        picture.load()
        size = picture.size
        # Detectron2 turns images as this says; from 5 on, width is height.
        turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    if turned:
        size = size[::-1]
    if size == (entry["width"], entry["height"]):
        return None
    reason = ", turned as its EXIF orientation says" if turned else ""
    return f"is {size[0]}x{size[1]} pixels{reason}, stated {entry['width']}x{entry['height']}"


def open_picture(file: Path) -> Image.Image:
    """Open and decode a picture as RGB.

    Raises:
        UserError: where it is missing, broken or has more than 8 bits a channel.
    """
    limit = Image.MAX_IMAGE_PIXELS
    # Scenes are larger than what Pillow takes for an attack.
    Image.MAX_IMAGE_PIXELS = None
    try:
        check_depth(str(file))
        with Image.open(file) as picture:
            return picture.convert("RGB")
    except Exception as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(f"{file} cannot be used: {reason}.") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
