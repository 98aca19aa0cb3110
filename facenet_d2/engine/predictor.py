"""Prediction of single images with a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.structures import Instances

from ..data.augmentation import build_augmentations
from ..data.images import convert_image, read_image
from ..data.readers import RasterReader, build_reader
from ..errors import UserError
from ..modeling import accelerate, set_tf32
from .checkpointer import ModelCheckpointer, load_checkpoint
from .cli import user_errors
from .model_files import find_model
from .setup import load_config


class Predictor:
    """Detectron2's ``DefaultPredictor`` with checked config and weights and the ``TEST`` switches::

        predictor = Predictor("facenet_lite0_384_36ep")  # A trained model of the model zoo.
        predictor = Predictor("output/harbour")  # The best checkpoint of a training run.
        instances = predictor("image.jpg")

    Attributes:
        cfg: frozen config.
        model: model in evaluation mode.
        reader: reader of the images that the model was trained with.
        metadata: class names in ``thing_classes``, and ``thing_colors`` if the data set has them.
        category_ids: category IDs of the data set by class index; empty if the data set is missing
            and the config, of version 0.1, does not contain them.
    """

    def __init__(
        self,
        model: str | Path,
        weights: str | Path | None = None,
        overrides: Sequence[str] = (),
    ) -> None:
        """
        Args:
            model: name of a model in the model zoo, ``OUTPUT_DIR`` of a training run, or a file;
                see :func:`~facenet_d2.engine.model_files.find_model`. The data set is not needed.
            weights: checkpoint file or URL, in place of the model's own weights.
            overrides: KEY VALUE pairs, as on the command line; ``MODEL.WEIGHTS`` is like
                ``weights``.

        Raises:
            UserError: If the config is invalid, or the weights are missing or belong to another
                model.
        """
        is_given = weights is not None or "MODEL.WEIGHTS" in overrides[::2]
        files = find_model(model, with_weights=not is_given)
        if not is_given:
            weights = files.weights
        if weights is not None:
            overrides = [*overrides, "MODEL.WEIGHTS", str(weights)]
        self.cfg = cfg = load_config(files.config, overrides, need_data=False)
        if not cfg.MODEL.WEIGHTS:
            raise UserError("MODEL.WEIGHTS is empty; set it to the checkpoint of a trained model.")
        self.metadata = Metadata(thing_classes=list(cfg.DATASETS.CLASS_NAMES))
        known = MetadataCatalog.get(next(iter((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)), "none"))
        if hasattr(known, "thing_colors"):
            self.metadata.thing_colors = known.thing_colors
        ids = known.get("thing_dataset_id_to_contiguous_id", {})
        self.category_ids = {contiguous: given for given, contiguous in ids.items()}
        self.category_ids |= dict(enumerate(cfg.DATASETS.CATEGORY_IDS))
        # The weights are loaded below, where missing parameters are an error.
        without_weights = cfg.clone()
        without_weights.defrost()
        without_weights.MODEL.WEIGHTS = ""
        with user_errors(f"the model of {files.config} cannot be built"):
            self._predictor = DefaultPredictor(without_weights)
        self.reader = build_reader(cfg)
        if isinstance(self.reader, RasterReader):
            # Bands have no colours whose order could be reversed.
            self._predictor.input_format = "BGR"
        # As in evaluation.
        (self._predictor.aug,) = build_augmentations(cfg, is_train=False)
        self.model = self._predictor.model
        load_checkpoint(ModelCheckpointer(self.model), cfg, complete=True)
        set_tf32(cfg.MODEL.TF32)
        with user_errors("the model cannot be prepared for inference"):
            accelerate(self.model, cfg)

    def read(self, file: str | Path) -> np.ndarray:
        """Read an image as :meth:`__call__` takes it.

        Raises:
            ImageError: if the file cannot be used.
        """
        return self.reader(file) if isinstance(self.reader, RasterReader) else read_image(file)

    def __call__(self, image: np.ndarray | PIL.Image.Image | str | Path) -> Instances:
        """Predict the instances of an image.

        Args:
            image: a file, an image of Pillow, or an array: ``(H, W, 3)`` uint8, BGR; or
                ``(H, W, bands)`` float32 after the stretch, if the config has ``INPUT.BANDS`` or
                ``INPUT.STRETCH``.

        Returns:
            Instances on the CPU, by decreasing score, with ``pred_masks``
            (:class:`~facenet_d2.structures.rle_masks.RLEMasks`), ``pred_boxes``, ``pred_classes``
            and ``scores``.

        Raises:
            ImageError: if the image cannot be used.
            UserError: if an image of Pillow is given to a model of other bands than colours.
        """
        if isinstance(image, PIL.Image.Image):
            if isinstance(self.reader, RasterReader):
                raise UserError(
                    "An image of Pillow has 8-bit colours, but the model was trained with "
                    "INPUT.BANDS or INPUT.STRETCH; give its file, or an array of the bands."
                )
            image = convert_image(image)
        if not isinstance(image, np.ndarray):
            image = self.read(image)
        return self._predictor(image)["instances"].to("cpu")

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        """Resize an image as the model expects it, ``(C, h, w)`` float32 before normalisation.

        Args:
            image: as for :meth:`__call__`.
        """
        if self._predictor.input_format == "RGB":
            image = image[:, :, ::-1]
        resized = self._predictor.aug.get_transform(image).apply_image(image)
        return torch.as_tensor(resized.astype(np.float32).transpose(2, 0, 1))

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Instances]:
        """Predict the instances of several images in one pass of the network.

        Args:
            images: arrays as for :meth:`__call__`. Smaller ones are padded to the size of the
                largest, which changes their results slightly.

        Returns:
            The instances of each image, as for a single one.
        """
        inputs = [
            {"image": self.prepare(image), "height": image.shape[0], "width": image.shape[1]}
            for image in images
        ]
        with torch.no_grad():
            outputs = self.model(inputs) if inputs else []
        return [output["instances"].to("cpu") for output in outputs]
