"""Prediction with a model that ``tools/export_model.py`` has written with ``--contract raw``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from threadpoolctl import ThreadpoolController

from ..cores import default_workers
from ..errors import UserError
from .box_models import condinst_instances, yolact_instances
from .description import CondInstSettings, GridSettings, ModelDescription
from .detected import Detected
from .grids import grid_instances
from .networks import Network, load_network
from .prediction import Prediction
from .resizing import network_size, resize


class OnnxPredictor:
    """A trained model in an ONNX file, which needs neither PyTorch nor Detectron2.

    ::

        predict = OnnxPredictor("facenet.onnx")
        found = predict(image)
        for name, score, crop in zip(found.names, found.scores, found.crops): ...

    Attributes:
        description: the model.
        network: the network.
    """

    def __init__(
        self, file: str | Path, *, provider: str = "onnxruntime", threads: int | None = None
    ) -> None:
        """
        Args:
            file: an ONNX file.
            provider: "onnxruntime", "openvino" or "openvino-bf16".
            threads: number of threads; by default that of the cores which this process may use.

        Raises:
            UserError: if the file or the provider is not usable.
        """
        self.network: Network = load_network(file, provider=provider, threads=threads)
        self._threads = threads or default_workers()
        self._blas = ThreadpoolController().select(user_api="blas")
        self.description = read_description(self.network, str(file))

    def __call__(self, image: np.ndarray) -> Prediction:
        """Predict the instances of an image.

        Args:
            image: ``(H, W, 3)`` uint8 in BGR, as OpenCV reads it; or ``(H, W, bands)`` float32
                after the stretch, if the model was trained with ``INPUT.BANDS`` or
                ``INPUT.STRETCH``.

        Raises:
            UserError: if the array is not an image for the model.
        """
        return self.predict_batch([image])[0]

    def predict_batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict the instances of several images in one pass of the network.

        Args:
            images: images as for a single one. Smaller ones are padded to the largest, which
                changes their results slightly.
        """
        return self.predict_resized(
            [self.prepare(image) for image in images], [image.shape[:2] for image in images]
        )

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return an image as the network sees it, ``(bands, h, w)``, before its normalisation.

        Raises:
            UserError: if the array is not an image for the model.
        """
        model = self.description
        channels = len(model.pixel_mean)
        if image.ndim != 3 or image.shape[2] != channels or 0 in image.shape:
            raise UserError(
                f"The model expects images of the shape (height, width, {channels}), not "
                f"{image.shape}."
            )
        if model.channel_order == "RGB" and not model.reads_rasters:
            image = image[:, :, ::-1]
        size = network_size(image.shape[:2], model.min_size, model.max_size)
        return resize(image, size).transpose(2, 0, 1)

    def predict_resized(
        self, images: Sequence[np.ndarray], image_sizes: Sequence[tuple[int, int]]
    ) -> list[Prediction]:
        """Predict the instances of images that :meth:`prepare` has already resized.

        Args:
            images: result of :meth:`prepare` for each image.
            image_sizes: (height, width) of each result.
        """
        if not images:
            return []
        outputs = self.network(self._batch(images))
        # After a product, threads of OpenBLAS wait for the next one, and slow the network down.
        with self._blas.limit(limits=1):
            found = [
                _instances(self.description, outputs, i, image.shape[1:], image_size, self._threads)
                for i, (image, image_size) in enumerate(zip(images, image_sizes, strict=True))
            ]
        return [
            Prediction(
                (int(image_size[0]), int(image_size[1])),
                self.description.class_names,
                one.classes,
                one.scores,
                one.boxes,
                one.crops,
                capped=len(one.scores) >= self.description.settings.max_instances,
            )
            for one, image_size in zip(found, image_sizes)
        ]

    def _batch(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Pad images to a common size; return ``(N, bands, H, W)`` float32."""
        divisor = self.description.size_divisibility
        height, width = (
            -(-max(image.shape[axis] for image in images) // divisor) * divisor for axis in (1, 2)
        )
        mean = np.array(self.description.pixel_mean, np.float32)[:, None, None]
        batch = np.empty((len(images), len(mean), height, width), np.float32)
        for target, image in zip(batch, images):
            h, w = image.shape[1:]
            target[:, :h, :w] = image
            target[:, h:] = mean
            target[:, :h, w:] = mean
        return batch


def read_description(network: Network, source: str) -> ModelDescription:
    """Return the description of a network's model.

    Args:
        network: the network.
        source: name of its file, for errors.

    Raises:
        UserError: if there is none, or the network is not one of this module.
    """
    if network.description is None:
        raise UserError(
            f"{source} has no description of its model; export it with tools/export_model.py."
        )
    description = ModelDescription.from_json(network.description, source)
    if description.contract != "raw":
        raise UserError(
            f"{source} was exported with --contract {description.contract}, for other programs; "
            "export it with --contract raw."
        )
    missing = [name for name in description.output_names if name not in network.output_names]
    if missing:
        raise UserError(f"{source} has no output {missing[0]!r}; export it again.")
    return description


def _instances(
    model: ModelDescription,
    outputs: Mapping[str, np.ndarray],
    image: int,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threads: int,
) -> Detected:
    settings = model.settings
    if isinstance(settings, GridSettings):
        return grid_instances(outputs, image, settings, input_size, image_size, threads)
    if isinstance(settings, CondInstSettings):
        return condinst_instances(outputs, image, settings, input_size, image_size)
    return yolact_instances(outputs, image, settings, input_size, image_size)
