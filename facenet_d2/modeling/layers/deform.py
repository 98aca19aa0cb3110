"""Modulated deformable convolution, DCNv2 (paper, section 3.4; equation 8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from ..precision import autocast_type


def deform_conv2d_by_bags(
    x: torch.Tensor,
    offsets: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: int,
    padding: int,
    dilation: int,
    mask: torch.Tensor,
) -> torch.Tensor:
    """Compute ``torchvision.ops.deform_conv2d`` by an embedding bag and one matrix product.

    A modulated sample is the weighted sum of the four pixels around it, a bag of four rows of the
    image. On a CPU, torchvision's kernel takes several times as long, above all in the backward
    pass, which runs on one thread. This version takes K times the memory of the input.

    Args:
        x: input, ``(N, C, H, W)``.
        offsets: (dy, dx) of each tap in turn, in pixels, ``(N, 2K, H', W')``.
        weight: ``(O, C, k, k)``, K = k * k.
        bias: ``(O,)`` or None.
        stride: stride of the convolution.
        padding: padding of the convolution.
        dilation: dilation of the convolution.
        mask: modulation of each tap, ``(N, K, H', W')``.

    Returns:
        ``(N, O, H', W')``.
    """
    n, c, h, w = x.shape
    k = weight.shape[-1]
    taps = k * k
    out_h, out_w = offsets.shape[-2:]
    tap = torch.arange(taps, device=x.device)
    rows = (torch.arange(out_h, device=x.device) * stride - padding)[:, None, None]
    columns = (torch.arange(out_w, device=x.device) * stride - padding)[:, None]
    # Tensors below are (N, H', W', K): the taps of a position are contiguous, as in the product.
    dy, dx = offsets.unflatten(1, (taps, 2)).permute(2, 0, 3, 4, 1)
    y = dy + (rows + tap // k * dilation)
    x_at = dx + (columns + tap % k * dilation)
    modulation = mask.permute(0, 2, 3, 1)
    top, left = y.detach().floor(), x_at.detach().floor()
    below, right = y - top, x_at - left
    image = torch.arange(n, device=x.device).view(n, 1, 1, 1) * (h * w)
    pixels, shares = [], []
    for row, row_share in ((top, 1 - below), (top + 1, below)):
        for column, column_share in ((left, 1 - right), (left + 1, right)):
            inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
            # NaN offsets still give NaN samples; only the index must be valid.
            y_index = row.clamp(0, h - 1).nan_to_num().long()
            x_index = column.clamp(0, w - 1).nan_to_num().long()
            pixels.append(image + y_index * w + x_index)
            shares.append(row_share * column_share * inside * modulation)
    if shares[0].requires_grad and not x.requires_grad:
        # Older PyTorch (2.5, for one) cannot differentiate embedding_bag by its weights alone.
        x = x.detach().requires_grad_()
    sampled = F.embedding_bag(
        torch.stack(pixels, dim=-1).view(-1, 4),
        x.permute(0, 2, 3, 1).reshape(n * h * w, c),
        mode="sum",
        per_sample_weights=torch.stack(shares, dim=-1).view(-1, 4),
    )
    # Only this product runs in autocast's data type.
    out = F.linear(
        sampled.view(n, out_h, out_w, taps * c), weight.permute(0, 2, 3, 1).flatten(1), bias
    )
    return out.permute(0, 3, 1, 2)


class ModulatedDeformConv2d(nn.Module):
    """y(p) = sum over k of w_k * x(p + p_k + dp_k) * dm_k, with offsets and modulation learned.

    A plain convolution of the input predicts an offset (dy, dx) and a modulation in (0, 1) for each
    of the kernel's K positions. It starts at zero: no offsets, and every modulation one half.

    It uses torchvision's operator on GPUs (Detectron2's own has no CPU kernel) and
    :func:`deform_conv2d_by_bags` on CPUs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        bias: bool = True,
        norm: nn.Module | None = None,
        activation: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        """Take the arguments of :class:`detectron2.layers.Conv2d`."""
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.norm = norm
        self.activation = activation
        taps = kernel_size * kernel_size
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.conv_offset_mask = nn.Conv2d(
            in_channels, 3 * taps, kernel_size, stride=stride, padding=padding, dilation=dilation
        )
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.conv_offset_mask.weight)
        assert self.conv_offset_mask.bias is not None
        nn.init.zeros_(self.conv_offset_mask.bias)

    def offsets_and_mask(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Predict the sampling pattern for ``x``.

        Returns:
            Offsets in pixels of ``x``, (dy, dx) of each tap in turn, ``(N, 2K, H, W)``, and
            modulation in (0, 1), ``(N, K, H, W)``.
        """
        out = self.conv_offset_mask(x)
        taps = out.shape[1] // 3
        return out[:, : 2 * taps], torch.sigmoid(out[:, 2 * taps :])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Convolve ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        # Autocast is disabled: not every device has a half-precision kernel of the operator, and
        # bfloat16 rounds sampling positions to whole pixels.
        with torch.autocast(autocast_type(x.device.type), enabled=False):
            x = x.to(self.weight.dtype)
            offsets, mask = self.offsets_and_mask(x)
            if x.device.type != "cpu":
                x = deform_conv2d(x, offsets, self.weight, self.bias, mask=mask, **geometry)
        if x.device.type == "cpu":
            x = deform_conv2d_by_bags(x, offsets, self.weight, self.bias, mask=mask, **geometry)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x
