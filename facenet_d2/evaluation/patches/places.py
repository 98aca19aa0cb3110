"""Patches of scenes in COCO JSON: the scene and the place of each image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from ...data.coco_entries import as_int
from ...data.rle import run_edges, segmentation_to_rle
from ...errors import UserError
from ...structures.rle_masks import RLEMasks

# Names by the publisher of iSAID: SCENE_top_bottom_left_right.
_PATCH_NAME = re.compile(r"(.+)_(\d{1,9})_(\d{1,9})_(\d{1,9})_(\d{1,9})")

Window = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of a scene; right and bottom are exclusive."""

Crop = tuple[np.ndarray, int, int]
"""A mask within its box, bool, and the column and the row at which it starts."""


@dataclass(frozen=True)
class Patch:
    """An image that is a part of a scene.

    Attributes:
        image_id: id of the image.
        file_name: name of the image's file.
        scene: name of the scene.
        window: its place in the scene.
    """

    image_id: int
    file_name: str
    scene: str
    window: Window

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        left, top, right, bottom = self.window
        return bottom - top, right - left


def make_patch(image: dict[str, Any]) -> Patch:
    """Return an image as a patch of its scene.

    Its fields ``scene``, ``x`` and ``y``, which ``tools/prepare_isaid.py`` and
    ``tools/prepare_scenes.py`` write, give its position. Without them, a file name
    ``SCENE_top_bottom_left_right.png``, as the publisher's tools for iSAID write it, gives the
    position; any other image is a whole scene.

    Args:
        image: entry of COCO JSON from :func:`~facenet_d2.data.coco_json.read_coco`.

    Raises:
        UserError: if the fields are unusable, or the name contains a place of another size.
    """
    name, height, width = image["file_name"], image["height"], image["width"]
    if all(field in image for field in ("scene", "x", "y")):
        scene, x, y = image["scene"], as_int(image["x"]), as_int(image["y"])
        if not isinstance(scene, str) or x is None or y is None or min(x, y) < 0:
            raise UserError(
                f"image {name}: its scene, x and y must be a name and two integers from 0, not "
                f"{image['scene']!r}, {image['x']!r} and {image['y']!r}."
            )
    else:
        scene, x, y = _place_in_name(name, height, width)
    if not scene or scene in (".", "..") or re.search(r"[/\\\0]", scene):
        raise UserError(f"image {name}: its scene {scene!r} cannot be the name of a file.")
    return Patch(image["id"], name, scene, (x, y, x + width, y + height))


def _place_in_name(name: str, height: int, width: int) -> tuple[str, int, int]:
    stem = PurePosixPath(name).stem
    match = _PATCH_NAME.fullmatch(stem)
    if match is None:
        return stem, 0, 0
    top, bottom, left, right = (int(text) for text in match.groups()[1:])
    if bottom <= top or right <= left:
        return stem, 0, 0  # Numbers of another meaning, such as a date.
    if (bottom - top, right - left) != (height, width):
        raise UserError(
            f"image {name}: by its name it has the rows {top} to {bottom} and the columns {left} "
            f"to {right} of a scene, but its size is {width}x{height}; give it the fields scene, x "
            "and y."
        )
    return match[1], left, top


def find_scenes(images: Sequence[dict[str, Any]]) -> dict[str, list[Patch]]:
    """Return the patches of each scene, by the name of the scene.

    Raises:
        UserError: if a place is unusable, see :func:`make_patch`, or two patches have the same.
    """
    scenes: dict[str, list[Patch]] = {}
    known: dict[tuple[str, Window], str] = {}
    for image in images:
        patch = make_patch(image)
        other = known.setdefault((patch.scene, patch.window), patch.file_name)
        if other != patch.file_name:
            raise UserError(
                f"images {other} and {patch.file_name} are the same part of scene {patch.scene}; "
                "give their scenes different names."
            )
        scenes.setdefault(patch.scene, []).append(patch)
    return dict(sorted(scenes.items()))


def mask_crop(segmentation: Any, height: int, width: int) -> Crop:
    """Decode a mask within its box, without a mask of the image's size.

    Args:
        segmentation: polygons or RLE of COCO JSON.
        height: height of the image.
        width: width of the image.

    Returns:
        The crop, of no pixels if the mask is empty.

    Raises:
        ValueError: if the segmentation is not usable for an image of this size.
    """
    edges = run_edges(segmentation_to_rle(segmentation, height, width))
    return RLEMasks([edges], (height, width)).crop(0)
