"""A detection model for SAHI, and SAHI's command line with this project's models.

  python -m facenet_d2.clients.sahi predict --model_config_path output/harbour/config.yaml \\
      --model_path output/harbour/model_best.pth --source photos/ --slice_height 512 \\
      --slice_width 512 --batch_size 4
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from detectron2.structures import Instances

from ..engine import Predictor, run_command
from ..errors import UserError
from .outlines import mask_shapes, outlines
from .packages import missing_package

try:
    import sahi.auto_model
    from sahi.models.base import DetectionModel
    from sahi.prediction import ObjectPrediction
    from sahi.utils.compatibility import fix_full_shape_list, fix_shift_amount_list
except ImportError as error:
    if __name__ == "__main__":
        sys.exit(f"error: {missing_package('sahi', error)}")
    raise missing_package("sahi", error) from error

MODEL_TYPE = "facenet_d2"
"""``model_type`` of the models in SAHI, after :func:`register`."""


class FACENetDetectionModel(DetectionModel):
    """A model of this project as SAHI's detection model.

    It takes the arguments of SAHI's class: ``config_path`` and ``model_path`` (by default
    ``MODEL.WEIGHTS``), or a :class:`~facenet_d2.Predictor` as ``model``. Slices are processed in
    batches. The category IDs are those of the data set, or class indices + 1 if the config does not
    contain them, as in the results of ``demo.py``.

    The segmentations follow the edges of pixels: their areas, and COCO results that SAHI writes,
    are exact. SAHI's ``bool_mask`` also fills the pixels to the right of and below an outline.
    """

    def load_model(self) -> None:
        """Load the model.

        Raises:
            UserError: if config, weights or ``category_mapping`` are not usable.
        """
        if self.config_path is None:
            raise UserError("The config of the model is missing; name it as config_path.")
        overrides = ["MODEL.DEVICE", str(self.device)]
        if self.image_size is not None:
            for key in ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST"):
                overrides += [key, str(self.image_size)]
        self.set_model(Predictor(self.config_path, self.model_path, overrides))

    def set_model(self, model: Predictor, **kwargs: Any) -> None:
        """Set a loaded model; arguments as for SAHI's method.

        Raises:
            UserError: if ``category_mapping`` lacks a category.
        """
        self.model = model
        names = model.metadata.thing_classes
        self.category_ids = [model.category_ids.get(i, i + 1) for i in range(len(names))]
        own_names = {str(i): name for i, name in zip(self.category_ids, names)}
        self.category_mapping: dict[str, str] = self.category_mapping or own_names
        missing = [i for i in self.category_ids if str(i) not in self.category_mapping]
        if missing:
            raise UserError(
                f"category_mapping has no name for the category IDs {missing}; by default, the "
                "names are those of the config."
            )
        self.category_names = [self.category_mapping[str(i)] for i in self.category_ids]

    @property
    def num_categories(self) -> int:
        """Number of classes."""
        return len(self.category_ids)

    def perform_inference(self, image: np.ndarray) -> None:
        """Predict the instances of an image ``(H, W, 3)`` uint8, RGB."""
        self.perform_batch_inference([image])

    def perform_batch_inference(self, images: list[np.ndarray]) -> None:
        """Predict the instances of images ``(H, W, 3)`` uint8, RGB, in one batch."""
        if self.model is None:
            raise RuntimeError("The model is not loaded; call load_model().")
        self._original_predictions = self.model.predict_batch([i[:, :, ::-1] for i in images])

    def _create_object_prediction_list_from_original_predictions(
        self,
        shift_amount_list: list[list[int | float]] | None = None,
        full_shape_list: list[list[int | float]] | None = None,
    ) -> None:
        shifts = fix_shift_amount_list(shift_amount_list)
        shapes = fix_full_shape_list(full_shape_list)
        self._object_prediction_list_per_image = [
            self._converted(
                instances,
                shifts[i] if shift_amount_list else [0, 0],
                shapes[i] if shapes else list(instances.image_size),
            )
            for i, instances in enumerate(self._original_predictions)
        ]

    def _converted(
        self, instances: Instances, shift: list[int | float], full_shape: list[int | float]
    ) -> list[ObjectPrediction]:
        kept = instances[instances.scores >= self.confidence_threshold]
        categories = [self.category_ids[i] for i in kept.pred_classes.tolist()]
        return [
            ObjectPrediction(
                segmentation=[outline.ravel().tolist() for outline in outlines(shape)],
                category_id=category,
                category_name=self.category_mapping[str(category)],
                score=score,
                shift_amount=shift,
                full_shape=full_shape,
            )
            for shape, category, score in zip(
                mask_shapes(kept.pred_masks), categories, kept.scores.tolist()
            )
            if not shape.is_empty
        ]


def register() -> None:
    """Add ``model_type="facenet_d2"`` to the model types that SAHI knows in this process."""
    sahi.auto_model.MODEL_TYPE_TO_MODEL_CLASS_NAME[MODEL_TYPE] = FACENetDetectionModel.__name__
    # SAHI imports the class of a type from this name.
    sys.modules[f"sahi.models.{MODEL_TYPE}"] = sys.modules[__name__]


def main() -> None:
    """Run SAHI's command line; ``--model_type`` is this project's by default."""
    from sahi.cli import app

    register()
    options = {argument.partition("=")[0].replace("-", "_") for argument in sys.argv[2:]}
    if sys.argv[1:2] in (["predict"], ["predict-fiftyone"]) and "__model_type" not in options:
        sys.argv += ["--model_type", MODEL_TYPE]
    app()


if __name__ == "__main__":
    sys.exit(run_command(main))
