"""Attention against PyTorch's, with position embeddings and masks."""

import pytest
import torch
from torch import nn

from facenet_d2.modeling.layers import Attention, FeedForward


def stock(ours: Attention) -> nn.MultiheadAttention:
    """Return PyTorch's attention with the weights of ours."""
    theirs = nn.MultiheadAttention(32, ours.num_heads, batch_first=True)
    with torch.no_grad():
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([x.weight for x in parts]))
        theirs.in_proj_bias.copy_(torch.cat([x.bias for x in parts]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    return theirs


def randomised(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module


@pytest.mark.parametrize("has_memory", [False, True])
def test_attention_is_pytorchs(has_memory):
    ours = randomised(Attention(32, 4))
    x, position = torch.randn(2, 5, 32), torch.randn(5, 32)
    memory, memory_position = torch.randn(2, 7, 32), torch.randn(7, 32)
    if not has_memory:
        memory, memory_position = x, position
    allowed = torch.rand(2, 5, memory.shape[1]) > 0.5
    allowed[:, :, 0] = True
    arguments = (memory,) if has_memory else ()
    positions = {"memory_position": memory_position} if has_memory else {}
    found = ours(x, *arguments, position=position, **positions, allowed=allowed)
    theirs, _ = stock(ours)(
        x + position,
        memory + memory_position,
        memory,
        attn_mask=~allowed.repeat_interleave(4, dim=0),
    )
    expected = nn.functional.layer_norm(x + theirs, (32,), ours.norm.weight, ours.norm.bias)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.sum().backward()
    assert all(p.grad is not None for p in ours.parameters())


def test_attention_without_positions():
    ours = randomised(Attention(32, 4)).eval()
    x = torch.randn(2, 5, 32)
    theirs, _ = stock(ours)(x, x, x)
    expected = nn.functional.layer_norm(x + theirs, (32,), ours.norm.weight, ours.norm.bias)
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)


def test_feed_forward():
    layer = randomised(FeedForward(6, 10))
    x = torch.randn(3, 4, 6)
    inner = (x @ layer.expand.weight.T + layer.expand.bias).clamp(min=0)
    y = x + inner @ layer.reduce.weight.T + layer.reduce.bias
    y = (y - y.mean(dim=2, keepdim=True)) / (y.var(dim=2, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(layer(x), y * layer.norm.weight + layer.norm.bias)
