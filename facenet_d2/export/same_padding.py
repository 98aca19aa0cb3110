"""TensorFlow's padding "SAME" without conditions on the size of the image."""

from __future__ import annotations

from timm.layers import Conv2dSame
from torch import nn


def padded_conv(conv: Conv2dSame) -> nn.Sequential:
    """Return a convolution with constant padding that equals one with the padding "SAME".

    The padding "SAME" depends on the remainder of the input's size and the stride. The sides of an
    exported network's input are multiples of its largest stride, so the remainder is 0.

    Args:
        conv: convolution of timm's models that were trained with TensorFlow.
    """
    sizes = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
    total = [max((k - 1) * dilation + 1 - stride, 0) for k, dilation, stride in sizes]
    top, left = total[0] // 2, total[1] // 2
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        dilation=conv.dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(nn.ZeroPad2d((left, total[1] - left, top, total[0] - top)), plain)


def replace_same_padding(module: nn.Module) -> None:
    """Replace the convolutions with the padding "SAME" inside a module, which is changed."""
    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            setattr(module, name, padded_conv(child))
        else:
            replace_same_padding(child)
