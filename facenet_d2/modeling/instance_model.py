"""What this project's meta-architectures have in common: from a batch to losses or instances."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from detectron2.modeling import Backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils import comm
from torch import nn


class InstanceModel(nn.Module, ABC):
    """A network, :meth:`predict`, whose outputs :meth:`losses` and :meth:`inference` work on.

    It has no constructor: a subclass, or another class it derives from, sets the attributes.

    Attributes:
        backbone: gives the pyramid.
        pixel_mean: of each channel, ``(3, 1, 1)``, subtracted from the input.
        pixel_std: of each channel, ``(3, 1, 1)``, the input is divided by it.
    """

    backbone: Backbone
    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict an image: ``image``, ``(3, H, W)`` in the config's channel
                order and range; in training ``instances``, with ``gt_boxes``, ``gt_classes`` and
                masks as :func:`~facenet_d2.modeling.grids.targets.assign_targets` takes them; in
                inference optionally ``height`` and ``width`` of the wanted result.

        Returns:
            in training, the losses by name; in inference one dict an image with ``instances``.
        """
        images = self.preprocess_image(batched_inputs)
        outputs = self.predict(images.tensor)
        if self.training:
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
            losses = self.losses(*outputs, gt_instances)
            return self._of_whole_neck(losses) if comm.get_world_size() > 1 else losses
        image_sizes = [
            (x.get("height", size[0]), x.get("width", size[1]))
            for x, size in zip(batched_inputs, images.image_sizes)
        ]
        results = self.inference(*outputs, images.image_sizes, image_sizes)
        return [{"instances": r} for r in results]

    def _of_whole_neck(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same losses, with gradients, 0, of the neck's levels that the heads leave out.

        DistributedDataParallel waits for a gradient of each parameter. The heads see to theirs.
        """
        zero = 0.0 * sum(
            p.float().sum()
            for name, p in self.backbone.named_parameters()
            # All levels are made of its last stage.
            if p.requires_grad and not name.startswith("bottom_up.")
        )
        first = next(iter(losses))
        return losses | {first: losses[first] + zero}

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, pad and batch."""
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

    @abstractmethod
    def predict(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The network: ``(N, 3, H, W)`` to what losses and inference work on."""

    @abstractmethod
    def losses(self, *outputs: Any) -> dict[str, torch.Tensor]:
        """Of the outputs of :meth:`predict`, and the ground truth of each image."""

    @abstractmethod
    def inference(self, *outputs: Any) -> list[Instances]:
        """Of the outputs of :meth:`predict`, and (height, width) of each image as the network saw
        it, without padding, and as the result is to be.
        """
