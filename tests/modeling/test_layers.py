"""Each layer against its equation in plain loops or functions."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.ops import deform_conv2d

from facenet_d2.modeling.layers import (
    ASPP,
    ChannelAttentionGuidance,
    ModulatedDeformConv2d,
    SemanticEnhancementModule,
    SubPixelContextEnhancement,
    SubPixelConv2d,
    append_coordinates,
)
from facenet_d2.modeling.layers.deform import deform_conv2d_by_bags


def shuffle_by_loops(x: np.ndarray, r: int) -> np.ndarray:
    """out[c, r*y + i, r*x + j] = in[c*r*r + i*r + j, y, x], for one image."""
    c, h, w = x.shape
    out = np.empty((c // r**2, r * h, r * w), x.dtype)
    for channel in range(c):
        o, rest = divmod(channel, r * r)
        i, j = divmod(rest, r)
        out[o, i::r, j::r] = x[channel]
    return out


def conv(x, layer, **kwargs):
    return F.conv2d(x, layer.weight, layer.bias, **kwargs)


def randomise(module):
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module.eval()


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_subpixel_convolution_shuffles_then_projects(size):
    layer = randomise(SubPixelConv2d(16, 5))
    x = torch.randn(1, 16, 3, 4)
    shuffled = torch.from_numpy(shuffle_by_loops(x[0].numpy(), 2))[None]
    expected = conv(shuffled[:, :, : size[0], : size[1]], layer.project)
    torch.testing.assert_close(layer(x, size), expected)


def test_subpixel_convolution_needs_a_multiple_of_four():
    with pytest.raises(ValueError, match="multiple of 4"):
        SubPixelConv2d(6, 5)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_subpixel_convolution_projects_then_shuffles(size):
    layer = randomise(SubPixelConv2d(6, 5, conv_first=True))
    x = torch.randn(1, 6, 3, 4)
    expanded = conv(x, layer.project)[0].detach().numpy()
    expected = torch.from_numpy(shuffle_by_loops(expanded, 2))[:, : size[0], : size[1]]
    torch.testing.assert_close(layer(x, size)[0], expected)


def test_subpixel_convolutions_start_as_upsampling():
    x = torch.randn(2, 6, 3, 4)
    layer = SubPixelConv2d(6, 5, conv_first=True)
    plain = F.conv2d(x, layer.project.weight[::4])
    expected = F.interpolate(plain, scale_factor=2, mode="nearest")
    torch.testing.assert_close(layer(x, (6, 8)), expected)
    # Xavier's spread is kept.
    weight = SubPixelConv2d(256, 64, conv_first=True).project.weight
    assert weight.std().item() == pytest.approx(256**-0.5, rel=0.05)

    sce = SubPixelContextEnhancement(6, 5)
    local = F.conv2d(x, sce.local.weight[::4], padding=1)
    wide = F.conv2d(F.max_pool2d(x, 3, stride=2, padding=1), sce.wide.weight[::16])
    expected = F.interpolate(local, scale_factor=2) + F.interpolate(wide, scale_factor=4)[:, :, :6]
    torch.testing.assert_close(sce(x, (6, 8)), expected)


@pytest.mark.parametrize("size", [(8, 10), (7, 9)])
def test_sce_is_equation_3(size):
    sce = randomise(SubPixelContextEnhancement(8, 4))
    x = torch.randn(1, 8, 4, 5)
    h, w = size
    local = shuffle_by_loops(conv(x, sce.local, padding=1)[0].detach().numpy(), 2)[:, :h, :w]
    pooled = np.full((8, 2, 3), -np.inf, np.float32)
    for y in range(2):
        for z in range(3):
            window = x[0, :, max(0, 2 * y - 1) : 2 * y + 2, max(0, 2 * z - 1) : 2 * z + 2]
            pooled[:, y, z] = window.amax(dim=(1, 2))
    wide = conv(torch.from_numpy(pooled)[None], sce.wide)[0].detach().numpy()
    wide = shuffle_by_loops(wide, 4)[:, :h, :w]
    everywhere = sce.globally.weight[:, :, 0, 0] @ x[0].mean(dim=(1, 2)) + sce.globally.bias
    expected = local + wide + everywhere.detach().numpy()[:, None, None]
    torch.testing.assert_close(sce(x, size)[0].detach().numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shortcut", [False, True])
def test_aspp_concatenates_five_branches(shortcut):
    outputs = 6 if shortcut else 7
    aspp = ASPP(6, outputs, branch_channels=4, dilations=(2, 3, 5), norm="", shortcut=shortcut)
    randomise(aspp)
    x = torch.randn(2, 6, 12, 9)
    parts = [conv(x, aspp.branches[0]).relu()]
    for branch, d in zip(aspp.branches[1:], (2, 3, 5), strict=True):
        parts.append(conv(x, branch, dilation=d, padding=d).relu())
    pooled = conv(F.adaptive_avg_pool2d(x, 1), aspp.pooled).relu()
    parts.append(F.interpolate(pooled, size=(12, 9), mode="bilinear", align_corners=False))
    expected = conv(torch.cat(parts, 1), aspp.project) + (x if shortcut else 0)
    torch.testing.assert_close(aspp(x), expected, rtol=1e-4, atol=1e-5)


def test_aspp_with_a_shortcut_starts_as_the_identity():
    x = torch.randn(2, 32, 12, 9)
    torch.testing.assert_close(ASPP(32, 32, branch_channels=32, shortcut=True)(x), x)
    with pytest.raises(ValueError, match="cannot add 6 to 7 channels"):
        ASPP(6, 7, branch_channels=4, shortcut=True)


def test_aspp_normalises_its_branches():
    aspp = randomise(ASPP(6, 7, branch_channels=32, norm="GN"))
    x = torch.randn(1, 6, 8, 8)
    branch = aspp.branches[1]
    expected = F.group_norm(
        F.conv2d(x, branch.weight, None, dilation=6, padding=6),
        32,
        branch.norm.weight,
        branch.norm.bias,
    ).relu()
    torch.testing.assert_close(branch(x), expected)


def test_cag_is_equation_4():
    cag = randomise(ChannelAttentionGuidance(5))
    x = torch.randn(2, 5, 4, 6)
    weights = cag(x)
    assert weights.shape == (2, 5, 1, 1)
    for n in range(2):
        for c in range(5):
            avg, top = x[n].flatten(1).mean(1), x[n].flatten(1).max(1).values
            avg, top = ((v - v.mean()) / (v.var(correction=0) + 1e-5).sqrt() for v in (avg, top))
            z = cag.fc_avg.weight[c] @ avg + cag.fc_avg.bias[c]
            z = z + cag.fc_max.weight[c] @ top + cag.fc_max.bias[c]
            assert weights[n, c, 0, 0].item() == pytest.approx(
                1 / (1 + math.exp(-z.item())), rel=1e-5
            )


# The second to the fourth are cases of Table 7: no residual, a single branch, other dilations.
@pytest.mark.parametrize(
    ("dilations", "residual"),
    [((1, 2, 3), True), ((1, 2, 3), False), ((2,), True), ((1, 3, 5), True)],
)
@pytest.mark.parametrize("outputs", [6, 8])
def test_sem_is_equations_6_and_7(dilations, residual, outputs):
    sem = randomise(
        SemanticEnhancementModule(
            6, outputs, branch_channels=4, norm="", dilations=dilations, residual=residual
        )
    )
    b2 = torch.randn(2, 6, 9, 11)
    x = conv(b2, sem.reduce)
    total = sum(
        conv(x, branch, dilation=i, padding=i).relu()
        for i, branch in zip(dilations, sem.branches, strict=True)
    )
    expected = conv(total, sem.expand) + residual * (b2 if outputs == 6 else x)
    torch.testing.assert_close(sem(b2), expected, rtol=1e-4, atol=1e-5)


def test_sem_starts_as_its_residual():
    b2 = torch.randn(1, 32, 9, 11)
    sem = SemanticEnhancementModule(32, 32, branch_channels=32)
    torch.testing.assert_close(sem(b2), b2)
    # Without one, at random.
    assert SemanticEnhancementModule(32, 32, branch_channels=32, residual=False)(b2).std() > 0.1


def test_coordinates_are_x_then_y_from_minus_one_to_one():
    out = append_coordinates(torch.zeros(2, 3, 3, 5))
    assert out.shape == (2, 5, 3, 5)
    assert out[1, 3, 2].tolist() == [-1.0, -0.5, 0.0, 0.5, 1.0]
    assert out[1, 4, :, 0].tolist() == [-1.0, 0.0, 1.0]


def bilinear(image: np.ndarray, y: float, x: float) -> float:
    """Interpolate a map between its pixels; it is zero outside."""
    y0, x0 = math.floor(y), math.floor(x)
    value = 0.0
    for yi, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for xi, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= yi < image.shape[0] and 0 <= xi < image.shape[1]:
                value += wy * wx * image[yi, xi]
    return value


def test_deformable_convolution_is_equation_8():
    x, offsets = torch.randn(1, 2, 4, 5), 2 * torch.randn(1, 18, 4, 5)
    weight, mask = torch.randn(3, 2, 3, 3), torch.rand(1, 9, 4, 5)
    actual = deform_conv2d_by_bags(
        x, offsets, weight, None, stride=1, padding=1, dilation=1, mask=mask
    )
    for o in range(3):
        for py in range(4):
            for px in range(5):
                y = 0.0
                for k in range(9):
                    dy, dx = offsets[0, 2 * k : 2 * k + 2, py, px].tolist()
                    at = (py + k // 3 - 1 + dy, px + k % 3 - 1 + dx)
                    for c in range(2):
                        sample = bilinear(x[0, c].numpy(), *at)
                        y += weight[o, c, k // 3, k % 3].item() * sample * mask[0, k, py, px].item()
                assert actual[0, o, py, px].item() == pytest.approx(y, abs=1e-4)


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2)])
def test_sampling_agrees_with_torchvision_forward_and_backward(stride, padding, dilation):
    size = [(s + 2 * padding - 2 * dilation - 1) // stride + 1 for s in (9, 7)]
    inputs = [
        torch.randn(2, 6, 9, 7),
        2 * torch.randn(2, 18, *size),
        torch.rand(2, 9, *size),
        torch.randn(5, 6, 3, 3),
        torch.randn(5),
    ]
    results = []
    for operator in (deform_conv2d, deform_conv2d_by_bags):
        x, offsets, mask, weight, bias = (t.clone().requires_grad_() for t in inputs)
        y = operator(
            x, offsets, weight, bias, stride=stride, padding=padding, dilation=dilation, mask=mask
        )
        grads = torch.autograd.grad(y.square().sum(), (x, offsets, mask, weight, bias))
        results.append((y, *grads))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_zero_offsets_and_unit_modulation_are_a_plain_convolution():
    layer = ModulatedDeformConv2d(4, 6)
    x = torch.randn(2, 4, 7, 8)
    plain = F.conv2d(x, layer.weight, layer.bias, padding=1)
    # Freshly made: no offsets, modulation sigmoid(0).
    torch.testing.assert_close(layer(x), 0.5 * plain, rtol=1e-4, atol=1e-5)
    layer.conv_offset_mask.bias.data[18:] = 40.0
    torch.testing.assert_close(layer(x), plain, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_offsets_and_the_modulation():
    layer = ModulatedDeformConv2d(4, 6)
    layer(torch.randn(2, 4, 7, 8)).square().sum().backward()
    grad = layer.conv_offset_mask.weight.grad
    for tap in range(27):
        assert grad[tap].abs().max() > 0


def test_deformable_convolution_samples_in_float32_under_autocast():
    """Sampling positions far to the right, which bfloat16 would round to whole pixels."""
    layer = ModulatedDeformConv2d(4, 6, bias=False)
    with torch.no_grad():
        layer.conv_offset_mask.bias[1:18:2] = 150.3
    x = torch.randn(1, 4, 9, 320)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = layer(x)
        same = layer(x.bfloat16().float())
        assert torch.equal(layer(x.bfloat16()), same)
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.01 * expected.norm()
    assert layer.double()(x.double()).dtype == torch.float64
