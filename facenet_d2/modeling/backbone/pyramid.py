"""What every neck of this project has in common with Detectron2's FPN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool

from ..checks import check_norm


class Pyramid(Backbone):
    """A bottom-up network with a neck on top; gives p2..p6, all of the same channels.

    Attributes:
        bottom_up: gives B2..B5.
        channels: of B2..B5.
        top_block: makes p6 of p5 by taking every other pixel, as Detectron2's FPN does.
    """

    def __init__(self, bottom_up: Backbone, in_features: Sequence[str], out_channels: int) -> None:
        """
        Args:
            bottom_up: gives four features at strides 4, 8, 16 and 32.
            in_features: their names, finest first (``res2`` .. ``res5``).
            out_channels: channels of every output.

        Raises:
            ValueError: where the features are not four at strides 4, 8, 16, 32.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        strides = [shapes[f].stride for f in in_features]
        if strides != [4, 8, 16, 32]:
            raise ValueError(
                f"{type(self).__name__} needs bottom-up features at strides 4, 8, 16, 32 "
                f"(MODEL.FPN.IN_FEATURES res2, res3, res4, res5), not {list(in_features)} at "
                f"strides {strides}"
            )
        self.bottom_up = bottom_up
        self.in_features = tuple(in_features)
        self.channels = [shapes[f].channels for f in in_features]
        self.top_block = LastLevelMaxPool()
        self._out_features = ["p2", "p3", "p4", "p5", "p6"]
        self._out_feature_strides = {f"p{i}": 2**i for i in range(2, 7)}
        self._out_feature_channels = dict.fromkeys(self._out_features, out_channels)

    @property
    def size_divisibility(self) -> int:
        """Images are padded to multiples of this, so that all levels fit on each other."""
        return 32

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility}

    def bottom_up_features(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Images ``(N, 3, H, W)`` to B2..B5, each ``(N, C_i, H/2^i, W/2^i)`` rounded up."""
        features = self.bottom_up(x)
        return [features[f] for f in self.in_features]


def conv_with_norm(
    in_channels: int, out_channels: int, kernel_size: int, *, norm: str, stride: int = 1
) -> Conv2d:
    """A convolution of a neck, as those of Detectron2's FPN: Xavier, no activation."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
    )
    weight_init.c2_xavier_fill(conv)
    return conv


def build_bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The bottom-up network that ``MODEL.BOTTOM_UP.NAME`` names.

    Raises:
        ValueError: where no builder of that name is registered.
    """
    name = cfg.MODEL.BOTTOM_UP.NAME
    if name not in BACKBONE_REGISTRY:
        raise ValueError(
            f"MODEL.BOTTOM_UP.NAME is {name!r}, but no such backbone builder is registered; "
            "build_resnet_backbone and build_timm_backbone are"
        )
    return BACKBONE_REGISTRY.get(name)(cfg, input_shape)


def neck_arguments(cfg: CfgNode, bottom_up: Backbone, *, norm_node: str = "FPN") -> dict[str, Any]:
    """Arguments that all necks share, from ``MODEL.FPN``.

    Args:
        cfg: the whole config.
        bottom_up: the bottom-up network.
        norm_node: the node of ``MODEL`` whose ``NORM`` the neck has.
    """
    fpn, norm = cfg.MODEL.FPN, cfg.MODEL[norm_node].NORM
    check_norm(f"MODEL.{norm_node}.NORM", norm, "MODEL.FPN.OUT_CHANNELS", fpn.OUT_CHANNELS)
    return {
        "bottom_up": bottom_up,
        "in_features": fpn.IN_FEATURES,
        "out_channels": fpn.OUT_CHANNELS,
        "norm": norm,
    }
