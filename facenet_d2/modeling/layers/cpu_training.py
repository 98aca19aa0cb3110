"""Layers that train faster than PyTorch's on a CPU in channels-last memory.

With PyTorch 2.11 and oneDNN, the weight gradient of a depthwise 5x5 convolution takes fifty times
as long as that of a 3x3 convolution. Group normalisation in memory order NHWC is slow in the
backward pass, and also in the forward pass of maps below 1024 pixels. ``tools/benchmark.py train``
measures a step, with and without ``SOLVER.CHANNELS_LAST``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import nn
from torch.autograd.function import once_differentiable

# PyTorch's threshold in native_group_norm.
VECTORISED_PIXELS = 1024


class _DepthwiseConvolution(torch.autograd.Function):
    """A depthwise convolution of odd kernel size on a padded input."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, stride: int) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, stride=stride, groups=x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride = ctx.stride
        grad = grad.contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            # The strided bfloat16 kernel is slow; float32 is faster.
            dtype = torch.float32 if stride > 1 else x.dtype
            grad_x, _, _ = _gradients(
                grad.to(dtype), x.to(dtype), weight.to(dtype), stride, (True, False, False)
            )
            grad_x = grad_x.to(x.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.empty_like(weight)
            size = weight.shape[-1]
            height, width = ((n - 1) * stride + 3 for n in grad.shape[-2:])
            window = weight[..., :3, :3].contiguous()
            # Overlapping 3x3 windows cover a larger kernel.
            starts = [*range(0, size - 3, 3), size - 3]
            for i in starts:
                for j in starts:
                    seen = x[..., i : i + height, j : j + width]
                    _, part, _ = _gradients(grad, seen, window, stride, (False, True, False))
                    grad_weight[..., i : i + 3, j : j + 3] = part
        return grad_x, grad_weight, None


def _gradients(
    grad: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: int,
    wanted: tuple[bool, bool, bool],
) -> tuple[torch.Tensor, ...]:
    s = [stride, stride]
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, s, [0, 0], [1, 1], False, [0, 0], x.shape[1], wanted
    )


class _GroupNorm(torch.autograd.Function):
    """Group normalisation of images in memory order NHWC.

    With xhat = (x - mean) / std and g the gradient of the output times gamma, the gradient of x is
    (g - mean(g) - xhat * mean(g * xhat)) / std with the means over a group: for each channel, a
    linear combination of x and the gradient of the output.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        groups: int,
        eps: float,
    ) -> torch.Tensor:
        n, c, h, w = x.shape
        # PyTorch normalises small NHWC maps with a scalar loop, five to ten times as slow as NCHW.
        fast = x.contiguous() if h * w < VECTORISED_PIXELS else x
        out, mean, rstd = torch.native_group_norm(fast, weight, bias, n, c, h * w, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        return out.contiguous(memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        n, c, h, w = x.shape
        groups = mean.shape[1]
        x, grad = (t.permute(0, 2, 3, 1).reshape(n, h * w, c) for t in (x, grad))

        def per_channel(group_values: torch.Tensor) -> torch.Tensor:
            return group_values.float().repeat_interleave(c // groups, dim=1)

        def group_mean(channel_values: torch.Tensor) -> torch.Tensor:
            sums = channel_values.view(n, groups, c // groups).sum(dim=2)
            return per_channel(sums) * (groups / (c * h * w))

        mean, rstd = per_channel(mean.view(n, groups)), per_channel(rstd.view(n, groups))
        # x is centred on the mean rounded to its data type, and the remainder corrected in float32:
        # a mean far from zero would cost most of bfloat16's digits.
        rounded = _row(mean, x)
        sum_grad = grad.sum(dim=1, dtype=torch.float32)
        sum_grad_centred = (grad * (x - rounded)).sum(dim=1, dtype=torch.float32)
        sum_grad_xhat = (sum_grad_centred + (rounded[:, 0].float() - mean) * sum_grad) * rstd
        mean_g = group_mean(sum_grad * weight)
        mean_g_xhat = group_mean(sum_grad_xhat * weight)
        of_x = -rstd * rstd * mean_g_xhat
        constant = -rstd * mean_g - mean * of_x
        grad_x = torch.addcmul(_row(constant, x), x, _row(of_x, x))
        grad_x.addcmul_(grad, _row(rstd * weight, x))
        grad_x = grad_x.view(n, h, w, c).permute(0, 3, 1, 2)
        return grad_x, sum_grad_xhat.sum(dim=0), sum_grad.sum(dim=0), None, None


def _row(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return values[:, None].to(like.dtype)


def _is_trained_on_cpu(x: torch.Tensor) -> bool:
    return x.device.type == "cpu" and torch.is_grad_enabled()


class _FastGroupNorm(nn.GroupNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _is_trained_on_cpu(x):
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        return _GroupNorm.apply(x, self.weight, self.bias, self.num_groups, self.eps)


class _FastDepthwiseConv2d(nn.Conv2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _is_trained_on_cpu(x):
            return super().forward(x)
        rows, columns = self.padding
        return self._convolve(F.pad(x, (columns, columns, rows, rows)))

    def _convolve(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        return _DepthwiseConvolution.apply(x, weight, self.stride[0])


class _FastDepthwiseConv2dSame(_FastDepthwiseConv2d, Conv2dSame):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not _is_trained_on_cpu(x):
            return Conv2dSame.forward(self, x)
        return self._convolve(pad_same(x, self.kernel_size, self.stride))


def use_fast_backward(model: nn.Module) -> None:
    """Replace group normalisation and depthwise convolutions by versions with a faster backward.

    The faster backward is used on a CPU with gradients enabled. Parameters and outputs are
    unchanged, gradients are the same up to rounding.

    Args:
        model: model in channels-last memory; changed in place.
    """
    for module in model.modules():
        if type(module) is nn.GroupNorm and module.affine:
            module.__class__ = _FastGroupNorm
        elif type(module) in (nn.Conv2d, Conv2dSame) and _is_slow_depthwise(module):
            module.__class__ = (
                _FastDepthwiseConv2d if type(module) is nn.Conv2d else _FastDepthwiseConv2dSame
            )


def _is_slow_depthwise(conv: nn.Conv2d) -> bool:
    size, stride = conv.kernel_size[0], conv.stride[0]
    return (
        conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size == (size, size)
        and conv.stride == (stride, stride)
        and conv.dilation == (1, 1)
        and conv.bias is None
        and isinstance(conv.padding, tuple)
        and conv.padding_mode == "zeros"
        and size >= 3
        and (size > 3 or stride > 1)
    )
