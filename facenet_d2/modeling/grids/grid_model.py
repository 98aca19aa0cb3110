"""What SOLO and SOLOv2 have in common: instances are found by the cells of grids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from ..checks import check_levels, check_norm, check_num_classes, check_probability
from ..instance_model import InstanceModel
from .layout import GridLayout
from .losses import category_loss
from .matrix_nms import check_kernel
from .selection import InferenceSettings, detect_instances, suppress_neighbours
from .targets import ImageTargets, assign_targets


class GridModel(InstanceModel):
    """Instance segmentation by locations: each cell of a grid finds the instance centred in it.

    A subclass has a network, :meth:`predict`, whose first output are the class logits of all cells,
    a loss on its other outputs, :meth:`mask_loss`, and makes masks of them, :meth:`mask_logits`.
    """

    CONFIG_NODE = "SOLOV2"

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        instance_in_features: Sequence[str],
        layout: GridLayout,
        min_mask_areas: Sequence[int],
        settings: InferenceSettings,
        focal_alpha: float,
        focal_gamma: float,
        dice_weight: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
    ) -> None:
        """
        Args:
            backbone: gives the pyramid.
            num_classes: number of classes C.
            instance_in_features: levels under the grids, finest first.
            layout: the grids and their scale ranges.
            min_mask_areas: of each level, in pixels at stride 4; predicted masks of no more are
                dropped.
            settings: thresholds and limits of inference.
            focal_alpha: alpha of the focal loss.
            focal_gamma: gamma of the focal loss.
            dice_weight: lambda of equation (9).
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
        self.num_classes = num_classes
        self.instance_in_features = tuple(instance_in_features)
        self.layout = layout
        self.settings = settings
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.dice_weight = dice_weight
        self.register_buffer(
            "pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False
        )
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        areas = [torch.full((s * s,), a) for s, a in zip(layout.num_grids, min_mask_areas)]
        self.register_buffer("cell_min_areas", torch.cat(areas), persistent=False)

    @staticmethod
    def common_arguments(cfg: CfgNode, *norm_keys: str) -> dict[str, Any]:
        """Arguments of the constructor from ``MODEL.SOLOV2``, which SOLO shares.

        Args:
            cfg: of the model.
            norm_keys: those of ``MODEL.SOLOV2`` with numbers of channels that its norm must divide.

        Raises:
            ValueError: for a value that is not allowed, naming the key.
        """
        solo = cfg.MODEL.SOLOV2
        check_num_classes("MODEL.SOLOV2.NUM_CLASSES", solo.NUM_CLASSES)
        check_kernel(solo.NMS_KERNEL)
        check_probability("MODEL.SOLOV2.PRIOR_PROB", solo.PRIOR_PROB)
        check_probability("MODEL.SOLOV2.MASK_THRESH_TEST", solo.MASK_THRESH_TEST)
        if any(len(r) != 2 for r in solo.SCALE_RANGES):
            raise ValueError(
                f"MODEL.SOLOV2.SCALE_RANGES is {solo.SCALE_RANGES}; it must be pairs of a "
                "least and a greatest size"
            )
        for key in norm_keys:
            check_norm("MODEL.SOLOV2.NORM", solo.NORM, f"MODEL.SOLOV2.{key}", solo[key])
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        check_levels("MODEL.SOLOV2.IN_FEATURES", solo.IN_FEATURES, shapes, (4, 8, 16, 32, 64))
        return {
            "backbone": backbone,
            "instance_in_features": solo.IN_FEATURES,
            "layout": GridLayout(
                num_grids=tuple(solo.NUM_GRIDS),
                scale_ranges=tuple((low, high) for low, high in solo.SCALE_RANGES),
                center_scale=solo.CENTER_SCALE,
            ),
            "min_mask_areas": solo.MIN_MASK_AREAS,
            "settings": InferenceSettings(
                score_threshold=solo.SCORE_THRESH_TEST,
                mask_threshold=solo.MASK_THRESH_TEST,
                max_candidates=solo.TOPK_CANDIDATES_TEST,
                nms_pre=solo.PRE_NMS_TOPK_TEST,
                nms_kernel=solo.NMS_KERNEL,
                nms_sigma=solo.NMS_SIGMA,
                update_threshold=solo.NMS_SCORE_THRESH_TEST,
                max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
            "focal_alpha": solo.FOCAL_LOSS_ALPHA,
            "focal_gamma": solo.FOCAL_LOSS_GAMMA,
            "dice_weight": solo.DICE_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @abstractmethod
    def predict(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The network: ``(N, 3, H, W)`` to the class logits ``(N, cells, C)`` and what else losses
        and inference work on.
        """

    @abstractmethod
    def mask_size(self, *mask_outputs: torch.Tensor) -> tuple[int, int]:
        """(H/4, W/4), from the network's outputs other than the logits."""

    @abstractmethod
    def mask_loss(
        self, mask_outputs: Sequence[torch.Tensor], targets: Sequence[ImageTargets]
    ) -> torch.Tensor:
        """Mean Dice loss of the batch."""

    @abstractmethod
    def mask_logits(
        self, mask_outputs: Sequence[torch.Tensor], image: int
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        """What gives the mask logits of cells of an image, as :func:`detect_instances` takes it."""

    def losses(self, logits: torch.Tensor, *outputs: Any) -> dict[str, torch.Tensor]:
        """Both terms of equation (9), the mask loss times lambda.

        Args:
            logits: of the classes.
            outputs: the other outputs of :meth:`predict`, then the ground truth of each image.
        """
        *mask_outputs, gt_instances = outputs
        size = self.mask_size(*mask_outputs)
        targets = [assign_targets(x, self.layout, self.num_classes, size) for x in gt_instances]
        num_positive = sum((t.categories < self.num_classes).sum() for t in targets)
        get_event_storage().put_scalar("positive_cells", num_positive.item() / len(targets))
        return {
            "loss_category": category_loss(
                logits, targets, alpha=self.focal_alpha, gamma=self.focal_gamma
            ),
            "loss_mask": self.dice_weight * self.mask_loss(mask_outputs, targets),
        }

    def inference(self, logits: torch.Tensor, *outputs: Any) -> list[Instances]:
        """One :class:`Instances` an image.

        Args:
            logits: of the classes.
            outputs: the other outputs of :meth:`predict`, then (height, width) of each image as the
                network saw it, without padding, and as the result is to be.
        """
        *mask_outputs, input_sizes, image_sizes = outputs
        scores = suppress_neighbours(logits.float().sigmoid(), self.layout.num_grids)
        return [
            detect_instances(
                scores[i],
                self.mask_logits(mask_outputs, i),
                self.mask_size(*mask_outputs),
                self.cell_min_areas,
                self.settings,
                tuple(input_sizes[i]),
                tuple(image_sizes[i]),
            )
            for i in range(len(scores))
        ]
