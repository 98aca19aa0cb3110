"""SOLO's heads: class scores on the grids, and a mask channel for each cell.

Shapes and initialisation are those of SOLO (Wang et al., ECCV 2020, section 3; decoupled, 3.4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

from ..grids.towers import conv_tower, init_normal, init_prior
from ..layers import append_coordinates
from ..losses import dice_loss, pair_losses


class CategoryHead(nn.Module):
    """Class scores of the cells of all levels, by one tower of convolutions."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_classes: int,
        num_grids: Sequence[int],
        conv_channels: int = 256,
        num_convs: int = 7,
        norm: str = "GN",
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            in_channels: channels of the pyramid's levels.
            num_classes: number of classes C.
            num_grids: S of each level.
            conv_channels: channels inside the tower.
            num_convs: convolutions in the tower.
            norm: normalisation in the tower.
            prior_prob: the score every class starts with.
        """
        super().__init__()
        self.num_classes = num_classes
        self.num_grids = tuple(num_grids)
        self.tower = conv_tower(in_channels, conv_channels, num_convs, norm=norm)
        self.predict = Conv2d(conv_channels, num_classes, 3, padding=1)
        init_normal(self)
        init_prior(self.predict, prior_prob)

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """Maps ``(N, in_channels, H_l, W_l)`` to logits ``(N, cells, C)``, all levels in turn."""
        logits = []
        for feature, grid in zip(features, self.num_grids, strict=True):
            x = F.interpolate(feature, size=(grid, grid), mode="bilinear", align_corners=False)
            logits.append(self.predict(self.tower(x)).flatten(2))
        return torch.cat(logits, dim=2).transpose(1, 2)


class MaskHead(nn.Module, ABC):
    """Maps at twice the size of each level, of which every cell of the level's grid has a mask."""

    num_grids: tuple[int, ...]

    @abstractmethod
    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Levels ``(N, in_channels, H_l, W_l)`` to one map each, ``(N, ..., 2 H_l, 2 W_l)``."""

    @abstractmethod
    def logits(self, features: torch.Tensor, level: int, cells: torch.Tensor) -> torch.Tensor:
        """Of the masks of K cells of a level: one image's map to ``(K, 2 H_l, 2 W_l)``."""

    @abstractmethod
    def losses(
        self,
        features: torch.Tensor,
        level: int,
        cells: torch.Tensor,
        masks: torch.Tensor,
        owners: torch.Tensor,
    ) -> torch.Tensor:
        """Dice losses of P pairs of a cell and an instance, ``(P,)``.

        Args:
            features: one image's map of the level.
            level: its number.
            cells: ``(P,)`` int64.
            masks: ``(N, 2 H_l, 2 W_l)`` bool.
            owners: ``(P,)`` int64, the mask of each pair.
        """


class SOLOMaskHead(MaskHead):
    """One tower; cell k's mask is a 1x1 convolution of its output with the k-th of S^2 kernels.

    The last convolution is applied for the cells that are asked for alone: of the S^2 maps of a
    finest level at 800 pixels, 256 MB, training and inference need few.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        num_grids: Sequence[int],
        conv_channels: int = 256,
        num_convs: int = 7,
        norm: str = "GN",
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            in_channels: channels of the pyramid's levels.
            num_grids: S of each level.
            conv_channels: channels inside the tower.
            num_convs: convolutions in the tower.
            norm: normalisation in the tower.
            prior_prob: the probability every pixel starts with.
        """
        super().__init__()
        self.num_grids = tuple(num_grids)
        self.tower = conv_tower(in_channels + 2, conv_channels, num_convs, norm=norm)
        self.predict = nn.ModuleList(Conv2d(conv_channels, s * s, 1) for s in num_grids)
        init_normal(self)
        for conv in self.predict:
            init_prior(conv, prior_prob)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [_doubled(self.tower(append_coordinates(x))) for x in features]

    def _kernels(self, level: int, cells: torch.Tensor) -> torch.Tensor:
        """``(K, conv_channels + 1)``, the bias last."""
        conv = self.predict[level]
        return torch.cat([conv.weight[cells, :, 0, 0], conv.bias[cells, None]], dim=1)

    def logits(self, features: torch.Tensor, level: int, cells: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):
            product = self._kernels(level, cells).float() @ _with_ones(features.float())
        return product.unflatten(1, features.shape[-2:])

    def losses(
        self,
        features: torch.Tensor,
        level: int,
        cells: torch.Tensor,
        masks: torch.Tensor,
        owners: torch.Tensor,
    ) -> torch.Tensor:
        kernels = self._kernels(level, cells)
        return pair_losses(kernels, _with_ones(features), masks.flatten(1), owners)


