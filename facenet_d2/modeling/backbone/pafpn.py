"""PANet's neck: an FPN and a bottom-up path after it (Liu et al., CVPR 2018; paper, Table 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from .pyramid import build_bottom_up, conv_with_norm, neck_arguments


class PAFPN(FPN):
    """FPN's P2..P5, then N2 = P2, N(i+1) = relu(conv3x3(relu(conv3x3, stride 2 (N(i))) + P(i+1))).

    The outputs p2..p5 are N2..N5, p6 is p5 at half size.
    """

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        norm: str = "",
        fuse_type: str = "sum",
    ) -> None:
        """
        Args:
            bottom_up: gives features, each at twice the stride of the one before.
            in_features: their names, finest first.
            out_channels: channels of every output.
            norm: normalisation after every convolution of the neck.
            fuse_type: how the FPN adds its levels, "sum" or "avg".
        """
        super().__init__(
            bottom_up,
            in_features,
            out_channels,
            norm=norm,
            top_block=LastLevelMaxPool(),
            fuse_type=fuse_type,
        )
        steps = range(len(in_features) - 1)
        self.downsample = nn.ModuleList(
            conv_with_norm(out_channels, out_channels, 3, norm=norm, stride=2) for _ in steps
        )
        self.fuse = nn.ModuleList(
            conv_with_norm(out_channels, out_channels, 3, norm=norm) for _ in steps
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images ``(N, 3, H, W)``, H and W multiples of 32, to ``p2`` .. ``p6``."""
        (finest, previous), *others = super().forward(x).items()
        outputs = {finest: previous}
        # The last of the FPN's is its own p6.
        for (name, p), downsample, fuse in zip(
            others[:-1], self.downsample, self.fuse, strict=True
        ):
            previous = F.relu(fuse(F.relu(downsample(previous)) + p))
            outputs[name] = previous
        outputs[others[-1][0]] = self.top_block(previous)[0]
        return outputs


def pafpn(cfg: CfgNode, bottom_up: Backbone) -> PAFPN:
    """PANet's neck on a bottom-up network."""
    return PAFPN(**neck_arguments(cfg, bottom_up), fuse_type=cfg.MODEL.FPN.FUSE_TYPE)


@BACKBONE_REGISTRY.register()
def build_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """The bottom-up network of ``MODEL.BOTTOM_UP`` with this neck."""
    return pafpn(cfg, build_bottom_up(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_resnet_pafpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> PAFPN:
    """ResNet with this neck."""
    return pafpn(cfg, build_resnet_backbone(cfg, input_shape))
