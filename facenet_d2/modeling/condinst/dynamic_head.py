"""CondInst's mask head, with parameters predicted for each instance (CondInst, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


class DynamicMaskHead(nn.Module):
    """1x1 convolutions, with ReLU in between, of the mask features and relative coordinates.

    The module has no parameters of its own: each instance brings all weights, then all biases.
    """

    def __init__(self, in_channels: int = 8, *, channels: int = 8, num_convs: int = 3) -> None:
        """
        Args:
            in_channels: number of channels of the mask features. Two coordinates are prepended.
            channels: number of channels between the convolutions.
            num_convs: number of convolutions; the last one has one output channel.
        """
        super().__init__()
        widths = [in_channels + 2, *[channels] * (num_convs - 1), 1]
        self.shapes = list(zip(widths[1:], widths[:-1]))
        self.sizes = [o * i for o, i in self.shapes] + [o for o, _ in self.shapes]

    @property
    def num_parameters(self) -> int:
        """Number of parameters of an instance, 169 in the published model."""
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
            mask_features: mask features of one image, ``(in_channels, h, w)``.
            parameters: parameters of K instances, ``(K, num_parameters)``.
            centers: position (x, y) that found each instance, in pixels of the network's input,
                ``(K, 2)``.
            scales: divisors of the relative coordinates, in pixels of the network's input,
                ``(K,)``.
            stride: stride of the mask features.

        Returns:
            Mask logits, ``(K, h, w)``.
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
        for i, (shape, weight, bias) in enumerate(
            zip(self.shapes, pieces[:layers], pieces[layers:], strict=True)
        ):
            x = torch.baddbmm(bias[:, :, None], weight.view(count, *shape), x)
            if i < layers - 1:
                x = F.relu(x)
        return x.view(count, height, width)
