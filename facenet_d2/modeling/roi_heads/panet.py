"""PANet's heads: adaptive feature pooling and fully connected fusion (Liu et al., CVPR 2018).

The third part of PANet, the bottom-up path, is :class:`~facenet_d2.modeling.backbone.PAFPN`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling import (
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    StandardROIHeads,
)
from detectron2.modeling.poolers import convert_boxes_to_pooler_format
from detectron2.modeling.roi_heads.mask_head import BaseMaskRCNNHead, MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes
from torch import nn

from ...config_checks import check_nodes
from ..checks import check_norm, check_range
from .convolutions import conv_relu


class AdaptivePooler(nn.Module):
    """Features of every RoI from all levels (section 3.2); FPN takes them from one."""

    def __init__(self, level_poolers: Iterable[nn.Module]) -> None:
        """
        Args:
            level_poolers: pooler of each level, such as ``ROIPooler.level_poolers``: a function of
                its features and of boxes ``(B, 5)`` that begin with the index of their image.
        """
        super().__init__()
        self.level_poolers = nn.ModuleList(level_poolers)

    def forward(self, x: list[torch.Tensor], box_lists: list[Boxes]) -> list[torch.Tensor]:
        """
        Args:
            x: features of each level, ``(N, C, H_i, W_i)``.
            box_lists: boxes of each image, B in total, in pixels of the input.

        Returns:
            RoI features of each level, ``(B, C, size, size)``.
        """
        rois = convert_boxes_to_pooler_format(box_lists)
        # Detectron2's ROIAlign rounds boxes to the type of the features, in bfloat16 by pixels.
        return [
            pool(level.float(), rois) for pool, level in zip(self.level_poolers, x, strict=True)
        ]


class LevelMaximum(nn.Module):
    """A layer for each level, and the element-wise maximum of their outputs."""

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        """
        Args:
            layers: layer of each level.
        """
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, levels: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            levels: input of each layer, all of the same shape.
        """
        outputs = [layer(x) for layer, x in zip(self.layers, levels, strict=True)]
        return reduce(torch.maximum, outputs)


class FullyConnected(nn.Module):
    """A linear layer of flattened RoI features, normalisation and ReLU."""

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "") -> None:
        """
        Args:
            in_channels: number of values of each RoI.
            out_channels: number of channels of the output.
            norm: normalisation, as for ``detectron2.layers.get_norm``.
        """
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        self.norm = get_norm(norm, out_channels)
        weight_init.c2_xavier_fill(self.linear)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, ...)`` to ``(B, out_channels)``."""
        x = self.linear(x.flatten(1))
        if self.norm is not None:
            # Batch normalisation requires maps.
            x = self.norm(x[:, :, None, None]).flatten(1)
        return x.relu()


@ROI_BOX_HEAD_REGISTRY.register()
class PANetBoxHead(nn.Module):
    """Box head whose first layer is separate for each level; the maximum over levels follows.

    Either convolutions and fully connected layers (published: 4 and 1), or fully connected layers
    only (2). In the second form, the fully connected layers are normalised too.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_levels: int,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        norm: str = "",
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the RoI features.
            num_levels: number of levels.
            conv_dims: number of channels of each convolution.
            fc_dims: number of channels of each fully connected layer.
            norm: normalisation.

        Raises:
            ValueError: if there are no layers.
        """
        super().__init__()
        if not conv_dims and not fc_dims:
            raise ValueError(
                "MODEL.ROI_BOX_HEAD.NUM_CONV and MODEL.ROI_BOX_HEAD.NUM_FC are both 0; at least "
                "one must be positive"
            )
        height, width = input_shape.height, input_shape.width
        dims = [*conv_dims, *fc_dims]

        def layer(i: int) -> nn.Module:
            channels = dims[i - 1] if i else input_shape.channels
            if i < len(conv_dims):
                return conv_relu(channels, dims[i], norm=norm)
            if i == len(conv_dims):
                channels *= height * width
            return FullyConnected(channels, dims[i], norm="" if conv_dims else norm)

        self.first = LevelMaximum(layer(0) for _ in range(num_levels))
        self.others = nn.Sequential(*(layer(i) for i in range(1, len(dims))))
        self.output_shape = (
            ShapeSpec(channels=dims[-1])
            if fc_dims
            else ShapeSpec(channels=dims[-1], height=height, width=width)
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        check_nodes(cfg, "MODEL.ROI_BOX_HEAD")
        node = cfg.MODEL.ROI_BOX_HEAD
        used = "CONV_DIM" if node.NUM_CONV else "FC_DIM"
        check_norm("MODEL.ROI_BOX_HEAD.NORM", node.NORM, f"MODEL.ROI_BOX_HEAD.{used}", node[used])
        return {
            "input_shape": input_shape,
            "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "conv_dims": [node.CONV_DIM] * node.NUM_CONV,
            "fc_dims": [node.FC_DIM] * node.NUM_FC,
            "norm": node.NORM,
        }

    def forward(self, x: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            x: RoI features of each level, ``(B, channels, size, size)``.

        Returns:
            ``(B, fc_dims[-1])``; without fully connected layers ``(B, conv_dims[-1], size, size)``.
        """
        return self.others(self.first(x))


