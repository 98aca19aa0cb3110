"""Multi-scale deformable attention (Deformable DETR, Zhu et al., ICLR 2021, section 4.1).

The publication's operator is CUDA code. Here ``grid_sample`` samples the maps, on CPUs and GPUs,
which keeps the samples of a layer for the backward pass: their number is positions times channels
times ``num_levels * num_points``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn


class MultiScaleDeformableAttention(nn.Module):
    """Attention of each query to a few points around its place on each level."""

    def __init__(
        self, channels: int, *, num_heads: int = 8, num_levels: int = 3, num_points: int = 4
    ) -> None:
        """
        Args:
            channels: number of channels c, a multiple of ``num_heads``.
            num_heads: number of heads.
            num_levels: number of levels.
            num_points: number of points of each head on each level.
        """
        super().__init__()
        self.shape = (num_heads, num_levels, num_points)
        self.offsets = nn.Linear(channels, 2 * math.prod(self.shape))
        self.weights = nn.Linear(channels, math.prod(self.shape))
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        for layer in (self.offsets, self.weights):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.weights.bias)
        self._spread_points()
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    @torch.no_grad()
    def _spread_points(self) -> None:
        """Start with the heads' points in directions of their own, at 1, 2, ... pixels."""
        num_heads, num_levels, num_points = self.shape
        angles = torch.arange(num_heads) * (2 * math.pi / num_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        directions /= directions.abs().amax(dim=1, keepdim=True)
        distances = torch.arange(1, num_points + 1)
        points = directions[:, None, None] * distances[:, None]
        self.offsets.bias.copy_(points.expand(-1, num_levels, -1, -1).flatten())

    def forward(
        self,
        queries: torch.Tensor,
        places: torch.Tensor,
        memory: torch.Tensor,
        sizes: Sequence[tuple[int, int]],
    ) -> torch.Tensor:
        """
        Args:
            queries: features of the queries, ``(N, Q, c)``.
            places: x and y of the queries as shares of the maps, ``(Q, 2)``.
            memory: pixels of all levels in turn, ``(N, S, c)``.
            sizes: (height, width) of each level.

        Returns:
            ``(N, Q, c)``.
        """
        num_heads, num_levels, num_points = self.shape
        # Half precision has too few digits for places on large maps.
        with torch.autocast(queries.device.type, enabled=False):
            queries = queries.float()
            offsets = self.offsets(queries).unflatten(2, (*self.shape, 2))
            weights = self.weights(queries).unflatten(2, (num_heads, num_levels * num_points))
            weights = weights.softmax(dim=3).unflatten(3, (num_levels, num_points))
            scale = offsets.new_tensor([[w, h] for h, w in sizes])[:, None]
            points = places[:, None, None, None] + offsets / scale
            values = self.value(memory.float()).unflatten(2, (num_heads, -1))
            found = sample_levels(values, points, weights, sizes)
            return self.output(found.flatten(2))


def sample_levels(
    values: torch.Tensor,
    points: torch.Tensor,
    weights: torch.Tensor,
    sizes: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """Sum the weighted values at the points of all levels.

    Args:
        values: pixels of all levels in turn, for each head, ``(N, S, heads, d)``.
        points: x and y as shares of the map, ``(N, Q, heads, levels, points, 2)``. Values outside
            of the map are 0.
        weights: ``(N, Q, heads, levels, points)``.
        sizes: (height, width) of each level.

    Returns:
        ``(N, Q, heads, d)``.
    """
    number, num_heads = values.shape[0], values.shape[2]
    # From -1 to 1 over the map.
    grids = (2 * points - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]
    found = values.new_zeros(())
    for level, part in enumerate(values.split([h * w for h, w in sizes], dim=1)):
        maps = part.permute(0, 2, 3, 1).flatten(0, 1).unflatten(2, sizes[level])
        samples = F.grid_sample(maps, grids[:, :, level], align_corners=False)
        found = found + (samples * weights[:, :, :, level]).sum(dim=3)
    return found.unflatten(0, (number, num_heads)).permute(0, 3, 1, 2)
