"""SOLOv2's heads: category and kernel branches on the grids, and the unified mask features.

Shapes and initialisation are those of SOLOv2 (Wang et al., NeurIPS 2020, sections 3.1-3.2); the
deformable convolutions in the branches are FACENet's (paper, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from ..grids.towers import conv_tower, init_normal, init_prior
from ..layers import append_coordinates

BRANCHES = ("category", "kernel")


class SOLOv2InstanceHead(nn.Module):
    """What is in each cell of the S x S grids: class scores and the kernel of the cell's mask."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        kernel_channels: int,
        num_grids: Sequence[int],
        conv_channels: int = 512,
        num_convs: int = 4,
        norm: str = "GN",
        deform_branches: Sequence[str] = (),
        deform_convs: int = 4,
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            in_channels: channels of the pyramid's levels.
            num_classes: number of classes C.
            kernel_channels: length D of a mask kernel; the mask features have as many channels.
            num_grids: S of each level.
            conv_channels: channels inside the two towers.
            num_convs: convolutions in each tower.
            norm: normalisation in the towers.
            deform_branches: which of "category" and "kernel" have deformable convolutions.
            deform_convs: how many of a branch's convolutions are deformable, counted from its end.
            prior_prob: the score every class starts with.

        Raises:
            ValueError: for an unknown branch or more deformable convolutions than there are.
        """
        super().__init__()
        unknown = sorted(set(deform_branches) - set(BRANCHES))
        if unknown:
            raise ValueError(
                f"MODEL.SOLOV2.DEFORM_BRANCHES names {unknown}; the branches are {list(BRANCHES)}"
            )
        if not 0 <= deform_convs <= num_convs:
            raise ValueError(
                f"MODEL.SOLOV2.DEFORM_CONVS is {deform_convs}; it must be between 0 and "
                f"MODEL.SOLOV2.NUM_CONVS, {num_convs}"
            )
        self.num_classes = num_classes
        self.num_grids = tuple(num_grids)

        def tower(branch: str, first_channels: int) -> nn.Sequential:
            deform = deform_convs if branch in deform_branches else 0
            return conv_tower(
                first_channels, conv_channels, num_convs, norm=norm, deform_convs=deform
            )

        self.category_tower = tower("category", in_channels)
        self.kernel_tower = tower("kernel", in_channels + 2)
        self.category_pred = Conv2d(conv_channels, num_classes, 3, padding=1)
        self.kernel_pred = Conv2d(conv_channels, kernel_channels, 3, padding=1)
        init_normal(self)
        init_prior(self.category_pred, prior_prob)

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            features: one map a level, each ``(N, in_channels, H_l, W_l)``.

        Returns:
            class logits ``(N, cells, C)`` and kernels ``(N, cells, D)``. The cells are those of all
            levels in turn, row by row: ``cells`` is the sum of S squared.
        """
        logits, kernels = [], []
        for feature, grid in zip(features, self.num_grids, strict=True):
            x = F.interpolate(
                append_coordinates(feature), size=(grid, grid), mode="bilinear", align_corners=False
            )
            kernels.append(self.kernel_pred(self.kernel_tower(x)).flatten(2))
            logits.append(self.category_pred(self.category_tower(x[:, :-2])).flatten(2))
        return (
            torch.cat(logits, dim=2).transpose(1, 2),
            torch.cat(kernels, dim=2).transpose(1, 2),
        )


class SOLOv2MaskHead(nn.Module):
    """Unified mask features at the finest level's stride, from p2..p5."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_levels: int = 4,
        conv_channels: int = 128,
        out_channels: int = 256,
        norm: str = "GN",
    ) -> None:
        """
        Args:
            in_channels: channels of the pyramid's levels.
            num_levels: how many levels are fused, finest first, each half the size of the one
                before.
            conv_channels: channels while fusing.
            out_channels: channels of the mask features.
            norm: normalisation after each convolution.
        """
        super().__init__()

        def conv(in_ch: int, out_ch: int, kernel_size: int) -> Conv2d:
            return Conv2d(
                in_ch,
                out_ch,
                kernel_size,
                padding=kernel_size // 2,
                bias=not norm,
                norm=get_norm(norm, out_ch),
                activation=F.relu,
            )

        # Level i is enlarged i times by 2, with a convolution before each; the finest has one.
        # Coordinates are appended to the coarsest.
        self.levels = nn.ModuleList()
        for level in range(num_levels):
            first = in_channels + 2 if level == num_levels - 1 else in_channels
            self.levels.append(
                nn.ModuleList(
                    conv(first if i == 0 else conv_channels, conv_channels, 3)
                    for i in range(max(level, 1))
                )
            )
        self.predict = conv(conv_channels, out_channels, 1)
        init_normal(self)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            features: one map a level, finest first, each ``(N, in_channels, H_l, W_l)``.

        Returns:
            mask features ``(N, out_channels, H_0, W_0)``.
        """
        features = [*features[:-1], append_coordinates(features[-1])]
        sizes = [f.shape[-2:] for f in features]
        fused = None
        for level, (x, convs) in enumerate(zip(features, self.levels, strict=True)):
            for step, conv in enumerate(convs):
                x = conv(x)
                if level > 0:
                    x = F.interpolate(
                        x, size=sizes[level - step - 1], mode="bilinear", align_corners=False
                    )
            fused = x if fused is None else fused + x
        return self.predict(fused)
