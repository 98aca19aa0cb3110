"""An exported model in place of :class:`~facenet_d2.engine.predictor.Predictor`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from detectron2.data.catalog import Metadata
from detectron2.structures import Boxes, Instances

from ..data.images import read_image
from ..data.readers import PillowReader, RasterReader
from ..runtime import OnnxPredictor, Prediction
from ..structures.rle_masks import RLEMasks


class ExportedPredictor:
    """An exported model that returns Detectron2's ``Instances``.

    Attributes:
        predictor: the model.
        reader: reader of the images that the model was trained with.
        metadata: class names in ``thing_classes``, and ``thing_colors`` if the file has them.
        category_ids: category ids of the data set by class index; empty if they are not known.
    """

    def __init__(self, file: str | Path, *, provider: str = "onnxruntime") -> None:
        """
        Args:
            file: an ONNX file.
            provider: "onnxruntime", "openvino" or "openvino-bf16".

        Raises:
            UserError: if the file or the provider is not usable.
        """
        self.predictor = OnnxPredictor(file, provider=provider)
        model = self.predictor.description
        self.metadata = Metadata(thing_classes=list(model.class_names))
        if model.class_colors:
            self.metadata.thing_colors = list(model.class_colors)
        self.category_ids = dict(enumerate(model.category_ids))
        self.reader: PillowReader | RasterReader = PillowReader(model.channel_order)
        if model.reads_rasters:
            self.reader = RasterReader(
                bands=model.bands,
                stretch=model.stretch,
                pixel_mean=model.pixel_mean,
                image_format=model.channel_order,
            )

    def read(self, file: str | Path) -> np.ndarray:
        """Read an image as :meth:`__call__` takes it.

        Raises:
            ImageError: if the file cannot be used.
        """
        return self.reader(file) if isinstance(self.reader, RasterReader) else read_image(file)

    def __call__(self, image: np.ndarray) -> Instances:
        """Predict the instances of an image, as ``Predictor`` does."""
        return to_instances(self.predictor(image))


def to_instances(prediction: Prediction) -> Instances:
    """Convert a prediction to Detectron2's ``Instances``, with ``pred_masks`` as ``RLEMasks``."""
    return Instances(
        prediction.image_size,
        pred_masks=RLEMasks.from_crops(prediction.crops, prediction.image_size),
        pred_boxes=Boxes(torch.from_numpy(prediction.boxes)),
        scores=torch.from_numpy(prediction.scores),
        pred_classes=torch.from_numpy(prediction.classes),
    )
