"""Detections as arrays: classes, scores, boxes, and masks as packed bits within their boxes."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import replaced
from .tiles import Grid, Tile

BITS_SET = np.array([bin(value).count("1") for value in range(256)], np.int64)
"""Number of bits set in each value of a byte."""


def mask_bytes(boxes: np.ndarray) -> np.ndarray:
    """Return the number of bytes of each packed mask, ``(N,)`` int64, for ``(N, 4)`` boxes."""
    sizes = boxes.astype(np.int64).reshape(-1, 4)
    return -(-(sizes[:, 2] - sizes[:, 0]) * (sizes[:, 3] - sizes[:, 1]) // 8)


def unpack_mask(bits: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """Return a mask within its box, ``(bottom - top, right - left)`` bool, from its packed bits."""
    height, width = box[3] - box[1], box[2] - box[0]
    return np.unpackbits(bits, count=height * width).view(bool).reshape(height, width)


@dataclass(frozen=True, eq=False)
class Detections:
    """Instances of a scene or of a part of it.

    Attributes:
        classes: ``(N,)`` int32.
        scores: ``(N,)`` float32.
        boxes: ``(N, 4)`` int32; left, top, right, bottom in scene pixels, right and bottom
            exclusive. They are tight: each side touches a pixel of the mask.
        bits: ``(B,)`` uint8; one mask after the other. A mask has the pixels of its box, row by
            row, eight to a byte, and begins with a new byte.

    Raises:
        ValueError: if an array has another type or shape, or a box is empty.
    """

    classes: np.ndarray
    scores: np.ndarray
    boxes: np.ndarray
    bits: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.classes)
        for name, dtype, shape in (
            ("classes", np.int32, (count,)),
            ("scores", np.float32, (count,)),
            ("boxes", np.int32, (count, 4)),
            ("bits", np.uint8, None),
        ):
            array = getattr(self, name)
            if array.dtype != dtype:
                raise ValueError(f"{name} are {array.dtype} and should be {np.dtype(dtype)}")
            if shape is not None and array.shape != shape:
                raise ValueError(f"{name} have the shape {array.shape} and should have {shape}")
        if (self.boxes[:, :2] >= self.boxes[:, 2:]).any():
            raise ValueError("a box is empty")
        if self.bits.shape != (self.ends[-1] if count else 0,):
            raise ValueError("the masks have more or fewer pixels than their boxes")

    @cached_property
    def ends(self) -> np.ndarray:
        """Ends of the masks in ``bits``, ``(N,)`` int64."""
        return np.cumsum(mask_bytes(self.boxes))

    @cached_property
    def areas(self) -> np.ndarray:
        """Numbers of pixels of the masks, ``(N,)`` int64."""
        if len(self) == 0:
            return np.zeros(0, np.int64)
        starts = np.concatenate([[0], self.ends[:-1]])
        return np.add.reduceat(BITS_SET[self.bits], starts)

    def __len__(self) -> int:
        return len(self.classes)

    def packed(self, index: int) -> np.ndarray:
        """Return the packed bits of one mask, a view of ``bits``."""
        return self.bits[self.ends[index - 1] if index else 0 : self.ends[index]]

    def mask(self, index: int) -> np.ndarray:
        """Return one mask within its box, ``(bottom - top, right - left)`` bool."""
        return unpack_mask(self.packed(index), self.boxes[index].tolist())

    @classmethod
    def from_packed(
        cls,
        classes: Iterable[int],
        scores: Iterable[float],
        boxes: Sequence[Sequence[int]],
        packed: Sequence[np.ndarray],
    ) -> Detections:
        """Join masks that are packed already; ``packed`` has the bytes of each."""
        return cls(
            np.fromiter(classes, np.int32),
            np.fromiter(scores, np.float32),
            np.array(boxes, np.int32).reshape(-1, 4),
            np.concatenate([np.zeros(0, np.uint8), *packed]),
        )

    @classmethod
    def from_crops(
        cls,
        classes: Sequence[int] | np.ndarray,
        scores: Sequence[float] | np.ndarray,
        boxes: Sequence[Sequence[int]] | np.ndarray,
        crops: Sequence[np.ndarray],
        *,
        origin: tuple[int, int] = (0, 0),
        clip: tuple[int, int, int, int] | None = None,
    ) -> Detections:
        """Pack masks that are given as crops.

        Boxes are tightened to the pixels of their masks. Empty masks are left out.

        Args:
            classes: N classes.
            scores: N scores.
            boxes: ``(N, 4)`` int; left, top, right, bottom of the crops relative to ``origin``.
            crops: N arrays ``(bottom - top, right - left)`` bool.
            origin: scene pixel (x, y) that the boxes count from.
            clip: box (left, top, right, bottom) in scene pixels; pixels beyond it are left out.

        Raises:
            ValueError: if a crop does not have the size of its box.
        """
        kept, tight_boxes, packed = [], [], []
        for index, (box, crop) in enumerate(zip(boxes, crops, strict=True)):
            left, top = int(box[0]) + origin[0], int(box[1]) + origin[1]
            if crop.shape != (box[3] - box[1], box[2] - box[0]):
                raise ValueError(f"a crop of shape {crop.shape} does not fit its box {box}")
            if clip is not None:
                x, y = max(0, clip[0] - left), max(0, clip[1] - top)
                crop = crop[y : max(0, clip[3] - top), x : max(0, clip[2] - left)]
                left, top = left + x, top + y
            rows, columns = np.flatnonzero(crop.any(axis=1)), np.flatnonzero(crop.any(axis=0))
            if len(rows) == 0:
                continue
            y, x, bottom, right = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, columns[-1] + 1
            kept.append(index)
            tight_boxes.append((left + x, top + y, left + int(right), top + bottom))
            packed.append(np.packbits(crop[y:bottom, x:right].astype(bool)))
        return cls.from_packed(
            (int(classes[index]) for index in kept),
            (float(scores[index]) for index in kept),
            tight_boxes,
            packed,
        )


@dataclass(frozen=True, eq=False)
class TileDetections:
    """The detections of one tile.

    Attributes:
        row: row of the tile in its grid.
        column: column of the tile in its grid.
        detections: the detections; their masks lie within the tile and the scene.
        capped: whether the detector reached its maximum number of detections, so that objects may
            be missing.
    """

    row: int
    column: int
    detections: Detections
    capped: bool = False

    @classmethod
    def from_crops(
        cls,
        grid: Grid,
        tile: Tile,
        classes: Sequence[int] | np.ndarray,
        scores: Sequence[float] | np.ndarray,
        boxes: Sequence[Sequence[int]] | np.ndarray,
        crops: Sequence[np.ndarray],
        *,
        capped: bool = False,
    ) -> TileDetections:
        """Convert the output of a detector, whose boxes count from the tile's upper left pixel.

        Pixels in the part of a tile that reaches beyond the scene are left out; see
        :meth:`Detections.from_crops`.
        """
        clip = (
            tile.left,
            tile.top,
            min(tile.right, grid.width),
            min(tile.bottom, grid.height),
        )
        detections = Detections.from_crops(
            classes, scores, boxes, crops, origin=(tile.left, tile.top), clip=clip
        )
        return cls(tile.row, tile.column, detections, capped)

    def save(self, path: str | Path) -> None:
        """Write the detections to an NPZ file, atomically; equal detections give equal bytes."""
        arrays = {field.name: getattr(self.detections, field.name) for field in FIELDS}
        with replaced(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                tile=np.array([self.row, self.column], np.int64),
                capped=np.array(self.capped),
                **arrays,
            )

    @classmethod
    def load(cls, path: str | Path) -> TileDetections:
        """Read a file of :meth:`save`.

        Raises:
            UserError: if the file is missing, damaged, or something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                detections = Detections(*(file[field.name] for field in FIELDS))
                row, column = file["tile"].tolist()
                return cls(row, column, detections, bool(file["capped"]))
        except UNREADABLE as error:
            raise UserError(
                f"{path} is not a complete file of a tile's detections ({error}); delete it and "
                "run the prediction again."
            ) from error


FIELDS = fields(Detections)
# What NumPy raises for a file that is missing, cut off, damaged or of another kind.
UNREADABLE = (
    OSError,
    EOFError,
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)
