"""RDSNet's heads: three towers over the anchors, and the pixel branch (RDSNet, section 3)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, CycleBatchNormList, get_norm
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from torch import nn


def _conv(in_channels: int, out_channels: int, norm: nn.Module | None) -> Conv2d:
    """Build a 3x3 convolution with an optional norm and ReLU."""
    return Conv2d(
        in_channels,
        out_channels,
        3,
        padding=1,
        bias=norm is None,
        norm=norm,
        activation=F.relu,
    )


def _norm_of_levels(name: str, channels: int, num_levels: int) -> nn.Module | None:
    """Build a norm for maps of all levels in turn; batch norm has statistics for each level."""
    batch_norms = {"BN": nn.BatchNorm2d, "SyncBN": nn.SyncBatchNorm}
    if name in batch_norms:
        return CycleBatchNormList(num_levels, bn_class=batch_norms[name], num_features=channels)
    return get_norm(name, channels)


def _zero_bias(conv: nn.Conv2d) -> None:
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class AnchorHead(nn.Module):
    """Class scores, boxes and representations of the anchors, each with a tower of its own.

    All levels share the layers.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_levels: int,
        num_classes: int,
        num_anchors: int,
        representation_channels: int = 32,
        conv_channels: int = 256,
        num_convs: int = 4,
        norm: str = "GN",
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            in_channels: number of channels of each level.
            num_levels: number of levels.
            num_classes: number of classes C.
            num_anchors: number of anchors at each position.
            representation_channels: number of channels k of the pixel map. Each anchor has 2k.
            conv_channels: number of channels of the towers.
            num_convs: number of convolutions of each tower.
            norm: normalisation in the towers. "BN" and "SyncBN" have statistics for each level.
            prior_prob: initial score of every class.
        """
        super().__init__()
        self.outputs = (num_classes, 4, 2 * representation_channels)

        def tower() -> nn.Sequential:
            return nn.Sequential(
                *(
                    _conv(
                        conv_channels if i else in_channels,
                        conv_channels,
                        _norm_of_levels(norm, conv_channels, num_levels),
                    )
                    for i in range(num_convs)
                )
            )

        self.towers = nn.ModuleList(tower() for _ in self.outputs)
        predict = [
            Conv2d(conv_channels if num_convs else in_channels, num_anchors * k, 3, padding=1)
            for k in self.outputs
        ]
        self.predict = nn.ModuleList(predict)
        for conv in self.modules():
            if isinstance(conv, nn.Conv2d):
                nn.init.normal_(conv.weight, std=0.01)
                _zero_bias(conv)
        nn.init.constant_(predict[0].bias, math.log(prior_prob / (1 - prior_prob)))

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], ...]:
        """
        Args:
            features: one map per level, ``(N, in_channels, H_l, W_l)``.

        Returns:
            Class logits, box deltas and representations, one tensor per level each: ``(N, R_l, K)``
            with K = C, 4 and 2k, where R_l is the number of anchors.
        """
        logits, deltas, representations = (
            [permute_to_N_HWA_K(predict(tower(x)), k) for x in features]
            for tower, predict, k in zip(self.towers, self.predict, self.outputs, strict=True)
        )
        return logits, deltas, representations


class PixelBranch(nn.Module):
    """Pixel map at twice the size of the finest level, from the sum of all levels.

    A level passes a convolution before each doubling, so that all arrive at the finest level's
    size; the finest level has one convolution. After the sum there are one more convolution, a
    doubling, and the output layer.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_levels: int = 3,
        conv_channels: int = 256,
        out_channels: int = 32,
        norm: str = "GN",
    ) -> None:
        """
        Args:
            in_channels: number of channels of each level.
            num_levels: number of levels.
            conv_channels: number of channels inside.
            out_channels: number of channels of the pixel map.
            norm: normalisation after each convolution except the last.
        """
        super().__init__()

        def conv(channels: int) -> Conv2d:
            layer = _conv(channels, conv_channels, get_norm(norm, conv_channels))
            nn.init.xavier_uniform_(layer.weight)
            _zero_bias(layer)
            return layer

        # Published with the corners aligned, as this layer does.
        double = nn.UpsamplingBilinear2d(scale_factor=2)
        self.lateral = nn.ModuleList([nn.Sequential(conv(in_channels))])
        for level in range(1, num_levels):
            layers: list[nn.Module] = []
            for i in range(level):
                layers += [conv(conv_channels if i else in_channels), double]
            self.lateral.append(nn.Sequential(*layers))
        self.after = nn.Sequential(conv(conv_channels), double)
        self.predict = Conv2d(conv_channels, out_channels, 1)
        nn.init.normal_(self.predict.weight, std=0.01)
        _zero_bias(self.predict)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            features: one map per level, finest first, each half as large as the previous one,
                ``(N, in_channels, H_l, W_l)``.

        Returns:
            Pixel map, ``(N, out_channels, 2 H_0, 2 W_0)``.
        """
        first, *others = (lateral(x) for x, lateral in zip(features, self.lateral, strict=True))
        return self.predict(self.after(sum(others, first)))