class DecoupledMaskHead(MaskHead):
    """Two towers, of S maps each: the mask of the cell in column j and row i is X_j * Y_i."""

    def __init__(
        self,
        in_channels: int,
        *,
        num_grids: Sequence[int],
        conv_channels: int = 256,
        num_convs: int = 7,
        norm: str = "GN",
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            in_channels: channels of the pyramid's levels.
            num_grids: S of each level.
            conv_channels: channels inside the towers.
            num_convs: convolutions in each tower.
            norm: normalisation in the towers.
            prior_prob: the probability every pixel of both factors starts with.
        """
        super().__init__()
        self.num_grids = tuple(num_grids)
        self.tower_x = conv_tower(in_channels + 1, conv_channels, num_convs, norm=norm)
        self.tower_y = conv_tower(in_channels + 1, conv_channels, num_convs, norm=norm)
        self.predict_x, self.predict_y = (
            nn.ModuleList(Conv2d(conv_channels, s, 3, padding=1) for s in num_grids)
            for _ in range(2)
        )
        init_normal(self)
        for conv in (*self.predict_x, *self.predict_y):
            init_prior(conv, prior_prob)

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Logits of X and Y, one after the other: ``(N, 2S, 2 H_l, 2 W_l)``."""
        maps = []
        for feature, to_x, to_y in zip(features, self.predict_x, self.predict_y, strict=True):
            x = append_coordinates(feature)
            x, y = self.tower_x(x[:, :-1]), self.tower_y(torch.cat([feature, x[:, -1:]], dim=1))
            maps.append(torch.cat([to_x(_doubled(x)), to_y(_doubled(y))], dim=1))
        return maps

    def _probabilities(
        self, features: torch.Tensor, level: int, cells: torch.Tensor
    ) -> torch.Tensor:
        grid = self.num_grids[level]
        maps = features.float().sigmoid()
        return maps[cells % grid] * maps[grid + cells // grid]

    def logits(self, features: torch.Tensor, level: int, cells: torch.Tensor) -> torch.Tensor:
        return _logit(self._probabilities(features, level, cells))

    def losses(
        self,
        features: torch.Tensor,
        level: int,
        cells: torch.Tensor,
        masks: torch.Tensor,
        owners: torch.Tensor,
    ) -> torch.Tensor:
        return dice_loss(self._probabilities(features, level, cells), masks[owners].float())


def _doubled(x: torch.Tensor) -> torch.Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _with_ones(features: torch.Tensor) -> torch.Tensor:
    """``(D, h, w)`` to ``(D + 1, h * w)``: what a bias is multiplied with comes last."""
    return torch.cat([features.flatten(1), features.new_ones(1, features[0].numel())])


def _logit(probabilities: torch.Tensor) -> torch.Tensor:
    return torch.logit(probabilities, eps=1e-6)


def enlarged_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """``(K, h, w)`` to ``(K, *size)``; it is the probabilities that are scaled."""
    if logits.shape[-2:] == size:
        return logits
    probabilities = F.interpolate(
        logits.sigmoid()[None], size=size, mode="bilinear", align_corners=False
    )
    return _logit(probabilities[0])
