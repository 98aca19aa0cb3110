"""Prediction of the instances of whole scenes with a trained model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..data.readers import uses_raster_reader
from ..scenes import geo as geo  # First: reports missing packages.
from ..scenes.prediction import TileInstances
from ..scenes.predictor import SceneModel, ScenePrediction, TilePredictor
from .predictor import Predictor

__all__ = ["ScenePrediction", "ScenePredictor"]


class ScenePredictor(TilePredictor):
    """A trained model for scenes of any size.

    A scene is cut into overlapping tiles of the size that the model was trained with, and the
    instances of the tiles are merged over their seams::

        predict = ScenePredictor("output/harbour")
        result = predict("scene.tif")
        result.write("scene.gpkg")

    Attributes:
        predictor: the model.
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
            UserError: if the config or the weights are not usable.
        """
        self.predictor = Predictor(model, weights, overrides)
        super().__init__(
            scene_model(self.predictor),
            tile_size=tile_size,
            overlap=overlap,
            batch_size=batch_size,
        )

    def detect_values(self, images: Sequence[np.ndarray]) -> list[TileInstances]:
        inputs = [
            {"image": torch.from_numpy(image), "height": image.shape[1], "width": image.shape[2]}
            for image in images
        ]
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
                    capped=len(found) >= self.model.max_instances,
                )
            )
        return results

    def model_fingerprint(self) -> dict[str, str]:
        """Return hashes of config and weights."""
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


def scene_model(predictor: Predictor) -> SceneModel:
    """Return what the prediction of scenes needs to know of a model."""
    cfg, known = predictor.cfg, predictor.metadata
    names = tuple(known.thing_classes)
    return SceneModel(
        class_names=names,
        class_ids=tuple(predictor.category_ids.get(i, i + 1) for i in range(len(names))),
        class_colors=tuple(map(tuple, known.get("thing_colors", None) or ())),
        pixel_mean=tuple(cfg.MODEL.PIXEL_MEAN),
        bands=tuple(cfg.TEST.SCENE.BANDS or cfg.INPUT.BANDS),
        pixel_size=cfg.TEST.SCENE.PIXEL_SIZE or None,
        stretch=cfg.TEST.SCENE.STRETCH or cfg.INPUT.STRETCH,
        is_bgr=cfg.INPUT.FORMAT == "BGR",
        # With INPUT.BANDS or INPUT.STRETCH, bands are listed in the order of INPUT.FORMAT.
        has_pictures=not uses_raster_reader(cfg),
        tile_size=int(cfg.INPUT.MIN_SIZE_TEST),
        max_size=cfg.INPUT.MAX_SIZE_TEST,
        overlap=cfg.TEST.SCENE.OVERLAP,
        max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
    )
