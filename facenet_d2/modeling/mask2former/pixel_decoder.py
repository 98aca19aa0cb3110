"""Pixel decoder of Mask2Former: an encoder of deformable attention, and one step of an FPN."""

from __future__ import annotations

import math
from collections.abc import Sequence

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, get_norm
from torch import nn

from ..backbone.pyramid import conv_with_norm
from ..layers import FeedForward
from ..shapes import spatial_size
from .deformable_attention import MultiScaleDeformableAttention


def sine_positions(
    size: tuple[int, int], channels: int, device: torch.device | None = None
) -> torch.Tensor:
    """Compute sine embeddings of the pixels' rows and columns, as in DETR.

    Args:
        size: (h, w) of the map.
        channels: number of channels, a multiple of 4: the first half describes the row, the second
            the column.
        device: device of the result.

    Returns:
        ``(h * w, channels)``.
    """
    half = channels // 2
    exponents = torch.arange(0, half, 2, device=device) / half
    parts = []
    for length in size:
        places = torch.arange(1, length + 1, device=device) / length * 2 * math.pi
        angles = places[:, None] / 10000**exponents
        parts.append(torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1))
    rows, columns = parts
    h, w = size
    both = [rows[:, None].expand(h, w, half), columns.expand(h, w, half)]
    return torch.cat(both, dim=2).flatten(0, 1)


class EncoderLayer(nn.Module):
    """Deformable attention of all pixels to all levels, and a feed-forward part."""

    def __init__(
        self, channels: int, *, num_heads: int, num_levels: int, num_points: int, fc_dim: int
    ) -> None:
        """
        Args:
            channels: number of channels.
            num_heads: number of heads.
            num_levels: number of levels.
            num_points: number of points of each head on each level.
            fc_dim: number of channels inside the feed-forward part.
        """
        super().__init__()
        self.attention = MultiScaleDeformableAttention(
            channels, num_heads=num_heads, num_levels=num_levels, num_points=num_points
        )
        self.norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, fc_dim)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        places: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """
        Args:
            x: pixels of all levels in turn, ``(N, S, c)``.
            positions: their position embeddings, ``(S, c)``.
            places: their x and y as shares of the maps, ``(S, 2)``.
            sizes: (height, width) of each level.

        Returns:
            ``(N, S, c)``.
        """
        x = self.norm(x + self.attention(x + positions, places, x, sizes))
        return self.feed_forward(x)


class PixelDecoder(nn.Module):
    """Features at four strides, of which all but the finest attend to one another."""

    def __init__(
        self,
        in_channels: Sequence[int],
        *,
        channels: int = 256,
        num_layers: int = 6,
        num_heads: int = 8,
        num_points: int = 4,
        fc_dim: int = 1024,
        norm: str = "GN",
    ) -> None:
        """
        Args:
            in_channels: numbers of channels of the backbone's levels, finest first.
            channels: number of channels c of the results, a multiple of 4 and of ``num_heads``.
            num_layers: number of encoder layers.
            num_heads: number of heads of the attention.
            num_points: number of points of each head on each level.
            fc_dim: number of channels inside the feed-forward layers.
            norm: normalisation of the convolutions.
        """
        super().__init__()
        finest, *others = in_channels
        # Coarsest first, as the decoder uses them.
        projections = [Conv2d(c, channels, 1, norm=get_norm(norm, channels)) for c in others[::-1]]
        for conv in projections:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.projections = nn.ModuleList(projections)
        self.levels = nn.Embedding(len(others), channels)
        self.layers = nn.ModuleList(
            EncoderLayer(
                channels,
                num_heads=num_heads,
                num_levels=len(others),
                num_points=num_points,
                fc_dim=fc_dim,
            )
            for _ in range(num_layers)
        )
        self.lateral = conv_with_norm(finest, channels, 1, norm=norm)
        self.merged = conv_with_norm(channels, channels, 3, norm=norm)
        self.mask_features = Conv2d(channels, channels, 1)
        weight_init.c2_xavier_fill(self.mask_features)

    def forward(self, features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Args:
            features: levels of the backbone, finest first, ``(N, C_l, H_l, W_l)``.

        Returns:
            Mask features at the finest level's stride, ``(N, c, h, w)``, and the other levels,
            coarsest first, ``(N, c, h_l, w_l)``.
        """
        finest, *others = features
        maps = [conv(x) for conv, x in zip(self.projections, others[::-1], strict=True)]
        sizes = [spatial_size(x) for x in maps]
        lengths = [h * w for h, w in sizes]
        device = maps[0].device
        channels = maps[0].shape[1]
        positions = torch.cat(
            [sine_positions(s, channels, device) + e for s, e in zip(sizes, self.levels.weight)]
        )
        places = torch.cat([pixel_places(s, device) for s in sizes])
        x = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        for layer in self.layers:
            x = layer(x, positions, places, sizes)
        maps = [
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(x.split(lengths, dim=1), sizes)
        ]
        enlarged = F.interpolate(
            maps[-1], size=spatial_size(finest), mode="bilinear", align_corners=False
        )
        merged = F.relu(self.merged(self.lateral(finest) + enlarged))
        return self.mask_features(merged), maps


def pixel_places(size: tuple[int, int], device: torch.device | None = None) -> torch.Tensor:
    """Return x and y of the centres of a map's pixels as shares of the map, ``(h * w, 2)``."""
    ys, xs = ((torch.arange(n, device=device) + 0.5) / n for n in size)
    return torch.stack([xs.expand(len(ys), -1), ys[:, None].expand(-1, len(xs))], dim=2).flatten(
        0, 1
    )
