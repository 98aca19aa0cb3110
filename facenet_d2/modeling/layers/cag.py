"""Channel attention guidance, CAG (paper, section 3.2.3; equations 4 and 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class ChannelAttentionGuidance(nn.Module):
    """CA(I) = sigmoid(fc1(GAP(I)) + fc2(GMP(I))): one weight per channel (equation 4).

    The pooled vectors are normalised over their channels. Otherwise the sigmoid saturates for a
    large I, such as features of EfficientNet-Lite0, and suppresses channels entirely.
    """

    def __init__(self, channels: int) -> None:
        """
        Args:
            channels: number of channels of the integrated map I and of the weighted levels.
        """
        super().__init__()
        self.fc_avg = nn.Linear(channels, channels)
        self.fc_max = nn.Linear(channels, channels)
        # Weights start near sigmoid(2) = 0.88, so that no channel is suppressed.
        for fc in (self.fc_avg, self.fc_max):
            nn.init.normal_(fc.weight, std=0.01)
            nn.init.ones_(fc.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute weights in (0, 1), ``(N, C, 1, 1)``, from I, ``(N, C, H, W)``."""
        channels = x.shape[1:2]
        average = F.layer_norm(x.mean(dim=(2, 3)), channels)
        maximum = F.layer_norm(x.amax(dim=(2, 3)), channels)
        return torch.sigmoid(self.fc_avg(average) + self.fc_max(maximum))[:, :, None, None]
