"""Sub-pixel convolution: the operator S of FACE-FPN (equation 1)."""

from __future__ import annotations

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn


def init_as_upsampling(conv: nn.Conv2d, factor: int) -> None:
    """Initialise a convolution so that it and the following pixel shuffle start as upsampling.

    The channels that become the pixels of a block start equal (ICNR, Aitken et al., 2017). The
    result is a Xavier-initialised convolution with each output pixel repeated. Independent
    initialisation would add a checkerboard of noise.

    Args:
        conv: convolution before a pixel shuffle; its number of outputs is a multiple of
            ``factor ** 2``.
        factor: factor of the pixel shuffle.
    """
    weight_init.c2_xavier_fill(conv)
    with torch.no_grad():
        conv.weight.copy_(conv.weight[:: factor**2].repeat_interleave(factor**2, dim=0))


class SubPixelConv2d(nn.Module):
    """Pixel shuffle by 2 and a 1x1 convolution, in either order.

    Shuffling first moves the channels of the coarse level into space before projecting them: the
    2048 channels of B5 become 512 at twice the size. This order has a sixteenth of the parameters;
    only with it does FACENet have about the number of Table 2.

    With the convolution first, S starts as a 1x1 convolution and nearest-neighbour upsampling, as
    each level of FPN does, and learns the differences between the four pixels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, norm: str = "", conv_first: bool = False
    ) -> None:
        """
        Args:
            in_channels: number of channels of the coarse level, a multiple of 4 if the shuffle
                comes first.
            out_channels: number of channels of the result.
            norm: normalisation of the result, a name known to
                :func:`detectron2.layers.get_norm`; "" for none.
            conv_first: whether the convolution comes before the shuffle.

        Raises:
            ValueError: if the shuffle comes first and ``in_channels`` is not a multiple of 4.
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
                f"in_channels is {in_channels}; it must be a multiple of 4 to be shuffled"
            )
        self.project = Conv2d(in_channels // 4, out_channels, kernel_size=1, bias=not norm)
        weight_init.c2_xavier_fill(self.project)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """
        Args:
            x: ``(N, in_channels, h, w)``.
            size: (H, W) of the finer level, at most (2h, 2w). A stride-2 convolution rounds odd
                sizes up: a surplus row or column is cropped, which keeps the other pixels aligned.

        Returns:
            ``(N, out_channels, H, W)``.
        """
        if self.conv_first:
            x = self.project(x)
        x = F.pixel_shuffle(x, 2)[..., : size[0], : size[1]]
        if not self.conv_first:
            x = self.project(x)
        return x if self.norm is None else self.norm(x)
