"""BiFPN: repeated weighted fusion in both directions (Tan et al., CVPR 2020; Table 8)."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling import Backbone
from torch import nn

from ...config_checks import check_nodes
from .pyramid import STRIDES, Pyramid, conv_with_norm, neck_arguments, register_neck


class WeightedFusion(nn.Module):
    """Fast normalised fusion, followed by swish, a depthwise 3x3 and a 1x1 convolution.

    O = conv(swish(sum_i w_i I_i / (epsilon + sum_j w_j))) with w = relu(learned), section 3.3 of
    EfficientDet. All weights start at 1.
    """

    EPSILON = 1e-4

    def __init__(self, num_inputs: int, channels: int, *, norm: str) -> None:
        """
        Args:
            num_inputs: number of fused maps.
            channels: number of channels of each map and of the result.
            norm: normalisation after the 1x1 convolution.
        """
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = Conv2d(channels, channels, 1, bias=not norm, norm=get_norm(norm, channels))
        for conv in (self.depthwise, self.pointwise):
            weight_init.c2_xavier_fill(conv)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        """Fuse maps of the same shape, ``(N, channels, h, w)``."""
        weights = F.relu(self.weights)
        weights = weights / (self.EPSILON + weights.sum())
        fused = sum(w * x for w, x in zip(weights, maps, strict=True))
        return self.pointwise(self.depthwise(F.silu(fused)))


class BiFPNLayer(nn.Module):
    """One repetition of BiFPN.

    Top-down, T(i) = fuse(P(i), up(T(i+1))). Then bottom-up, O(i) = fuse(P(i), T(i), down(O(i-1))).
    On the finest level O = T, and the coarsest has no T.
    """

    def __init__(self, num_levels: int, channels: int, *, norm: str) -> None:
        """
        Args:
            num_levels: number of levels, each half the size of the previous one.
            channels: number of channels of each level.
            norm: normalisation in each fusion.
        """
        super().__init__()
        self.top_down = nn.ModuleList(
            WeightedFusion(2, channels, norm=norm) for _ in range(num_levels - 1)
        )
        self.bottom_up = nn.ModuleList(
            WeightedFusion(3 if i < num_levels - 1 else 2, channels, norm=norm)
            for i in range(1, num_levels)
        )

    def forward(self, maps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Fuse maps, finest first, to maps of the same shapes."""
        between = [maps[-1]]
        for fuse, x in zip(reversed(self.top_down), reversed(maps[:-1]), strict=True):
            between.insert(0, fuse(x, F.interpolate(between[0], size=x.shape[-2:])))
        outputs = [between[0]]
        last = len(maps) - 1
        for i, fuse in enumerate(self.bottom_up, start=1):
            down = F.max_pool2d(outputs[-1], kernel_size=3, stride=2, padding=1)
            outputs.append(fuse(maps[i], down) if i == last else fuse(maps[i], between[i], down))
        return outputs


class BiFPN(Pyramid):
    """Repeated BiFPN layers on the projections of B2..B5 and a sixth level pooled from B5's."""

    def __init__(
        self,
        bottom_up: Backbone,
        in_features: Sequence[str],
        out_channels: int,
        *,
        repeats: int = 3,
        norm: str = "",
    ) -> None:
        """
        Args:
            bottom_up: bottom-up network with four features at strides 4, 8, 16 and 32.
            in_features: names of the features, finest first.
            out_channels: number of channels of every output.
            repeats: number of BiFPN layers.
            norm: normalisation after every convolution of the neck.

        Raises:
            ValueError: if the features are not four at strides 4, 8, 16, 32, or ``repeats`` is not
                positive.
        """
        super().__init__(bottom_up, in_features, out_channels)
        if repeats < 1:
            raise ValueError(f"repeats is {repeats}; it must be at least 1")
        self.laterals = nn.ModuleList(
            conv_with_norm(channels, out_channels, 1, norm=norm) for channels in self.channels
        )
        self.layers = nn.ModuleList(
            BiFPNLayer(len(self._out_features), out_channels, norm=norm) for _ in range(repeats)
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images of any size, ``(N, 3, H, W)``.

        Returns:
            ``p2`` .. ``p6``, each ``(N, out_channels, H/2^i, W/2^i)`` rounded up.
        """
        features = self.bottom_up_features(x)
        maps = [conv(b) for conv, b in zip(self.laterals, features, strict=True)]
        maps.append(self.top_block(maps[-1])[0])
        for layer in self.layers:
            maps = layer(maps)
        return dict(zip(self._out_features, maps, strict=True))


@register_neck("bifpn")
def bifpn(cfg: CfgNode, bottom_up: Backbone) -> BiFPN:
    """Build a BiFPN of ``MODEL.BIFPN.REPEATS`` layers."""
    check_nodes(cfg, "MODEL.BIFPN")
    arguments = neck_arguments(cfg, bottom_up, norm_node="BIFPN", strides=STRIDES)
    return BiFPN(**arguments, repeats=cfg.MODEL.BIFPN.REPEATS)
