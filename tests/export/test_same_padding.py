"""The padding "SAME" of timm's models in exported networks."""

import copy

import pytest
import timm
import torch
from timm.layers import Conv2dSame

from facenet_d2.export.same_padding import padded_conv, replace_same_padding


@pytest.mark.parametrize("kernel", [1, 3, 5, 6])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("dilation", [1, 2])
def test_equal_for_sizes_that_the_stride_divides(kernel, stride, dilation):
    conv = Conv2dSame(3, 4, kernel, stride, dilation=dilation, bias=kernel == 3)
    image = torch.randn(1, 3, 12, 18)
    with torch.no_grad():
        torch.testing.assert_close(padded_conv(conv)(image), conv(image))


def test_a_whole_network():
    network = timm.create_model("tf_efficientnet_lite0", features_only=True).eval()
    exported = copy.deepcopy(network)
    replace_same_padding(exported)
    assert not any(isinstance(m, Conv2dSame) for m in exported.modules())
    assert any(isinstance(m, Conv2dSame) for m in network.modules())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        for a, b in zip(exported(images), network(images), strict=True):
            torch.testing.assert_close(a, b)
