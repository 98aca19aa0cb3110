"""CondInst's heads: FCOS's with the instances' parameters, and the mask features (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.fcos import FCOSHead
from torch import nn


class ControllerHead(FCOSHead):
    """Detectron2's FCOS head; its box tower predicts the parameters of the mask head too."""

    def __init__(
        self, *, num_parameters: int, conv_dims: list[int], norm: str = "GN", **kwargs: Any
    ) -> None:
        """
        Args:
            num_parameters: of an instance's mask head.
            conv_dims: channels of the towers' convolutions.
            norm: normalisation in the towers.
            kwargs: of Detectron2's head.
        """
        if norm not in ("", "BN", "SyncBN"):  # Of these it makes one for each level.
            # It tries what it is given on a single channel, which no group normalisation has.
            name = norm

            def norm(channels: int) -> nn.Module:
                return nn.Identity() if channels == 1 else get_norm(name, channels)

        super().__init__(conv_dims=conv_dims, norm=norm, **kwargs)
        self.controller = nn.Conv2d(conv_dims[-1], num_parameters, 3, padding=1)
        nn.init.normal_(self.controller.weight, std=0.01)
        nn.init.zeros_(self.controller.bias)

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], ...]:
        """
        Args:
            features: one map a level, ``(N, C, H_l, W_l)``.

        Returns:
            class logits, box distances, centerness logits and parameters of the positions of each
            level, ``(N, H_l * W_l, classes)``, 4, 1 and ``num_parameters``.
        """
        logits, distances, centerness, parameters = [], [], [], []
        for x in features:
            logits.append(_by_position(self.cls_score(self.cls_subnet(x))))
            box = self.bbox_subnet(x)
            distances.append(_by_position(self.bbox_pred(box)))
            centerness.append(_by_position(self.ctrness(box)))
            parameters.append(_by_position(self.controller(box)))
        return logits, distances, centerness, parameters


def _by_position(x: torch.Tensor) -> torch.Tensor:
    return permute_to_N_HWA_K(x, x.shape[1])


class MaskBranch(nn.Module):
    """Mask features at the finest of its levels' strides, from the sum of its levels."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_levels: int = 3,
        conv_channels: int = 128,
        num_convs: int = 4,
        out_channels: int = 8,
        norm: str = "BN",
    ) -> None:
        """
        Args:
            in_channels: channels of the levels.
            num_levels: how many, finest first.
            conv_channels: channels inside.
            num_convs: convolutions after the sum.
            out_channels: channels of the mask features.
            norm: normalisation after each convolution but the last.
        """
        super().__init__()

        def conv(channels: int) -> Conv2d:
            layer = Conv2d(
                channels,
                conv_channels,
                3,
                padding=1,
                bias=not norm,
                norm=get_norm(norm, conv_channels),
                activation=F.relu,
            )
            weight_init.c2_xavier_fill(layer)
            return layer

        self.refine = nn.ModuleList(conv(in_channels) for _ in range(num_levels))
        self.tower = nn.Sequential(*(conv(conv_channels) for _ in range(num_convs)))
        self.predict = Conv2d(conv_channels, out_channels, 1)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps ``(N, in_channels, H_l, W_l)``, finest first, to ``(N, out_channels, H_0, W_0)``."""
        fused = None
        for x, refine in zip(features, self.refine, strict=True):
            x = refine(x)
            if fused is None:
                fused = x
            else:
                fused = fused + F.interpolate(
                    x, size=fused.shape[-2:], mode="bilinear", align_corners=False
                )
        return self.predict(self.tower(fused))
