"""BiFPN: weighted fusion both ways, repeated (Tan et al., CVPR 2020; paper, Table 8)."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling import BACKBONE_REGISTRY, Backbone, build_resnet_backbone
from torch import nn

from .pyramid import Pyramid, build_bottom_up, conv_with_norm, neck_arguments


class WeightedFusion(nn.Module):
    """Fast normalised fusion, then swish, a depthwise 3x3 and a 1x1 convolution.

    O = conv(swish(sum_i w_i I_i / (epsilon + sum_j w_j))) with w = relu(learned), section 3.3 of
    EfficientDet. The weights start equal.
    """

    EPSILON = 1e-4

    def __init__(self, num_inputs: int, channels: int, *, norm: str) -> None:
        """
        Args:
            num_inputs: how many maps are fused.
            channels: of each of them and of the result.
            norm: normalisation after the convolution.
        """
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_inputs))
        self.depthwise = Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = Conv2d(channels, channels, 1, bias=not norm, norm=get_norm(norm, channels))
        for conv in (self.depthwise, self.pointwise):
            weight_init.c2_xavier_fill(conv)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        """Maps of one shape, ``(N, channels, h, w)``, to one."""
        weights = F.relu(self.weights)
        weights = weights / (self.EPSILON + weights.sum())
        fused = sum(w * x for w, x in zip(weights, maps, strict=True))
        return self.pointwise(self.depthwise(F.silu(fused)))


class BiFPNLayer(nn.Module):
    """One repetition: top-down, T(i) = fuse(P(i), up(T(i+1))), then bottom-up,
    O(i) = fuse(P(i), T(i), down(O(i-1))); the finest is T, the coarsest has no T.
    """

    def __init__(self, num_levels: int, channels: int, *, norm: str) -> None:
        """
        Args:
            num_levels: levels of the pyramid, each half the size of the one before.
            channels: of each.
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
        """Maps, finest first, to as many of the same shapes."""
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
    """B2..B5 projected by 1x1 convolutions, p6 pooled from B5's, then repeated BiFPN layers."""

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
            bottom_up: gives four features at strides 4, 8, 16 and 32.
            in_features: their names, finest first.
            out_channels: channels of every output.
            repeats: BiFPN layers one after another.
            norm: normalisation after every convolution of the neck.

        Raises:
            ValueError: where the features are not four at strides 4, 8, 16, 32, or ``repeats`` is
                below 1.
        """
        super().__init__(bottom_up, in_features, out_channels)
        if repeats < 1:
            raise ValueError(f"MODEL.BIFPN.REPEATS is {repeats}; it must be at least 1")
        self.laterals = nn.ModuleList(
            conv_with_norm(channels, out_channels, 1, norm=norm) for channels in self.channels
        )
        self.layers = nn.ModuleList(
            BiFPNLayer(len(self._out_features), out_channels, norm=norm) for _ in range(repeats)
        )

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x: images, ``(N, 3, H, W)``, of any size.

        Returns:
            ``p2`` .. ``p6``, each ``(N, out_channels, H/2^i, W/2^i)`` rounded up.
        """
        features = self.bottom_up_features(x)
        maps = [conv(b) for conv, b in zip(self.laterals, features, strict=True)]
        maps.append(self.top_block(maps[-1])[0])
        for layer in self.layers:
            maps = layer(maps)
        return dict(zip(self._out_features, maps, strict=True))


def bifpn(cfg: CfgNode, bottom_up: Backbone) -> BiFPN:
    """BiFPN of ``MODEL.BIFPN.REPEATS`` layers on a bottom-up network."""
    arguments = neck_arguments(cfg, bottom_up, norm_node="BIFPN")
    return BiFPN(**arguments, repeats=cfg.MODEL.BIFPN.REPEATS)


@BACKBONE_REGISTRY.register()
def build_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BiFPN:
    """The bottom-up network of ``MODEL.BOTTOM_UP`` with this neck."""
    return bifpn(cfg, build_bottom_up(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_resnet_bifpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> BiFPN:
    """ResNet with this neck."""
    return bifpn(cfg, build_resnet_backbone(cfg, input_shape))
