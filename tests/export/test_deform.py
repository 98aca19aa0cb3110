"""Deformable convolutions of exported files are those of torchvision."""

import pytest
import torch
from torchvision.ops import deform_conv2d

from facenet_d2.export.deform import (
    DEFORM_FORMS,
    ExportedDeformConv2d,
    deform_conv2d_by_sampling,
    replace_deformable,
)
from facenet_d2.modeling.layers import ModulatedDeformConv2d


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "dilation"),
    [((7, 10), 3, 1, 1, 1), ((9, 5), 3, 2, 1, 1), ((8, 8), 3, 1, 3, 3), ((6, 4), 1, 1, 0, 1)],
)
@pytest.mark.parametrize("bias", [True, False])
def test_sampling_equals_torchvision(size, kernel, stride, padding, dilation, bias):
    x = torch.randn(2, 3, *size)
    weight = torch.randn(5, 3, kernel, kernel)
    bias = torch.randn(5) if bias else None
    geometry = {"stride": stride, "padding": padding, "dilation": dilation}
    out = torch.nn.functional.conv2d(x, weight, **geometry).shape[-2:]
    # Far beyond the borders, too.
    offsets = torch.randn(2, 2 * kernel**2, *out) * 4
    mask = torch.rand(2, kernel**2, *out)
    expected = deform_conv2d(x, offsets, weight, bias, mask=mask, **geometry)
    found = deform_conv2d_by_sampling(x, offsets, weight, bias, mask=mask, **geometry)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_every_deformable_convolution_is_replaced():
    torch.manual_seed(1)
    norm = torch.nn.GroupNorm(1, 4)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1),
        torch.nn.ModuleDict(
            {"inner": ModulatedDeformConv2d(4, 4, norm=norm, activation=torch.tanh)}
        )["inner"],
        torch.nn.Sequential(ModulatedDeformConv2d(4, 2, bias=False)),
    )
    for module in model.modules():
        if isinstance(module, ModulatedDeformConv2d):
            torch.nn.init.normal_(module.conv_offset_mask.weight, std=0.3)
    x = torch.randn(1, 3, 6, 9)
    expected = model(x)
    for form in DEFORM_FORMS:
        copy = torch.nn.Sequential(*model[:2], torch.nn.Sequential(*model[2]))
        assert replace_deformable(copy, form) == 2
        assert isinstance(copy[1], ExportedDeformConv2d)
        torch.testing.assert_close(copy(x), expected, atol=1e-5, rtol=1e-4)
