"""Deformable convolutions as operators that exported files can contain."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.ops import deform_conv2d

from ..modeling.layers import ModulatedDeformConv2d
from .replacing import replace_modules

DEFORM_FORMS = ("gridsample", "deformconv")
"""Forms of a deformable convolution in a file.

"gridsample" is bilinear sampling and a 1x1 convolution, which all runtimes have. "deformconv" is
one operator: ONNX's DeformConv, or torchvision's in the formats of PyTorch.
"""


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
    """Compute ``torchvision.ops.deform_conv2d`` by one ``grid_sample`` and a 1x1 convolution.

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
    height, width = x.shape[-2:]
    out_h, out_w = offsets.shape[-2:]
    k = weight.shape[-1]
    tap = torch.arange(k * k, device=x.device)[:, None, None]
    rows = torch.arange(out_h, device=x.device)[:, None] * stride - padding
    columns = torch.arange(out_w, device=x.device) * stride - padding
    dy, dx = offsets.unflatten(1, (k * k, 2)).unbind(dim=2)
    y = dy + (rows + tap // k * dilation)
    x_at = dx + (columns + tap % k * dilation)
    # grid_sample counts from -1 to 1 between the outer edges of the first and the last pixel.
    grid = torch.stack([(2 * x_at + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    # The taps are stacked vertically: one large map is sampled.
    sampled = F.grid_sample(x, grid.flatten(1, 2), padding_mode="zeros", align_corners=False)
    sampled = sampled.unflatten(2, (k * k, out_h)) * mask[:, None]
    return F.conv2d(sampled.flatten(1, 2), weight.flatten(1)[:, :, None, None], bias)


class ExportedDeformConv2d(nn.Module):
    """A :class:`ModulatedDeformConv2d` in one of the :data:`DEFORM_FORMS`."""

    def __init__(self, conv: ModulatedDeformConv2d, form: str) -> None:
        super().__init__()
        self.conv = conv
        self.operator = deform_conv2d if form == "deformconv" else deform_conv2d_by_sampling

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        conv = self.conv
        offsets, mask = conv.offsets_and_mask(x)
        x = self.operator(
            x,
            offsets,
            conv.weight,
            conv.bias,
            mask=mask,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
        )
        if conv.norm is not None:
            x = conv.norm(x)
        return x if conv.activation is None else conv.activation(x)


def replace_deformable(module: nn.Module, form: str) -> int:
    """Replace the deformable convolutions inside a module by a form that can be exported.

    Args:
        module: changed in place.
        form: one of :data:`DEFORM_FORMS`.

    Returns:
        The number of deformable convolutions.
    """
    return replace_modules(
        module,
        lambda m: ExportedDeformConv2d(m, form) if isinstance(m, ModulatedDeformConv2d) else None,
    )
