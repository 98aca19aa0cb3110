"""SOLOv2's heads: category and kernel branches on the grids, and the unified mask features.

Shapes and initialisation follow SOLOv2 (Wang et al., NeurIPS 2020, sections 3.1-3.2). The
deformable convolutions in the branches are FACENet's (paper, section 3.4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from ..checks import check_choices, check_range
from ..grids.towers import conv_tower, init_normal, init_prior
from ..layers import SubPixelConv2d, append_coordinates
from ..layers.subpixel import init_as_upsampling
from .window import INITIAL_WINDOW

BRANCHES = ("category", "kernel")


class SOLOv2InstanceHead(nn.Module):
    """Class scores and the mask kernel of each cell of the S x S grids.

    With ``window``, the head also predicts the window of each mask; see
    :mod:`facenet_d2.modeling.solov2.window`.
    """

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
        deform_convs: int = 1,
        prior_prob: float = 0.01,
        window: bool = False,
    ) -> None:
        """
        Args:
            in_channels: number of channels of each pyramid level.
            num_classes: number of classes C.
            kernel_channels: length D of a mask kernel, equal to the channels of the mask features.
            num_grids: number of cells S along each side, per level.
            conv_channels: number of channels inside the two towers.
            num_convs: number of convolutions in each tower.
            norm: normalisation in the towers.
            deform_branches: branches with deformable convolutions, "category" and "kernel".
            deform_convs: number of deformable convolutions in these branches, at the end of the
                tower.
            prior_prob: initial score of every class.
            window: whether the kernel branch also predicts a window for each mask.

        Raises:
            ValueError: for an unknown branch or more deformable convolutions than ``num_convs``.
        """
        super().__init__()
        check_choices("deform_branches", deform_branches, BRANCHES)
        check_range("deform_convs", deform_convs, 0, num_convs)
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
        self.window_pred = (
            Conv2d(conv_channels, len(INITIAL_WINDOW), 3, padding=1) if window else None
        )
        init_normal(self)
        init_prior(self.category_pred, prior_prob)
        if self.window_pred is not None:
            nn.init.zeros_(self.window_pred.weight)
            with torch.no_grad():
                self.window_pred.bias.copy_(torch.tensor(INITIAL_WINDOW))

    def forward(
        self, features: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """
        Args:
            features: one map per level, each ``(N, in_channels, H_l, W_l)``.

        Returns:
            Class logits ``(N, cells, C)``, kernels ``(N, cells, D)``, and windows
            ``(N, cells, 5)`` or None. The cells of all levels follow one another, row by row:
            ``cells`` is the sum of S squared.
        """
        logits, kernels, windows = [], [], []
        for feature, grid in zip(features, self.num_grids, strict=True):
            x = F.interpolate(
                append_coordinates(feature), size=(grid, grid), mode="bilinear", align_corners=False
            )
            kernel_features = self.kernel_tower(x)
            kernels.append(self.kernel_pred(kernel_features).flatten(2))
            if self.window_pred is not None:
                windows.append(self.window_pred(kernel_features).flatten(2))
            logits.append(self.category_pred(self.category_tower(x[:, :-2])).flatten(2))
        return (
            torch.cat(logits, dim=2).transpose(1, 2),
            torch.cat(kernels, dim=2).transpose(1, 2),
            torch.cat(windows, dim=2).transpose(1, 2) if windows else None,
        )


class SOLOv2MaskHead(nn.Module):
    """Unified mask features, fused from p2..p5 at the stride of the finest level.

    With ``subpixel``, the last convolution is FACE-FPN's sub-pixel convolution S, and the features
    have half that stride. The published SOLOv2 and the paper have stride 4, where a target is too
    coarse for objects of a few pixels (docs/TRIALS.md).
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_levels: int = 4,
        conv_channels: int = 128,
        out_channels: int = 256,
        norm: str = "GN",
        subpixel: bool = False,
    ) -> None:
        """
        Args:
            in_channels: number of channels of each pyramid level.
            num_levels: number of fused levels, each half the size of the previous one.
            conv_channels: number of channels inside.
            out_channels: number of channels D of the mask features.
            norm: normalisation after each convolution.
            subpixel: whether the mask features are twice as large as the finest level.
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

        # Level i is upsampled i times by 2, each time after a convolution; level 0 has one
        # convolution. Coordinates are appended to the coarsest level.
        self.levels = nn.ModuleList()
        for level in range(num_levels):
            first = in_channels + 2 if level == num_levels - 1 else in_channels
            self.levels.append(
                nn.ModuleList(
                    conv(first if i == 0 else conv_channels, conv_channels, 3)
                    for i in range(max(level, 1))
                )
            )
        self.predict: Conv2d | SubPixelConv2d = (
            SubPixelConv2d(conv_channels, out_channels, norm=norm, conv_first=True)
            if subpixel
            else conv(conv_channels, out_channels, 1)
        )
        init_normal(self)
        if isinstance(self.predict, SubPixelConv2d):
            init_as_upsampling(self.predict.project, 2)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            features: one map per level, finest first, each ``(N, in_channels, H_l, W_l)``.

        Returns:
            Mask features, ``(N, out_channels, H_0, W_0)``, or twice as large with ``subpixel``.
        """
        features = [*features[:-1], append_coordinates(features[-1])]
        sizes = [f.shape[-2:] for f in features]
        fused = None
        for level, (x, convs) in enumerate(zip(features, self.levels, strict=True)):
            assert isinstance(convs, nn.ModuleList)
            for step, conv in enumerate(convs):
                x = conv(x)
                if level > 0:
                    x = F.interpolate(
                        x, size=sizes[level - step - 1], mode="bilinear", align_corners=False
                    )
            fused = x if fused is None else fused + x
        if isinstance(self.predict, SubPixelConv2d):
            height, width = sizes[0]
            return F.relu(self.predict(fused, (2 * height, 2 * width)))
        return self.predict(fused)
