"""Atrous spatial pyramid pooling (paper, section 3.2.1, figure 2b)."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn


class ASPP(nn.Module):
    """1x1, three dilated 3x3 and global average pooling, concatenated and projected by 1x1.

    Detectron2's own ASPP gives its branches as many channels as its output has. Here the width of
    the branches is free, since full width would put FACENet far over the paper's Table 2.

    With a shortcut the module starts as the identity. At a random start its output is mostly
    constant over space, by the pooled branch, and hides the features behind it (docs/TRIALS.md).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        branch_channels: int,
        dilations: Sequence[int] = (6, 12, 18),
        norm: str = "GN",
        shortcut: bool = False,
    ) -> None:
        """
        Args:
            in_channels: channels of the input.
            out_channels: channels of the output.
            branch_channels: channels of each branch before the concatenation.
            dilations: dilation rates of the 3x3 branches.
            norm: normalisation inside the branches, a name known to
                :func:`detectron2.layers.get_norm`; empty for none.
            shortcut: add the input to the output, and start the projection at zero. Input and
                output must have as many channels.

        Raises:
            ValueError: for a shortcut between different numbers of channels.
        """
        super().__init__()
        if shortcut and in_channels != out_channels:
            raise ValueError(f"a shortcut cannot add {in_channels} to {out_channels} channels")

        def branch(kernel_size: int, dilation: int = 1) -> Conv2d:
            return Conv2d(
                in_channels,
                branch_channels,
                kernel_size,
                padding=dilation * (kernel_size // 2),
                dilation=dilation,
                bias=not norm,
                norm=get_norm(norm, branch_channels),
                activation=F.relu,
            )

        self.branches = nn.ModuleList([branch(1), *(branch(3, d) for d in dilations)])
        # No normalisation on the pooled branch: its map is one pixel large, and batch
        # normalisation over one image would set it to zero.
        self.pooled = Conv2d(in_channels, branch_channels, 1, activation=F.relu)
        self.project = Conv2d((len(dilations) + 2) * branch_channels, out_channels, 1)
        for conv in [*self.branches, self.pooled]:
            weight_init.c2_msra_fill(conv)
        weight_init.c2_xavier_fill(self.project)
        self.shortcut = shortcut
        if shortcut:
            nn.init.zeros_(self.project.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        local = torch.cat([branch(x) for branch in self.branches], dim=1)
        pooled = self.pooled(x.mean(dim=(2, 3), keepdim=True))
        # The projection of the concatenation by parts: the pooled part is the same at each pixel.
        of_local, of_pooled = self.project.weight.split([local.shape[1], pooled.shape[1]], dim=1)
        out = F.conv2d(local, of_local, self.project.bias) + F.conv2d(pooled, of_pooled)
        return out + x if self.shortcut else out
