"""SOLOv2 as a Detectron2 meta-architecture. With FACE-FPN, SEM and the deformable head: FACENet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ..checks import check_levels, check_norm
from .heads import SOLOv2InstanceHead, SOLOv2MaskHead, resize_instance_features
from .losses import category_loss, mask_loss
from .matrix_nms import check_kernel
from .postprocess import InferenceSettings, detect_instances, suppress_neighbours
from .targets import GridLayout, assign_targets


@META_ARCH_REGISTRY.register()
class SOLOv2(nn.Module):
    """Instance segmentation by locations: each cell of a grid finds the instance centred in it."""

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        instance_head: SOLOv2InstanceHead,
        mask_head: SOLOv2MaskHead,
        instance_in_features: Sequence[str],
        mask_in_features: Sequence[str],
        layout: GridLayout,
        min_mask_areas: Sequence[int],
        settings: InferenceSettings,
        focal_alpha: float,
        focal_gamma: float,
        dice_weight: float,
        max_positive_cells: int = 0,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: gives the pyramid.
            instance_head: class scores and kernels on the grids.
            mask_head: unified mask features.
            instance_in_features: levels under the grids, finest first.
            mask_in_features: levels fused to the mask features, finest first.
            layout: the grids and their scale ranges.
            min_mask_areas: of each level, in pixels of the mask features; predicted masks of no
                more are dropped.
            settings: thresholds and limits of inference.
            focal_alpha: alpha of the focal loss.
            focal_gamma: gamma of the focal loss.
            dice_weight: lambda of equation (9).
            max_positive_cells: at most so many pairs of a positive cell and its instance have a
                mask loss in a step, taken evenly from all; 0 for no limit.
            pixel_mean: of each channel, subtracted from the input.
            pixel_std: of each channel, the input is divided by it.

        Raises:
            ValueError: where the lists of levels, grids, ranges and areas differ in length.
        """
        super().__init__()
        lengths = {
            "MODEL.SOLOV2.IN_FEATURES": len(instance_in_features),
            "MODEL.SOLOV2.NUM_GRIDS": len(layout.num_grids),
            "MODEL.SOLOV2.SCALE_RANGES": len(layout.scale_ranges),
            "MODEL.SOLOV2.MIN_MASK_AREAS": len(min_mask_areas),
        }
        if len(set(lengths.values())) > 1:
            raise ValueError(
                f"one entry a level is needed in each of these, but they have {lengths}"
            )
        self.backbone = backbone
        self.instance_head = instance_head
        self.mask_head = mask_head
        self.instance_in_features = tuple(instance_in_features)
        self.mask_in_features = tuple(mask_in_features)
        self.layout = layout
        self.settings = settings
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.dice_weight = dice_weight
        self.max_positive_cells = max_positive_cells
        self.num_classes = instance_head.num_classes
        self.register_buffer(
            "pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        areas = [torch.full((s * s,), a) for s, a in zip(layout.num_grids, min_mask_areas)]
        self.register_buffer("cell_min_areas", torch.cat(areas), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        solo = cfg.MODEL.SOLOV2
        if solo.NUM_CLASSES < 1:
            raise ValueError(
                f"MODEL.SOLOV2.NUM_CLASSES is {solo.NUM_CLASSES}; train_net.py and demo.py take it "
                "from the dataset, elsewhere set it to the number of classes"
            )
        check_kernel(solo.NMS_KERNEL)
        if not 0 < solo.PRIOR_PROB < 1:
            raise ValueError(
                f"MODEL.SOLOV2.PRIOR_PROB is {solo.PRIOR_PROB}; it must lie between 0 and 1"
            )
        if not 0 < solo.MASK_THRESHOLD < 1:
            raise ValueError(
                f"MODEL.SOLOV2.MASK_THRESHOLD is {solo.MASK_THRESHOLD}; it must lie between 0 and 1"
            )
        if any(len(r) != 2 for r in solo.SCALE_RANGES):
            raise ValueError(
                f"MODEL.SOLOV2.SCALE_RANGES is {solo.SCALE_RANGES}; it must be pairs of a "
                "least and a greatest size"
            )
        for key in ("CONV_CHANNELS", "MASK_CHANNELS", "KERNEL_CHANNELS"):
            check_norm("MODEL.SOLOV2.NORM", solo.NORM, f"MODEL.SOLOV2.{key}", solo[key])
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        check_levels("MODEL.SOLOV2.IN_FEATURES", solo.IN_FEATURES, shapes, (4, 8, 16, 32, 64))
        check_levels("MODEL.SOLOV2.MASK_IN_FEATURES", solo.MASK_IN_FEATURES, shapes, (4, 8, 16, 32))
        # Every level of the pyramid has as many channels.
        in_channels = shapes[solo.IN_FEATURES[0]].channels
        return {
            "backbone": backbone,
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
            "instance_in_features": solo.IN_FEATURES,
            "mask_in_features": solo.MASK_IN_FEATURES,
            "layout": GridLayout(
                num_grids=tuple(solo.NUM_GRIDS),
                scale_ranges=tuple((low, high) for low, high in solo.SCALE_RANGES),
                center_scale=solo.CENTER_SCALE,
            ),
            "min_mask_areas": solo.MIN_MASK_AREAS,
            "settings": InferenceSettings(
                score_threshold=solo.SCORE_THRESHOLD,
                mask_threshold=solo.MASK_THRESHOLD,
                max_candidates=solo.MAX_CANDIDATES,
                nms_pre=solo.NMS_PRE,
                nms_kernel=solo.NMS_KERNEL,
                nms_sigma=solo.NMS_SIGMA,
                update_threshold=solo.UPDATE_THRESHOLD,
                max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
            "focal_alpha": solo.FOCAL_ALPHA,
            "focal_gamma": solo.FOCAL_GAMMA,
            "dice_weight": solo.DICE_WEIGHT,
            "max_positive_cells": solo.MAX_POSITIVE_CELLS,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Instances]]:
        """
        Args:
            batched_inputs: one dict an image: ``image``, ``(3, H, W)`` in the config's channel
                order and range; in training ``instances``, as :func:`assign_targets` takes them; in
                inference optionally ``height`` and ``width`` of the wanted result.

        Returns:
            in training, the losses ``loss_category`` and ``loss_mask``; in inference one dict an
            image with ``instances``.
        """
        images = self.preprocess_image(batched_inputs)
        logits, kernels, mask_features = self.predict(images.tensor)
        if self.training:
            gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
            return self.losses(logits, kernels, mask_features, gt_instances)
        image_sizes = [
            (x.get("height", size[0]), x.get("width", size[1]))
            for x, size in zip(batched_inputs, images.image_sizes)
        ]
        results = self.inference(logits, kernels, mask_features, images.image_sizes, image_sizes)
        return [{"instances": r} for r in results]

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise, pad and batch."""
        images = [x["image"].to(self.device) for x in batched_inputs]
        images = [(x - self.pixel_mean) / self.pixel_std for x in images]
        return ImageList.from_tensors(images, self.backbone.size_divisibility)

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

    def losses(
        self,
        logits: torch.Tensor,
        kernels: torch.Tensor,
        mask_features: torch.Tensor,
        gt_instances: Sequence[Instances],
    ) -> dict[str, torch.Tensor]:
        """Both terms of equation (9), the mask loss times lambda."""
        targets = [
            assign_targets(x, self.layout, self.num_classes, mask_features.shape[-2:])
            for x in gt_instances
        ]
        num_positive = sum((t.categories < self.num_classes).sum() for t in targets)
        get_event_storage().put_scalar("positive_cells", num_positive.item() / len(targets))
        return {
            "loss_category": category_loss(
                logits, targets, alpha=self.focal_alpha, gamma=self.focal_gamma
            ),
            "loss_mask": self.dice_weight
            * mask_loss(mask_features, kernels, targets, max_pairs=self.max_positive_cells),
        }

    def inference(
        self,
        logits: torch.Tensor,
        kernels: torch.Tensor,
        mask_features: torch.Tensor,
        input_sizes: Sequence[tuple[int, int]],
        image_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """One :class:`Instances` an image, at ``image_sizes``; see :func:`detect_instances`."""
        scores = suppress_neighbours(logits.float().sigmoid(), self.layout.num_grids)
        return [
            detect_instances(
                scores[i],
                kernels[i],
                mask_features[i],
                self.cell_min_areas,
                self.settings,
                tuple(input_sizes[i]),
                tuple(image_sizes[i]),
            )
            for i in range(len(scores))
        ]
