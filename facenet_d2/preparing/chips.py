"""Chips of scenes, the objects in them, and the jobs that process them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely

from ..scenes.area import Area
from ..scenes.raster import Raster
from ..scenes.stretch import Stretch
from .burning import Window


@dataclass(frozen=True)
class ChipSettings:
    """Settings of the chips.

    Attributes:
        bands: numbers of the bands, or None for all but alpha.
        pixel_size: side of a pixel in metres, or None for that of the raster.
        scale: pixels of a chip per pixel of the raster, or None.
        format: "png" for 8-bit grey or RGB, "tif" for the raster's own values.
        stretch: stretch of the values; pixels of a PNG are stretched, those of a GeoTIFF are not.
        min_visible: share of an object's pixels from which it is an object in a chip; objects of
            which less is visible are ignored.
        min_pixels: number of pixels below which parts of objects are left out.
        keep_outside: whether pixels outside of the area of interest keep their values and are
            ignored, instead of becoming invalid.
        num_classes: number of classes.
    """

    bands: tuple[int, ...] | None
    pixel_size: float | None
    scale: float | None
    format: str
    stretch: Stretch
    min_visible: float
    min_pixels: int
    keep_outside: bool
    num_classes: int


@dataclass(frozen=True)
class Site:
    """A scene, or the part of it in the area of a split.

    Attributes:
        scene: name of the scene, unique in a data set.
        path: the raster.
        area: area outside of which nothing is labelled, or None.
    """

    scene: str
    path: str
    area: Area | None

    def open(self, settings: ChipSettings) -> Raster:
        """Open the raster."""
        return Raster(
            self.path,
            bands=settings.bands,
            pixel_size=settings.pixel_size,
            scale=settings.scale,
            area=self.area,
        )


@dataclass(frozen=True)
class Objects:
    """Labelled objects in pixels of a raster.

    Attributes:
        polygons: array of N Polygons and MultiPolygons.
        classes: ``(N,)`` int, class indices; -1 where pixels are ignored.
        source_ids: ``(N,)`` int, ids of the features in the label file.
        numbers: ``(N,)`` int, number of each object in its scene, from 1.
    """

    polygons: np.ndarray
    classes: np.ndarray
    source_ids: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.polygons)

    def within(self, window: Window) -> Objects:
        """Return the objects whose boxes reach into a window."""
        left, top, right, bottom = shapely.bounds(self.polygons).reshape(-1, 4).T
        near = (right > window[0]) & (bottom > window[1]) & (left < window[2]) & (top < window[3])
        return Objects(*(array[near] for array in vars(self).values()))


@dataclass(frozen=True)
class Chip:
    """A chip.

    Attributes:
        name: name of its file, without folder.
        window: left, top, right and bottom in pixels of the scene.
        split: name of its split.
    """

    name: str
    window: Window
    split: str


@dataclass(frozen=True)
class ChipJob:
    """Chips of one scene that are processed together.

    Attributes:
        site: the scene.
        chips: the chips.
        objects: objects that reach into the chips.
        settings: settings of the chips.
        record: JSON file with the annotations and statistics of the chips.
        folder: folder of the data set; chips are in the subfolders of their splits.
        fill: value of invalid pixels in 8-bit chips, one per band; unused in the survey.
    """

    site: Site
    chips: tuple[Chip, ...]
    objects: Objects
    settings: ChipSettings
    record: Path
    folder: Path
    fill: tuple[int, ...] = ()
