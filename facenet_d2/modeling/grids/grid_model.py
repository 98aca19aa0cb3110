"""Base class of SOLO and SOLOv2, which find instances by the cells of grids."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from detectron2.config import CfgNode
from detectron2.modeling import Backbone, build_backbone
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage

from ...stride import MASK_STRIDE
from ...structures.cell_masks import CellMasks
from ..checks import (
    check_equal_lengths,
    check_levels,
    check_num_classes,
)
from ..instance_model import InstanceModel
from .layout import GridLayout
from .losses import category_loss
from .selection import InferenceSettings, detect_instances, suppress_neighbours
from .targets import ImageTargets, assign_targets, ignored_cells
from .towers import LEVEL_STRIDES


class GridPredictions(Protocol):
    """The field that the predictions of all grid models have.

    Attributes:
        logits: class logits of the cells of all levels in turn, ``(N, cells, C)``.
    """

    @property
    def logits(self) -> torch.Tensor: ...


GridPredictionsT = TypeVar("GridPredictionsT", bound=GridPredictions)


class GridModel(InstanceModel[GridPredictionsT]):
    """Instance segmentation by locations: each cell of a grid finds the instance centred in it.

    The predictions of a subclass have the field of :class:`GridPredictions`. The subclass computes
    the masks of cells from the other fields.

    Attributes:
        cell_min_areas: area of each cell above which its mask is kept, in pixels of the masks,
            ``(cells,)``.
        uses_covariances: whether a loss needs the covariances of the masks.
    """

    CONFIG_NODE = "SOLOV2"

    uses_covariances = False

    cell_min_areas: torch.Tensor

    def __init__(
        self,
        *,
        backbone: Backbone,
        num_classes: int,
        instance_in_features: Sequence[str],
        layout: GridLayout,
        min_mask_areas: Sequence[float],
        settings: InferenceSettings,
        focal_alpha: float,
        focal_gamma: float,
        dice_weight: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        mask_stride: int = MASK_STRIDE,
    ) -> None:
        """
        Args:
            backbone: network that returns the feature pyramid by level name.
            num_classes: number of classes C.
            instance_in_features: names of the levels under the grids, finest first.
            layout: grids and their scale ranges.
            min_mask_areas: one area per level, in pixels at stride 4; predicted masks that are not
                larger are dropped.
            settings: thresholds and limits of inference.
            focal_alpha: weight of the positive class in the focal loss.
            focal_gamma: focusing exponent of the focal loss.
            dice_weight: lambda of equation (9).
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
            mask_stride: stride of the masks in the loss and in inference.

        Raises:
            ValueError: if the numbers of levels, grids and areas differ.
        """
        super().__init__(backbone=backbone, pixel_mean=pixel_mean, pixel_std=pixel_std)
        check_equal_lengths(
            {
                "instance_in_features": instance_in_features,
                "layout.num_grids": layout.num_grids,
                "min_mask_areas": min_mask_areas,
            }
        )
        self.num_classes = num_classes
        self.instance_in_features = tuple(instance_in_features)
        self.layout = layout
        self.settings = settings
        self.focal_alpha = focal_alpha
        self.focal_gamma = focal_gamma
        self.dice_weight = dice_weight
        self.mask_stride = mask_stride
        scale = (MASK_STRIDE // mask_stride) ** 2
        areas = [torch.full((s * s,), a * scale) for s, a in zip(layout.num_grids, min_mask_areas)]
        self.register_buffer("cell_min_areas", torch.cat(areas), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor's arguments from ``MODEL.SOLOV2``.

        Raises:
            ValueError: for a value that is not allowed; the message names the key.
        """
        node = cfg.MODEL.SOLOV2
        check_num_classes("MODEL.SOLOV2.NUM_CLASSES", node.NUM_CLASSES)
        layout = GridLayout.from_config(cfg)
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        strides = LEVEL_STRIDES[:4] if len(node.IN_FEATURES) == 4 else LEVEL_STRIDES
        check_levels("MODEL.SOLOV2.IN_FEATURES", node.IN_FEATURES, shapes, strides)
        names = ("IN_FEATURES", "NUM_GRIDS", "MIN_MASK_AREAS")
        check_equal_lengths({f"MODEL.SOLOV2.{name}": node[name] for name in names})
        return {
            "backbone": backbone,
            "num_classes": node.NUM_CLASSES,
            "instance_in_features": node.IN_FEATURES,
            "layout": layout,
            "min_mask_areas": node.MIN_MASK_AREAS,
            "settings": InferenceSettings.from_config(cfg),
            "focal_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_gamma": node.FOCAL_LOSS_GAMMA,
            "dice_weight": node.DICE_WEIGHT,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @abstractmethod
    def mask_size(self, predictions: GridPredictionsT) -> tuple[int, int]:
        """Return (H/stride, W/stride), the size of the masks."""

    @abstractmethod
    def mask_loss(
        self, predictions: GridPredictionsT, targets: Sequence[ImageTargets]
    ) -> torch.Tensor:
        """Return the mean Dice loss of the batch, a scalar."""

    @abstractmethod
    def cell_masks(
        self, predictions: GridPredictionsT, image: int, cells: torch.Tensor
    ) -> CellMasks[torch.Tensor]:
        """Return the masks of cells of an image, of the size :meth:`mask_size`.

        Args:
            predictions: result of :meth:`predict`.
            image: index of the image in the batch.
            cells: indices of K cells, ``(K,)`` int64.
        """

    def losses(
        self,
        predictions: GridPredictionsT,
        gt_instances: Sequence[Instances],
        ignore_maps: Sequence[torch.Tensor | None] = (),
    ) -> dict[str, torch.Tensor]:
        """Compute both terms of equation (9), ``loss_category`` and lambda times ``loss_mask``, and
        :meth:`further_losses`.

        Cells that are not positive and whose centres lie in an ignored region have no loss.
        """
        size = self.mask_size(predictions)
        targets = [
            assign_targets(
                x,
                self.layout,
                self.num_classes,
                size,
                self.mask_stride,
                with_covariances=self.uses_covariances,
            )
            for x in gt_instances
        ]
        padded_size = (size[0] * self.mask_stride, size[1] * self.mask_stride)
        for target, ignore_map in zip(targets, ignore_maps):
            if ignore_map is not None:
                target.ignored = ignored_cells(
                    ignore_map, target.categories == self.num_classes, self.layout, padded_size
                )
        categories = torch.stack([t.categories for t in targets])
        num_positive = (categories < self.num_classes).sum()
        get_event_storage().put_scalar("positive_cells", num_positive.item() / len(targets))
        return {
            "loss_category": category_loss(
                predictions.logits, targets, alpha=self.focal_alpha, gamma=self.focal_gamma
            ),
            "loss_mask": self.dice_weight * self.mask_loss(predictions, targets),
            **self.further_losses(predictions, targets),
        }

    def further_losses(
        self, predictions: GridPredictionsT, targets: Sequence[ImageTargets]
    ) -> dict[str, torch.Tensor]:
        """Compute losses that equation (9) does not have, by name; none by default."""
        return {}

    def inference(
        self,
        predictions: GridPredictionsT,
        input_sizes: Sequence[tuple[int, int]],
        output_sizes: Sequence[tuple[int, int]],
    ) -> list[Instances]:
        """Select instances by Points NMS, unless it is switched off, and Matrix NMS."""
        scores = predictions.logits.float().sigmoid()
        if self.settings.points_nms:
            scores = suppress_neighbours(scores, self.layout.num_grids)
        return [
            detect_instances(
                scores[i],
                partial(self.cell_masks, predictions, i),
                self.cell_min_areas,
                self.settings,
                input_sizes[i],
                output_sizes[i],
                self.mask_stride,
            )
            for i in range(len(scores))
        ]
