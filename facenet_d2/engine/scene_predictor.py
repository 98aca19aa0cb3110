"""Prediction of the instances of whole scenes with a trained model."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..data.readers import uses_raster_reader
from ..errors import UserError
from ..scenes.extras import require_geo
from ..scenes.stretch import StretchRule
from ..structures.masks import MASK_STRIDE
from .predictor import Predictor

if TYPE_CHECKING:
    from ..scenes.area import Area
    from ..scenes.description import SceneDescription, SceneInstance
    from ..scenes.merge import MergeReport
    from ..scenes.prediction import Scene, TileImage, TileInstances
    from ..scenes.raster import Raster

logger = logging.getLogger(__name__)

# Overlap of tiles as a share of their side, unless the config states the size of objects.
DEFAULT_OVERLAP = 0.25


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
        from ..scenes.vectors import Vectorizer

        vectorize = Vectorizer(self.scene)
        return vectorize(self.instances).polygons if self.instances else np.empty(0, object)

    def write(self, *outputs: str | Path, simplify: float = 0.0) -> None:
        """Write the instances to files, see :func:`~facenet_d2.scenes.writers.write_scene`."""
        from ..scenes.writers import write_scene

        write_scene(outputs, self.scene, self.instances, simplify=simplify)


@contextmanager
def _file_name(source: str | Path | np.ndarray) -> Iterator[str]:
    """Return a name by which GDAL opens a raster or an array ``(H, W, bands)``."""
    from rasterio.io import MemoryFile

    if not isinstance(source, np.ndarray):
        yield str(source)
        return
    if source.ndim != 3 or 0 in source.shape:
        raise UserError(f"A scene is an array (H, W, bands), not one of shape {source.shape}.")
    height, width, count = source.shape
    with MemoryFile(filename="array.tif") as file:
        try:
            with file.open(
                driver="GTiff", height=height, width=width, count=count, dtype=source.dtype
            ) as dataset:
                dataset.write(np.moveaxis(source, 2, 0))
        except (TypeError, ValueError) as error:
            raise UserError(f"An array of {source.dtype} is not a scene ({error}).") from error
        yield file.name


class ScenePredictor:
    """A trained model for scenes of any size.

    A scene is cut into overlapping tiles of the size that the model was trained with, and the
    instances of the tiles are merged over their seams::

        predict = ScenePredictor("output/harbour")
        result = predict("scene.tif")
        result.write("scene.gpkg")

    Attributes:
        predictor: the model.
        tile_size: side of a tile in pixels.
        overlap: overlap of tiles in pixels.
        batch_size: number of tiles that the model processes at once.
        bands: numbers of the bands of scenes; None for all but an alpha band.
        pixel_size: size of the training images' pixels on the ground in metres; None if unknown.
        stretch: rule of the stretch of scenes; "" for the default of their type of values.
    """

    def __init__(
        self,
        model: str | Path,
        weights: str | Path | None = None,
        overrides: Sequence[str] = (),
        *,
        tile_size: int | None = None,
        overlap: int | None = None,
        batch_size: int = 4,
    ) -> None:
        """
        Args:
            model: name of a model in the model zoo, ``OUTPUT_DIR`` of a training run, or a file;
                see :func:`~facenet_d2.engine.model_files.find_model`.
            weights: checkpoint file or URL, in place of the model's own weights.
            overrides: KEY VALUE pairs, as on the command line.
            tile_size: side of a tile in pixels; by default ``INPUT.MIN_SIZE_TEST``.
            overlap: overlap of tiles in pixels; by default ``TEST.SCENE.OVERLAP``, at most half a
                tile, or a quarter of a tile if that is 0. Objects up to this size are seen whole in
                at least one tile.
            batch_size: number of tiles that the model processes at once.

        Raises:
            UserError: if the config or the weights are not usable, or the packages of the extra
                ``geo`` are not installed.
        """
        require_geo()
        self.predictor = Predictor(model, weights, overrides)
        cfg = self.predictor.cfg
        self.tile_size = tile_size or int(cfg.INPUT.MIN_SIZE_TEST)
        if overlap is None:
            known = min(cfg.TEST.SCENE.OVERLAP, self.tile_size // 2)
            overlap = known or round(DEFAULT_OVERLAP * self.tile_size)
        self.overlap = overlap
        self.batch_size = batch_size
        self.bands = list(cfg.TEST.SCENE.BANDS or cfg.INPUT.BANDS) or None
        self.pixel_size = cfg.TEST.SCENE.PIXEL_SIZE or None
        self.stretch = cfg.TEST.SCENE.STRETCH or cfg.INPUT.STRETCH
        if self.stretch:
            StretchRule.parse(self.stretch)
        # With INPUT.BANDS or INPUT.STRETCH, bands are listed in the order of INPUT.FORMAT.
        self._is_colour = not uses_raster_reader(cfg)
        self._is_bgr = cfg.INPUT.FORMAT == "BGR" and self._is_colour
        if self.tile_size > cfg.INPUT.MAX_SIZE_TEST:
            logger.warning(
                "The tile size, %d pixels, is larger than INPUT.MAX_SIZE_TEST, %d: the model was "
                "trained with smaller images.",
                self.tile_size,
                cfg.INPUT.MAX_SIZE_TEST,
            )

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
        from ..scenes.prediction import InstanceStream, detect_tiles, tile_batches
        from ..scenes.tile_store import MemoryStore

        with (
            _file_name(source) as name,
            self.open(name, bands=bands, pixel_size=pixel_size, scale=scale, area=area) as raster,
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
    ) -> Raster:
        """Open a raster with the bands and the pixel size that the model was trained with.

        Args:
            path: raster file, URL or other name that GDAL opens.
            bands: numbers of the bands, as in :meth:`__call__`.
            pixel_size: size of the pixels that the model sees, as in :meth:`__call__`.
            scale: pixels that the model sees per pixel of the raster, instead of ``pixel_size``.
            area: area of interest.

        Raises:
            UserError: if the raster cannot be opened.
        """
        from ..scenes.raster import Raster

        bands = bands or self.bands
        if bands is None or (pixel_size is None and scale is None and self.pixel_size):
            with Raster(path, bands=bands) as raster:
                found, metres = raster.bands, raster.pixel_metres
            if bands is None and len(found) == 1 and self._is_colour:
                # Training reads grey images as colours, too.
                bands = found * 3
            if pixel_size is None and scale is None and self.pixel_size:
                if metres is None:
                    logger.warning(
                        "%s: the size of its pixels is unknown; it is assumed to be that of the "
                        "training images, %g m.",
                        raster.name,
                        self.pixel_size,
                    )
                else:
                    pixel_size = self.pixel_size
        return Raster(path, bands=bands, pixel_size=pixel_size, scale=scale, area=area)

    def scene(self, raster: Raster, stretch: str | None = None) -> Scene:
        """Return a raster with its tiles and its stretch.

        Raises:
            UserError: if the number of bands is not that of the model.
        """
        from ..scenes.prediction import Scene
        from ..scenes.stretch import default_rule
        from ..scenes.tiles import TileGrid

        expected = len(self.predictor.cfg.MODEL.PIXEL_MEAN)
        if len(raster.bands) != expected:
            raise UserError(
                f"{raster.name} has {len(raster.bands)} bands, but the model expects {expected}; "
                "choose them by their numbers, from 1."
            )
        text = stretch or self.stretch
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
        cfg = self.predictor.cfg
        return [2, 1, 0] if uses_raster_reader(cfg) and cfg.INPUT.FORMAT == "BGR" else [0, 1, 2]

    def merge_settings(self) -> Any:
        """Return the settings of the merge for the masks of the model."""
        from ..scenes.merge import MergeSettings

        return MergeSettings(tolerance=MASK_STRIDE)

    def describe(self, scene: Scene, **metadata: Any) -> SceneDescription:
        """Return the place of a scene and the classes of the model.

        Args:
            scene: the scene.
            metadata: JSON values that are stored in written files.
        """
        from ..scenes.description import SceneDescription

        raster, known = scene.raster, self.predictor.metadata
        names = tuple(known.thing_classes)
        ids = self.predictor.category_ids
        description = SceneDescription(
            name=Path(raster.name).stem or raster.name,
            height=raster.height,
            width=raster.width,
            transform=raster.transform,
            crs=raster.crs,
            class_names=names,
            class_ids=tuple(ids.get(i, i + 1) for i in range(len(names))),
            metadata={"stretch": scene.stretch.to_dict(), **metadata},
        )
        colors = known.get("thing_colors", None)
        return (
            replace(description, class_colors=tuple(map(tuple, colors))) if colors else description
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
        """Hashes of config and weights, which are the same for all scenes."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.predictor.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        cfg = self.predictor.cfg.clone()
        cfg.defrost()
        # These do not change the detections.
        cfg.OUTPUT_DIR = cfg.MODEL.DEVICE = cfg.MODEL.WEIGHTS = ""
        cfg.DATASETS.COCO = []
        return {
            "config": hashlib.sha256(cfg.dump().encode()).hexdigest(),
            "weights": digest.hexdigest(),
        }

    def detect(self, images: Sequence[TileImage]) -> list[TileInstances]:
        """Detect the instances in tiles; a :data:`~facenet_d2.scenes.prediction.Detector`."""
        from ..scenes.prediction import TileInstances

        cfg = self.predictor.cfg
        mean = np.array(cfg.MODEL.PIXEL_MEAN, np.float32)[:, None, None]
        inputs = []
        for values, valid in images:
            if self._is_bgr and len(values) == 3:
                values = values[::-1]
            # Without data, the network sees the mean, as in the padding of a batch.
            filled = np.where(valid, values, mean).astype(np.float32)
            height, width = valid.shape
            inputs.append({"image": torch.from_numpy(filled), "height": height, "width": width})
        with torch.inference_mode():
            outputs = self.predictor.model(inputs)
        results = []
        for output in outputs:
            found = output["instances"].to("cpu")
            crops = [found.pred_masks.crop(i) for i in range(len(found))]
            boxes = [(x, y, x + c.shape[1], y + c.shape[0]) for c, x, y in crops]
            results.append(
                TileInstances(
                    found.pred_classes.numpy(),
                    found.scores.numpy(),
                    np.array(boxes, np.int64).reshape(-1, 4),
                    [crop for crop, _, _ in crops],
                    capped=len(found) >= cfg.TEST.DETECTIONS_PER_IMAGE,
                )
            )
        return results

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
                self.predictor.cfg.TEST.DETECTIONS_PER_IMAGE,
            )