class FusionBranch(nn.Module):
    """Mask logits by a fully connected layer, which are the same for all classes (section 3.3)."""

    def __init__(
        self, channels: int, size: int, *, conv_dims: Sequence[int], norm: str = ""
    ) -> None:
        """
        Args:
            channels: number of channels of the RoI features.
            size: height and width of the RoI features. The mask is twice as large.
            conv_dims: numbers of channels of the convolutions before the fully connected layer.
            norm: normalisation of the convolutions.
        """
        super().__init__()
        dims = [channels, *conv_dims]
        self.convs = nn.Sequential(*(conv_relu(c, d, norm=norm) for c, d in pairwise(dims)))
        self.mask_size = 2 * size
        self.linear = nn.Linear(dims[-1] * size**2, self.mask_size**2)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(B, channels, size, size)`` to ``(B, 1, 2 size, 2 size)``."""
        logits = self.linear(self.convs(x).flatten(1))
        return logits.unflatten(1, (1, self.mask_size, self.mask_size))


@ROI_MASK_HEAD_REGISTRY.register()
class PANetMaskHead(BaseMaskRCNNHead):
    """Mask head with a first layer for each level, and fully connected fusion (section 3.3).

    The logits are the sum of those of Mask R-CNN's convolutional branch and of a
    :class:`FusionBranch`, which begins before the last convolution. The re-implementation by the
    authors has a ReLU after the fully connected layer, with which it could only add to a mask; here
    it can also remove.
    """

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec,
        *,
        num_levels: int,
        num_classes: int,
        num_conv: int,
        conv_dim: int,
        fusion_conv_dim: int,
        norm: str = "",
        loss_weight: float = 1.0,
        vis_period: int = 0,
    ) -> None:
        """
        Args:
            input_shape: channels, height and width of the RoI features.
            num_levels: number of levels.
            num_classes: number of classes; 1 for masks that do not depend on the class.
            num_conv: number of convolutions before the mask is upsampled, at least 2. The first is
                separate for each level, the last belongs to the convolutional branch.
            conv_dim: number of channels of the convolutions.
            fusion_conv_dim: number of channels before the fully connected layer.
            norm: normalisation of the convolutions.
            loss_weight: weight of the mask loss.
            vis_period: number of steps between visualisations of masks in training; 0 for none.

        Raises:
            ValueError: if there are fewer than two convolutions.
        """
        super().__init__(loss_weight=loss_weight, vis_period=vis_period)
        check_range("MODEL.ROI_MASK_HEAD.NUM_CONV", num_conv, 2, 64)
        self.first = LevelMaximum(
            conv_relu(input_shape.channels, conv_dim, norm=norm) for _ in range(num_levels)
        )
        self.shared = nn.Sequential(
            *(conv_relu(conv_dim, conv_dim, norm=norm) for _ in range(num_conv - 2))
        )
        self.mask_head = MaskRCNNConvUpsampleHead(
            ShapeSpec(channels=conv_dim),
            num_classes=num_classes,
            conv_dims=[conv_dim, conv_dim],
            conv_norm=norm,
        )
        self.fusion = FusionBranch(
            conv_dim, input_shape.height, conv_dims=[conv_dim, fusion_conv_dim], norm=norm
        )

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        check_nodes(cfg, "MODEL.ROI_MASK_HEAD", "MODEL.ROI_MASK_FUSION")
        node, fusion = cfg.MODEL.ROI_MASK_HEAD, cfg.MODEL.ROI_MASK_FUSION
        # The weights of the fully connected layer grow with the fourth power.
        check_range("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", node.POOLER_RESOLUTION, 1, 28)
        for key, dim in (
            ("MODEL.ROI_MASK_HEAD.CONV_DIM", node.CONV_DIM),
            ("MODEL.ROI_MASK_FUSION.CONV_DIM", fusion.CONV_DIM),
        ):
            check_norm("MODEL.ROI_MASK_HEAD.NORM", node.NORM, key, dim)
        return {
            **super().from_config(cfg, input_shape),
            "input_shape": input_shape,
            "num_levels": len(cfg.MODEL.ROI_HEADS.IN_FEATURES),
            "num_classes": 1 if node.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "num_conv": node.NUM_CONV,
            "conv_dim": node.CONV_DIM,
            "fusion_conv_dim": fusion.CONV_DIM,
            "norm": node.NORM,
        }

    def layers(self, x: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            x: RoI features of each level, ``(B, channels, size, size)``.

        Returns:
            Mask logits, ``(B, num_classes, 2 size, 2 size)``.
        """
        shared = self.shared(self.first(x))
        return self.mask_head.layers(shared) + self.fusion(shared)


@ROI_HEADS_REGISTRY.register()
class PANetROIHeads(StandardROIHeads):
    """``StandardROIHeads`` with an :class:`AdaptivePooler` before the box and the mask head."""

    @classmethod
    def _init_box_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_box_head(cfg, input_shape)
        return {**parts, "box_pooler": AdaptivePooler(parts["box_pooler"].level_poolers)}

    @classmethod
    def _init_mask_head(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        parts = super()._init_mask_head(cfg, input_shape)
        if not parts:
            return parts
        return {**parts, "mask_pooler": AdaptivePooler(parts["mask_pooler"].level_poolers)}
