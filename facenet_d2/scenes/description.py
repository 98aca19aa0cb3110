"""A scene and its instances as plain data: what the vectors, rasters and pictures are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS


@dataclass(frozen=True)
class SceneDescription:
    """The place of a scene's pixels on the map, and the meaning of its classes.

    Args:
        name: name of the scene, the attribute ``scene`` of its instances.
        height: number of rows of pixels.
        width: number of columns of pixels.
        transform: maps (column, row) of a pixel's corner to coordinates in ``crs``; the identity
            for a scene without a place.
        crs: coordinate reference system, or None.
        class_names: name of each class index.
        class_ids: category id of each class index; by default 1, 2, 3 ...
        class_colors: RGB colour of each class index, 0 to 255; by default Detectron2's palette.
        scene_id: number of the scene, the ``image_id`` of COCO results.
        metadata: JSON values that are stored in the written files.
        sources: paths of the files that the scene was read from, which no output may replace.

    Raises:
        ValueError: If the classes and their ids or colours differ in number, or the transform maps
            pixels to a line.
    """

    name: str
    height: int
    width: int
    transform: Affine
    crs: CRS | None
    class_names: tuple[str, ...]
    class_ids: tuple[int, ...] = ()
    class_colors: tuple[tuple[int, int, int], ...] = ()
    scene_id: int = 1
    metadata: Mapping[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.class_ids:
            object.__setattr__(self, "class_ids", tuple(range(1, len(self.class_names) + 1)))
        if not self.class_colors:
            object.__setattr__(self, "class_colors", default_colors(len(self.class_names)))
        for values in (self.class_ids, self.class_colors):
            if len(values) != len(self.class_names):
                raise ValueError(f"{len(self.class_names)} classes, but {len(values)} {values}")
        if self.transform.determinant == 0:
            raise ValueError(f"the transform {tuple(self.transform)} has no inverse")

    @property
    def pixel_size(self) -> float:
        """Side of a square with the area of a pixel, in units of ``crs``."""
        return abs(self.transform.determinant) ** 0.5


@dataclass(frozen=True, eq=False)
class SceneInstance:
    """An instance on the pixel grid of a scene.

    Args:
        id: number that is unique in the scene and at least 1.
        class_index: index of the class in ``SceneDescription.class_names``.
        score: confidence, 0 to 1.
        x0: column of the crop's first pixel in the scene.
        y0: row of the crop's first pixel in the scene.
        mask: bool crop ``(h, w)`` that contains the whole instance.
        tiles: number of tiles whose detections were merged.
        cut: whether the instance reaches the edge of the scene.
    """

    id: int
    class_index: int
    score: float
    x0: int
    y0: int
    mask: np.ndarray
    tiles: int = 1
    cut: bool = False


def default_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return Detectron2's palette, RGB, repeated if there are more classes than colours."""
    from detectron2.utils.colormap import colormap

    palette = colormap(rgb=True).astype(int).tolist()
    return tuple(tuple(palette[index % len(palette)]) for index in range(count))
