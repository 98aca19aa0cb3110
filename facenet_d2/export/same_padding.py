"""TensorFlow's padding "SAME" without conditions on the size of the image."""

from __future__ import annotations

from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from .replacing import replace_modules


def padded_conv(conv: Conv2dSame) -> nn.Sequential:
    """Return a convolution with constant padding that equals one with the padding "SAME".

    The padding "SAME" depends on the remainder of the input's size and the stride. The sides of an
    exported network's input are multiples of its largest stride, so the remainder is 0.

    Args:
        conv: convolution of timm's models that were trained with TensorFlow.
    """
    sizes = zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
    height, width = (max((k - 1) * dilation + 1 - stride, 0) for k, dilation, stride in sizes)
    padding = nn.ZeroPad2d((width // 2, width - width // 2, height // 2, height - height // 2))
    plain = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        (conv.stride[0], conv.stride[1]),
        dilation=(conv.dilation[0], conv.dilation[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(padding, plain)


def replace_same_padding(module: nn.Module) -> None:
    """Replace the convolutions with the padding "SAME" inside a module, which is changed."""
    replace_modules(module, lambda m: padded_conv(m) if isinstance(m, Conv2dSame) else None)
