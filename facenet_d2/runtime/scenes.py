"""Prediction of the instances of whole scenes with an exported model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..scenes import geo as geo  # First: reports missing packages.
from ..scenes.prediction import TileInstances
from ..scenes.predictor import SceneModel, TilePredictor
from .colors import default_colors
from .description import ModelDescription
from .predictor import OnnxPredictor


class OnnxScenePredictor(TilePredictor):
    """An exported model for scenes of any size, used as :class:`facenet_d2.ScenePredictor` is.

    ::

        predict = OnnxScenePredictor("facenet.onnx")
        result = predict("scene.tif")
        result.write("scene.gpkg")

    Attributes:
        predictor: the model.
    """

    def __init__(
        self,
        file: str | Path,
        *,
        provider: str = "onnxruntime",
        threads: int | None = None,
        tile_size: int | None = None,
        overlap: int | None = None,
        batch_size: int = 4,
    ) -> None:
        """
        Args:
            file: an ONNX file.
            provider: "onnxruntime", "openvino" or "openvino-bf16".
            threads: number of threads; by default that of the cores which this process may use.
            tile_size: side of a tile in pixels; by default that of the training images.
            overlap: overlap of tiles in pixels; by default ``TEST.SCENE.OVERLAP`` of the exported
                config, but at most half a tile, or a quarter of a tile if that key is 0. Objects up
                to this size are seen whole in at least one tile.
            batch_size: number of tiles that the model processes at once.

        Raises:
            UserError: if the file or the provider is not usable.
        """
        self.predictor = OnnxPredictor(file, provider=provider, threads=threads)
        self._file = Path(file)
        self._provider = provider
        super().__init__(
            scene_model(self.predictor.description),
            tile_size=tile_size,
            overlap=overlap,
            batch_size=batch_size,
        )

    def detect_values(self, images: Sequence[np.ndarray]) -> list[TileInstances]:
        sizes = [image.shape[1:] for image in images]
        return [
            TileInstances(
                found.classes,
                found.scores,
                np.array([crop.box for crop in found.crops], np.int64).reshape(-1, 4),
                [crop.mask for crop in found.crops],
                capped=found.capped,
            )
            for found in self.predictor.predict_resized(images, sizes)
        ]

    def model_fingerprint(self) -> dict[str, str]:
        """Return a hash of the file, and the runtime."""
        with self._file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256")
        return {"weights": digest.hexdigest(), "provider": self._provider}


def scene_model(description: ModelDescription) -> SceneModel:
    """Return what the prediction of scenes needs to know of a model."""
    numbers = tuple(range(1, len(description.class_names) + 1))
    return SceneModel(
        class_names=description.class_names,
        class_ids=description.category_ids or numbers,
        class_colors=description.class_colors or default_colors(len(numbers)),
        pixel_mean=description.pixel_mean,
        bands=description.scene_bands or description.bands,
        stretch=description.scene_stretch or description.stretch,
        is_bgr=description.channel_order == "BGR",
        has_pictures=not description.reads_rasters,
        tile_size=description.min_size,
        max_size=description.max_size,
        max_instances=description.settings.max_instances,
        pixel_size=description.pixel_size,
        overlap=description.scene_overlap,
    )
