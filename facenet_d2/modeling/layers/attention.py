"""Layers of transformers with the normalisation after each residual connection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    """Multi-head attention, the residual connection and a layer normalisation.

    It is written with single layers because ``nn.MultiheadAttention`` switches to a fused operator
    in inference, which hides its products from :mod:`facenet_d2.analysis`, and because it needs a
    copy of the mask for each head.
    """

    def __init__(self, channels: int, num_heads: int) -> None:
        """
        Args:
            channels: number of channels c, a multiple of ``num_heads``.
            num_heads: number of heads.
        """
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.output = nn.Linear(channels, channels)
        self.norm = nn.LayerNorm(channels)
        for layer in (self.query, self.key, self.value):
            # As if the three were one layer, as in nn.MultiheadAttention.
            nn.init.xavier_uniform_(layer.weight, gain=0.5**0.5)
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor | None = None,
        *,
        position: torch.Tensor | None = None,
        memory_position: torch.Tensor | None = None,
        allowed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            x: queries, ``(N, Q, c)``.
            memory: what they attend to, ``(N, L, c)``; by default the queries themselves.
            position: position embeddings of the queries, added to queries but not to values,
                ``(N, Q, c)`` or ``(Q, c)``.
            memory_position: position embeddings of the memory, added to keys, ``(N, L, c)`` or
                ``(L, c)``; by default ``position`` if there is no memory.
            allowed: which parts of the memory a query may attend to, ``(N, Q, L)`` bool.

        Returns:
            ``(N, Q, c)``.
        """
        if memory is None:
            memory, memory_position = x, position
        query = self._heads(self.query(x if position is None else x + position))
        key = self._heads(self.key(memory if memory_position is None else memory + memory_position))
        value = self._heads(self.value(memory))
        mask = None if allowed is None else allowed[:, None]
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.norm(x + self.output(found.transpose(1, 2).flatten(2)))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (self.num_heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between them, the residual and a layer normalisation."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        """
        Args:
            channels: number of channels c.
            hidden_channels: number of channels between the two layers.
        """
        super().__init__()
        self.expand = nn.Linear(channels, hidden_channels)
        self.reduce = nn.Linear(hidden_channels, channels)
        self.norm = nn.LayerNorm(channels)
        for layer in (self.expand, self.reduce):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``(..., c)`` to ``(..., c)``."""
        return self.norm(x + self.reduce(F.relu(self.expand(x))))
