"""YOLACT's heads: what each anchor is, prototype masks, and classes at each pixel.

Shapes and initialisation are those of YOLACT (Bolya et al., ICCV 2019, sections 3.1-3.3, 5).
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
    """A convolution of YOLACT: Xavier's initialisation, no bias at first, ReLU where it says so."""
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
    """Of each anchor: class scores, a box and mask coefficients; the same layers for all levels."""

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
            in_channels: channels of the levels.
            num_classes: number of classes C.
            num_anchors: anchors at each position, A.
            num_prototypes: coefficients of each, k.
            conv_channels: channels of the shared convolutions.
            num_convs: how many there are.
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
            features: one map a level, ``(N, in_channels, H_l, W_l)``.

        Returns:
            class logits ``(N, R, C + 1)``, background last, box deltas ``(N, R, 4)`` and
            coefficients ``(N, R, k)`` between -1 and 1, of the R anchors of all levels in turn.
        """
        shared = [self.shared(x) for x in features]
        logits, deltas, coefficients = (
            torch.cat([permute_to_N_HWA_K(conv(x), k) for x in shared], dim=1)
            for conv, k in zip(self.predict, self.outputs, strict=True)
        )
        return logits, deltas, coefficients.tanh()


class PrototypeHead(nn.Module):
    """Prototype masks at twice the size of a level."""

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
            in_channels: channels of the level.
            num_prototypes: how many, k.
            conv_channels: channels inside.
            num_convs: 3x3 convolutions before the map is enlarged; one more follows.
        """
        super().__init__()
        self.before = _tower(in_channels, conv_channels, num_convs)
        self.after = xavier_conv(conv_channels if num_convs else in_channels, conv_channels)
        self.predict = xavier_conv(conv_channels, num_prototypes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, in_channels, h, w)`` to ``(N, k, 2h, 2w)``, none negative."""
        x = F.interpolate(self.before(x), scale_factor=2, mode="bilinear", align_corners=False)
        return self.predict(self.after(x))
