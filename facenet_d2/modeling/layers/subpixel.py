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
    """Pixel shuffle by 2 and a 1x1 convolution, in either order.

    Shuffling first moves the channels of the coarse level into space before anything is dropped:
    the 2048 channels of B5 become 512 at twice the size, and only those are projected. It has a
    sixteenth of the parameters, and only with it FACENet has about as many as Table 2 says.

    With the convolution first, S starts as a 1x1 convolution and nearest-neighbour upsampling, as
    FPN has on each level, and learns what the four pixels differ in.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: str = "", conv_first: bool = False
    ) -> None:
        """
        Args:
            in_channels: number of channels of the coarse level, a multiple of 4 where they are
                shuffled first.
            out_channels: number of channels of the result.
            norm: normalisation of the result, a name known to
                :func:`detectron2.layers.get_norm`; empty for none.
            conv_first: whether the convolution comes before the shuffle.

        Raises:
            ValueError: where ``in_channels`` are to be shuffled and not a multiple of 4.
        """
        super().__init__()
        self.conv_first = conv_first
        self.norm = get_norm(norm, out_channels)
        if conv_first:
            self.project = Conv2d(in_channels, 4 * out_channels, kernel_size=1, bias=not norm)
            init_as_upsampling(self.project, 2)
            return
        if in_channels % 4:
            raise ValueError(
                f"in_channels must be a multiple of 4 to be shuffled, not {in_channels}"
            )
        self.project = Conv2d(in_channels // 4, out_channels, kernel_size=1, bias=not norm)
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
        if self.conv_first:
            x = self.project(x)
        x = F.pixel_shuffle(x, 2)[..., : size[0], : size[1]]
        if not self.conv_first:
            x = self.project(x)
        return x if self.norm is None else self.norm(x)
