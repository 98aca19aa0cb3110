"""Group normalisation in exported networks."""

import pytest
import torch
from torch import nn

from facenet_d2.export.group_norm import ExportedGroupNorm, replace_group_norm


@pytest.mark.parametrize(
    ("groups", "channels", "affine"), [(1, 6, True), (4, 12, True), (6, 6, False), (2, 64, True)]
)
def test_equal(groups, channels, affine):
    norm = nn.GroupNorm(groups, channels, affine=affine)
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    # Means far from zero, which differ between images and channels.
    x = 3 * torch.randn(3, channels, 5, 7) + 50 * torch.randn(3, channels, 1, 1)
    torch.testing.assert_close(ExportedGroupNorm(norm)(x), norm(x), rtol=1e-4, atol=1e-4)


def test_replaces_plain_group_norm_at_any_depth():
    class WithActivation(nn.GroupNorm):
        def forward(self, x):
            return super().forward(x).relu()

    inner = nn.Sequential(nn.GroupNorm(2, 4), WithActivation(2, 4))
    network = nn.Sequential(nn.Conv2d(3, 4, 1), inner, nn.BatchNorm2d(4)).eval()
    x = torch.randn(2, 3, 6, 5)
    before = network(x)
    replace_group_norm(network)
    kinds = [type(m) for m in network.modules()]
    assert kinds.count(ExportedGroupNorm) == 1
    assert type(inner[1]) is WithActivation
    torch.testing.assert_close(network(x), before)
