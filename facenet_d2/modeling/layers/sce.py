"""Sub-pixel context enhancement, SCE (paper, section 3.2.2; equation 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from .subpixel import init_as_upsampling


class SubPixelContextEnhancement(nn.Module):
    """Local, wide and global context of the coarsest level, summed at twice its size.

    SCE(B5) = S2(C3x3(B5)) + S4(phi(MaxPool(B5))) + phi(GAP(B5)), where S2 and S4 are pixel shuffles
    by 2 and 4. The paper's text calls the middle pooling global, but a 4x shuffle must start from
    half of B5's size to reach twice that size. As in the published CE-FPN, it is a 3x3 maximum with
    stride 2.
    """

    def __init__(self, in_channels: int, out_channels: int, *, norm: str = "") -> None:
        """
        Args:
            in_channels: number of channels of B5.
            out_channels: number of channels of the result.
            norm: normalisation after the first two convolutions, a name known to
                :func:`detectron2.layers.get_norm`; "" for none.
        """
        super().__init__()
        self.local = Conv2d(
            in_channels,
            4 * out_channels,
            3,
            padding=1,
            bias=not norm,
            norm=get_norm(norm, 4 * out_channels),
        )
        self.wide = Conv2d(
            in_channels,
            16 * out_channels,
            1,
            bias=not norm,
            norm=get_norm(norm, 16 * out_channels),
        )
        self.globally = Conv2d(in_channels, out_channels, 1)
        init_as_upsampling(self.local, 2)
        init_as_upsampling(self.wide, 4)
        # Starts at zero: a spatially constant term would dominate the other two branches.
        nn.init.zeros_(self.globally.weight)
        nn.init.zeros_(self.globally.bias)

    def forward(self, x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """
        Args:
            x: B5, ``(N, in_channels, h, w)``.
            size: (H, W) of the next finer level, at most (2h, 2w). Larger maps are cropped.

        Returns:
            ``(N, out_channels, H, W)``.
        """
        h, w = size
        local = F.pixel_shuffle(self.local(x), 2)[..., :h, :w]
        pooled = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        wide = F.pixel_shuffle(self.wide(pooled), 4)[..., :h, :w]
        return local + wide + self.globally(x.mean(dim=(2, 3), keepdim=True))
