"""Atrous spatial pyramid pooling (paper, section 3.2.1, figure 2b)."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn


class ASPP(nn.Module):
    """1x1, dilated 3x3 and global average pooling branches, concatenated and projected by 1x1.

    The branches of Detectron2's own ASPP are as wide as its output. Here their width is free: full
    width would give FACENet far more parameters than the paper's Table 2.

    With a shortcut the module starts as the identity. Without one, the pooled branch makes the
    initial output mostly constant over space, which hides the features (docs/TRIALS.md).
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
            in_channels: number of channels of the input.
            out_channels: number of channels of the output.
            branch_channels: number of channels of each branch.
            dilations: dilation of each 3x3 branch.
            norm: normalisation inside the branches, a name known to
                :func:`detectron2.layers.get_norm`; "" for none.
            shortcut: whether the input is added to the output and the projection starts at zero.
                Input and output must have the same number of channels.

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
        # No normalisation: batch normalisation of one image would set the pooled pixel to zero.
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
        # The pooled branch is the same at each pixel: its part of the projection is computed once.
        of_local, of_pooled = self.project.weight.split([local.shape[1], pooled.shape[1]], dim=1)
        out = F.conv2d(local, of_local, self.project.bias) + F.conv2d(pooled, of_pooled)
        return out + x if self.shortcut else out
