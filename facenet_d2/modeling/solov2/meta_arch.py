"""SOLOv2 as a Detectron2 meta-architecture. With FACE-FPN, SEM and the deformable head: FACENet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ..checks import check_levels
from ..grids.grid_model import GridModel
from ..grids.losses import mask_loss
from ..grids.targets import ImageTargets
from ..grids.towers import resize_instance_features
from .heads import SOLOv2InstanceHead, SOLOv2MaskHead


@META_ARCH_REGISTRY.register()
class SOLOv2(GridModel):
    """A cell predicts the kernel that makes its mask of the image's mask features."""

    @configurable
    def __init__(
        self,
        *,
        instance_head: SOLOv2InstanceHead,
        mask_head: SOLOv2MaskHead,
        mask_in_features: Sequence[str],
        max_positive_cells: int = 0,
        **common: Any,
    ) -> None:
        """
        Args:
            instance_head: class scores and kernels on the grids.
            mask_head: unified mask features.
            mask_in_features: levels fused to the mask features, finest first.
            max_positive_cells: at most so many pairs of a positive cell and its instance have a
                mask loss in a step, taken evenly from all; 0 for no limit.
            common: the other arguments of :class:`GridModel`.

        Raises:
            ValueError: where the lists of levels, grids, ranges and areas differ in length.
        """
        super().__init__(num_classes=instance_head.num_classes, **common)
        self.instance_head = instance_head
        self.mask_head = mask_head
        self.mask_in_features = tuple(mask_in_features)
        self.max_positive_cells = max_positive_cells

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        solo = cfg.MODEL.SOLOV2
        common = cls.common_arguments(cfg, "CONV_CHANNELS", "MASK_CHANNELS", "KERNEL_CHANNELS")
        shapes = common["backbone"].output_shape()
        check_levels("MODEL.SOLOV2.MASK_IN_FEATURES", solo.MASK_IN_FEATURES, shapes, (4, 8, 16, 32))
        # Every level of the pyramid has as many channels.
        in_channels = shapes[solo.IN_FEATURES[0]].channels
        return {
            **common,
            "instance_head": SOLOv2InstanceHead(
                in_channels,
                num_classes=solo.NUM_CLASSES,
                kernel_channels=solo.KERNEL_CHANNELS,
                num_grids=solo.NUM_GRIDS,
                conv_channels=solo.CONV_CHANNELS,
                num_convs=solo.NUM_CONVS,
                norm=solo.NORM,
                deform_branches=solo.DEFORM_BRANCHES,
                deform_convs=solo.DEFORM_CONVS,
                prior_prob=solo.PRIOR_PROB,
            ),
            "mask_head": SOLOv2MaskHead(
                in_channels,
                num_levels=len(solo.MASK_IN_FEATURES),
                conv_channels=solo.MASK_CHANNELS,
                out_channels=solo.KERNEL_CHANNELS,
                norm=solo.NORM,
            ),
            "mask_in_features": solo.MASK_IN_FEATURES,
            "max_positive_cells": solo.MAX_POSITIVE_CELLS,
        }

    def predict(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The network: ``(N, 3, H, W)`` to the logits that losses and inference work on.

        Returns:
            class logits ``(N, cells, C)``, kernels ``(N, cells, D)``, mask features
            ``(N, D, H/4, W/4)``.
        """
        features = self.backbone(images)
        logits, kernels = self.instance_head(
            resize_instance_features(features, self.instance_in_features)
        )
        mask_features = self.mask_head([features[f] for f in self.mask_in_features])
        return logits, kernels, mask_features

    def mask_size(self, kernels: torch.Tensor, mask_features: torch.Tensor) -> tuple[int, int]:
        return tuple(mask_features.shape[-2:])

    def mask_loss(
        self, mask_outputs: Sequence[torch.Tensor], targets: Sequence[ImageTargets]
    ) -> torch.Tensor:
        kernels, mask_features = mask_outputs
        return mask_loss(mask_features, kernels, targets, max_pairs=self.max_positive_cells)

    def mask_logits(
        self, mask_outputs: Sequence[torch.Tensor], image: int
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        kernels, mask_features = mask_outputs
        return dynamic_mask_logits(kernels[image], mask_features[image])


def dynamic_mask_logits(
    kernels: torch.Tensor, mask_features: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives SOLOv2's mask logits of an image's cells: ``kernels[cells] @ mask_features``.

    Args:
        kernels: ``(cells, D)``.
        mask_features: ``(D, H/4, W/4)``.
    """

    def mask_logits(cells: torch.Tensor) -> torch.Tensor:
        # Half precision would move the masks' borders.
        with torch.autocast(kernels.device.type, enabled=False):
            return kernels[cells].float() @ mask_features.flatten(1).float()

    return mask_logits
