"""Modulated deformable convolution, DCNv2 (paper, section 3.4; equation 8)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d


def deform_conv2d_by_sampling(
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
    """``torchvision.ops.deform_conv2d`` as bilinear sampling and one matrix product.

    On two CPU cores it takes a ninth to a third of the time of torchvision's kernel, whose backward
    pass runs on one of them (forward and backward together, 8x64x24x24: 0.028 s against 0.251 s;
    1x512x40x40: 0.25 s against 0.79 s). It holds K copies of the input, so it is not for a GPU.

    Args:
        x: ``(N, C, H, W)``.
        offsets: ``(N, 2K, H', W')``, (dy, dx) of each tap in turn, in pixels.
        weight: ``(O, C, k, k)``, K = k * k.
        bias: ``(O,)`` or None.
        stride: as of a plain convolution.
        padding: as of a plain convolution.
        dilation: as of a plain convolution.
        mask: ``(N, K, H', W')``, the modulation.

    Returns:
        ``(N, O, H', W')``.
    """
    n, c, h, w = x.shape
    k = weight.shape[-1]
    taps = k * k
    out_h, out_w = offsets.shape[-2:]
    dy, dx = offsets.unflatten(1, (taps, 2)).unbind(2)
    tap = torch.arange(taps, device=x.device)
    rows = torch.arange(out_h, device=x.device) * stride - padding
    columns = torch.arange(out_w, device=x.device) * stride - padding
    y = dy + (rows[None, :, None] + (tap // k * dilation)[:, None, None])
    x_at = dx + (columns[None, None, :] + (tap % k * dilation)[:, None, None])
    # In grid_sample's coordinates, -1 and 1 are the outer edges of the first and last pixel.
    grid = torch.stack([(2 * x_at + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1)
    sampled = F.grid_sample(
        x.contiguous(),
        grid.flatten(1, 2),
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )
    modulated = sampled.view(n, c, taps, out_h * out_w) * mask.flatten(2)[:, None]
    # The one thing that autocast may do in lower precision; types of sampling stay as they are.
    # A batched product: matmul would make one product of the batch, and transpose it twice.
    weights = weight.flatten(1).expand(n, -1, -1)
    out = torch.bmm(weights, modulated.flatten(1, 2)).view(n, -1, out_h, out_w)
    return out if bias is None else out + bias.view(1, -1, 1, 1)


class ModulatedDeformConv2d(nn.Module):
    """y(p) = sum over k of w_k * x(p + p_k + dp_k) * dm_k, with offsets and modulation learned.

    A plain convolution of the input predicts, at every position, an offset (dy, dx) and a
    modulation in (0, 1) for each of the kernel's K positions. It starts at zero: no offsets, every
    modulation one half.

    Built on torchvision's operator (Detectron2's own has no CPU kernel), and on
    :func:`deform_conv2d_by_sampling` where torchvision's would be slow.
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
        """The arguments are those of :class:`detectron2.layers.Conv2d`."""
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
        nn.init.zeros_(self.conv_offset_mask.bias)

    def offsets_and_mask(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The learned sampling pattern for ``x``.

        Returns:
            offsets ``(N, 2K, H, W)`` in pixels of ``x``, (dy, dx) for each tap in turn, and
            modulation ``(N, K, H, W)`` in (0, 1).
        """
        out = self.conv_offset_mask(x)
        taps = out.shape[1] // 3
        return out[:, : 2 * taps], torch.sigmoid(out[:, 2 * taps :])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')`` as a plain convolution."""
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        # In the parameters' own precision also under autocast: the operator has no half-precision
        # kernel on every device, and sampling positions lose whole pixels in bfloat16.
        with torch.autocast(device_type=x.device.type, enabled=False):
            x = x.to(self.weight.dtype)
            offsets, mask = self.offsets_and_mask(x)
            if x.device.type != "cpu":
                x = deform_conv2d(x, offsets, self.weight, self.bias, mask=mask, **geometry)
        if x.device.type == "cpu":
            x = deform_conv2d_by_sampling(x, offsets, self.weight, self.bias, mask=mask, **geometry)
        if self.norm is not None:
            x = self.norm(x)
        if self.activation is not None:
            x = self.activation(x)
        return x
