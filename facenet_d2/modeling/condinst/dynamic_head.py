"""CondInst's mask head, whose weights are predicted for each instance (CondInst, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class DynamicMaskHead(nn.Module):
    """A few 1x1 convolutions with ReLU between, on the mask features and relative coordinates.

    It has no parameters: each instance brings its own, all weights first, then all biases.
    """

    def __init__(self, in_channels: int = 8, *, channels: int = 8, num_convs: int = 3) -> None:
        """
        Args:
            in_channels: channels of the mask features; two coordinates come before them.
            channels: between the convolutions.
            num_convs: how many there are; the last gives one channel.
        """
        super().__init__()
        widths = [in_channels + 2, *[channels] * (num_convs - 1), 1]
        self.shapes = list(zip(widths[1:], widths[:-1]))
        self.sizes = [o * i for o, i in self.shapes] + [o for o, _ in self.shapes]

    @property
    def num_parameters(self) -> int:
        """Length of an instance's parameters: 169 as published."""
        return sum(self.sizes)

    def forward(
        self,
        mask_features: torch.Tensor,
        parameters: torch.Tensor,
        centers: torch.Tensor,
        scales: torch.Tensor,
        stride: int,
    ) -> torch.Tensor:
        """
        Args:
            mask_features: of one image, ``(in_channels, h, w)``.
            parameters: of K instances, ``(K, num_parameters)``.
            centers: where each was found, ``(K, 2)``, (x, y) in pixels of the network's input.
            scales: what its relative coordinates are divided by, ``(K,)``, in the same.
            stride: of the mask features.

        Returns:
            mask logits, ``(K, h, w)``.
        """
        height, width = mask_features.shape[-2:]
        places = torch.arange(max(height, width), device=centers.device) * stride + stride / 2
        dx = (centers[:, :1] - places[:width]) / scales[:, None]
        dy = (centers[:, 1:] - places[:height]) / scales[:, None]
        count = len(parameters)
        x = torch.cat(
            [
                dx[:, None, None, :].expand(count, 1, height, width),
                dy[:, None, :, None].expand(count, 1, height, width),
                mask_features.expand(count, -1, -1, -1),
            ],
            dim=1,
        ).flatten(2)
        pieces = parameters.split(self.sizes, dim=1)
        layers = len(self.shapes)
        for number, (shape, weight, bias) in enumerate(
            zip(self.shapes, pieces[:layers], pieces[layers:], strict=True)
        ):
            x = torch.baddbmm(bias[:, :, None], weight.view(count, *shape), x)
            if number < layers - 1:
                x = F.relu(x)
        return x.view(count, height, width)
