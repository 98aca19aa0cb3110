"""Prediction of the instances of whole scenes with a model of any kind."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..wording import counted
from .area import Area
from .description import SceneDescription, SceneInstance
from .geo import rasterio
from .merge import MergeReport, MergeSettings
from .prediction import (
    InstanceStream,
    Scene,
    TileImage,
    TileInstances,
    detect_tiles,
    tile_batches,
)
from .raster import Raster
from .stretch import StretchRule, default_rule
from .tile_store import MemoryStore
from .tiles import TileGrid
from .vectors import Vectorizer
from .writers import write_scene

logger = logging.getLogger(__name__)

# Overlap of tiles as a share of their side, unless the model states the size of objects.
DEFAULT_OVERLAP = 0.25
# Distance in pixels up to which the masks of an object may differ in two tiles: the stride of the
# models' masks.
TOLERANCE = 4


@dataclass(frozen=True, eq=False)
class ScenePrediction:
    """The instances of a scene.

    Attributes:
        scene: place of the scene, and its classes.
        instances: the instances, with masks as crops.
        report: counts of the merge.
    """

    scene: SceneDescription
    instances: list[SceneInstance]
    report: MergeReport

    def __len__(self) -> int:
        return len(self.instances)

    @property
    def geometries(self) -> np.ndarray:
        """``(N,)`` shapely polygons of the instances, in the coordinates of the scene."""
        vectorize = Vectorizer(self.scene)
        return vectorize(self.instances).polygons if self.instances else np.empty(0, object)

    def write(self, *outputs: str | Path, simplify: float = 0.0) -> None:
        """Write the instances to files, see :func:`~facenet_d2.scenes.writers.write_scene`."""
        write_scene(outputs, self.scene, self.instances, simplify=simplify)


@contextmanager
def _file_name(source: str | Path | np.ndarray) -> Iterator[str]:
    """Return a name by which GDAL opens a raster or an array ``(H, W, bands)``."""
    if not isinstance(source, np.ndarray):
        yield str(source)
        return
    if source.ndim != 3 or 0 in source.shape:
        raise UserError(f"A scene is an array (H, W, bands), not one of shape {source.shape}.")
    height, width, count = source.shape
    with rasterio.MemoryFile(filename="array.tif") as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
                with file.open(
                    driver="GTiff",
                    height=height,
                    width=width,
                    count=count,
                    dtype=source.dtype,
                    # Otherwise GDAL takes the second or fourth band for alpha.
                    photometric="MINISBLACK",
                    alpha="NO",
                ) as dataset:
                    dataset.write(np.moveaxis(source, 2, 0))
        except (TypeError, ValueError) as error:
            raise UserError(f"An array of {source.dtype} is not a scene ({error}).") from error
        yield file.name


@dataclass(frozen=True)
class SceneModel:
    """What the prediction of scenes needs to know of a model.

    Attributes:
        class_names: name of each class index.
        class_ids: category id of each class index; empty for 1, 2, 3 ...
        class_colors: RGB colour of each class index, 0 to 255; empty for Detectron2's palette.
        pixel_mean: mean of each channel of the network's input.
        bands: numbers of the bands of scenes; empty for all but alpha.
        stretch: rule of the stretch of scenes; empty for the default of their type of values.
        is_bgr: whether the first three channels are blue, green and red.
        has_pictures: whether it was trained with pictures of 8-bit colours. The bands of a raster
            are then red, green and blue; otherwise, they have the order of the channels.
        tile_size: side in pixels of the images that it was trained with.
        max_size: maximum side in pixels of these images.
        max_instances: maximum number of instances that it finds in an image.
        pixel_size: size of the training images' pixels on the ground in metres; None if unknown.
        overlap: overlap of tiles in pixels that fits the objects; 0 if unknown.
    """

    class_names: tuple[str, ...]
    class_ids: tuple[int, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    pixel_mean: tuple[float, ...]
    bands: tuple[int, ...]
    stretch: str
    is_bgr: bool
    has_pictures: bool
    tile_size: int
    max_size: int
    max_instances: int
    pixel_size: float | None = None
    overlap: int = 0


class TilePredictor(ABC):
    """A model for scenes of any size, which are cut into overlapping tiles.

    The instances of the tiles are merged over their seams. Subclasses run the model.

    Attributes:
        model: description of the model.
        tile_size: side of a tile in pixels.
        overlap: overlap of tiles in pixels.
        batch_size: number of tiles that the model processes at once.
        bands: numbers of the bands of scenes; None for all but an alpha band.
    """

    def __init__(
        self, model: SceneModel, *, tile_size: int | None, overlap: int | None, batch_size: int
    ) -> None:
        """
        Args:
            model: description of the model.
            tile_size: side of a tile in pixels; by default that of the training images.
            overlap: overlap of tiles in pixels; by default that of the model, at most half a tile,
                or a quarter of a tile. Objects up to this size are seen whole in at least one tile.
            batch_size: number of tiles that the model processes at once.

        Raises:
            UserError: if the model's stretch is not a rule.
        """
        self.model = model
        self.tile_size = tile_size or model.tile_size
        if overlap is None:
            known = min(model.overlap, self.tile_size // 2)
            overlap = known or round(DEFAULT_OVERLAP * self.tile_size)
        self.overlap = overlap
        self.batch_size = batch_size
        self.bands = list(model.bands) or None
        if model.stretch:
            StretchRule.parse(model.stretch)
        if self.tile_size > model.max_size:
            logger.warning(
                "The tile size, %d pixels, is larger than INPUT.MAX_SIZE_TEST, %d: the model was "
                "trained with smaller images.",
                self.tile_size,
                model.max_size,
            )

    @abstractmethod
    def detect_values(self, images: Sequence[np.ndarray]) -> list[TileInstances]:
        """Detect the instances in images of the size of a tile.

        Args:
            images: ``(channels, h, w)`` float32 each, as the network sees them before its
                normalisation.
        """

    @abstractmethod
    def model_fingerprint(self) -> dict[str, str]:
        """Return texts that identify the model and all of its settings."""

    def __call__(
        self,
        source: str | Path | np.ndarray,
        *,
        bands: Sequence[int] | None = None,
        pixel_size: float | None = None,
        scale: float | None = None,
        area: Area | None = None,
        stretch: str | None = None,
        min_score: float = 0.0,
    ) -> ScenePrediction:
        """Predict the instances of a scene.

        Args:
            source: raster file, URL or other name that GDAL opens, or an array ``(H, W, bands)``,
                RGB if it has three bands.
            bands: numbers of the bands, from 1; by default ``TEST.SCENE.BANDS`` or
                ``INPUT.BANDS``, or all but an alpha band.
            pixel_size: side of the pixels that the model sees, in metres; by default
                ``TEST.SCENE.PIXEL_SIZE``.
            scale: pixels that the model sees per pixel of the raster, instead of ``pixel_size``.
            area: area of interest.
            stretch: rule of the stretch, see :class:`~facenet_d2.scenes.stretch.StretchRule`; by
                default ``TEST.SCENE.STRETCH`` or ``INPUT.STRETCH``.
            min_score: minimum score of the instances.

        Returns:
            The instances, which are held in memory.

        Raises:
            UserError: if the scene is not readable, or its bands do not fit the model.
        """
        with (
            _file_name(source) as name,
            self.open(
                name,
                bands=bands,
                pixel_size=pixel_size,
                scale=scale,
                area=area,
                on_map=not isinstance(source, np.ndarray),
            ) as raster,
        ):
            scene = self.scene(raster, stretch)
            store = MemoryStore()
            detect_tiles(scene, tile_batches(scene.grid, self.batch_size), self.detect, store)
            stream = InstanceStream(scene.grid, store, self.merge_settings(), min_score=min_score)
            instances = list(stream)
            self.warn(stream.report)
            return ScenePrediction(self.describe(scene), instances, stream.report)

    def open(
        self,
        path: str,
        *,
        bands: Sequence[int] | None = None,
        pixel_size: float | None = None,
        scale: float | None = None,
        area: Area | None = None,
        on_map: bool = True,
    ) -> Raster:
        """Open a raster with the bands and the pixel size that the model was trained with.

        Args:
            path: raster file, URL or other name that GDAL opens.
            bands: numbers of the bands, as in :meth:`__call__`.
            pixel_size: size of the pixels that the model sees, as in :meth:`__call__`.
            scale: pixels that the model sees per pixel of the raster, instead of ``pixel_size``.
            area: area of interest.
            on_map: see :class:`~facenet_d2.scenes.raster.Raster`.

        Raises:
            UserError: if the raster cannot be opened.
        """
        model = self.model
        bands = bands or self.bands
        use_model_size = pixel_size is None and scale is None and model.pixel_size is not None
        if bands is None or use_model_size:
            with Raster(path, bands=bands, on_map=on_map) as raster:
                found, metres = raster.bands, raster.pixel_metres
            if bands is None and len(found) == 1 and model.has_pictures:
                # Training reads grey images as colours, too.
                bands = found * 3
            if use_model_size and metres is not None:
                pixel_size = model.pixel_size
            elif use_model_size:
                logger.warning(
                    "%s: the size of its pixels is unknown; it is assumed to be that of the "
                    "training images, %g m.",
                    raster.name,
                    model.pixel_size,
                )
        return Raster(
            path, bands=bands, pixel_size=pixel_size, scale=scale, area=area, on_map=on_map
        )

    def scene(self, raster: Raster, stretch: str | None = None) -> Scene:
        """Return a raster with its tiles and its stretch.

        Raises:
            UserError: if the number of bands is not that of the model.
        """
        expected = len(self.model.pixel_mean)
        if len(raster.bands) != expected:
            raise UserError(
                f"{raster.name} has {counted(len(raster.bands), 'band')}, but the model expects "
                f"{expected}; choose them by their numbers, from 1."
            )
        text = stretch or self.model.stretch
        rule = StretchRule.parse(text) if text else default_rule(raster)
        grid = TileGrid(raster.height, raster.width, self.tile_size, self.overlap)
        return Scene(raster, rule.fit([raster]), grid)

    def rgb_channels(self, count: int) -> list[int]:
        """Return the places of red, green and blue among the bands, for pictures.

        Args:
            count: number of bands; with less than three, the first is shown in grey.
        """
        if count < 3:
            return [0, 0, 0]
        return [2, 1, 0] if self.model.is_bgr and not self.model.has_pictures else [0, 1, 2]

    def merge_settings(self) -> MergeSettings:
        """Return the settings of the merge for the masks of the model."""
        return MergeSettings(tolerance=TOLERANCE)

    def describe(self, scene: Scene, scene_id: int = 1, **metadata: Any) -> SceneDescription:
        """Return the place of a scene and the classes of the model.

        Args:
            scene: the scene.
            scene_id: number of the scene, the ``image_id`` of COCO results.
            metadata: JSON values that are stored in written files.
        """
        raster, model = scene.raster, self.model
        return SceneDescription(
            name=Path(raster.name).stem or raster.name,
            height=raster.height,
            width=raster.width,
            transform=raster.transform,
            crs=raster.crs,
            class_names=model.class_names,
            class_ids=model.class_ids,
            class_colors=model.class_colors,
            scene_id=scene_id,
            metadata={"stretch": scene.stretch.to_dict(), **metadata},
            sources=raster.sources,
        )

    def fingerprint(self, scene: Scene) -> dict[str, Any]:
        """Return JSON values that identify the scene, the model and all settings of detections."""
        return {
            "raster": scene.raster.fingerprint(),
            "stretch": scene.stretch.to_dict(),
            "tile_size": self.tile_size,
            "overlap": self.overlap,
            "batch_size": self.batch_size,
            **self._model_fingerprint,
        }

    @cached_property
    def _model_fingerprint(self) -> dict[str, str]:
        # It takes long, and is the same for all scenes.
        return self.model_fingerprint()

    def detect(self, images: Sequence[TileImage]) -> list[TileInstances]:
        """Detect the instances in tiles; a :data:`~facenet_d2.scenes.prediction.Detector`."""
        model = self.model
        mean = np.array(model.pixel_mean, np.float32)[:, None, None]
        inputs = []
        for values, valid in images:
            if model.is_bgr and model.has_pictures and len(values) == 3:
                values = values[::-1]
            # Without data, the network sees the mean, as in the padding of a batch.
            inputs.append(np.where(valid, values, mean).astype(np.float32))
        return self.detect_values(inputs)

    def warn(self, report: MergeReport) -> None:
        """Log what limits the result: objects larger than the overlap, and full tiles."""
        if report.oversized:
            logger.warning(
                "%d instances are larger than the overlap of the tiles, %d pixels, and were put "
                "together from parts; a larger overlap is better.",
                report.oversized,
                self.overlap,
            )
        if report.capped:
            logger.warning(
                "In %d tiles, the number of detections reached TEST.DETECTIONS_PER_IMAGE (%d); "
                "others may have been dropped. Raise it, or use smaller tiles.",
                len(report.capped),
                self.model.max_instances,
            )
