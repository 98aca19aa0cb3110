"""Heads of one stage of QueryInst (Fang et al., ICCV 2021, section 3).

The box head is that of Sparse R-CNN (Sun et al., CVPR 2021, section 3.2).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from ..layers import Attention, FeedForward


class DynamicInteraction(nn.Module):
    """Two matrices that each query predicts, applied to the features of its RoI."""

    def __init__(self, channels: int, inner_channels: int) -> None:
        """
        Args:
            channels: number of channels c of queries and features.
            inner_channels: number of channels between the two matrices.
        """
        super().__init__()
        self.shape = (channels, inner_channels)
        self.matrices = nn.Linear(channels, 2 * channels * inner_channels)
        self.inner_norm = nn.LayerNorm(inner_channels)
        self.norm = nn.LayerNorm(channels)

    def forward(self, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: features of R queries, ``(R, c)``.
            features: features of their RoIs, ``(R, pixels, c)``.

        Returns:
            ``(R, pixels, c)``, not negative.
        """
        first, second = self.matrices(queries).chunk(2, dim=1)
        x = F.relu(self.inner_norm(features @ first.unflatten(1, self.shape)))
        return F.relu(self.norm(x @ second.unflatten(1, self.shape[::-1])))


def _tower(channels: int, num_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_layers):
        layers += [nn.Linear(channels, channels, bias=False), nn.LayerNorm(channels), nn.ReLU()]
    return nn.Sequential(*layers)


class BoxHead(nn.Module):
    """Classes and boxes of the queries, from the features in their present boxes."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        resolution: int = 7,
        num_heads: int = 8,
        dynamic_channels: int = 64,
        fc_dim: int = 2048,
        prior_prob: float = 0.01,
    ) -> None:
        """
        Args:
            channels: number of channels c of queries and features.
            num_classes: number of classes C.
            resolution: height and width r of the RoI features.
            num_heads: number of heads of the attention.
            dynamic_channels: number of channels inside the dynamic interaction.
            fc_dim: number of channels inside the feed-forward layers.
            prior_prob: initial class probability.
        """
        super().__init__()
        self.attention = Attention(channels, num_heads)
        self.interaction = DynamicInteraction(channels, dynamic_channels)
        self.flatten = nn.Sequential(
            nn.Linear(channels * resolution**2, channels), nn.LayerNorm(channels), nn.ReLU()
        )
        self.norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, fc_dim)
        self.class_tower = _tower(channels, 1)
        self.class_logits = nn.Linear(channels, num_classes)
        self.box_tower = _tower(channels, 3)
        self.deltas = nn.Linear(channels, 4)
        for part in (self.interaction, self.flatten, self.class_tower, self.box_tower):
            _initialise(part)
        for layer in (self.class_logits, self.deltas):
            _initialise(layer)
        nn.init.constant_(self.class_logits.bias, -math.log((1 - prior_prob) / prior_prob))

    def forward(
        self, queries: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            queries: features of the queries, ``(N, Q, c)``.
            features: RoI features of the queries of all images in turn, ``(N * Q, c, r, r)``.

        Returns:
            Class logits ``(N, Q, C)``; box deltas ``(N, Q, 4)``; the queries after their attention
            to each other, for the mask head, ``(N, Q, c)``; the queries for the next stage,
            ``(N, Q, c)``.
        """
        attended = self.attention(queries)
        pixels = features.flatten(2).transpose(1, 2)
        seen = self.interaction(attended.flatten(0, 1), pixels)
        seen = self.flatten(seen.flatten(1)).view_as(attended)
        found = self.feed_forward(self.norm(attended + seen))
        logits = self.class_logits(self.class_tower(found))
        return logits, self.deltas(self.box_tower(found)), attended, found


class MaskHead(nn.Module):
    """Masks of queries over their new boxes."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        dynamic_channels: int = 64,
        num_convs: int = 4,
        norm: str = "BN",
    ) -> None:
        """
        Args:
            channels: number of channels c of queries and features.
            num_classes: number of classes C.
            dynamic_channels: number of channels inside the dynamic interaction.
            num_convs: number of 3x3 convolutions.
            norm: normalisation of the convolutions, over the RoIs of the batch if it is BN.
        """
        super().__init__()
        self.interaction = DynamicInteraction(channels, dynamic_channels)
        self.convs = nn.Sequential(
            *(
                Conv2d(
                    channels,
                    channels,
                    3,
                    padding=1,
                    norm=get_norm(norm, channels),
                    activation=F.relu,
                )
                for _ in range(num_convs)
            )
        )
        self.upsample = nn.ConvTranspose2d(channels, channels, 2, stride=2)
        self.predict = Conv2d(channels, num_classes, 1)
        _initialise(self)
        nn.init.zeros_(self.predict.bias)

    def forward(self, queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        """
        Args:
            queries: features of R queries after their attention to each other, ``(R, c)``.
            features: RoI features of their boxes, ``(R, c, m, m)``.

        Returns:
            Mask logits of all classes, ``(R, C, 2m, 2m)``.
        """
        x = self.interaction(queries, features.flatten(2).transpose(1, 2))
        x = x.transpose(1, 2).reshape(features.shape)
        return self.predict(F.relu(self.upsample(self.convs(x))))


def _initialise(module: nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.xavier_uniform_(parameter)
