"""CondInst's heads: FCOS's head with the mask parameters, and the mask branch (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.fcos import FCOSHead
from torch import nn


class ControllerHead(FCOSHead):
    """Detectron2's FCOS head, whose box tower also predicts the parameters of the mask head."""

    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        conv_dims: list[int],
        norm: str,
        prior_prob: float,
        num_parameters: int,
    ) -> None:
        """
        Args:
            input_shape: shapes of the levels.
            num_classes: number of classes.
            conv_dims: number of channels of each convolution of a tower.
            norm: normalisation in the towers. "BN" and "SyncBN" are built once per level.
            prior_prob: initial score of every class.
            num_parameters: number of parameters of an instance's mask head.
        """
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            conv_dims=conv_dims,
            norm=norm if norm in ("", "BN", "SyncBN") else partial(_norm_or_identity, norm),
            prior_prob=prior_prob,
        )
        self.controller = nn.Conv2d(conv_dims[-1], num_parameters, 3, padding=1)
        nn.init.normal_(self.controller.weight, std=0.01)
        assert self.controller.bias is not None
        nn.init.zeros_(self.controller.bias)

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], ...]:
        """
        Args:
            features: one map per level, ``(N, C, H_l, W_l)``.

        Returns:
            Class logits, box distances, centerness logits and mask parameters, one tensor per level
            each: ``(N, H_l * W_l, K)`` with K = ``num_classes``, 4, 1 and ``num_parameters``.
        """
        logits, distances, centerness, parameters = [], [], [], []
        for x in features:
            logits.append(_by_position(self.cls_score(self.cls_subnet(x))))
            box = self.bbox_subnet(x)
            distances.append(_by_position(self.bbox_pred(box)))
            centerness.append(_by_position(self.ctrness(box)))
            parameters.append(_by_position(self.controller(box)))
        return logits, distances, centerness, parameters


def _norm_or_identity(name: str, channels: int) -> nn.Module:
    # Detectron2 0.6 probes the norm with a single channel, which group normalisation rejects.
    return nn.Identity() if channels == 1 else get_norm(name, channels)


def _by_position(x: torch.Tensor) -> torch.Tensor:
    return permute_to_N_HWA_K(x, x.shape[1])


class MaskBranch(nn.Module):
    """Mask features at the stride of the finest level, from the sum of all levels."""

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
            in_channels: number of channels of each level.
            num_levels: number of levels.
            conv_channels: number of channels inside.
            num_convs: number of convolutions after the sum.
            out_channels: number of channels of the mask features.
            norm: normalisation after each convolution except the last.
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
        """
        Args:
            features: one map per level, finest first, ``(N, in_channels, H_l, W_l)``.

        Returns:
            Mask features, ``(N, out_channels, H_0, W_0)``.
        """
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
