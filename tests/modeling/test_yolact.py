"""YOLACT against its definition in plain loops: heads, matching, losses, Fast NMS and masks."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.matcher import Matcher
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from torchvision.ops import box_iou, nms

from facenet_d2.modeling.yolact import AnchorHead, PrototypeHead, YOLACTPredictions, fast_nms
from facenet_d2.modeling.yolact.losses import hard_negative_loss, lincomb_loss, semantic_loss
from facenet_d2.modeling.yolact.matching import best_anchors
from facenet_d2.structures.masks import downsample_masks


def random_boxes(count, size=60):
    corners = torch.rand(count, 2) * size
    return torch.cat([corners, corners + 5 + torch.rand(count, 2) * 25], dim=1)


def test_fast_nms_is_its_definition():
    boxes, scores = random_boxes(80), torch.rand(80, 3)
    settings = {"score_threshold": 0.3, "iou_threshold": 0.4, "top_k": 25, "max_instances": 30}
    rows, classes = fast_nms(boxes, scores, **settings)
    iou = box_iou(boxes, boxes)
    expected = []
    for c in range(3):
        ranked = sorted((r for r in range(80) if scores[r, c] > 0.3), key=lambda r: -scores[r, c])
        ranked = ranked[:25]
        for place, r in enumerate(ranked):
            # Dropped boxes suppress others too.
            if all(iou[r, better] <= 0.4 for better in ranked[:place]):
                expected.append((scores[r, c].item(), r, c))
    expected.sort(reverse=True)
    assert len(expected) > 30
    assert list(zip(rows.tolist(), classes.tolist())) == [(r, c) for _, r, c in expected[:30]]


def test_fast_nms_lets_a_dropped_box_drop_others():
    # B overlaps A, C overlaps B alone: plain NMS keeps C.
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    rows, _ = fast_nms(
        boxes, scores, score_threshold=0.1, iou_threshold=0.3, top_k=10, max_instances=10
    )
    assert rows.tolist() == [0]
    assert nms(boxes, scores[:, 0], 0.3).tolist() == [0, 2]


def test_fast_nms_of_nothing():
    rows, classes = fast_nms(
        torch.zeros(0, 4),
        torch.zeros(0, 3),
        score_threshold=0.1,
        iou_threshold=0.3,
        top_k=10,
        max_instances=10,
    )
    assert len(rows) == len(classes) == 0


@torch.no_grad()
def test_predictions_lie_where_their_anchors_do():
    head = AnchorHead(2, num_classes=2, num_anchors=3, num_prototypes=4, num_convs=0)
    generator = DefaultAnchorGenerator(
        sizes=[[24], [48]], aspect_ratios=[[0.5, 1.0, 2.0]], strides=[8, 16]
    )
    features = []
    for (h, w), stride in (((5, 7), 8), ((3, 4), 16)):
        # Two channels with the coordinates of each position.
        x = (torch.arange(w) + 0.5) * stride
        y = (torch.arange(h) + 0.5) * stride
        features.append(torch.stack([x.expand(h, w), y[:, None].expand(h, w)])[None])
    for conv, size in zip(head.predict, (3, 4, 4), strict=True):
        conv.weight.zero_()
        conv.bias.zero_()
        for a in range(3):
            conv.weight[a * size, 0, 1, 1] = 1e-3
            conv.weight[a * size + 1, 1, 1, 1] = 1e-3
            conv.bias[a * size + 2] = a
    anchors = torch.cat([b.tensor for b in generator(features)])
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    widths = anchors[:, 2] - anchors[:, 0]
    logits, deltas, coefficients = head(features)
    for output in (logits, deltas):
        assert output.shape[:2] == (1, (35 + 12) * 3)
        torch.testing.assert_close(output[0, :, :2] * 1e3, centers, rtol=1e-4, atol=1e-3)
        # The narrowest anchor is the one of ratio 2, height over width.
        by_ratio = widths.view(-1, 3).argsort(dim=1, descending=True)
        assert torch.equal(output[0, :, 2].view(-1, 3), by_ratio.float())
    torch.testing.assert_close(coefficients[0, :, 0], (centers[:, 0] * 1e-3).tanh())


@torch.no_grad()
def test_prototypes():
    head = PrototypeHead(6, num_prototypes=4, conv_channels=8, num_convs=2)
    x = torch.randn(2, 6, 5, 7)
    expected = x
    for conv in head.before:
        expected = F.conv2d(expected, conv.weight, conv.bias, padding=1).relu()
    expected = F.interpolate(expected, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(expected, head.after.weight, head.after.bias, padding=1).relu()
    expected = F.conv2d(expected, head.predict.weight, head.predict.bias).relu()
    torch.testing.assert_close(head(x), expected)
    assert expected.shape == (2, 4, 10, 14)


def test_hard_negatives():
    logits = torch.randn(40, 4)
    labels = torch.full((40,), 3)
    labels[:4] = torch.tensor([0, 2, 1, 0])
    labels[4:9] = -1
    each = [-F.log_softmax(logits[i], dim=0)[labels[i]].item() for i in range(40) if labels[i] >= 0]
    expected = sum(each[:4]) + sum(sorted(each[4:])[-12:])
    torch.testing.assert_close(hard_negative_loss(logits, labels, 3.0).item(), expected)
    # The ratio exceeds the number of negative anchors.
    torch.testing.assert_close(hard_negative_loss(logits, labels, 100.0).item(), sum(each))
    # Without positive anchors the loss is zero.
    assert hard_negative_loss(logits, torch.full((40,), 3), 3.0) == 0


def test_mask_losses_of_pairs():
    coefficients, prototypes = torch.randn(3, 5), torch.rand(5, 8, 10)
    masks = torch.rand(2, 8, 10) > 0.5
    boxes = torch.tensor([[1.0, 2.0, 6.0, 7.0], [0.0, 0.0, 10.0, 4.0]])
    owners = torch.tensor([0, 1, 1])
    actual = lincomb_loss(coefficients, prototypes, masks, owners, boxes)
    for pair in range(3):
        x0, y0, x1, y1 = boxes[owners[pair]].tolist()
        total = 0.0
        for y in range(8):
            for x in range(10):
                # The box and one pixel more on every side.
                if x0 - 1 <= x + 0.5 <= x1 + 1 and y0 - 1 <= y + 0.5 <= y1 + 1:
                    p = torch.sigmoid(coefficients[pair] @ prototypes[:, y, x])
                    total -= torch.log(p if masks[owners[pair], y, x] else 1 - p).item()
        expected = total / ((x1 - x0) * (y1 - y0))
        torch.testing.assert_close(actual[pair].item(), expected, rtol=1e-4, atol=1e-5)


def test_semantic_targets_are_the_union_of_a_class():
    masks = torch.zeros(3, 8, 12, dtype=torch.bool)
    masks[0, :3, :3] = True
    masks[1, 4:, 6:] = True
    masks[2, 0, 11] = True
    classes = torch.tensor([1, 0, 1])
    logits = torch.randn(3, 4, 6)
    target = torch.zeros(3, 4, 6)
    for mask, c in zip(masks, classes):
        for y, x in mask.nonzero().tolist():
            target[c, y // 2, x // 2] = 1
    p = logits.sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum() / 24
    torch.testing.assert_close(semantic_loss(logits, masks, classes), expected)
    none = -(1 - p).log().sum() / 24
    torch.testing.assert_close(semantic_loss(logits, masks[:0], classes[:0]), none)


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "yolact.yaml"))
    model_cfg.merge_from_list(
        [
            *("MODEL.YOLACT.NUM_CLASSES", 3),
            *("MODEL.YOLACT.CONV_CHANNELS", 16),
            *("MODEL.YOLACT.NUM_PROTOTYPES", 8),
        ]
    )
    return model_cfg


@pytest.fixture
def model(cfg):
    return build_model(cfg)


def scene(size=(128, 160), full=True):
    masks = torch.zeros(3, *size, dtype=torch.bool)
    masks[0, 10:40, 20:60] = True
    masks[1, 60:120, 70:150] = True
    masks[2, 4:20, 100:116] = True
    instances = Instances(size)
    instances.gt_boxes = BitMasks(masks).get_bounding_boxes()
    instances.gt_classes = torch.tensor([2, 0, 1])
    if full:
        instances.gt_masks = BitMasks(masks)
    else:
        instances.gt_centers = torch.stack(
            [m.nonzero().double().mean(dim=0).flip(0) for m in masks]
        )
        instances.gt_stride4_masks = downsample_masks(masks, (size[0] // 4, size[1] // 4))
    return instances


def nothing(size=(128, 160)):
    instances = Instances(size)
    instances.gt_boxes = Boxes(torch.zeros(0, 4))
    instances.gt_classes = torch.zeros(0, dtype=torch.int64)
    instances.gt_stride4_masks = torch.zeros(0, size[0] // 4, size[1] // 4, dtype=torch.bool)
    return instances


def greedy(iou):
    """Match the pair with the largest IoU, remove both, and repeat, as published."""
    free, owners = iou.clone(), {}
    while free.max() > 0:
        i, a = divmod(free.argmax().item(), free.shape[1])
        owners[a] = i
        free[i], free[:, a] = 0, 0
    return owners


@pytest.mark.parametrize("size", [4, 30])
def test_each_object_has_an_anchor_of_its_own(size):
    # Tiny or overlapping objects on anchors every 8 pixels.
    places = torch.cartesian_prod(torch.arange(0, 64, 8), torch.arange(0, 64, 8)) + 4.0
    anchors = torch.cat([places - 12, places + 12], dim=1)
    corners = torch.rand(60, 2) * 56
    iou = box_iou(torch.cat([corners, corners + size], dim=1), anchors)
    owners = best_anchors(iou)
    assert {a: owners[a].item() for a in owners.add(1).nonzero()[:, 0].tolist()} == greedy(iou)
    # Otherwise many objects would share their best anchor.
    assert len(set(owners.tolist()) - {-1}) > len(set(iou.argmax(dim=1).tolist())) + 10


def test_more_objects_than_anchors():
    assert best_anchors(torch.tensor([[0.2], [0.3], [0.0]])).tolist() == [1]
    assert best_anchors(torch.zeros(2, 3)).tolist() == [-1, -1, -1]


def test_matching(model):
    instances = scene()
    # Anchors around the objects and anywhere.
    around = instances.gt_boxes.tensor.repeat(60, 1) + 10 * torch.randn(180, 4)
    # No anchor has an IoU of 0.5 with the third object.
    around = around[torch.arange(180) % 3 != 2]
    anchors = torch.cat([around, random_boxes(200, size=120)])
    labels, owners = model.match_anchors(anchors, instances)
    iou = box_iou(anchors, instances.gt_boxes.tensor)
    own = greedy(iou.T)
    assert len(own) == 3
    seen = set()
    for a in range(len(anchors)):
        if a in own or iou[a].max() >= 0.5:
            kind = "positive" if a not in own else "own"
            owner = own.get(a, iou[a].argmax().item())
            assert owners[a] == owner
            assert labels[a] == instances.gt_classes[owner]
        else:
            kind = "ignored" if iou[a].max() >= 0.4 else "background"
            assert labels[a] == {"ignored": -1, "background": 3}[kind]
        seen.add(kind)
    assert seen == {"own", "positive", "ignored", "background"}


def losses_of(model, batch):
    model.train()
    predictions = model.predict(torch.randn(len(batch), 3, 128, 160))
    with EventStorage():
        return model.losses(predictions, batch), predictions


@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_has_a_gradient(model, objects):
    losses, _ = losses_of(model, [scene(), nothing()] if objects else [nothing()])
    assert set(losses) == {"loss_cls", "loss_box", "loss_mask", "loss_semantic"}
    assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (losses["loss_mask"] > 0) == objects


def test_losses_are_means_over_the_positive_anchors(model):
    """The batch has images of two sizes; the smaller one is padded."""
    model.max_masks, model.semantic_weight = 10**6, 0.5
    small = scene(size=(120, 152), full=False)
    batch = [scene(), nothing(), small]
    losses, predictions = losses_of(model, batch)
    logits, deltas, coefficients, anchors, prototypes, semantic = predictions
    cls, box, mask, seg, count = 0.0, 0.0, 0.0, 0.0, 0
    for i, gt in enumerate(batch):
        labels, owners = model.match_anchors(anchors, gt)
        cls += hard_negative_loss(logits[i], labels, 3.0)
        found = [a for a in range(len(anchors)) if 0 <= labels[a] < 3]
        count += len(found)
        small_masks = scene(full=False).gt_stride4_masks
        assert torch.equal(F.pad(small.gt_stride4_masks, (0, 2, 0, 2)), small_masks)
        seg += semantic_loss(semantic[i], small_masks[: len(gt)], gt.gt_classes)
        for a in found:
            target = gt.gt_boxes.tensor[owners[a]]
            size, middle = anchors[a, 2:] - anchors[a, :2], (anchors[a, 2:] + anchors[a, :2]) / 2
            wanted = torch.cat(
                [
                    10 * ((target[:2] + target[2:]) / 2 - middle) / size,
                    5 * ((target[2:] - target[:2]) / size).log(),
                ]
            )
            box += F.smooth_l1_loss(deltas[i, a], wanted, reduction="sum", beta=1.0)
            mask += lincomb_loss(
                coefficients[i, a : a + 1],
                prototypes[i],
                small_masks,
                owners[a : a + 1],
                gt.gt_boxes.tensor / 4,
            ).sum()
    assert count > 5
    torch.testing.assert_close(losses["loss_cls"], cls / count)
    torch.testing.assert_close(losses["loss_box"], 1.5 * box / count)
    torch.testing.assert_close(losses["loss_mask"], 6.125 * mask / count, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses["loss_semantic"], 0.5 * seg / 3)


def test_a_part_of_the_masks_stands_for_all(model):
    """``MAX_MASKS`` evenly spaced positive anchors have the weight of all of them."""
    model.max_masks, model.matcher = 3, Matcher([0.2, 0.3], [0, -1, 1])
    batch = [scene(), scene()]
    losses, (_, _, coefficients, anchors, prototypes, _) = losses_of(model, batch)
    labels, owners = model.match_anchors(anchors, batch[0])
    found = ((labels >= 0) & (labels < 3)).nonzero()[:, 0]
    assert len(found) > 8
    some = found[[0, len(found) // 3, 2 * len(found) // 3]]
    small_masks, boxes = scene(full=False).gt_stride4_masks, batch[0].gt_boxes.tensor / 4
    each = [
        lincomb_loss(coefficients[i, some], prototypes[i], small_masks, owners[some], boxes)
        for i in range(2)
    ]
    torch.testing.assert_close(losses["loss_mask"], 6.125 * torch.cat(each).mean())


def test_boxes_end_where_the_image_does(model):
    model.eval()
    anchors = torch.tensor([[-8.0, 100, 24, 132], [140, -16, 180, 20]])
    logits = torch.full((1, 2, 4), -8.0)
    logits[0, :, 0] = 8
    coefficients, prototypes = torch.ones(1, 2, 8), torch.ones(1, 8, 32, 40)
    predictions = YOLACTPredictions(
        logits, torch.zeros(1, 2, 4), coefficients, anchors, prototypes, None
    )
    (found,) = model.inference(predictions, [(120, 152)], [(120, 152)])
    expected = torch.tensor([[0.0, 100, 24, 120], [140, 0, 152, 20]])
    assert torch.equal(found.pred_boxes.tensor.sort(dim=0).values, expected.sort(dim=0).values)
    assert found.pred_masks.shape == (2, 120, 152)


def test_a_found_object_at_the_images_own_size(model):
    """Chosen predictions: one confident anchor, whose prototype is a known rectangle."""
    model.eval()
    anchors = torch.tensor([[16.0, 8, 48, 40], [80, 80, 112, 112]])
    logits = torch.full((1, 2, 4), -8.0)
    logits[0, 0, 1] = 8
    logits[0, 1, 3] = 8
    # Another confident anchor has an empty mask.
    anchors = torch.cat([anchors, torch.tensor([[112.0, 16, 144, 48]])])
    logits = torch.cat([logits, logits[:, :1]], dim=1)
    deltas = torch.zeros(1, 3, 4)
    coefficients = torch.zeros(1, 3, 8)
    coefficients[0, 0, 0], coefficients[0, 0, 1], coefficients[0, 2, 1] = 1, -1, -1
    prototypes = torch.zeros(1, 8, 32, 40)
    prototypes[0, 1] = 9
    # The rectangle starts one pixel inside the box and ends far to its right.
    prototypes[0, 0, 3:9, 5:30] = 18
    predictions = YOLACTPredictions(logits, deltas, coefficients, anchors, prototypes, None)
    (found,) = model.inference(predictions, [(120, 160)], [(240, 320)])
    assert found.pred_classes.tolist() == [1]
    torch.testing.assert_close(found.pred_boxes.tensor, torch.tensor([[32.0, 16, 96, 80]]))
    assert found.scores.item() > 0.99
    assert found.pred_masks.shape == (1, 240, 320)
    ys, xs = found.pred_masks[0].nonzero(as_tuple=True)
    # Rows 3 to 9 and columns 5 to 13 (the box's 12, and one more) at stride 4, scaled by 2.
    for first, last, actual in ((24, 72, ys), (40, 104, xs)):
        assert abs(actual.min() - first) <= 3
        assert abs(actual.max() + 1 - last) <= 4


def test_nothing_is_found(model):
    model.eval()
    model.score_threshold = 1.0
    with torch.no_grad():
        (result,) = model([{"image": torch.rand(3, 96, 100) * 255, "height": 50, "width": 60}])
    instances = result["instances"]
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 50, 60)


@pytest.mark.parametrize("neck", ["bifpn", "face_fpn"])
def test_on_another_neck(cfg, neck):
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", f"build_resnet_{neck}_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.YOLACT.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
        ]
    )
    losses, _ = losses_of(build_model(cfg), [scene()])
    assert all(torch.isfinite(x) for x in losses.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NUM_CLASSES", 0),
        ("IN_FEATURES", ["p3", "p5"]),
        ("IN_FEATURES", ["p2", "p3"]),
        ("PROTOTYPE_IN_FEATURE", "p4"),
        ("ANCHOR_SCALE", 0.0),
        ("MASK_THRESH_TEST", 1.0),
        ("NUM_PROTOTYPES", 0),
        ("CONV_CHANNELS", 0),
        ("NUM_CONVS", -1),
        ("MAX_MASKS", 0),
        ("PRE_NMS_TOPK_TEST", 0),
        ("NEGATIVE_RATIO", -1.0),
        ("MASK_WEIGHT", -1.0),
        ("SCORE_THRESH_TEST", 2.0),
        ("NMS_THRESH_TEST", -0.5),
        ("ANCHOR_RATIOS", []),
        ("BBOX_REG_WEIGHTS", [1.0]),
        ("BBOX_REG_WEIGHTS", [0.0, 1.0, 1.0, 1.0]),
        ("IOU_THRESHOLDS", [0.5, 1.5]),
        ("IOU_THRESHOLDS", [0.5, 0.4]),
        ("IOU_THRESHOLDS", [0.5]),
    ],
)
def test_wrong_values_name_their_key(cfg, key, value):
    cfg.MODEL.YOLACT[key] = value
    with pytest.raises(ValueError, match=f"MODEL.YOLACT.{key}"):
        build_model(cfg)
