"""SOLOv2 as a Detectron2 meta-architecture. With FACE-FPN, SEM and the deformable head: FACENet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone

from ...config_checks import check_nodes
from ...stride import MASK_STRIDE
from ..checks import check_levels, check_norm, check_range
from ..grids.cell_masks import DynamicMasks
from ..grids.grid_model import GridModel
from ..grids.layout import GridLayout
from ..grids.losses import mask_loss
from ..grids.selection import InferenceSettings
from ..grids.targets import ImageTargets
from ..grids.towers import resize_instance_features
from ..shapes import spatial_size
from .heads import SOLOv2InstanceHead, SOLOv2MaskHead
from .window import cell_positions, position_maps, window_coefficients, window_loss


class SOLOv2Predictions(NamedTuple):
    """Predictions for N images of padded size (H, W).

    Attributes:
        logits: class logits of the cells of all levels in turn, ``(N, cells, C)``.
        kernels: kernel of each cell's mask, ``(N, cells, D)``.
        mask_features: ``(N, D, H/stride, W/stride)``; the stride is ``MODEL.SOLOV2.MASK_STRIDE``.
        windows: window of each cell's mask, ``(N, cells, 5)``; None without
            ``MODEL.SOLOV2.MASK_WINDOW``. See :mod:`facenet_d2.modeling.solov2.window`.
    """

    logits: torch.Tensor
    kernels: torch.Tensor
    mask_features: torch.Tensor
    windows: torch.Tensor | None = None


@META_ARCH_REGISTRY.register()
class SOLOv2(GridModel[SOLOv2Predictions]):
    """Each cell predicts the kernel that computes its mask from the image's mask features.

    Attributes:
        cell_positions: centres of the cells and sizes of their grids, ``(cells, 3)``; see
            :func:`~facenet_d2.modeling.solov2.window.cell_positions`.
    """

    cell_positions: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        instance_head: SOLOv2InstanceHead,
        mask_head: SOLOv2MaskHead,
        num_classes: int,
        instance_in_features: Sequence[str],
        mask_in_features: Sequence[str],
        layout: GridLayout,
        min_mask_areas: Sequence[float],
        settings: InferenceSettings,
        focal_alpha: float,
        focal_gamma: float,
        dice_weight: float,
        max_positive_cells: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        mask_stride: int = MASK_STRIDE,
        window_loss_weight: float = 1.0,
    ) -> None:
        """
        Args:
            backbone: network that returns the feature pyramid by level name.
            instance_head: head for the class scores, kernels and windows of the cells.
            mask_head: head for the unified mask features.
            num_classes: number of classes C.
            instance_in_features: names of the levels under the grids, finest first.
            mask_in_features: names of the levels fused to the mask features, finest first.
            layout: grids and their scale ranges.
            min_mask_areas: see :class:`GridModel`.
            settings: thresholds and limits of inference.
            focal_alpha: weight of the positive class in the focal loss.
            focal_gamma: focusing exponent of the focal loss.
            dice_weight: lambda of equation (9).
            max_positive_cells: maximum number of pairs of a positive cell and its instance in the
                mask loss of a step, evenly subsampled; 0 for no limit.
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.
            mask_stride: stride of the mask features.
            window_loss_weight: weight of :func:`~facenet_d2.modeling.solov2.window.window_loss`, if
                the head predicts windows; 0 for none.

        Raises:
            ValueError: if the numbers of levels, grids and areas differ.
        """
        super().__init__(
            backbone=backbone,
            num_classes=num_classes,
            instance_in_features=instance_in_features,
            layout=layout,
            min_mask_areas=min_mask_areas,
            settings=settings,
            focal_alpha=focal_alpha,
            focal_gamma=focal_gamma,
            dice_weight=dice_weight,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            mask_stride=mask_stride,
        )
        self.instance_head = instance_head
        self.mask_head = mask_head
        self.mask_in_features = tuple(mask_in_features)
        self.max_positive_cells = max_positive_cells
        self.window_loss_weight = window_loss_weight
        self.uses_covariances = instance_head.window_pred is not None and window_loss_weight > 0
        self.register_buffer("cell_positions", cell_positions(layout.num_grids), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        check_nodes(cfg, "MODEL.SOLOV2")
        node = cfg.MODEL.SOLOV2
        for name in ("CONV_CHANNELS", "MASK_CHANNELS", "KERNEL_CHANNELS"):
            check_norm("MODEL.SOLOV2.NORM", node.NORM, f"MODEL.SOLOV2.{name}", node[name])
        check_range("MODEL.SOLOV2.DEFORM_CONVS", node.DEFORM_CONVS, 0, node.NUM_CONVS)
        arguments = super().from_config(cfg)
        shapes = arguments["backbone"].output_shape()
        check_levels("MODEL.SOLOV2.MASK_IN_FEATURES", node.MASK_IN_FEATURES, shapes, (4, 8, 16, 32))
        # All levels of the pyramid have the same number of channels.
        in_channels = shapes[node.IN_FEATURES[0]].channels
        return {
            **arguments,
            "instance_head": SOLOv2InstanceHead(
                in_channels,
                num_classes=node.NUM_CLASSES,
                kernel_channels=node.KERNEL_CHANNELS,
                num_grids=node.NUM_GRIDS,
                conv_channels=node.CONV_CHANNELS,
                num_convs=node.NUM_CONVS,
                norm=node.NORM,
                deform_branches=node.DEFORM_BRANCHES,
                deform_convs=node.DEFORM_CONVS,
                prior_prob=node.PRIOR_PROB,
                window=node.MASK_WINDOW,
            ),
            "mask_head": SOLOv2MaskHead(
                in_channels,
                num_levels=len(node.MASK_IN_FEATURES),
                conv_channels=node.MASK_CHANNELS,
                out_channels=node.KERNEL_CHANNELS,
                norm=node.NORM,
                subpixel=node.MASK_STRIDE < MASK_STRIDE,
            ),
            "mask_stride": node.MASK_STRIDE,
            "mask_in_features": node.MASK_IN_FEATURES,
            "max_positive_cells": node.MAX_POSITIVE_CELLS,
            "window_loss_weight": node.WINDOW_LOSS_WEIGHT,
        }

    def predict(self, images: torch.Tensor) -> SOLOv2Predictions:
        features = self.backbone(images)
        logits, kernels, windows = self.instance_head(
            resize_instance_features(features, self.instance_in_features)
        )
        mask_features = self.mask_head([features[f] for f in self.mask_in_features])
        return SOLOv2Predictions(logits, kernels, mask_features, windows)

    def mask_size(self, predictions: SOLOv2Predictions) -> tuple[int, int]:
        return spatial_size(predictions.mask_features)

    def mask_loss(
        self, predictions: SOLOv2Predictions, targets: Sequence[ImageTargets]
    ) -> torch.Tensor:
        window = None
        if predictions.windows is not None:
            coefficients = window_coefficients(predictions.windows, self.cell_positions)
            window = coefficients, self._position_maps(predictions)
        return mask_loss(
            predictions.mask_features,
            predictions.kernels,
            targets,
            max_pairs=self.max_positive_cells,
            window=window,
        )

    def further_losses(
        self, predictions: SOLOv2Predictions, targets: Sequence[ImageTargets]
    ) -> dict[str, torch.Tensor]:
        if predictions.windows is None or not self.uses_covariances:
            return {}
        losses = []
        for windows, target in zip(predictions.windows, targets, strict=True):
            assert target.covariances is not None
            losses.append(
                window_loss(
                    windows[target.cells],
                    self.cell_positions[target.cells],
                    target.centers[target.instances],
                    target.covariances[target.instances],
                )
            )
        each = torch.cat(losses)
        # Without objects, the sum of an empty tensor: zero, with a gradient of zero.
        return {"loss_window": self.window_loss_weight * each.sum() / max(1, len(each))}

    def _position_maps(self, predictions: SOLOv2Predictions) -> torch.Tensor:
        return position_maps(self.mask_size(predictions), predictions.mask_features.device)

    def cell_masks(
        self, predictions: SOLOv2Predictions, image: int, cells: torch.Tensor
    ) -> DynamicMasks:
        window = None
        if predictions.windows is not None:
            coefficients = window_coefficients(
                predictions.windows[image, cells], self.cell_positions[cells]
            )
            window = coefficients, self._position_maps(predictions)
        return DynamicMasks(
            predictions.kernels[image, cells], predictions.mask_features[image], window
        )
