"""HRNet's neck: all levels merged and pooled to a pyramid (Wang et al., TPAMI 2020; Table 8)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import Backbone
from torch import nn

from .pyramid import STRIDES, Pyramid, conv_with_norm, neck_arguments, register_neck


class HRFPN(Pyramid):
    """M = conv1x1(concatenation of B2..B5, upsampled to stride 4), p(i) = conv3x3(AvgPool(M))."""

    def __init__(
        self, bottom_up: Backbone, in_features: Sequence[str], out_channels: int, *, norm: str = ""
    ) -> None:
        """
        Args:
            bottom_up: bottom-up network with four features at strides 4, 8, 16 and 32.
            in_features: names of the features, finest first.
            out_channels: number of channels of every output.
            norm: normalisation after every convolution of the neck.

        Raises:
            ValueError: if the features are not four at strides 4, 8, 16, 32.
        """
        super().__init__(bottom_up, in_features, out_channels)
        self.reduce = conv_with_norm(sum(self.channels), out_channels, 1, norm=norm)
        self.outputs = nn.ModuleDict(
            {
                name: conv_with_norm(out_channels, out_channels, 3, norm=norm)
                for name in self._out_features
            }
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images of any size, ``(N, 3, H, W)``.

        Returns:
            ``p2`` .. ``p6``, each ``(N, out_channels, H/2^i, W/2^i)`` rounded up.
        """
        finest, *coarser = self.bottom_up_features(x)
        size = finest.shape[-2:]
        enlarged = [
            F.interpolate(b, size=size, mode="bilinear", align_corners=False) for b in coarser
        ]
        merged = self.reduce(torch.cat([finest, *enlarged], dim=1))
        outputs = {}
        for i, (name, conv) in enumerate(self.outputs.items()):
            pooled = merged if i == 0 else F.avg_pool2d(merged, 2**i, ceil_mode=True)
            outputs[name] = conv(pooled)
        return outputs


@register_neck("hrfpn")
def hrfpn(cfg: CfgNode, bottom_up: Backbone) -> HRFPN:
    """Build HRNet's neck."""
    return HRFPN(**neck_arguments(cfg, bottom_up, strides=STRIDES))
