"""Fast backward passes against autograd through PyTorch's operators."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from facenet_d2.modeling.layers.cpu_training import use_fast_backward


def compare(module, x, *, rtol=1e-4, atol=1e-5):
    """Compute outputs and gradients of a module in float64 and of its fast version in float32."""
    reference = type(module).__new__(type(module))
    reference.__dict__ = {
        **module.__dict__,
        "_parameters": {
            k: None if p is None else nn.Parameter(p.detach().double())
            for k, p in module._parameters.items()
        },
    }
    exact = x.double().requires_grad_()
    expected = reference(exact)
    upstream = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, [exact, *reference.parameters()], upstream)

    module.to(memory_format=torch.channels_last)
    model = nn.Sequential(module)
    kind = type(module)
    use_fast_backward(model)
    assert type(module) is not kind
    assert isinstance(module, kind)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    found = model(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found.double(), expected, rtol=rtol, atol=atol)
    gradients = torch.autograd.grad(found, [x, *module.parameters()], upstream.float())
    for gradient, exact_gradient in zip(gradients, wanted, strict=True):
        scale = exact_gradient.abs().max().item()
        torch.testing.assert_close(gradient.double(), exact_gradient, rtol=rtol, atol=atol * scale)


@pytest.mark.parametrize("shape", [(2, 64, 7, 9), (2, 32, 5, 1), (3, 96, 16, 16), (2, 32, 40, 35)])
def test_group_norm(shape):
    norm = nn.GroupNorm(32, shape[1])
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    # Far from zero mean, where sums of squares would lose digits.
    compare(norm, torch.randn(shape) * 2 + 3, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("shape", [(2, 16, 12, 15), (1, 8, 8, 8)])
def test_depthwise_convolution(shape, size, stride, same):
    if size == 3 and stride == 1:
        pytest.skip("PyTorch's own is fast")
    kind = Conv2dSame if same else nn.Conv2d
    conv = kind(
        shape[1], shape[1], size, stride=stride, padding=size // 2, groups=shape[1], bias=False
    )
    compare(conv, torch.randn(shape))


def test_others_stay_as_they_are():
    convs = [
        nn.Conv2d(8, 8, 5, padding=2),
        nn.Conv2d(8, 16, 5, padding=2, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, groups=4, bias=False),
        nn.Conv2d(8, 8, 5, padding=4, dilation=2, groups=8, bias=False),
        nn.Conv2d(8, 8, (5, 3), padding=(2, 1), groups=8, bias=False),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect", groups=8, bias=False),
    ]
    model = nn.Sequential(*convs, nn.GroupNorm(4, 8, affine=False))
    kinds = [type(m) for m in model]
    use_fast_backward(model)
    assert [type(m) for m in model] == kinds


def test_without_gradients_it_is_pytorchs_own():
    norm = nn.GroupNorm(4, 8)
    model = nn.Sequential(norm)
    x = torch.randn(1, 8, 5, 5)
    expected = F.group_norm(x, 4, norm.weight, norm.bias)
    use_fast_backward(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("mean", [0.0, 1.0, 3.0])
def test_group_norm_in_bfloat16(mean):
    """Gradients are close to those of double precision, also for a mean far from zero."""
    norm = nn.GroupNorm(8, 32)
    nn.init.normal_(norm.weight)
    x = (torch.randn(2, 32, 40, 40) + mean).bfloat16()
    upstream = (torch.randn(2, 32, 40, 40) + 0.5).bfloat16()
    exact = x.double().requires_grad_()
    weight, bias = norm.weight.detach().double(), norm.bias.detach().double()
    parameters = [weight.requires_grad_(), bias.requires_grad_()]
    y = F.group_norm(exact, 8, weight, bias, norm.eps)
    expected = torch.autograd.grad(y, [exact, *parameters], upstream.double())
    model = nn.Sequential(norm)
    use_fast_backward(model)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    found = torch.autograd.grad(model(x), [x, *norm.parameters()], upstream)
    for gradient, reference in zip(found, expected, strict=True):
        error = (gradient.double() - reference).norm() / reference.norm()
        assert error < 0.01


def test_empty_batch():
    norm = nn.GroupNorm(8, 32)
    model = nn.Sequential(norm)
    use_fast_backward(model)
    x = torch.zeros(0, 32, 5, 5, requires_grad=True)
    model(x).sum().backward()
    assert x.grad.shape == x.shape
    assert norm.weight.grad.abs().sum() == 0


def test_state_and_autocast():
    conv = nn.Conv2d(16, 16, 5, padding=2, groups=16, bias=False)
    norm = nn.GroupNorm(4, 16)
    model = nn.Sequential(conv, norm)
    names = list(model.state_dict())
    use_fast_backward(model)
    assert list(model.state_dict()) == names
    x = torch.randn(2, 16, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16
    upstream = torch.randn_like(x)
    gradients = torch.autograd.grad(out, [*model.parameters()], upstream.bfloat16())
    expected = torch.autograd.grad(model(x), [*model.parameters()], upstream)
    for mixed, exact in zip(gradients, expected, strict=True):
        assert mixed.dtype == torch.float32
        assert F.cosine_similarity(mixed.flatten(), exact.flatten(), dim=0) > 0.99
