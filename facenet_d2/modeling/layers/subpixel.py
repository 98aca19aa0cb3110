"""Sub-pixel convolution: the operator S of FACE-FPN (equation 1)."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn


class SubPixelConv2d(nn.Module):
    """Pixel shuffle by 2, then a 1x1 convolution.

    Shuffling first moves the channels of the coarse level into space before anything is dropped:
    the 2048 channels of B5 become 512 at twice the size, and only those are projected.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "") -> None:
        """
        Args:
            in_channels: channels of the coarse level, a multiple of 4.
            out_channels: channels of the result.
            norm: normalisation after the convolution, a name known to
                :func:`detectron2.layers.get_norm`; empty for none.

        Raises:
            ValueError: where ``in_channels`` is not a multiple of 4.
        """
        super().__init__()
        if in_channels % 4:
            raise ValueError(
                f"in_channels must be a multiple of 4 to be shuffled, not {in_channels}"
            )
        self.project = Conv2d(
            in_channels // 4,
            out_channels,
            kernel_size=1,
            bias=not norm,
            norm=get_norm(norm, out_channels),
        )
        weight_init.c2_xavier_fill(self.project)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """
        Args:
            x: ``(N, in_channels, h, w)``.
            size: the (H, W) of the finer level, at most (2h, 2w). A stride-2 convolution rounds an
                odd size up, so a row or column can be left over; it is cut off, which keeps the
                remaining pixels aligned.

        Returns:
            ``(N, out_channels, H, W)``.
        """
        x = F.pixel_shuffle(x, 2)[..., : size[0], : size[1]]
        return self.project(x)
