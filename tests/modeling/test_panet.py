"""PANet's heads: pooling from all levels, box head and mask head against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes
from torch import nn

from facenet_d2.modeling.roi_heads import AdaptivePooler, PANetBoxHead, PANetMaskHead

SHAPE = ShapeSpec(channels=6, height=4, width=4)


def bilinear(feature, y, x):
    """Sample a map ``(H, W)`` at a point whose pixels have integer coordinates."""
    h, w = feature.shape
    if not (-1 <= y <= h and -1 <= x <= w):
        return 0.0
    y, x = min(max(y, 0), h - 1), min(max(x, 0), w - 1)
    top, left = min(int(y), h - 1), min(int(x), w - 1)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    v, u = y - top, x - left
    upper = feature[top, left] * (1 - u) + feature[top, right] * u
    lower = feature[bottom, left] * (1 - u) + feature[bottom, right] * u
    return float(upper * (1 - v) + lower * v)


def test_every_box_is_pooled_from_every_level():
    """Each pixel is the mean of 2x2 samples; tiny, large and overlapping boxes, two images."""
    size, strides = 3, (4, 8)
    levels = [torch.rand(2, 2, 48 // s, 64 // s) for s in strides]
    boxes = [
        Boxes(torch.tensor([[1.0, 2, 60, 45], [10, 10, 13, 12.5]])),
        Boxes(torch.tensor([[30.0, -6, 70, 20]])),
    ]
    stock = ROIPooler(size, [1 / s for s in strides], 2, "ROIAlignV2")
    pooled = AdaptivePooler(stock.level_poolers)(levels, boxes)
    assert len(pooled) == len(levels)
    owners = [(image, box) for image, own in enumerate(boxes) for box in own.tensor.tolist()]
    for features, stride, found in zip(levels, strides, pooled, strict=True):
        assert found.shape == (3, 2, size, size)
        for i, (image, (x0, y0, x1, y1)) in enumerate(owners):
            for channel in range(2):
                for row in range(size):
                    for column in range(size):
                        samples = [
                            bilinear(
                                features[image, channel],
                                (y0 + (y1 - y0) * (row + a) / size) / stride - 0.5,
                                (x0 + (x1 - x0) * (column + b) / size) / stride - 0.5,
                            )
                            for a in (0.25, 0.75)
                            for b in (0.25, 0.75)
                        ]
                        expected = sum(samples) / 4
                        assert found[i, channel, row, column] == pytest.approx(expected, abs=1e-5)


def test_no_boxes():
    stock = ROIPooler(3, [1 / 4, 1 / 8], 2, "ROIAlignV2")
    levels = [torch.rand(2, 2, 12, 16), torch.rand(2, 2, 6, 8)]
    pooled = AdaptivePooler(stock.level_poolers)(levels, [Boxes(torch.zeros(0, 4))] * 2)
    assert [p.shape for p in pooled] == [(0, 2, 3, 3)] * 2


def randomize(module):
    for p in module.parameters():
        nn.init.normal_(p, std=0.3)
    return module


def conv(layer, x):
    """Apply a 3x3 convolution, group normalisation with loops over the groups, and ReLU."""
    x = F.conv2d(x, layer.weight, padding=1)
    return norm(layer.norm, x).clamp(min=0)


def norm(layer, x):
    groups = []
    for group in x.chunk(layer.num_groups, dim=1):
        values = group.flatten(1)
        mean, variance = values.mean(dim=1), values.var(dim=1, unbiased=False)
        shape = (-1, *[1] * (x.dim() - 1))
        groups.append((group - mean.view(shape)) / (variance.view(shape) + 1e-5).sqrt())
    shape = (-1, *[1] * (x.dim() - 2))
    return torch.cat(groups, dim=1) * layer.weight.view(shape) + layer.bias.view(shape)


def fully_connected(layer, x):
    return x.flatten(1) @ layer.weight.T + layer.bias


def levels(number=5):
    return [torch.randn(number, 6, 4, 4) for _ in range(3)]


@torch.no_grad()
def test_box_head_of_convolutions():
    dims = {"conv_dims": [64, 64], "fc_dims": [10]}
    head = randomize(PANetBoxHead(SHAPE, num_levels=3, norm="GN", **dims))
    x = levels()
    own = [conv(layer, f) for layer, f in zip(head.first.layers, x, strict=True)]
    expected = torch.stack(own).amax(dim=0)
    second, last = head.others
    expected = fully_connected(last.linear, conv(second, expected)).clamp(min=0)
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)
    assert head.output_shape == ShapeSpec(channels=10)


@torch.no_grad()
def test_box_head_of_fully_connected_layers():
    head = randomize(PANetBoxHead(SHAPE, num_levels=3, conv_dims=[], fc_dims=[64, 64], norm="GN"))
    x = levels()
    own = [
        norm(layer.norm, fully_connected(layer.linear, f)).clamp(min=0)
        for layer, f in zip(head.first.layers, x, strict=True)
    ]
    (last,) = head.others
    expected = fully_connected(last.linear, torch.stack(own).amax(dim=0))
    expected = norm(last.norm, expected).clamp(min=0)
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)


def test_box_head_without_fully_connected_layers():
    head = PANetBoxHead(SHAPE, num_levels=3, conv_dims=[8], fc_dims=[])
    assert head.output_shape == ShapeSpec(channels=8, height=4, width=4)
    assert head(levels()).shape == (5, 8, 4, 4)
    with pytest.raises(ValueError, match=r"NUM_FC are both 0"):
        PANetBoxHead(SHAPE, num_levels=3, conv_dims=[], fc_dims=[])


def mask_head(num_classes=3):
    return PANetMaskHead(
        SHAPE,
        num_levels=3,
        num_classes=num_classes,
        num_conv=4,
        conv_dim=64,
        fusion_conv_dim=32,
        norm="GN",
    )


@torch.no_grad()
@pytest.mark.parametrize("num_classes", [1, 3])
def test_mask_head(num_classes):
    """The logits of four convolutions, and those of a fully connected layer after the third."""
    head = randomize(mask_head(num_classes))
    x = levels()
    own = [conv(layer, f) for layer, f in zip(head.first.layers, x, strict=True)]
    third = torch.stack(own).amax(dim=0)
    assert len(head.shared) == 2
    for layer in head.shared:
        third = conv(layer, third)
    branch = head.mask_head
    fourth = conv(branch.mask_fcn1, third)
    # A transposed convolution of 2x2 with stride 2: four linear maps side by side.
    large = torch.zeros(5, 64, 8, 8)
    for a in range(2):
        for b in range(2):
            weight = branch.deconv.weight[:, :, a, b]
            large[:, :, a::2, b::2] = torch.einsum("nchw,cd->ndhw", fourth, weight)
    large = (large + branch.deconv.bias[:, None, None]).clamp(min=0)
    logits = F.conv2d(large, branch.predictor.weight, branch.predictor.bias)
    fusion = third
    for layer in head.fusion.convs:
        fusion = conv(layer, fusion)
    assert fusion.shape[1] == 32
    whole = fully_connected(head.fusion.linear, fusion)
    assert (whole < 0).any()
    for roi in range(5):
        for row in range(8):
            logits[roi, :, row] += whole[roi, 8 * row : 8 * row + 8]
    torch.testing.assert_close(head.layers(x), logits, rtol=1e-3, atol=1e-3)


def test_no_rois():
    """The losses of no RoIs reach all parameters."""
    box_head = PANetBoxHead(SHAPE, num_levels=3, conv_dims=[], fc_dims=[64], norm="GN")
    head = mask_head()
    logits = head.layers(levels(0))
    assert logits.shape == (0, 3, 8, 8)
    (logits.sum() + box_head(levels(0)).sum()).backward()
    assert all(p.grad is not None for m in (head, box_head) for p in m.parameters())


def test_a_second_convolution_is_required():
    with pytest.raises(ValueError, match=r"MODEL\.ROI_MASK_HEAD\.NUM_CONV is 1"):
        PANetMaskHead(
            SHAPE, num_levels=3, num_classes=3, num_conv=1, conv_dim=64, fusion_conv_dim=32
        )


def test_boxes_are_not_rounded_in_half_precision():
    stock = ROIPooler(3, [1 / 4], 2, "ROIAlignV2")
    features, boxes = torch.rand(1, 2, 128, 128), [Boxes(torch.tensor([[401.3, 5, 414.9, 19]]))]
    (exact,) = AdaptivePooler(stock.level_poolers)([features], boxes)
    (half,) = AdaptivePooler(stock.level_poolers)([features.bfloat16()], boxes)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.005)
