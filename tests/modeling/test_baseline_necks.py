"""PAFPN, BiFPN and HRFPN against the formulas of their papers."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone
from test_face_fpn import CHANNELS, Features, features_for

from facenet_d2.modeling.backbone import HRFPN, PAFPN, BiFPN

BUILDERS = [f"build_resnet_{name}_backbone" for name in ("pafpn", "bifpn", "hrfpn")]


def make(neck, features, **kwargs):
    model = neck(Features(features), list(CHANNELS), 16, **kwargs)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model.eval()


def conv(layer, x, **kwargs):
    return F.conv2d(x, layer.weight, layer.bias, **kwargs)


def assert_levels(out, expected):
    assert list(out) == [f"p{i}" for i in range(2, 2 + len(expected))]
    for value, other in zip(out.values(), expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("path", ["panet", "mmdetection"])
def test_pafpn(path):
    features = features_for(128, 96)
    model = make(PAFPN, features, path=path)
    laterals = [conv(getattr(model, f"fpn_lateral{i}"), features[f"res{i}"]) for i in (2, 3, 4, 5)]
    for i in (2, 1, 0):
        laterals[i] = laterals[i] + laterals[i + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    p = [
        conv(getattr(model, f"fpn_output{i}"), x, padding=1)
        for i, x in zip((2, 3, 4, 5), laterals, strict=True)
    ]
    n = [p[0]]
    if path == "panet":
        for i in range(3):
            down = conv(model.downsample[i], n[i], stride=2, padding=1).clamp(min=0)
            n.append(conv(model.fuse[i], down + p[i + 1], padding=1).clamp(min=0))
    else:
        # All sums first, then the convolutions of all levels but the finest.
        for i in range(3):
            p[i + 1] += conv(model.downsample[i], p[i], stride=2, padding=1)
        n += [conv(model.fuse[i], p[i + 1], padding=1) for i in range(3)]
    assert_levels(model(torch.zeros(2, 3, 128, 96)), [*n, n[-1][:, :, ::2, ::2]])


def test_the_path_of_pafpn_is_a_key(model_cfg):
    """Both have the same parameters: eight convolutions of the FPN and six of the path."""
    model_cfg.MODEL.BACKBONE.NAME = "build_pafpn_backbone"
    shapes = []
    for path in ("panet", "mmdetection"):
        model_cfg.MODEL.PAFPN.PATH = path
        neck = build_backbone(model_cfg)
        assert neck.path == path
        own = {k: p.shape for k, p in neck.named_parameters() if not k.startswith("bottom_up.")}
        assert sum(s.numel() for s in own.values()) == (
            32 * (64 + 128 + 256 + 512) + 10 * 9 * 32 * 32 + 14 * 32
        )
        shapes.append(own)
    assert shapes[0] == shapes[1]
    model_cfg.MODEL.PAFPN.PATH = "PANet"
    with pytest.raises(ValueError, match=r"MODEL\.PAFPN\.PATH is 'PANet'"):
        build_backbone(model_cfg)
    with pytest.raises(ValueError, match=r"^path is"):
        make(PAFPN, features_for(64, 64), path="")


# The second is odd at every level.
@pytest.mark.parametrize("size", [(128, 96), (203, 139)])
@pytest.mark.parametrize("repeats", [1, 3])
@torch.no_grad()
def test_bifpn(size, repeats):
    features = features_for(*size)
    model = make(BiFPN, features, repeats=repeats)
    for name, p in model.named_parameters():
        if name.endswith("weights"):
            # One weight is negative: the rectifier sets it to zero.
            p.copy_(torch.linspace(-0.2, 1.5, len(p)))

    def fuse(block, *maps):
        w = [max(v, 0.0) for v in block.weights.tolist()]
        x = sum(v * m for v, m in zip(w, maps, strict=True)) / (1e-4 + sum(w))
        x = x * torch.sigmoid(x)
        depthwise = [
            F.conv2d(x[:, c : c + 1], block.depthwise.weight[c : c + 1], padding=1)
            for c in range(x.shape[1])
        ]
        return conv(block.pointwise, torch.cat(depthwise, dim=1))

    def up(x, like):
        rows, columns = (
            (torch.arange(n) * m) // n for n, m in zip(like.shape[2:], x.shape[2:], strict=True)
        )
        return x[:, :, rows][:, :, :, columns]

    def down(x):
        return F.max_pool2d(x, 3, stride=2, padding=1)

    p = [conv(model.laterals[i], b) for i, b in enumerate(features.values())]
    p.append(p[3][:, :, ::2, ::2])
    for layer in model.layers:
        t5 = fuse(layer.top_down[3], p[3], up(p[4], p[3]))
        t4 = fuse(layer.top_down[2], p[2], up(t5, p[2]))
        t3 = fuse(layer.top_down[1], p[1], up(t4, p[1]))
        o2 = fuse(layer.top_down[0], p[0], up(t3, p[0]))
        o3 = fuse(layer.bottom_up[0], p[1], t3, down(o2))
        o4 = fuse(layer.bottom_up[1], p[2], t4, down(o3))
        o5 = fuse(layer.bottom_up[2], p[3], t5, down(o4))
        o6 = fuse(layer.bottom_up[3], p[4], down(o5))
        p = [o2, o3, o4, o5, o6]
    assert_levels(model(torch.zeros(2, 3, *size)), p)


@torch.no_grad()
def test_hrfpn():
    features = features_for(128, 192)
    model = make(HRFPN, features)
    enlarged = [
        F.interpolate(b, scale_factor=2**i, mode="bilinear", align_corners=False) if i else b
        for i, b in enumerate(features.values())
    ]
    merged = conv(model.reduce, torch.cat(enlarged, dim=1))
    expected = []
    for i in range(5):
        n, c, h, w = merged.shape
        side = 2**i
        blocks = merged.reshape(n, c, h // side, side, w // side, side)
        expected.append(conv(model.outputs[f"p{i + 2}"], blocks.mean(dim=(3, 5)), padding=1))
    assert_levels(model(torch.zeros(2, 3, 128, 192)), expected)


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("norm", ["", "GN"])
def test_builders_give_what_the_stock_fpn_gives(model_cfg, name, norm):
    model_cfg.MODEL.FPN.NORM = norm
    found = []
    for builder in (name, "build_resnet_fpn_backbone"):
        model_cfg.MODEL.BACKBONE.NAME = builder
        backbone = build_backbone(model_cfg)
        out = backbone(torch.randn(1, 3, 64, 96))
        sum(x.sum() for x in out.values()).backward()
        assert all(p.grad is not None for p in backbone.parameters())
        shapes = {k: v.shape for k, v in out.items()}
        found.append((backbone.output_shape(), backbone.size_divisibility, shapes))
    assert found[0] == found[1]


def test_wrong_settings_are_named(model_cfg):
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_bifpn_backbone"
    model_cfg.MODEL.BIFPN.REPEATS = 0
    with pytest.raises(ValueError, match=r"MODEL\.BIFPN\.REPEATS is 0"):
        build_backbone(model_cfg)
    with pytest.raises(ValueError, match=r"^repeats is 0"):
        make(BiFPN, features_for(64, 64), repeats=0)
    for name in BUILDERS:
        model_cfg.MODEL.BACKBONE.NAME = name
        node = "BIFPN" if "bifpn" in name else "FPN"
        model_cfg.MODEL[node].NORM = "XN"
        with pytest.raises(ValueError, match=rf"MODEL\.{node}\.NORM"):
            build_backbone(model_cfg)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["", "GN"])
def test_bifpn_of_the_configs_starts_with_outputs_of_unit_size(model_cfg, norm):
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_bifpn_backbone"
    model_cfg.MODEL.FPN.NORM = norm
    for out in build_backbone(model_cfg)(torch.randn(1, 3, 128, 128)).values():
        assert 0.3 < out.std() < 3
