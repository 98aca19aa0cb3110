"""Instance annotations as pictures: one colour an instance, and one a class.

iSAID, and HRSID in one of its forms, come as ``NAME.png``, ``NAME_instance_id_RGB.png`` and
``NAME_instance_color_RGB.png``. A scene can have 13,000 pixels a side: everything here holds at
most one picture and one 32-bit map of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from ..data.images import open_picture
from ..errors import UserError

ID_SUFFIX = "_instance_id_RGB.png"
CLASS_SUFFIX = "_instance_color_RGB.png"

_ROWS_AT_ONCE = 256
_NO_SUCH_COLOR = 255


@dataclass
class InstanceMap:
    """The instances of one scene, N of them.

    Attributes:
        labels: ``(H, W)`` int32, 0 for background, else 1 to N.
        colors: ``(N,)`` int64, the colour of each in the id picture, as 65536 R + 256 G + B.
        classes: ``(N,)`` int64, the index of the class that most of its pixels have; -1 where they
            have none.
        mixed: how many have pixels of other classes or of none as well.
    """

    labels: np.ndarray
    colors: np.ndarray
    classes: np.ndarray
    mixed: int


@dataclass(frozen=True)
class Region:
    """One instance's pixels in a patch.

    Attributes:
        label: of the instance, as in :class:`InstanceMap`.
        rle: COCO run lengths, compressed, of the patch's size.
        area: in pixels.
        box: (x, y, width, height) around its pixels.
    """

    label: int
    rle: dict
    area: int
    box: tuple[int, int, int, int]


def _bands(picture: Image.Image) -> Iterator[tuple[slice, np.ndarray]]:
    """Rows of a picture, some at a time, as (H, W) int32 of 65536 R + 256 G + B."""
    width, height = picture.size
    for top in range(0, height, _ROWS_AT_ONCE):
        bottom = min(top + _ROWS_AT_ONCE, height)
        rgb = np.asarray(picture.crop((0, top, width, bottom))).astype(np.int32)
        yield slice(top, bottom), (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]


def color_code(color: Sequence[int]) -> int:
    """65536 R + 256 G + B of an RGB colour."""
    red, green, blue = color
    return red << 16 | green << 8 | blue


def read_instance_map(
    id_file: Path, class_file: Path, class_colors: Sequence[Sequence[int]]
) -> InstanceMap:
    """Read the two annotation pictures of a scene.

    An instance is all pixels of one colour in the id picture other than black.

    Args:
        id_file: the picture of the instances.
        class_file: the picture of the classes, of the same size.
        class_colors: RGB of each class; black is background.

    Raises:
        UserError: where one cannot be read, the sizes differ, or a colour is of no class.
    """
    picture = open_picture(id_file)
    size = picture.size
    # Which colours there are, and so which label each gets: in the order of their codes.
    present = np.zeros(1 << 24, dtype=bool)
    for _, codes in _bands(picture):
        present[codes.ravel()] = True
    present[0] = False
    colors = present.nonzero()[0]
    labels_of = np.zeros(1 << 24, dtype=np.int32)
    labels_of[colors] = np.arange(1, len(colors) + 1)
    labels = np.empty(size[::-1], dtype=np.int32)
    for rows, codes in _bands(picture):
        labels[rows] = labels_of[codes]
    del picture, labels_of, present

    picture = open_picture(class_file)
    if picture.size != size:
        raise UserError(
            f"{class_file} is {picture.size[0]}x{picture.size[1]} pixels, {id_file.name} "
            f"{size[0]}x{size[1]}."
        )
    class_of = np.full(1 << 24, _NO_SUCH_COLOR, dtype=np.uint8)
    class_of[0] = 0
    for i, color in enumerate(class_colors, start=1):
        class_of[color_code(color)] = i
    width = len(class_colors) + 1
    votes = np.zeros((len(colors) + 1) * width, dtype=np.int64)
    for rows, codes in _bands(picture):
        classes = class_of[codes]
        unknown = classes == _NO_SUCH_COLOR
        if unknown.any():
            code = int(codes[unknown][0])
            raise UserError(
                f"{class_file} has the colour ({code >> 16}, {code >> 8 & 255}, {code & 255}), "
                "which is of no class; is it of another data set?"
            )
        pairs = labels[rows].astype(np.int64) * width + classes
        votes += np.bincount(pairs.ravel(), minlength=len(votes))
    votes = votes.reshape(-1, width)[1:]
    return InstanceMap(
        labels=labels,
        colors=colors.astype(np.int64),
        classes=np.where(votes[:, 1:].any(axis=1), votes[:, 1:].argmax(axis=1), -1),
        mixed=int(((votes > 0).sum(axis=1) > 1).sum()),
    )


def regions(labels: np.ndarray) -> list[Region]:
    """The instances in a patch of a label map, in the order of their labels.

    One pass over the pixels, however many instances there are.

    Args:
        labels: ``(H, W)`` integers, 0 for background.
    """
    height, width = labels.shape
    # Column by column, as COCO's run lengths go.
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
        # Lengths of: background, instance, background, ...
        edges = np.stack([first, last + 1], axis=1).ravel()
        # A last run of no background is left out, as COCO's own encoder does.
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
