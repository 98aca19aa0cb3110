"""Semantic enhancement module, SEM (paper, section 3.3; equations 6 and 7)."""

from __future__ import annotations

from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn


class SemanticEnhancementModule(nn.Module):
    """x = phi(B2); SEM(B2) = phi'(sum over i of C3x3_i(x)) + B2 (equations 6 and 7).

    With a bottleneck ResNet, B2 has ``out_channels`` (256) channels; otherwise the residual is x,
    the projected B2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        branch_channels: int,
        dilations: Sequence[int] = (1, 2, 3),
        norm: str = "GN",
        projection_norm: str = "",
        residual: bool = True,
    ) -> None:
        """
        Args:
            in_channels: number of channels of B2.
            out_channels: number of channels of the result.
            branch_channels: number of channels of the dilated convolutions.
            dilations: dilation of each parallel 3x3 convolution.
            norm: normalisation after the dilated convolutions, a name known to
                :func:`detectron2.layers.get_norm`; "" for none.
            projection_norm: normalisation after phi, which replaces the lateral convolution of an
                FPN.
            residual: whether B2, or x if the channels differ, is added; False for a case of
                Table 7.
        """
        super().__init__()
        self.residual = residual
        self.reduce = Conv2d(
            in_channels,
            out_channels,
            1,
            bias=not projection_norm,
            norm=get_norm(projection_norm, out_channels),
        )
        self.branches = nn.ModuleList(
            Conv2d(
                out_channels,
                branch_channels,
                3,
                padding=d,
                dilation=d,
                bias=not norm,
                norm=get_norm(norm, branch_channels),
                activation=F.relu,
            )
            for d in dilations
        )
        self.expand = Conv2d(branch_channels, out_channels, 1)
        for branch in self.branches:
            weight_init.c2_msra_fill(branch)
        weight_init.c2_xavier_fill(self.reduce)
        weight_init.c2_xavier_fill(self.expand)
        if residual:
            # The module starts as its residual.
            nn.init.zeros_(self.expand.weight)

    def forward(self, b2: torch.Tensor) -> torch.Tensor:
        """Enhance B2, ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        x = self.reduce(b2)
        enhanced = self.expand(sum(branch(x) for branch in self.branches))
        if not self.residual:
            return enhanced
        return enhanced + (b2 if b2.shape[1] == enhanced.shape[1] else x)
