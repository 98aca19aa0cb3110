"""RefineMask against plain versions of its rules: boundaries, refinement, stages and losses."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from torch import nn
from torchvision.ops import roi_align

from facenet_d2.modeling.roi_heads import RefineMaskHead, refine_mask
from facenet_d2.modeling.roi_heads.refine_mask import (
    Semantics,
    boundaries,
    refine,
    refinement_losses,
    semantic_loss,
)


def boundaries_by_loops(mask, width):
    """A pixel counts if over a tenth of its window differs; outside is background."""
    size = len(mask)
    found = np.zeros((size, size), bool)
    for y in range(size):
        for x in range(size):
            different = 0
            for a in range(-width, width + 1):
                for b in range(-width, width + 1):
                    inside = 0 <= y + a < size and 0 <= x + b < size
                    different += (inside and bool(mask[y + a, x + b])) != bool(mask[y, x])
            found[y, x] = different * 10 > (2 * width + 1) ** 2
    return found


def enlarged_by_loops(values):
    """Bilinear interpolation to twice the size that keeps the corners."""
    size = len(values)
    large = np.zeros((2 * size, 2 * size))
    for y in range(2 * size):
        for x in range(2 * size):
            v, u = (i * (size - 1) / (2 * size - 1) for i in (y, x))
            top, left = min(int(v), size - 2), min(int(u), size - 2)
            v, u = v - top, u - left
            for a, b, share in (
                (0, 0, (1 - v) * (1 - u)),
                (0, 1, (1 - v) * u),
                (1, 0, v * (1 - u)),
                (1, 1, v * u),
            ):
                large[y, x] += share * values[top + a, left + b]
    return large


def blobs(number, size, seed=0, detail=5):
    """Return logits of smooth random shapes."""
    noise = torch.randn(number, 1, detail, detail, generator=torch.Generator().manual_seed(seed))
    return 4 * F.interpolate(noise, (size, size), mode="bicubic")[:, 0]


@pytest.mark.parametrize("width", [1, 2, 3])
def test_boundaries(width):
    masks = blobs(6, 14) > 0
    masks[0] = True
    masks[1] = False
    masks[2] = torch.rand(14, 14) > 0.5
    for mask, found in zip(masks, boundaries(masks, width), strict=True):
        np.testing.assert_array_equal(found, boundaries_by_loops(mask.numpy(), width))
    assert boundaries(masks, width).any(dim=(1, 2)).tolist() == [True, False, *[True] * 4]
    assert boundaries(masks[:0], width).shape == (0, 14, 14)


def refined_by_loops(logits, larger):
    interior = ~boundaries_by_loops(logits >= 0, 1)
    enlarged, shares = enlarged_by_loops(logits), enlarged_by_loops(interior.astype(float))
    result = larger.copy()
    for y in range(len(larger)):
        for x in range(len(larger)):
            if shares[y, x] >= 0.5 - 1e-9:
                result[y, x] = enlarged[y, x]
    return result


def test_refinement_changes_the_surroundings_of_the_boundary():
    logits, larger = blobs(4, 14), 100 + blobs(4, 28, seed=1)
    found = refine(logits, larger)
    for i in range(4):
        expected = refined_by_loops(logits[i].double().numpy(), larger[i].double().numpy())
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-4)
    taken = (found == larger).float().mean()
    assert 0.1 < taken < 0.9


def test_losses_of_the_stages():
    """The larger masks have a loss near the boundaries of the object and of the mask so far."""
    stages = [blobs(2, 9 * 2**i, seed=i, detail=3) for i in range(4)]
    targets = [blobs(2, 9 * 2**i, seed=9, detail=3) > 0 for i in range(4)]
    found = refinement_losses(stages, targets, 2)
    entropies = []
    for logits, target in zip(stages, targets, strict=True):
        z, t = logits.double().numpy(), target.numpy()
        entropies.append(np.log1p(np.exp(np.where(t, -z, z))))
    expected = [entropies[0].mean(), entropies[1].mean()]
    so_far = list(stages[1].double().numpy())
    for i in (2, 3):
        total, number = 0.0, 0
        for roi in range(2):
            region = boundaries_by_loops(so_far[roi] >= 0, 2)
            region |= boundaries_by_loops(targets[i - 1][roi].numpy(), 2)
            counted = enlarged_by_loops(region.astype(float)) >= 0.5 - 1e-9
            total += entropies[i][roi][counted].sum()
            number += counted.sum()
            so_far[roi] = refined_by_loops(so_far[roi], stages[i][roi].double().numpy())
        assert 0.05 < number / entropies[i].size < 0.95
        expected.append(total / number)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    empty = refinement_losses([s[:0] for s in stages], [t[:0] for t in targets], 2)
    assert empty.tolist() == [0, 0, 0, 0]


@pytest.fixture
def head():
    shape = ShapeSpec(channels=6, height=4, width=4)
    module = RefineMaskHead(
        shape, num_classes=3, num_conv=2, conv_dim=32, semantic_dim=10, dilations=[1, 3]
    )
    for p in module.parameters():
        nn.init.normal_(p, std=0.2)
    return module


def inputs(number=5):
    semantics = Semantics(torch.rand(2, 10, 16, 24), torch.randn(2, 1, 16, 24))
    corners = torch.rand(number, 2) * 30
    rois = torch.cat(
        [torch.arange(number)[:, None] % 2, corners, corners + 5 + torch.rand(number, 2) * 40],
        dim=1,
    )
    return torch.rand(number, 6, 4, 4), semantics, rois, torch.arange(number) % 3


def up(x, align_corners):
    size = (2 * x.shape[2], 2 * x.shape[3])
    return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)


@torch.no_grad()
def test_stages(head):
    """All classes are computed, and the RoI's chosen; here from one RoI at a time."""
    x, semantics, rois, classes = inputs()
    found = head.layers(x, head.project(semantics), semantics.logits, rois, classes)
    for i, c in enumerate(classes.tolist()):
        image = int(rois[i, 0])
        box = [rois[i : i + 1, 1:]]
        y = x[i : i + 1]
        for layer in head.convs:
            y = F.conv2d(y, layer.weight, layer.bias, padding=1).clamp(min=0)

        def conv(layer, y):
            return F.conv2d(y, layer.weight, layer.bias).clamp(min=0)

        for number, stage in enumerate(head.stages):
            size = 4 * 2**number
            assert y.shape == (1, 32 // 2**number, size, size)
            predictor = stage.mask_predictor.linear
            logits = F.conv2d(y, predictor.weight[:, :, None, None], predictor.bias)[:, c : c + 1]
            torch.testing.assert_close(found[number][i], logits[0, 0], rtol=1e-4, atol=1e-4)
            own = conv(head.semantic_convs[number], semantics.features[image : image + 1])
            own = conv(stage.semantic, roi_align(own, box, size, 1 / 4, 0, True))
            objects = semantics.logits[image : image + 1].sigmoid()
            both = [logits.sigmoid(), roi_align(objects, box, size, 1 / 4, 0, True)]
            y = conv(stage.fuse, torch.cat([y, own, *both], dim=1))
            y = sum(
                F.conv2d(y, layer.weight, layer.bias, padding=d, dilation=d).clamp(min=0)
                for layer, d in zip(stage.parallel, (1, 3), strict=True)
            )
            y = up(conv(stage.reduce, conv(stage.merge, y)), False)
            y = torch.cat([y, *(up(m, True) for m in both)], dim=1)
        predictor = head.mask_predictor.linear
        logits = F.conv2d(y, predictor.weight[:, :, None, None], predictor.bias)[0, c]
        assert logits.shape == (32, 32)
        torch.testing.assert_close(found[3][i], logits, rtol=1e-4, atol=1e-4)


def detections(rois, classes):
    found = []
    for image in range(2):
        own = rois[:, 0] == image
        instances = Instances((64, 96))
        instances.pred_boxes = Boxes(rois[own, 1:])
        instances.pred_classes = classes[own]
        found.append(instances)
    return found


@torch.no_grad()
def test_masks_are_refined_from_the_second_stage_on(head, monkeypatch):
    x, semantics, rois, classes = inputs(7)
    order = rois[:, 0].argsort(stable=True)
    x, rois, classes = x[order], rois[order], classes[order]
    stages = head.layers(x, head.project(semantics), semantics.logits, rois, classes)
    expected = stages[1].double().numpy()
    for larger in stages[2:]:
        pairs = zip(expected, larger.double().numpy(), strict=True)
        expected = np.stack([refined_by_loops(a, b) for a, b in pairs])
    for at_once in (100, 3):
        monkeypatch.setattr(refine_mask, "ROIS_AT_ONCE", at_once)
        instances = detections(rois, classes)
        head.inference(x, semantics, instances)
        masks = torch.cat([i.pred_masks for i in instances])
        assert masks.shape == (7, 1, 32, 32)
        probabilities = 1 / (1 + np.exp(-expected))
        # A logit within rounding of zero may change a boundary; none does here.
        np.testing.assert_allclose(masks[:, 0], probabilities, atol=1e-4)
    none = detections(rois[:0], classes[:0])
    head.inference(x[:0], semantics, none)
    assert [i.pred_masks.shape for i in none] == [(0, 1, 32, 32)] * 2


def test_class_agnostic_masks():
    shape = ShapeSpec(channels=6, height=4, width=4)
    head = RefineMaskHead(shape, num_classes=1, num_conv=1, conv_dim=24, semantic_dim=10)
    x, semantics, rois, classes = inputs()
    projected = head.project(semantics)
    with torch.no_grad():
        some = head.layers(x, projected, semantics.logits, rois, classes)
        others = head.layers(x, projected, semantics.logits, rois, classes * 0)
    assert all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def ground_truth(*rectangles, size=(24, 32)):
    """Objects that fill rectangles (x0, y0, x1, y1)."""
    instances = Instances(size)
    masks = torch.zeros(len(rectangles), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, rectangles, strict=True):
        mask[y0:y1, x0:x1] = True
    instances.gt_masks = BitMasks(masks)
    instances.gt_boxes = Boxes(torch.tensor(rectangles, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.arange(len(rectangles)) % 3
    return instances


def test_semantic_loss():
    """All pixels, except for those of crowds that belong to no object."""
    logits = torch.randn(2, 1, 8, 8)
    # The second object has three pixels.
    targets = [ground_truth((4, 4, 16, 16), (24, 8, 27, 9)), ground_truth()]
    crowd = torch.zeros(6, 8, dtype=torch.bool)
    crowd[2:5, 2:7] = True
    total = 0.0
    for image in range(2):
        for y in range(8):
            for x in range(8):
                is_object = image == 0 and ((1 <= y < 4 and 1 <= x < 4) or (y, x) == (2, 6))
                if image == 0 and not is_object and 2 <= y < 5 and 2 <= x < 7:
                    continue
                z = float(logits[image, 0, y, x])
                total += math.log1p(math.exp(-z if is_object else z))
    found = semantic_loss(logits, targets, [crowd, None])
    assert float(found) == pytest.approx(total / 128, rel=1e-5)


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "refinemask.yaml"))
    model_cfg.MODEL.ANCHOR_GENERATOR.SCALE = 2.0
    model_cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    model_cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 16
    model_cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    model_cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    model_cfg.MODEL.ROI_MASK_REFINEMENT.SEMANTIC_CONV_DIM = 32
    return model_cfg


def test_crowds_and_weights_reach_the_losses(cfg):
    """The whole image as a crowd leaves the objects' pixels; weights multiply the losses."""

    def losses(**weights):
        for key, value in weights.items():
            cfg.MODEL.ROI_MASK_REFINEMENT[key] = value
        torch.manual_seed(0)
        model = build_model(cfg).train()
        torch.manual_seed(0)
        with EventStorage():
            return {name: loss.detach() for name, loss in model([image]).items()}

    image = {"image": torch.rand(3, 64, 64) * 255}
    image["instances"] = ground_truth((8, 8, 40, 40), size=(64, 64))
    plain = losses(CLS_LOSS_WEIGHT=1.0)
    assert {"loss_mask", "loss_semantic"} <= plain.keys()
    # At first, all probabilities are one half.
    assert float(plain["loss_semantic"]) == pytest.approx(math.log(2), abs=0.05)
    assert float(plain["loss_mask"]) == pytest.approx(2.5 * math.log(2), abs=0.1)
    weighted = losses(
        CLS_LOSS_WEIGHT=2.0, SEMANTIC_LOSS_WEIGHT=3.0, LOSS_WEIGHTS=[0.5, 1.0, 1.5, 2.0]
    )
    for name, factor in {"loss_cls": 2, "loss_semantic": 3, "loss_mask": 2}.items():
        torch.testing.assert_close(weighted[name], factor * plain[name])
    image["ignore_map"] = torch.ones(16, 16, dtype=torch.bool)
    ignoring = losses()
    share = float(ignoring["loss_semantic"] / weighted["loss_semantic"])
    assert share == pytest.approx(64 / 256, abs=0.05)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("ROI_MASK_HEAD.CONV_DIM", 36, r"MODEL\.ROI_MASK_HEAD\.CONV_DIM is 36"),
        ("ROI_MASK_HEAD.CONV_DIM", 16, r"multiple of 8, at least 24"),
        ("ROI_MASK_HEAD.NUM_CONV", 0, r"MODEL\.ROI_MASK_HEAD\.NUM_CONV is 0"),
        ("ROI_MASK_HEAD.POOLER_RESOLUTION", 29, r"POOLER_RESOLUTION is 29"),
        ("ROI_HEADS.IN_FEATURES", ["p3", "p4"], r"MODEL\.ROI_HEADS\.IN_FEATURES"),
        ("ROI_MASK_REFINEMENT.LOSS_WEIGHTS", [1.0], r"LOSS_WEIGHTS"),
    ],
)
def test_wrong_values_name_their_key(cfg, key, value, message):
    node, name = key.split(".")
    cfg.MODEL[node][name] = value
    with pytest.raises(ValueError, match=message):
        build_model(cfg)
