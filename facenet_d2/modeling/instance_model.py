"""Base class of this project's meta-architectures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from torch import nn

PredictionsT = TypeVar("PredictionsT")
"""Type of a model's predictions, a named tuple."""


class InstanceModel(nn.Module, ABC, Generic[PredictionsT]):
    """A network, :meth:`predict`, and the :meth:`losses` and :meth:`inference` of its predictions.

    Every subclass defines a named tuple of its predictions, which documents their shapes, and names
    it as its type argument: ``class YOLACT(InstanceModel[YOLACTPredictions])``.

    Attributes:
        CONFIG_NODE: node of ``cfg.MODEL`` with the model's NUM_CLASSES and score threshold.
        backbone: network that returns the feature pyramid by level name.
        pixel_mean: mean of each channel, ``(3, 1, 1)``, subtracted from the input.
        pixel_std: standard deviation of each channel, ``(3, 1, 1)``, the input is divided by it.
    """

    CONFIG_NODE: ClassVar[str]

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self, *, backbone: Backbone, pixel_mean: Sequence[float], pixel_std: Sequence[float]
    ) -> None:
        """
        Args:
            backbone: network that returns the feature pyramid by level name.
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
        """
        super().__init__()
        self.backbone = backbone
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict per image. ``image`` is ``(3, H, W)`` in the config's channel
                order and range. Training also needs ``instances`` with ``gt_boxes``, ``gt_classes``
                and masks: ``gt_masks``, or the ``gt_stride4_masks``, ``gt_centers`` and
                ``gt_covariances`` of :class:`~facenet_d2.data.SceneMapper`. Its ``ignore_map``, the
                crowds at stride 4, ``(ceil(H/4), ceil(W/4))`` bool, is optional. In inference,
                ``height`` and ``width`` set the size of the result; it defaults to the size of
                ``image``.

        Returns:
            The losses by name in training. In inference, one dict per image with ``instances``.
        """
        images = self.preprocess_image(batched_inputs)
        predictions = self.predict(images.tensor)
        if self.training:
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
            ignore_maps = [x.get("ignore_map") for x in batched_inputs]
            ignore_maps = [None if m is None else m.to(self.device) for m in ignore_maps]
            return self._with_whole_neck(self.losses(predictions, gt_instances, ignore_maps))
        output_sizes = [
            (x.get("height", size[0]), x.get("width", size[1]))
            for x, size in zip(batched_inputs, images.image_sizes)
        ]
        results = self.inference(predictions, images.image_sizes, output_sizes)
        return [{"instances": r} for r in results]

    def _with_whole_neck(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Give levels of the neck that no head uses a gradient of zero.

        DistributedDataParallel waits for a gradient of every parameter. With one process the
        gradient is needed too: weight decay must not depend on the number of processes.
        """
        unused = [
            # An empty slice: its sum is zero whatever the parameter's values are.
            p[None][:0].sum()
            for name, p in self.backbone.named_parameters()
            # Every level depends on the whole bottom-up network.
            if p.requires_grad and not name.startswith("bottom_up.")
        ]
        first = next(iter(losses))
        return losses | {first: losses[first] + sum(unused)}

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, pad and batch the images."""
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    @abstractmethod
    def predict(self, images: torch.Tensor) -> PredictionsT:
        """Run the network.

        Args:
            images: normalised images, ``(N, 3, H, W)``.

        Returns:
            The model's named tuple of predictions.
        """

    @abstractmethod
    def losses(
        self,
        predictions: PredictionsT,
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute the losses of a batch.

        Args:
            predictions: result of :meth:`predict` in training mode.
            gt_instances: ground truth of each image, as described for :meth:`forward`.
            ignore_maps: ``ignore_map`` of each image, or None; empty if no image has one. What is
                predicted there, and belongs to no instance, is not background.

        Returns:
            The weighted losses by name.
        """

    @abstractmethod
    def inference(
        self,
        predictions: PredictionsT,
        input_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Turn predictions into instances.

        Args:
            predictions: result of :meth:`predict` in evaluation mode.
            input_sizes: (height, width) of each image as the network saw it, without padding.
            output_sizes: (height, width) of each result.

        Returns:
            One :class:`Instances` per image: ``pred_masks``
            (:class:`~facenet_d2.structures.rle_masks.RLEMasks`), ``pred_boxes``, ``scores`` and
            ``pred_classes``.
        """
