"""SOLO's heads: class scores on the grids, and a mask channel for each cell.

Shapes and initialisation follow SOLO (Wang et al., ECCV 2020, section 3; decoupled head, 3.4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

from ..grids.towers import conv_tower, init_normal, init_prior
from ..layers import append_coordinates
from ..losses import dice_loss, pair_losses
from ..precision import full_precision


class SOLOHead(nn.Module, ABC):
    """Base class of SOLO's heads: towers of convolutions, then layers that predict."""

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
            in_channels: number of channels of each pyramid level.
            num_grids: number of cells S along each side, per level.
            conv_channels: number of channels inside each tower.
            num_convs: number of convolutions in each tower.
            norm: normalisation in the towers.
            prior_prob: initial probability that the layers at the end predict.
        """
        super().__init__()
        self.num_grids = tuple(num_grids)

        def tower(coordinates: int) -> nn.Sequential:
            return conv_tower(in_channels + coordinates, conv_channels, num_convs, norm=norm)

        predictions = [*self._build(tower, conv_channels)]
        init_normal(self)
        for conv in predictions:
            init_prior(conv, prior_prob)

    @abstractmethod
    def _build(self, tower: Callable[[int], nn.Sequential], channels: int) -> Iterable[nn.Conv2d]:
        """Create the layers.

        Args:
            tower: function that builds a tower, given the number of coordinate channels that are
                appended to its input.
            channels: number of channels of a tower's output.

        Returns:
            The layers that predict probabilities.
        """


class CategoryHead(SOLOHead):
    """Class scores of the cells of all levels, by one tower of convolutions."""

    def __init__(self, in_channels: int, *, num_classes: int, **towers: Any) -> None:
        """
        Args:
            in_channels: number of channels of each pyramid level.
            num_classes: number of classes C.
            towers: the other arguments of :class:`SOLOHead`.
        """
        self.num_classes = num_classes
        super().__init__(in_channels, **towers)

    def _build(self, tower: Callable[[int], nn.Sequential], channels: int) -> Iterable[nn.Conv2d]:
        self.tower = tower(0)
        self.predict = Conv2d(channels, self.num_classes, 3, padding=1)
        return [self.predict]

    def forward(self, features: Sequence[torch.Tensor]) -> torch.Tensor:
        """
        Args:
            features: one map per level, ``(N, in_channels, H_l, W_l)``.

        Returns:
            Class logits of the cells of all levels in turn, ``(N, cells, C)``.
        """
        logits = []
        for feature, grid in zip(features, self.num_grids, strict=True):
            x = F.interpolate(feature, size=(grid, grid), mode="bilinear", align_corners=False)
            logits.append(self.predict(self.tower(x)).flatten(2))
        return torch.cat(logits, dim=2).transpose(1, 2)


class MaskHead(SOLOHead):
    """Base class of the mask heads: one map per level, from which the masks of cells follow."""

    @abstractmethod
    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Compute the maps of the levels.

        Args:
            features: one map per level, ``(N, in_channels, H_l, W_l)``.

        Returns:
            One map per level, ``(N, ..., 2 H_l, 2 W_l)``.
        """

    def prepare(self, features: torch.Tensor) -> torch.Tensor:
        """Convert one image's map of a level, ``(..., 2 H_l, 2 W_l)``, for :meth:`logits`."""
        return features

    @abstractmethod
    def logits(self, features: torch.Tensor, level: int, cells: torch.Tensor) -> torch.Tensor:
        """Compute the mask logits of K cells of a level.

        Args:
            features: result of :meth:`prepare`.
            level: index of the level.
            cells: indices of the cells in their grid, ``(K,)`` int64.

        Returns:
            Logits, ``(K, 2 H_l, 2 W_l)`` float32.
        """

    @abstractmethod
    def losses(
        self,
        features: torch.Tensor,
        level: int,
        cells: torch.Tensor,
        masks: torch.Tensor,
        owners: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the Dice losses of P pairs of a cell and an instance.

        Args:
            features: one image's map of the level, ``(..., 2 H_l, 2 W_l)``.
            level: index of the level.
            cells: cell of each pair, ``(P,)`` int64.
            masks: masks of the instances, ``(N, 2 H_l, 2 W_l)`` bool.
            owners: index of the mask of each pair, ``(P,)`` int64.

        Returns:
            Losses, ``(P,)``.
        """


class SOLOMaskHead(MaskHead):
    """One tower; a 1x1 convolution with S^2 kernels predicts one mask per cell.

    The convolution is computed for the requested cells alone: the S^2 maps of the finest level of
    an 800-pixel image take 256 MB, and training and inference need few of them.
    """

    def _build(self, tower: Callable[[int], nn.Sequential], channels: int) -> Iterable[nn.Conv2d]:
        self.tower = tower(2)
        predict = [Conv2d(channels, s * s, 1) for s in self.num_grids]
        self.predict = nn.ModuleList(predict)
        return predict

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        return [_doubled(self.tower(append_coordinates(x))) for x in features]

    def _kernels(self, level: int, cells: torch.Tensor) -> torch.Tensor:
        """Return the weights and the bias of each cell, ``(K, conv_channels + 1)``."""
        conv = self.predict[level]
        assert isinstance(conv, Conv2d)
        return torch.cat([conv.weight[cells, :, 0, 0], conv.bias[cells, None]], dim=1)

    def prepare(self, features: torch.Tensor) -> torch.Tensor:
        return _with_ones(features.float()).unflatten(1, features.shape[1:])

    def logits(self, features: torch.Tensor, level: int, cells: torch.Tensor) -> torch.Tensor:
        with full_precision(features.device.type):
            product = self._kernels(level, cells).float() @ features.flatten(1)
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
    """Two towers with S maps each: the mask of the cell in column j and row i is X_j * Y_i.

    ``prior_prob`` is the initial probability of both factors.
    """

    def _build(self, tower: Callable[[int], nn.Sequential], channels: int) -> Iterable[nn.Conv2d]:
        self.tower_x = tower(1)
        self.tower_y = tower(1)
        self.predict_x, self.predict_y = (
            nn.ModuleList(Conv2d(channels, s, 3, padding=1) for s in self.num_grids)
            for _ in range(2)
        )
        return [*self.predict_x, *self.predict_y]

    def forward(self, features: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the logits of X, then of Y, of each level: ``(N, 2S, 2 H_l, 2 W_l)``."""
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
        # Only the maps of some columns and rows are needed.
        some, places = torch.cat([cells % grid, grid + cells // grid]).unique(return_inverse=True)
        factors = features[some].float().sigmoid()
        return factors[places[: len(cells)]] * factors[places[len(cells) :]]

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
    """Append a channel of ones for the bias: ``(D, h, w)`` to ``(D + 1, h * w)``."""
    return torch.cat([features.flatten(1), features.new_ones(1, features[0].numel())])


def _logit(probabilities: torch.Tensor) -> torch.Tensor:
    return torch.logit(probabilities, eps=1e-6)


def enlarged_logits(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize masks by interpolating their probabilities.

    Args:
        logits: ``(K, h, w)``.
        size: (H, W) of the result.

    Returns:
        Logits, ``(K, H, W)``.
    """
    if logits.shape[-2:] == size:
        return logits
    probabilities = F.interpolate(
        logits.sigmoid()[None], size=size, mode="bilinear", align_corners=False
    )
    return _logit(probabilities[0])
