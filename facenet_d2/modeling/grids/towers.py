"""Layers and initialisation shared by the heads of SOLO and SOLOv2."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from ..layers import ModulatedDeformConv2d

# Strides of the levels under the grids. The last level can be left out.
LEVEL_STRIDES = (4, 8, 16, 32, 64)


def conv_tower(
    in_channels: int, channels: int, num_convs: int, *, norm: str, deform_convs: int = 0
) -> nn.Sequential:
    """Build 3x3 convolutions with normalisation and ReLU, the last ``deform_convs`` deformable."""
    return nn.Sequential(
        *(
            (ModulatedDeformConv2d if i >= num_convs - deform_convs else Conv2d)(
                in_channels if i == 0 else channels,
                channels,
                kernel_size=3,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, channels),
                activation=F.relu,
            )
            for i in range(num_convs)
        )
    )


def init_prior(conv: nn.Conv2d, probability: float) -> None:
    """Set the bias of a convolution so that the sigmoid of its output starts near a probability."""
    assert conv.bias is not None
    nn.init.constant_(conv.bias, -math.log((1 - probability) / probability))


def init_normal(module: nn.Module) -> None:
    """Initialise all convolutions: normal weights with standard deviation 0.01, zero biases."""
    for m in module.modules():
        if isinstance(m, (nn.Conv2d, ModulatedDeformConv2d)):
            nn.init.normal_(m.weight, std=0.01)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
    # The convolutions inside deformable ones predict offsets, which start at zero.
    for m in module.modules():
        if isinstance(m, ModulatedDeformConv2d):
            nn.init.zeros_(m.conv_offset_mask.weight)


def resize_instance_features(
    features: Mapping[str, torch.Tensor], names: Sequence[str]
) -> list[torch.Tensor]:
    """Resize p2 to half its size and p6 to the size of p5: strides 8, 8, 16, 32, 32.

    Without p6, p5 keeps its size: strides 8, 8, 16, 32.

    Args:
        features: feature pyramid by level name.
        names: names of p2 to p5 or p2 to p6, finest first.

    Returns:
        One map per grid.
    """
    maps = [features[name] for name in names]
    maps[0] = F.interpolate(
        maps[0],
        scale_factor=0.5,
        mode="bilinear",
        align_corners=False,
        recompute_scale_factor=False,
    )
    if len(maps) == len(LEVEL_STRIDES):
        maps[-1] = F.interpolate(
            maps[-1], size=maps[-2].shape[-2:], mode="bilinear", align_corners=False
        )
    return maps
