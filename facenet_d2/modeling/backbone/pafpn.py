"""PANet's neck: an FPN followed by a bottom-up path (Liu et al., CVPR 2018; Table 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from torch import nn

from .pyramid import conv_with_norm, neck_arguments, register_neck


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
            bottom_up: bottom-up network.
            in_features: names of its features, finest first, each at twice the stride of the
                previous one.
            out_channels: number of channels of every output.
            norm: normalisation after every convolution of the neck.
            fuse_type: fusion of the FPN's levels, "sum" or "avg".
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
        """
        Args:
            x: images, ``(N, 3, H, W)``, with H and W multiples of 32.

        Returns:
            ``p2`` .. ``p6``, each ``(N, out_channels, H/2^i, W/2^i)``.
        """
        (finest, previous), *others = super().forward(x).items()
        outputs = {finest: previous}
        # The last output of the FPN, its p6, is replaced.
        for (name, p), downsample, fuse in zip(
            others[:-1], self.downsample, self.fuse, strict=True
        ):
            previous = F.relu(fuse(F.relu(downsample(previous)) + p))
            outputs[name] = previous
        outputs[others[-1][0]] = self.top_block(previous)[0]
        return outputs


@register_neck("pafpn")
def pafpn(cfg: CfgNode, bottom_up: Backbone) -> PAFPN:
    """Build PANet's neck."""
    return PAFPN(**neck_arguments(cfg, bottom_up), fuse_type=cfg.MODEL.FPN.FUSE_TYPE)
