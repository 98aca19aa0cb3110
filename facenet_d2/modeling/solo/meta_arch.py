"""SOLO, the first version, as a Detectron2 meta-architecture (paper, Tables 2-4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone

from ...config_checks import check_nodes
from ...structures.masks import reduce_masks
from ..checks import check_norm
from ..grids.grid_model import GridModel
from ..grids.layout import GridLayout
from ..grids.selection import InferenceSettings
from ..grids.targets import ImageTargets
from ..grids.towers import resize_instance_features
from ..shapes import spatial_size
from .heads import CategoryHead, DecoupledMaskHead, MaskHead, SOLOMaskHead
from .masks import LevelMasks


class SOLOPredictions(NamedTuple):
    """Predictions for N images.

    Attributes:
        logits: class logits of the cells of all levels in turn, ``(N, cells, C)``.
        mask_maps: one map per level at twice the level's size, ``(N, ..., 2 H_l, 2 W_l)``, from
            which the mask head computes the masks of cells.
    """

    logits: torch.Tensor
    mask_maps: list[torch.Tensor]


@META_ARCH_REGISTRY.register()
class SOLO(GridModel[SOLOPredictions]):
    """Each cell of a grid has its own mask among the channels of the output.

    Targets, losses and post-processing are those of SOLOv2. The mask loss compares masks at the
    resolution of each level's maps, strides 4, 4, 8, 16, 16, with the ground truth reduced to it.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        category_head: CategoryHead,
        mask_head: MaskHead,
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
    ) -> None:
        """
        Args:
            backbone: network that returns the feature pyramid by level name.
            category_head: head for the class scores of the cells.
            mask_head: head for the masks of the cells.
            num_classes: number of classes C.
            instance_in_features: names of the levels under the grids, finest first.
            layout: grids and their scale ranges.
            min_mask_areas: see :class:`GridModel`.
            settings: thresholds and limits of inference.
            focal_alpha: weight of the positive class in the focal loss.
            focal_gamma: focusing exponent of the focal loss.
            dice_weight: lambda of equation (9).
            pixel_mean: mean of each channel, subtracted from the input.
            pixel_std: standard deviation of each channel, by which the input is divided.

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
        )
        self.category_head = category_head
        self.mask_head = mask_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        node, shared = cfg.MODEL.SOLO, cfg.MODEL.SOLOV2
        check_nodes(cfg, "MODEL.SOLO", "MODEL.SOLOV2")
        check_norm("MODEL.SOLOV2.NORM", shared.NORM, "MODEL.SOLO.CONV_CHANNELS", node.CONV_CHANNELS)
        arguments = super().from_config(cfg)
        in_channels = arguments["backbone"].output_shape()[shared.IN_FEATURES[0]].channels
        towers = {
            "num_grids": shared.NUM_GRIDS,
            "conv_channels": node.CONV_CHANNELS,
            "num_convs": node.NUM_CONVS,
            "norm": shared.NORM,
        }
        mask_head = DecoupledMaskHead if node.DECOUPLED else SOLOMaskHead
        return {
            **arguments,
            "category_head": CategoryHead(
                in_channels, num_classes=shared.NUM_CLASSES, prior_prob=shared.PRIOR_PROB, **towers
            ),
            "mask_head": mask_head(in_channels, prior_prob=node.MASK_PRIOR_PROB, **towers),
        }

    def predict(self, images: torch.Tensor) -> SOLOPredictions:
        features = resize_instance_features(self.backbone(images), self.instance_in_features)
        return SOLOPredictions(self.category_head(features), self.mask_head(features))

    def mask_size(self, predictions: SOLOPredictions) -> tuple[int, int]:
        return spatial_size(predictions.mask_maps[0])

    def mask_loss(
        self, predictions: SOLOPredictions, targets: Sequence[ImageTargets]
    ) -> torch.Tensor:
        first = self.layout.first_cells
        losses = []
        for i, target in enumerate(targets):
            for level, maps in enumerate(predictions.mask_maps):
                own = (target.cells >= first[level]) & (target.cells < first[level + 1])
                if not own.any():
                    continue
                owners, index = target.instances[own].unique(return_inverse=True)
                masks = reduce_masks(target.masks[owners], spatial_size(maps))
                cells = target.cells[own] - first[level]
                losses.append(self.mask_head.losses(maps[i], level, cells, masks, index))
        # Keeps every parameter in the graph, whichever levels have instances.
        every = [*predictions.mask_maps, *self.mask_head.parameters()]
        unused = torch.stack([x.float().sum() for x in every]).sum()
        loss = torch.cat(losses).mean() if losses else unused.new_zeros(())
        return loss + 0.0 * unused

    def cell_masks(
        self, predictions: SOLOPredictions, image: int, cells: torch.Tensor
    ) -> LevelMasks:
        maps = [level[image] for level in predictions.mask_maps]
        return LevelMasks(self.mask_head, maps, cells, self.layout)
