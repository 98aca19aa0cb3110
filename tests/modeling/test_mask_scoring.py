"""Mask Scoring R-CNN's head: IoU targets, losses, and scores multiplied by the estimate."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage

from facenet_d2.modeling.roi_heads import MaskScoringHead, mask_ious
from facenet_d2.modeling.roi_heads.mask_scoring import MaskIoUHead


@pytest.mark.parametrize("as_polygons", [False, True])
def test_the_target_is_the_iou_in_the_image(as_polygons):
    rng = np.random.default_rng(0)
    gt, masks, boxes, expected = [], [], [], []
    for _ in range(20):
        x0, y0, w, h = *rng.integers(20, 60, 2), *rng.integers(40, 80, 2)
        rectangle = (x0, y0, x0 + w, y0 + h)
        # A box of 56x56, of which a pixel of the predicted mask has 2x2, partly over the object.
        bx, by = x0 + rng.integers(-20, 20), y0 + rng.integers(-20, 20)
        mask = torch.zeros(28, 28, dtype=torch.bool)
        mx, my = rng.integers(0, 14, 2)
        mask[my : my + 14, mx : mx + 14] = True
        painted = np.zeros((200, 200), bool)
        painted[by + 2 * my : by + 2 * my + 28, bx + 2 * mx : bx + 2 * mx + 28] = True
        object_mask = np.zeros((200, 200), bool)
        object_mask[y0 : y0 + h, x0 : x0 + w] = True
        expected.append((painted & object_mask).sum() / (painted | object_mask).sum())
        gt.append(rectangle)
        masks.append(mask)
        boxes.append((bx, by, bx + 56, by + 56))
    instances = Instances((200, 200))
    instances.proposal_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
    if as_polygons:
        corners = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, y0, x1, y1 in gt]
        instances.gt_masks = PolygonMasks([[np.array(p, float) for p in c] for c in corners])
    else:
        bits = torch.zeros(len(gt), 200, 200, dtype=torch.bool)
        for i, (x0, y0, x1, y1) in enumerate(gt):
            bits[i, y0:y1, x0:x1] = True
        instances.gt_masks = BitMasks(bits)
    actual = mask_ious(torch.stack(masks), instances)
    # Object borders within a 2x2 block are rounded to it.
    np.testing.assert_allclose(actual, expected, atol=0.04)
    assert max(expected) > 0.1


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_list(
        [
            *("MODEL.META_ARCHITECTURE", "GeneralizedRCNN"),
            *("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone"),
            *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128], [256], [512]]"),
            *("MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4', 'p5', 'p6']"),
            *("MODEL.ROI_HEADS.NAME", "StandardROIHeads"),
            *("MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3', 'p4', 'p5']"),
            *("MODEL.ROI_HEADS.NUM_CLASSES", 3),
            *("MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0),
            *("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead"),
            *("MODEL.ROI_BOX_HEAD.NUM_FC", 1),
            *("MODEL.ROI_BOX_HEAD.FC_DIM", 32),
            *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 7),
            *("MODEL.ROI_MASK_HEAD.NAME", "MaskScoringHead"),
            *("MODEL.ROI_MASK_HEAD.NUM_CONV", 1),
            *("MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION", 14),
            *("MODEL.ROI_MASK_IOU_HEAD.CONV_DIM", 16),
            *("MODEL.ROI_MASK_IOU_HEAD.FC_DIM", 16),
        ]
    )
    return model_cfg


@pytest.fixture
def model(cfg):
    return build_model(cfg)


@pytest.mark.parametrize(
    ("node", "key", "value"),
    [
        ("ROI_MASK_IOU_HEAD", "CONV_DIM", -3),
        ("ROI_MASK_IOU_HEAD", "NUM_CONV", 0),
        ("ROI_MASK_IOU_HEAD", "FC_DIM", 0),
        ("ROI_MASK_IOU_HEAD", "LOSS_WEIGHT", -1.0),
        ("ROI_MASK_HEAD", "POOLER_RESOLUTION", 0),
    ],
)
def test_wrong_values_name_their_key(cfg, node, key, value):
    cfg.MODEL[node][key] = value
    with pytest.raises(ValueError, match=rf"MODEL\.{node}\.{key}"):
        build_model(cfg)


def image(with_object=True):
    instances = Instances((64, 96))
    n = int(with_object)
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 40.0]])[:n])
    instances.gt_classes = torch.tensor([1])[:n]
    mask = torch.zeros(1, 64, 96, dtype=torch.bool)
    mask[:, 10:40, 10:50] = True
    instances.gt_masks = BitMasks(mask[:n])
    return {"image": torch.rand(3, 64, 96) * 255, "instances": instances}


@pytest.mark.parametrize("with_object", [True, False])
def test_every_parameter_of_the_head_has_a_gradient(model, with_object):
    with EventStorage():
        losses = model.train()([image(with_object)])
    assert {"loss_mask", "loss_mask_iou"} <= losses.keys()
    assert all(torch.isfinite(v) for v in losses.values())
    sum(losses.values()).backward()
    head = model.roi_heads.mask_head
    assert isinstance(head, MaskScoringHead)
    assert all(p.grad is not None for p in head.parameters())
    if with_object:
        assert head.iou_head.fc1.weight.grad.abs().sum() > 0


def test_what_is_just_over_a_half_belongs_to_the_mask_in_half_precision_too(model):
    head = model.roi_heads.mask_head
    # In bfloat16 the sigmoid of 0.001 is a half.
    logits = torch.full((1, 3, 28, 28), 0.001, dtype=torch.bfloat16)
    x = torch.rand(1, 32, 14, 14)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        masks, ious = head._estimates(x, logits, torch.tensor([1]))
    assert (masks > 0.5).all()
    assert torch.isfinite(ious).all()


def test_scores_are_multiplied_by_the_estimate(model):
    model.eval()
    batch = [{"image": torch.rand(3, 64, 96) * 255}]
    head = model.roi_heads.mask_head
    # The estimate depends on the class alone.
    torch.nn.init.zeros_(head.iou_head.predict.weight)
    found = []
    for ious in ([1.0, 1.0, 1.0], [0.5, 0.25, 2.0]):
        head.iou_head.predict.bias.data = torch.tensor(ious)
        with torch.no_grad():
            found.append(model(batch)[0]["instances"])
    plain, scored = found
    assert len(plain) == len(scored) > 0
    expected = plain.scores * torch.tensor([0.5, 0.25, 1.0])[plain.pred_classes]
    order = expected.argsort(descending=True, stable=True)
    assert order.tolist() != list(range(len(order)))
    torch.testing.assert_close(scored.scores, expected[order])
    assert torch.equal(scored.pred_classes, plain.pred_classes[order])
    assert torch.equal(scored.pred_boxes.tensor, plain.pred_boxes.tensor[order])
    assert torch.equal(scored.pred_masks, plain.pred_masks[order])


@torch.no_grad()
def test_the_head_is_its_layers():
    """The mask is max-pooled to the size of the features."""
    head = MaskIoUHead(6, 3, size=14, conv_dim=8, num_conv=3, fc_dim=10)
    features, masks = torch.randn(2, 6, 14, 14), torch.rand(2, 28, 28)
    small = masks.view(2, 14, 2, 14, 2).amax(dim=(2, 4))
    x = torch.cat([features, small[:, None]], dim=1)
    for i, conv in enumerate(head.convs):
        x = F.conv2d(x, conv.weight, conv.bias, padding=1, stride=2 if i == 2 else 1).relu()
    for fc in (head.fc1, head.fc2):
        x = (x.flatten(1) @ fc.weight.T + fc.bias).relu()
    torch.testing.assert_close(head(features, masks), x @ head.predict.weight.T + head.predict.bias)


def test_the_loss_is_the_mean_squared_error_of_the_masks_that_touch_their_objects(model):
    head = model.roi_heads.mask_head
    head.iou_loss_weight = 0.25
    head.train()
    instances = image()["instances"]
    proposals = instances[torch.zeros(4, dtype=torch.int64)]
    # The third misses the object; the fourth covers a part of it.
    proposals.proposal_boxes = Boxes(
        torch.tensor([[10.0, 10, 50, 40], [5, 5, 45, 45], [60, 50, 90, 60], [30, 20, 90, 60]])
    )
    features = torch.randn(4, 32, 14, 14, requires_grad=True)
    with EventStorage():
        losses = head(features, [proposals])
    with torch.no_grad():
        logits = head.layers(features)[:, 1]
        estimates = head.iou_head(features, logits.sigmoid())[:, 1]
        targets = mask_ious(logits > 0, proposals)
    judged = [i for i in range(4) if targets[i] > 0]
    assert 2 not in judged
    assert len(judged) >= 2
    expected = sum((estimates[i] - targets[i]) ** 2 for i in judged) / len(judged)
    torch.testing.assert_close(losses["loss_mask_iou"], 0.25 * expected)
    # It does not bend the masks.
    losses["loss_mask_iou"].backward()
    assert all(p.grad is None for p in head.mask_head.parameters())
    assert features.grad.abs().sum() > 0


@pytest.mark.parametrize("as_polygons", [False, True])
def test_what_lies_outside_of_the_image_is_not_missed(as_polygons):
    instances = Instances((100, 100))
    instances.proposal_boxes = Boxes(torch.tensor([[0.0, 20.0, 28.0, 76.0]]))
    if as_polygons:
        corners = np.array([-28.0, 20, 28, 20, 28, 76, -28, 76])
        instances.gt_masks = PolygonMasks([[corners]])
    else:
        bits = torch.zeros(1, 100, 100, dtype=torch.bool)
        bits[0, 20:76, :28] = True
        instances.gt_masks = BitMasks(bits)
    ious = mask_ious(torch.ones(1, 28, 28, dtype=torch.bool), instances)
    assert ious.dtype == torch.float32
    assert ious.item() == pytest.approx(1.0, abs=0.04)
