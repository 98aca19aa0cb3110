"""Instance annotations as label images, with one colour per instance or per class.

iSAID, and HRSID in one of its versions, consist of ``NAME.png``, ``NAME_instance_id_RGB.png`` and
``NAME_instance_color_RGB.png``. A scene can be 13,000 pixels wide, so these functions hold at most
one image and one 32-bit label map of it in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..data.images import open_rgb
from ..errors import UserError

ID_SUFFIX = "_instance_id_RGB.png"
CLASS_SUFFIX = "_instance_color_RGB.png"

_ROWS_AT_ONCE = 256
_NO_SUCH_COLOR = 255


@dataclass
class InstanceMap:
    """The N instances of one scene.

    Attributes:
        labels: ``(H, W)`` int32, 0 for background, 1 to N for the instances.
        colors: ``(N,)`` int64, colour of each instance in the ID image, as 65536 R + 256 G + B.
        classes: ``(N,)`` int64, index of the class that most pixels of the instance have; -1 if
            none of them has a class.
        num_mixed: number of instances whose pixels have several classes, or only partly one.
    """

    labels: np.ndarray
    colors: np.ndarray
    classes: np.ndarray
    num_mixed: int


@dataclass(frozen=True)
class Region:
    """The part of an instance that lies in a patch.

    Attributes:
        label: label of the instance in :class:`InstanceMap`.
        rle: compressed RLE of the patch's size.
        area: number of pixels.
        box: tight box (x, y, width, height).
    """

    label: int
    rle: dict[str, Any]
    area: int
    box: tuple[int, int, int, int]


def _iterate_bands(image: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield bands of rows of an image, as ``(h, W)`` int32 of 65536 R + 256 G + B."""
    width, height = image.size
    for top in range(0, height, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, height)
        rgb = np.asarray(image.crop((0, top, width, bottom))).astype(np.int32)
        yield slice(top, bottom), (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def color_code(color: Sequence[int]) -> int:
    """Return 65536 R + 256 G + B of an RGB colour."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def read_instance_map(
    id_file: Path, class_file: Path, class_colors: Sequence[Sequence[int]]
) -> InstanceMap:
    """Read the two label images of a scene.

    An instance consists of all pixels of one colour in the ID image; black is background.

    Args:
        id_file: image of the instances.
        class_file: image of the classes, of the same size.
        class_colors: RGB colour of each class; black is background.

    Raises:
        UserError: if an image cannot be read, the sizes differ, or a colour belongs to no class.
    """
    image = open_rgb(id_file)
    size = image.size
    # Labels are assigned in the order of the colours' codes.
    present = np.zeros(1 << 24, dtype=bool)
    for _, codes in _iterate_bands(image):
        present[codes.ravel()] = True
    present[0] = False
    colors = present.nonzero()[0]
    labels_of = np.zeros(1 << 24, dtype=np.int32)
    labels_of[colors] = np.arange(1, len(colors) + 1)
    labels = np.empty(size[::-1], dtype=np.int32)
    for rows, codes in _iterate_bands(image):
        labels[rows] = labels_of[codes]
    del image, labels_of, present

    image = open_rgb(class_file)
    if image.size != size:
        raise UserError(
            f"{class_file} is {image.size[0]}x{image.size[1]} pixels, but {id_file.name} is "
            f"{size[0]}x{size[1]}."
        )
    class_of = np.full(1 << 24, _NO_SUCH_COLOR, dtype=np.uint8)
    class_of[0] = 0
    for i, color in enumerate(class_colors, start=1):
        class_of[color_code(color)] = i
    width = len(class_colors) + 1
    votes = np.zeros((len(colors) + 1) * width, dtype=np.int64)
    for rows, codes in _iterate_bands(image):
        classes = class_of[codes]
        unknown = classes == _NO_SUCH_COLOR
        if unknown.any():
            code = int(codes[unknown][0])
            raise UserError(
                f"{class_file} has the colour ({code >> 16}, {code >> 8 & 255}, {code & 255}), "
                "which belongs to no class; does the file belong to another data set?"
            )
        pairs = labels[rows].astype(np.int64) * width + classes
        votes += np.bincount(pairs.ravel(), minlength=len(votes))
    votes = votes.reshape(-1, width)[1:]
    return InstanceMap(
        labels=labels,
        colors=colors.astype(np.int64),
        classes=np.where(votes[:, 1:].any(axis=1), votes[:, 1:].argmax(axis=1), -1),
        num_mixed=int(((votes > 0).sum(axis=1) > 1).sum()),
    )


def find_regions(labels: np.ndarray) -> list[Region]:
    """Return the instances in a patch of a label map, in the order of their labels.

    The pixels are read once, whatever the number of instances.

    Args:
        labels: ``(H, W)`` integers, 0 for background.
    """
    height, width = labels.shape
    # RLE is column-major.
    flat = labels.ravel(order="F")
    pixels = flat.nonzero()[0]
    owners = flat[pixels]
    order = np.argsort(owners, kind="stable")
    pixels, owners = pixels[order], owners[order]
    starts = np.flatnonzero(np.diff(owners, prepend=0))
    found = []
    for own in np.split(pixels, starts[1:]) if len(pixels) else ():
        gaps = np.flatnonzero(np.diff(own) > 1)
        first = np.concatenate([own[:1], own[gaps + 1]])
        last = np.concatenate([own[gaps], own[-1:]])
        # Counts alternate between background and instance, and start with background.
        edges = np.stack([first, last + 1], axis=1).ravel()
        # As in pycocotools, there is no final count of zero.
        ends = [] if edges[-1] == len(flat) else [len(flat)]
        counts = np.diff(np.concatenate([[0], edges, ends]))
        rle = mask_util.frPyObjects(
            {"size": [height, width], "counts": counts.astype(int).tolist()}, height, width
        )
        y, x = own % height, own // height
        left, top = int(x.min()), int(y.min())
        box = (left, top, int(x.max()) - left + 1, int(y.max()) - top + 1)
        rle["counts"] = rle["counts"].decode("ascii")
        found.append(Region(int(flat[own[0]]), rle, len(own), box))
    return found
