"""SOLO, the first version, as a Detectron2 meta-architecture (paper, Tables 2-4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY

from ...structures.masks import reduce_masks
from ..checks import check_at_least, check_norm, check_probability
from ..grids.grid_model import GridModel
from ..grids.targets import ImageTargets
from ..grids.towers import resize_instance_features
from .heads import CategoryHead, DecoupledMaskHead, MaskHead, SOLOMaskHead, enlarged_logits


@META_ARCH_REGISTRY.register()
class SOLO(GridModel):
    """Every cell of a grid has a mask of its own among the output's channels.

    Targets, losses and post-processing are SOLOv2's. The mask loss compares at the resolution of
    each level's masks, strides 4, 4, 8, 16, 16, with the ground truth reduced to it.
    """

    @configurable
    def __init__(self, *, category_head: CategoryHead, mask_head: MaskHead, **common: Any) -> None:
        """
        Args:
            category_head: class scores on the grids.
            mask_head: masks of the grids' cells.
            common: the other arguments of :class:`GridModel`.

        Raises:
            ValueError: where the lists of levels, grids, ranges and areas differ in length.
        """
        super().__init__(num_classes=category_head.num_classes, **common)
        self.category_head = category_head
        self.mask_head = mask_head

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        solo, shared = cfg.MODEL.SOLO, cfg.MODEL.SOLOV2
        check_norm("MODEL.SOLOV2.NORM", shared.NORM, "MODEL.SOLO.CONV_CHANNELS", solo.CONV_CHANNELS)
        check_at_least(1, "MODEL.SOLO", solo, ["NUM_CONVS"])
        check_probability("MODEL.SOLO.MASK_PRIOR_PROB", solo.MASK_PRIOR_PROB)
        common = cls.common_arguments(cfg)
        in_channels = common["backbone"].output_shape()[shared.IN_FEATURES[0]].channels
        head = {
            "num_grids": shared.NUM_GRIDS,
            "conv_channels": solo.CONV_CHANNELS,
            "num_convs": solo.NUM_CONVS,
            "norm": shared.NORM,
        }
        mask_head = DecoupledMaskHead if solo.DECOUPLED else SOLOMaskHead
        return {
            **common,
            "category_head": CategoryHead(
                in_channels, num_classes=shared.NUM_CLASSES, prior_prob=shared.PRIOR_PROB, **head
            ),
            "mask_head": mask_head(in_channels, prior_prob=solo.MASK_PRIOR_PROB, **head),
        }

    def predict(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The network: ``(N, 3, H, W)`` to the logits that losses and inference work on.

        Returns:
            class logits ``(N, cells, C)``, and of each level the map that its masks are made of.
        """
        features = resize_instance_features(self.backbone(images), self.instance_in_features)
        return self.category_head(features), *self.mask_head(features)

    def mask_size(self, *maps: torch.Tensor) -> tuple[int, int]:
        return tuple(maps[0].shape[-2:])

    def mask_loss(
        self, mask_outputs: Sequence[torch.Tensor], targets: Sequence[ImageTargets]
    ) -> torch.Tensor:
        first = self.layout.first_cells
        losses = []
        for i, target in enumerate(targets):
            for level, maps in enumerate(mask_outputs):
                own = (target.cells >= first[level]) & (target.cells < first[level + 1])
                if not own.any():
                    continue
                owners, place = target.instances[own].unique(return_inverse=True)
                masks = reduce_masks(target.masks[owners], tuple(maps.shape[-2:]))
                cells = target.cells[own] - first[level]
                losses.append(self.mask_head.losses(maps[i], level, cells, masks, place))
        # Every parameter stays in the graph, whichever levels have instances.
        unused = sum(m.float().sum() for m in mask_outputs)
        unused = unused + sum(p.float().sum() for p in self.mask_head.parameters())
        loss = torch.cat(losses).mean() if losses else 0.0
        return loss + 0.0 * unused

    def mask_logits(
        self, mask_outputs: Sequence[torch.Tensor], image: int
    ) -> Callable[[torch.Tensor], torch.Tensor]:
        first = self.layout.first_cells
        size = self.mask_size(*mask_outputs)

        def of_cells(cells: torch.Tensor) -> torch.Tensor:
            parts = []
            for level, maps in enumerate(mask_outputs):
                # They come in order.
                own = cells[(cells >= first[level]) & (cells < first[level + 1])]
                if len(own):
                    logits = self.mask_head.logits(maps[image], level, own - first[level])
                    parts.append(enlarged_logits(logits, size).flatten(1))
            return torch.cat(parts)

        return of_cells
