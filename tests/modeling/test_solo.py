"""SOLO against its definition: masks of cells, losses, and SOLOv2's targets and post-processing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from facenet_d2.modeling.grids import assign_targets, category_loss
from facenet_d2.modeling.solo import DecoupledMaskHead, SOLOMaskHead, SOLOPredictions
from facenet_d2.structures.masks import reduce_masks

GRIDS = (4, 3)


def make_head(kind):
    head = kind(8, num_grids=GRIDS, conv_channels=8, num_convs=2, norm="")
    for p in head.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return head


def tower(convs, x):
    for conv in convs:
        x = F.conv2d(x, conv.weight, conv.bias, padding=1).relu()
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def ramps(feature):
    n, _, h, w = feature.shape
    xs = torch.linspace(-1, 1, w).expand(n, 1, h, w)
    ys = torch.linspace(-1, 1, h)[:, None].expand(n, 1, h, w)
    return xs, ys


@torch.no_grad()
def test_masks_of_cells():
    head = make_head(SOLOMaskHead)
    features = [torch.randn(2, 8, 6, 10), torch.randn(2, 8, 3, 5)]
    maps = head(features)
    for level, feature in enumerate(features):
        x = tower(head.tower, torch.cat([feature, *ramps(feature)], dim=1))
        conv = head.predict[level]
        every = F.conv2d(x, conv.weight, conv.bias)
        assert every.shape[1] == GRIDS[level] ** 2
        cells = torch.tensor([0, 2, 7])
        for image in range(2):
            actual = head.logits(head.prepare(maps[level][image]), level, cells)
            torch.testing.assert_close(actual, every[image, cells], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_masks_of_cells_decoupled():
    head = make_head(DecoupledMaskHead)
    features = [torch.randn(2, 8, 6, 10), torch.randn(2, 8, 3, 5)]
    maps = head(features)
    for level, feature in enumerate(features):
        xs, ys = ramps(feature)
        conv_x, conv_y = head.predict_x[level], head.predict_y[level]
        x = tower(head.tower_x, torch.cat([feature, xs], dim=1))
        y = tower(head.tower_y, torch.cat([feature, ys], dim=1))
        x = F.conv2d(x, conv_x.weight, conv_x.bias, padding=1).sigmoid()
        y = F.conv2d(y, conv_y.weight, conv_y.bias, padding=1).sigmoid()
        for row in range(GRIDS[level]):
            for column in range(GRIDS[level]):
                cell = torch.tensor([row * GRIDS[level] + column])
                actual = head.logits(head.prepare(maps[level][1]), level, cell)[0].sigmoid()
                torch.testing.assert_close(actual, x[1, column] * y[1, row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [SOLOMaskHead, DecoupledMaskHead])
def test_losses_of_pairs(kind):
    head = make_head(kind)
    features = torch.randn(1, 8, 6, 10)
    maps = head([features, features])[0]
    cells = torch.tensor([1, 1, 9])
    masks = torch.rand(2, 12, 20) > 0.5
    owners = torch.tensor([0, 1, 1])
    actual = head.losses(maps[0], 0, cells, masks, owners)
    p = head.logits(head.prepare(maps[0]), 0, cells).sigmoid()
    for i in range(3):
        q = masks[owners[i]].float()
        # Equation (11), with the published 1e-3 in each sum below.
        expected = 1 - 2 * (p[i] * q).sum() / ((p[i] ** 2).sum() + (q**2).sum() + 2e-3)
        torch.testing.assert_close(actual[i], expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[False, True], ids=["SOLO", "decoupled"])
def model(request, model_cfg):
    model_cfg.MODEL.META_ARCHITECTURE = "SOLO"
    model_cfg.MODEL.SOLO.NUM_CONVS = 2
    model_cfg.MODEL.SOLO.CONV_CHANNELS = 32
    model_cfg.MODEL.SOLO.DECOUPLED = request.param
    return build_model(model_cfg)


def instances_of(masks, classes):
    out = Instances(tuple(masks.shape[-2:]))
    out.gt_masks = BitMasks(masks)
    out.gt_boxes = BitMasks(masks).get_bounding_boxes()
    out.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return out


def scene(size=(128, 160)):
    masks = torch.zeros(3, *size, dtype=torch.bool)
    masks[0, 10:40, 20:60] = True
    masks[1, 60:120, 70:150] = True
    masks[2, 4:20, 100:116] = True
    return instances_of(masks, [2, 0, 1])


def test_the_mask_loss_is_the_mean_over_the_pairs_of_the_shared_assigner(model):
    gt = [scene(), scene()]
    predictions = model.predict(torch.randn(2, 3, 128, 160))
    with EventStorage():
        losses = model.losses(predictions, gt)
    logits, maps = predictions
    head = model.mask_head
    targets = [assign_targets(x, model.layout, 3, (32, 40)) for x in gt]
    expected = []
    starts = np.cumsum([0] + [s * s for s in model.layout.num_grids])
    used = set()
    for i, target in enumerate(targets):
        for cell, owner in zip(target.cells.tolist(), target.instances.tolist(), strict=True):
            level = int(np.searchsorted(starts, cell, side="right")) - 1
            used.add(level)
            place = torch.tensor([cell - starts[level]])
            features = head.prepare(maps[level][i])
            p = head.logits(features, level, place)[0].sigmoid()
            q = reduce_masks(target.masks[owner][None], tuple(p.shape))[0].float()
            dice = 1 - 2 * (p * q).sum() / ((p**2).sum() + (q**2).sum() + 2e-3)
            expected.append(dice)
    assert len(used) > 1
    torch.testing.assert_close(losses["loss_mask"], 3 * torch.stack(expected).mean())
    torch.testing.assert_close(
        losses["loss_category"], category_loss(logits, targets, alpha=0.25, gamma=2.0)
    )


@torch.no_grad()
def test_parts_of_the_logits_of_cells_in_any_order(model):
    predictions = model.predict(torch.randn(2, 3, 128, 160))
    head = model.mask_head
    starts = np.cumsum([0] + [s * s for s in model.layout.num_grids])
    cells = torch.tensor([starts[-1] - 1, 3, starts[2] + 1, 0, starts[1]])
    expected = []
    for cell in cells.tolist():
        level = int(np.searchsorted(starts, cell, side="right")) - 1
        place = torch.tensor([cell - starts[level]])
        features = head.prepare(predictions.mask_maps[level][1])
        p = head.logits(features, level, place)[None].sigmoid()
        p = F.interpolate(p, size=(32, 40), mode="bilinear", align_corners=False)
        expected.append(p[0, 0])
    expected = torch.stack(expected)
    masks = model.cell_masks(predictions, 1, cells)
    assert (len(masks), masks.size) == (5, (32, 40))
    torch.testing.assert_close(masks.logits().sigmoid(), expected)
    part = masks.logits(torch.tensor([4, 1]), slice(3, 9), slice(20, 40)).sigmoid()
    torch.testing.assert_close(part, expected[[4, 1], 3:9, 20:])
    blocks = list(masks.blocks(2 * 32 * 40))
    assert len(blocks) == 3
    joined = torch.cat([masks.logits(*block) for block in blocks]).sigmoid()
    torch.testing.assert_close(joined, expected)


@pytest.mark.parametrize("with_objects", [True, False])
def test_every_parameter_has_a_gradient(model, with_objects):
    gt = scene() if with_objects else instances_of(torch.zeros(0, 128, 160, dtype=torch.bool), [])
    batch = [{"image": torch.rand(3, 128, 160) * 255, "instances": gt}]
    with EventStorage():
        losses = model.train()(batch)
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_perfect_outputs_give_the_objects_back(model):
    gt = scene()
    target = assign_targets(gt, model.layout, 3, (32, 40))
    cells = model.layout.num_cells
    logits = torch.full((1, cells, 3), -20.0)
    mask_of = {}
    for cell, owner in zip(target.cells.tolist(), target.instances.tolist(), strict=True):
        logits[0, cell, gt.gt_classes[owner]] = 20.0
        mask_of[cell] = owner

    class Perfect(torch.nn.Module):
        def prepare(self, features):
            return features

        def logits(self, features, level, places):
            start = sum(s * s for s in model.layout.num_grids[:level])
            masks = target.masks[[mask_of[start + int(k)] for k in places]]
            size = tuple(features.shape[-2:])
            return 40.0 * reduce_masks(masks, size).float() - 20.0

    model.mask_head = Perfect()
    strides = (4, 4, 8, 16, 16)
    maps = [torch.zeros(1, 1, 128 // s, 160 // s) for s in strides]
    predictions = SOLOPredictions(logits, maps)
    (out,) = model.eval().inference(predictions, [(128, 160)], [(128, 160)])
    # Other cells of an instance have the same mask: Matrix NMS leaves them exp(-2) of their score.
    out = out[out.scores > 0.5]
    assert sorted(out.pred_classes.tolist()) == [0, 1, 2]
    for mask, label in zip(gt.gt_masks.tensor, gt.gt_classes, strict=True):
        (found,) = out.pred_masks[out.pred_classes == label]
        iou = (found & mask).sum() / (found | mask).sum()
        # The second comes from a level of stride 8 as well.
        assert iou > 0.85
    assert isinstance(out.pred_boxes, Boxes)


def test_images_of_any_size(model):
    batch = [
        {"image": torch.rand(3, 70, 101) * 255, "height": 35, "width": 50},
        {"image": torch.rand(3, 96, 64) * 255},
    ]
    model.eval().settings = replace(model.settings, score_threshold=0.0, update_threshold=0.0)
    model.cell_min_areas.fill_(-1)
    with torch.no_grad():
        first, second = (x["instances"] for x in model(batch))
    assert first.image_size == (35, 50)
    assert second.image_size == (96, 64)
    for out in (first, second):
        assert out.pred_masks.shape[1:] == out.image_size


def test_reduced_masks_against_loops():
    masks = torch.rand(4, 12, 20) > 0.6
    masks[1] = False
    masks[1, 5, 7] = True
    out = reduce_masks(masks, (3, 5))
    blocks = masks.unflatten(2, (5, 4)).unflatten(1, (3, 4))
    for n in range(4):
        minimum = 1 if n == 1 else 8
        for y in range(3):
            for x in range(5):
                assert out[n, y, x] == (int(blocks[n, y, :, x].sum()) >= minimum)
    assert reduce_masks(masks, (12, 20)) is masks


def test_wrong_settings_are_named(model_cfg):
    model_cfg.MODEL.META_ARCHITECTURE = "SOLO"
    model_cfg.MODEL.SOLO.CONV_CHANNELS = 20
    with pytest.raises(ValueError, match=r"MODEL\.SOLO\.CONV_CHANNELS"):
        build_model(model_cfg)
    model_cfg.MODEL.SOLO.CONV_CHANNELS = 32
    model_cfg.MODEL.SOLO.NUM_CONVS = 0
    with pytest.raises(ValueError, match=r"MODEL\.SOLO\.NUM_CONVS is 0"):
        build_model(model_cfg)
    model_cfg.MODEL.SOLO.NUM_CONVS = 1
    model_cfg.MODEL.SOLO.MASK_PRIOR_PROB = 1.0
    with pytest.raises(ValueError, match=r"MODEL\.SOLO\.MASK_PRIOR_PROB is 1\.0"):
        build_model(model_cfg)


def test_masks_start_with_their_prior(model, model_cfg):
    model_cfg.MODEL.SOLO.MASK_PRIOR_PROB = 0.3
    model = build_model(model_cfg)
    with torch.no_grad():
        maps = model.predict(torch.zeros(1, 3, 64, 64)).mask_maps
        p = model.mask_head.logits(
            model.mask_head.prepare(maps[0][0]), 0, torch.arange(5)
        ).sigmoid()
    prior = 0.3**2 if model_cfg.MODEL.SOLO.DECOUPLED else 0.3
    torch.testing.assert_close(p, torch.full_like(p, prior), rtol=0.2, atol=0.02)
