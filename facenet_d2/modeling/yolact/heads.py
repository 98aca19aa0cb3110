"""YOLACT's heads: predictions of the anchors, and prototype masks.

Shapes and initialisation follow YOLACT (Bolya et al., ICCV 2019, sections 3.1-3.3, 5).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from torch import nn


def xavier_conv(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, relu: bool = True
) -> Conv2d:
    """Build a convolution with Xavier initialisation and zero bias, optionally followed by ReLU."""
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        activation=F.relu if relu else None,
    )
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(conv.bias)
    return conv


def _tower(in_channels: int, channels: int, num_convs: int) -> nn.Sequential:
    return nn.Sequential(
        *(xavier_conv(in_channels if i == 0 else channels, channels) for i in range(num_convs))
    )


class AnchorHead(nn.Module):
    """Class scores, box and mask coefficients of each anchor; all levels share the layers."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_anchors: int,
        num_prototypes: int = 32,
        conv_channels: int = 256,
        num_convs: int = 1,
    ) -> None:
        """
        Args:
            in_channels: number of channels of each level.
            num_classes: number of classes C.
            num_anchors: number of anchors at each position.
            num_prototypes: number of prototypes k, and of the coefficients of each anchor.
            conv_channels: number of channels of the shared convolutions.
            num_convs: number of shared convolutions.
        """
        super().__init__()
        self.shared = _tower(in_channels, conv_channels, num_convs)
        channels = conv_channels if num_convs else in_channels
        self.outputs = (num_classes + 1, 4, num_prototypes)
        self.predict = nn.ModuleList(
            xavier_conv(channels, num_anchors * k, relu=False) for k in self.outputs
        )

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """
        Args:
            features: one map per level, ``(N, in_channels, H_l, W_l)``.

        Returns:
            Predictions of the R anchors of all levels in turn: class logits ``(N, R, C + 1)``,
            background last, box deltas ``(N, R, 4)`` and coefficients between -1 and 1,
            ``(N, R, k)``.
        """
        shared = [self.shared(x) for x in features]
        logits, deltas, coefficients = (
            torch.cat([permute_to_N_HWA_K(conv(x), k) for x in shared], dim=1)
            for conv, k in zip(self.predict, self.outputs, strict=True)
        )
        return logits, deltas, coefficients.tanh()


class PrototypeHead(nn.Module):
    """Prototype masks at twice the size of the level they are computed from."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_prototypes: int = 32,
        conv_channels: int = 256,
        num_convs: int = 3,
    ) -> None:
        """
        Args:
            in_channels: number of channels of the level.
            num_prototypes: number of prototypes k.
            conv_channels: number of channels inside.
            num_convs: number of 3x3 convolutions before upsampling; one more follows.
        """
        super().__init__()
        self.before = _tower(in_channels, conv_channels, num_convs)
        self.after = xavier_conv(conv_channels if num_convs else in_channels, conv_channels)
        self.predict = xavier_conv(conv_channels, num_prototypes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute non-negative prototypes, ``(N, in_channels, h, w)`` to ``(N, k, 2h, 2w)``."""
        x = F.interpolate(self.before(x), scale_factor=2, mode="bilinear", align_corners=False)
        return self.predict(self.after(x))
