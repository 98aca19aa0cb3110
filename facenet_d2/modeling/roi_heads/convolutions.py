"""Convolutions of the RoI heads."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm


def conv_relu(
    in_channels: int, out_channels: int, kernel_size: int = 3, *, norm: str = "", dilation: int = 1
) -> Conv2d:
    """Build a convolution that keeps the size, with normalisation, ReLU and MSRA initialisation.

    Args:
        in_channels: number of channels of the input.
        out_channels: number of channels of the output.
        kernel_size: odd size of the kernel.
        norm: normalisation, as for ``detectron2.layers.get_norm``.
        dilation: dilation of the kernel.
    """
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        bias=not norm,
        norm=get_norm(norm, out_channels),
        activation=F.relu,
    )
    weight_init.c2_msra_fill(conv)
    return conv
