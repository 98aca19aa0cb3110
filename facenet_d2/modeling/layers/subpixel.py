"""Sub-pixel convolution: the operator S of FACE-FPN (equation 1)."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn


def init_as_upsampling(conv: nn.Conv2d, factor: int) -> None:
    """Initialise a convolution before a pixel shuffle so that both start as upsampling.

    The channels that become the pixels of a block start equal (ICNR, Aitken et al., 2017): the
    result is that of a convolution, Xavier initialised, with each pixel repeated. Started
    independently, they would put a checkerboard of noise on it.

    Args:
        conv: convolution with ``factor ** 2`` times as many outputs as the shuffle leaves.
        factor: factor of the pixel shuffle.
    """
    weight_init.c2_xavier_fill(conv)
    with torch.no_grad():
        conv.weight.copy_(conv.weight[:: factor**2].repeat_interleave(factor**2, dim=0))


class SubPixelConv2d(nn.Module):
    """A 1x1 convolution to four times the channels, then a pixel shuffle by 2.

    It starts as a 1x1 convolution and nearest-neighbour upsampling, as FPN has on each level, and
    learns what the four pixels differ in.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "") -> None:
        """
        Args:
            in_channels: number of channels of the coarse level.
            out_channels: number of channels of the result.
            norm: normalisation of the result, a name known to
                :func:`detectron2.layers.get_norm`; empty for none.
        """
        super().__init__()
        self.expand = Conv2d(in_channels, 4 * out_channels, kernel_size=1, bias=not norm)
        self.norm = get_norm(norm, out_channels)
        init_as_upsampling(self.expand, 2)

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
        x = F.pixel_shuffle(self.expand(x), 2)[..., : size[0], : size[1]]
        return x if self.norm is None else self.norm(x)
