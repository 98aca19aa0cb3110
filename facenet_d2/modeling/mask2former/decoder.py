"""Decoder of Mask2Former (Cheng et al., CVPR 2022, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..layers import Attention, FeedForward
from ..shapes import spatial_size
from .pixel_decoder import sine_positions


class DecoderLayer(nn.Module):
    """Masked attention to a level, attention of the queries to each other, feed-forward part."""

    def __init__(self, channels: int, *, num_heads: int, fc_dim: int) -> None:
        """
        Args:
            channels: number of channels.
            num_heads: number of heads.
            fc_dim: number of channels inside the feed-forward part.
        """
        super().__init__()
        self.cross_attention = Attention(channels, num_heads)
        self.self_attention = Attention(channels, num_heads)
        self.feed_forward = FeedForward(channels, fc_dim)

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        memory: torch.Tensor,
        memory_positions: torch.Tensor,
        allowed: torch.Tensor,
    ) -> torch.Tensor:
        """
        Args:
            x: queries, ``(N, Q, c)``.
            positions: position embeddings of the queries, ``(Q, c)``.
            memory: pixels of the level, ``(N, L, c)``.
            memory_positions: their position embeddings, ``(L, c)``.
            allowed: pixels that each query may attend to, ``(N, Q, L)`` bool.

        Returns:
            ``(N, Q, c)``.
        """
        x = self.cross_attention(
            x, memory, position=positions, memory_position=memory_positions, allowed=allowed
        )
        return self.feed_forward(self.self_attention(x, position=positions))


class QueryDecoder(nn.Module):
    """Learned queries that attend to the pixels of their present masks, level after level."""

    def __init__(
        self,
        channels: int,
        num_classes: int,
        *,
        num_queries: int = 100,
        num_levels: int = 3,
        num_layers: int = 9,
        num_heads: int = 8,
        fc_dim: int = 2048,
    ) -> None:
        """
        Args:
            channels: number of channels c.
            num_classes: number of classes C.
            num_queries: number of queries Q.
            num_levels: number of levels, which the layers use in turn.
            num_layers: number of layers.
            num_heads: number of heads of the attention.
            fc_dim: number of channels inside the feed-forward parts.
        """
        super().__init__()
        self.queries = nn.Embedding(num_queries, channels)
        self.query_positions = nn.Embedding(num_queries, channels)
        self.levels = nn.Embedding(num_levels, channels)
        self.layers = nn.ModuleList(
            DecoderLayer(channels, num_heads=num_heads, fc_dim=fc_dim) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.class_logits = nn.Linear(channels, num_classes + 1)
        self.mask_embedding = nn.Sequential(
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
            nn.ReLU(),
            nn.Linear(channels, channels),
        )

    def forward(
        self, mask_features: torch.Tensor, levels: Sequence[torch.Tensor]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """
        Args:
            mask_features: ``(N, c, H/4, W/4)``.
            levels: maps that the layers attend to, coarsest first, ``(N, c, h_l, w_l)``.

        Returns:
            Class logits, background last, ``(N, Q, C + 1)``, and mask logits,
            ``(N, Q, H/4, W/4)``, before the first and after each layer; in evaluation mode after
            the last one only.
        """
        sizes = [spatial_size(x) for x in levels]
        channels, device = mask_features.shape[1], mask_features.device
        memories = [x.flatten(2).transpose(1, 2) + e for x, e in zip(levels, self.levels.weight)]
        places = [sine_positions(s, channels, device) for s in sizes]
        positions = self.query_positions.weight
        x = self.queries.weight.repeat(len(mask_features), 1, 1)
        logits, masks = self._predict(x, mask_features)
        every = [(logits, masks)]
        for i, layer in enumerate(self.layers):
            level = i % len(levels)
            allowed = attended_pixels(masks, sizes[level])
            x = layer(x, positions, memories[level], places[level], allowed)
            logits, masks = self._predict(x, mask_features)
            every.append((logits, masks))
        all_logits, all_masks = zip(*(every if self.training else every[-1:]))
        return [*all_logits], [*all_masks]

    def _predict(
        self, x: torch.Tensor, mask_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.norm(x)
        masks = self.mask_embedding(x) @ mask_features.flatten(2)
        return self.class_logits(x), masks.unflatten(2, spatial_size(mask_features))


@torch.no_grad()
def attended_pixels(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Find the pixels of a level that each query may attend to.

    Args:
        masks: mask logits, ``(N, Q, H/4, W/4)``.
        size: (h, w) of the level.

    Returns:
        The pixels of the mask, or all pixels if the mask has none, ``(N, Q, h * w)`` bool.
    """
    small = F.interpolate(masks.float(), size=size, mode="bilinear", align_corners=False)
    inside = small.flatten(2) >= 0
    return inside | ~inside.any(dim=2, keepdim=True)
