"""CondInst against its definition in plain loops, and its detections against Detectron2's FCOS."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from test_yolact import nothing, scene
from torch import nn

from facenet_d2.modeling.condinst import CondInstPredictions, DynamicMaskHead, MaskBranch
from facenet_d2.modeling.condinst.fcos_targets import (
    elliptic_centerness_targets,
    match_positions,
)
from facenet_d2.modeling.sampling import best_of_each


def test_parameters_split_and_applied_in_a_loop():
    head = DynamicMaskHead(8, channels=8, num_convs=3)
    # (8 + 2) * 8 + 8, 8 * 8 + 8, 8 + 1.
    assert head.num_parameters == 169
    features = torch.randn(8, 4, 5)
    parameters = torch.randn(3, 169)
    centers = torch.tensor([[4.0, 4.0], [20.0, 12.0], [36.0, 28.0]])
    scales = torch.tensor([64.0, 64.0, 128.0])
    actual = head(features, parameters, centers, scales, 8)
    assert actual.shape == (3, 4, 5)
    for k in range(3):
        p = parameters[k]
        weights = p[:80].view(8, 10), p[80:144].view(8, 8), p[144:152].view(1, 8)
        biases = p[152:160], p[160:168], p[168:]
        for y in range(4):
            for x in range(5):
                relative = (centers[k] - torch.tensor([8 * x + 4.0, 8 * y + 4.0])) / scales[k]
                value = torch.cat([relative, features[:, y, x]])
                for layer in range(3):
                    value = weights[layer] @ value + biases[layer]
                    if layer < 2:
                        value = value.relu()
                torch.testing.assert_close(actual[k, y, x], value[0], rtol=1e-4, atol=1e-4)


def test_other_depths_and_widths():
    head = DynamicMaskHead(3, channels=5, num_convs=2)
    assert head.num_parameters == 5 * 5 + 5 + 5 + 1
    out = head(torch.randn(3, 2, 2), torch.randn(0, 36), torch.zeros(0, 2), torch.zeros(0), 8)
    assert out.shape == (0, 2, 2)


def test_best_of_each():
    owners = torch.randint(-1, 5, (60,))
    scores = torch.rand(60)
    expected = set()
    for i in range(5):
        own = sorted((r for r in range(60) if owners[r] == i), key=lambda r: -scores[r])
        expected |= set(own[:4])
    assert set(best_of_each(owners, scores, 4).tolist()) == expected
    assert len(best_of_each(torch.full((9,), -1), torch.rand(9), 4)) == 0


@torch.no_grad()
def test_mask_features():
    branch = MaskBranch(6, num_levels=2, conv_channels=4, num_convs=1, out_channels=3, norm="")
    fine, coarse = torch.randn(2, 6, 6, 10), torch.randn(2, 6, 3, 5)

    def conv(layer, x):
        return F.conv2d(x, layer.weight, layer.bias, padding=1).relu()

    up = F.interpolate(conv(branch.refine[1], coarse), size=(6, 10), mode="bilinear")
    x = conv(branch.tower[0], conv(branch.refine[0], fine) + up)
    expected = F.conv2d(x, branch.predict.weight, branch.predict.bias)
    torch.testing.assert_close(branch([fine, coarse]), expected)


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "condinst.yaml"))
    model_cfg.merge_from_list(
        [
            *("MODEL.CONDINST.NUM_CLASSES", 3),
            *("MODEL.CONDINST.NUM_CONVS", 1),
            *("MODEL.CONDINST.CONV_CHANNELS", 64),
            *("MODEL.CONDINST.MASK_CONV_CHANNELS", 32),
            *("MODEL.CONDINST.MASK_NORM", "GN"),
        ]
    )
    return model_cfg


@pytest.fixture
def model(cfg):
    return build_model(cfg)


class _HeadOfFCOS(nn.Module):
    """The layers of CondInst's head with the interface of Detectron2's FCOS head."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        h = self.head
        boxes = [h.bbox_subnet(x) for x in features]
        return (
            [h.cls_score(h.cls_subnet(x)) for x in features],
            [h.bbox_pred(x) for x in boxes],
            [h.ctrness(x) for x in boxes],
        )


@pytest.fixture
def fcos(model):
    return FCOS(
        backbone=model.backbone,
        head=_HeadOfFCOS(model.head),
        head_in_features=list(model.in_features),
        num_classes=3,
        test_score_thresh=0.0,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        pixel_std=model.pixel_std.flatten().tolist(),
    )


def spread_scores(model):
    # Random outputs that differ between positions.
    for layer in (model.head.cls_score, model.head.bbox_pred, model.head.ctrness):
        nn.init.normal_(layer.weight, std=0.3)


def test_detection_losses_are_those_of_fcos(model, fcos, monkeypatch):
    spread_scores(model)
    monkeypatch.setattr(FCOS, "_ema_update", lambda self, name, value, *_: value)
    batch = [{"image": torch.rand(3, 128, 160) * 255, "instances": scene()} for _ in range(2)]
    with EventStorage():
        expected = fcos.train()(batch)
        actual = model.train()(batch)
    assert set(actual) == {*expected, "loss_mask"}
    for name, value in expected.items():
        assert value > 0
        torch.testing.assert_close(actual[name], value)


@torch.no_grad()
def test_boxes_are_those_of_fcos(model, fcos):
    spread_scores(model)
    # With this threshold no mask is empty.
    model.score_threshold, model.mask_threshold = 0.0, 0.0
    batch = [{"image": torch.rand(3, 128, 160) * 255, "height": 64, "width": 80}]
    (expected,), (actual,) = fcos.eval()(batch), model.eval()(batch)
    expected, actual = expected["instances"], actual["instances"]
    assert len(expected) > 20
    assert torch.equal(actual.pred_classes, expected.pred_classes)
    torch.testing.assert_close(actual.scores, expected.scores)
    torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert actual.pred_masks.shape == (len(expected), 64, 80)


def one_by_one(model, predictions, batch):
    """Yield the image, object, score and Dice loss of each positive position."""
    logits, _, centerness, parameters, anchors, mask_features = predictions
    gt = scene(full=False).gt_stride4_masks.float()
    for i, instances in enumerate(batch):
        owners = model.match(anchors, instances)
        first = 0
        for level, boxes in enumerate(anchors):
            for place in range(len(boxes)):
                owner = owners[first + place].item()
                if owner < 0:
                    continue
                center = (boxes[place, :2] + boxes[place, 2:]) / 2
                scale = torch.tensor([64.0 * 2**level])
                small = model.mask_head(
                    mask_features[i],
                    parameters[level][i, place : place + 1],
                    center[None],
                    scale,
                    8,
                )
                p = F.interpolate(small[None], scale_factor=2, mode="bilinear")[0, 0].sigmoid()
                q = gt[owner]
                loss = 1 - 2 * (p * q).sum() / ((p * p).sum() + (q * q).sum() + 2e-3)
                score = (
                    logits[level][i, place, instances.gt_classes[owner]].sigmoid()
                    * centerness[level][i, place, 0].sigmoid()
                )
                yield i, owner, score.item(), loss
            first += len(boxes)


# The second image is smaller, and padded.
def two_sizes():
    return [scene(), scene(size=(120, 152), full=False)]


def test_mask_loss_is_the_mean_over_the_positive_positions(model):
    model.train().max_masks = 10**6
    batch = two_sizes()
    predictions = model.predict(torch.randn(2, 3, 128, 160))
    with EventStorage():
        actual = model.losses(predictions, batch)["loss_mask"]
    each = [loss for *_, loss in one_by_one(model, predictions, batch)]
    assert len(each) > 10
    torch.testing.assert_close(actual, torch.stack(each).mean(), rtol=1e-4, atol=1e-5)


def test_mask_loss_of_the_best_position_of_each_object(model):
    spread_scores(model)
    # One for each object: 4 // 3 in the loop over objects.
    model.train().max_masks = 4
    batch = two_sizes()
    predictions = model.predict(torch.randn(2, 3, 128, 160))
    with EventStorage():
        actual = model.losses(predictions, batch)["loss_mask"]
    best = {}
    for i, owner, score, loss in one_by_one(model, predictions, batch):
        best[i, owner] = max(best.get((i, owner), (0, 0)), (score, loss), key=lambda x: x[0])
    assert len(best) >= 4
    expected = torch.stack([loss for _, loss in best.values()]).mean()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def match_by_loops(sizes, boxes, centers, radius):
    """FCOS's assignment with given centres, one position and object after the other."""
    owners = []
    last = len(sizes) - 1
    for level, (stride, (height, width)) in enumerate(sizes.items()):
        low = 4 * stride if level else 0
        high = 8 * stride if level < last else math.inf
        for y in range(height):
            for x in range(width):
                px, py = (x + 0.5) * stride, (y + 0.5) * stride
                found = []
                for n, ((x0, y0, x1, y1), (cx, cy)) in enumerate(zip(boxes, centers, strict=True)):
                    sides = (px - x0, py - y0, x1 - px, y1 - py)
                    near = max(abs(px - cx), abs(py - cy)) < radius * stride
                    if near and min(sides) > 0 and low < max(sides) < high:
                        found.append(((x1 - x0) * (y1 - y0), n))
                owners.append(min(found)[1] if found else -1)
    return owners


def anchors_of(sizes):
    """A box of the stride's size around each position of each level."""
    anchors = []
    for stride, (height, width) in sizes.items():
        ys, xs = torch.meshgrid(
            (torch.arange(height) + 0.5) * stride,
            (torch.arange(width) + 0.5) * stride,
            indexing="ij",
        )
        centers = torch.stack([xs, ys], dim=2).view(-1, 2)
        anchors.append(torch.cat([centers - stride / 2, centers + stride / 2], dim=1))
    return anchors


SIZES = {s: (128 // s, 160 // s) for s in (8, 16, 32, 64, 128)}


@pytest.mark.parametrize("count", [0, 1, 40])
@pytest.mark.parametrize("radius", [0.7, 1.5])
def test_positions_against_loops(count, radius):
    """Objects of 4 to 150 pixels that overlap each other; their centres are off the middle."""
    corners = torch.rand(count, 2) * torch.tensor([150.0, 118.0])
    sides = 4 * 37.5 ** torch.rand(count, 2)
    boxes = torch.cat([corners, corners + sides], dim=1)
    centers = corners + sides * (0.2 + 0.6 * torch.rand(count, 2))
    owners = match_positions(anchors_of(SIZES), boxes, centers, radius)
    expected = match_by_loops(SIZES, boxes.tolist(), centers.tolist(), radius)
    assert owners.tolist() == expected
    assert len(set(expected)) > count / 4


def test_the_smallest_box_wins():
    boxes = torch.tensor([[20.0, 20, 80, 80], [30, 30, 70, 70], [20, 20, 80, 80]])
    centers = torch.full((3, 2), 50.0)
    owners = match_positions(anchors_of(SIZES), boxes, centers, 1.5)
    assert set(owners.tolist()) == {-1, 1}


@pytest.mark.parametrize("full", [True, False])
def test_positions_are_sampled_around_the_centre_of_mass(model, full):
    """The centre of mass of an L is far from the centre of its box."""
    mask = torch.zeros(1, 128, 160, dtype=torch.bool)
    mask[0, 10:110, 20:32] = True
    mask[0, 98:110, 20:120] = True
    instances = scene()[:1]
    instances.gt_boxes = BitMasks(mask).get_bounding_boxes()
    instances.gt_masks = BitMasks(mask)
    ys, xs = (v.double().mean().item() for v in mask[0].nonzero(as_tuple=True))
    if not full:
        instances.remove("gt_masks")
        instances.gt_centers = torch.tensor([[xs, ys]], dtype=torch.float64)
    anchors = model.anchor_generator([torch.zeros(1, 1, *size) for size in SIZES.values()])
    boxes = instances.gt_boxes.tensor
    owners = model.match([a.tensor for a in anchors], instances).tolist()
    assert owners == match_by_loops(SIZES, boxes.tolist(), [(xs + 0.5, ys + 0.5)], 1.5)
    assert owners.count(0) > 0
    middle = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    assert owners != match_by_loops(SIZES, boxes.tolist(), middle, 1.5)


def covariance_by_loops(mask):
    """Return the centre and the covariance of a mask from points spread over its pixels."""
    fine = torch.arange(32, dtype=torch.float64) / 32 + 1 / 64
    points = torch.cat(
        [torch.cartesian_prod(x + fine, y + fine) for y, x in mask.nonzero().tolist()]
    )
    return points.mean(dim=0), torch.cov(points.T, correction=0)


def test_elliptic_centerness_of_a_tilted_bar():
    """1 at the centre, the given value on the ellipse, falling faster across than along the bar."""
    mask = torch.zeros(40, 60, dtype=torch.bool)
    for i in range(30):
        mask[5 + i, 10 + i : 16 + i] = True
    _, matrix = covariance_by_loops(mask)
    covariance = matrix.flatten()[[0, 1, 3]]
    assert covariance[1] > 0.5 * covariance[0]
    values, axes = torch.linalg.eigh(matrix)
    angles = torch.linspace(0, 6, 20, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    ellipse = 2 * circle * values.sqrt() @ axes.T
    for border in (0.1, 0.4):
        found = elliptic_centerness_targets(ellipse, covariance.expand(20, 3), border)
        torch.testing.assert_close(found, torch.full_like(found, border))
        half = elliptic_centerness_targets(ellipse / 2, covariance.expand(20, 3), border)
        # A Gaussian: the logarithm falls with the square of the distance.
        torch.testing.assert_close(half, torch.full_like(half, border**0.25))
    across, along = elliptic_centerness_targets(axes.T * 5, covariance.expand(2, 3), 0.1)
    assert across < 0.2 < 0.8 < along
    assert elliptic_centerness_targets(torch.zeros(1, 2), torch.eye(3)[:1] + 1, 0.1) == 1


@pytest.mark.parametrize("full", [True, False])
def test_loss_of_the_elliptic_centerness(model, full):
    """Only the loss of the centerness changes."""
    spread_scores(model)
    masks = scene().gt_masks.tensor
    instances = scene(full=full)
    shapes = [covariance_by_loops(mask) for mask in masks]
    if not full:
        instances.gt_covariances = torch.stack([m.flatten()[[0, 1, 3]] for _, m in shapes])
    batch = [instances, nothing(), instances]
    predictions = model.train().predict(torch.randn(3, 3, 128, 160))
    with EventStorage():
        plain = model.losses(predictions, batch)
        model.centerness, model.ellipse_border = "ellipse", 0.2
        losses = model.losses(predictions, batch)
    logits = torch.cat(predictions.centerness, dim=1)[..., 0].tolist()
    anchors = torch.cat(predictions.anchors).double()
    total, count = 0.0, 0
    for i in (0, 2):
        for place, owner in enumerate(model.match(predictions.anchors, instances).tolist()):
            if owner < 0:
                continue
            center, matrix = shapes[owner]
            offset = (anchors[place, :2] + anchors[place, 2:]) / 2 - center
            distance = offset @ torch.linalg.inv(matrix) @ offset
            target = math.exp(math.log(0.2) * float(distance) / 4)
            p = 1 / (1 + math.exp(-logits[i][place]))
            total -= target * math.log(p) + (1 - target) * math.log(1 - p)
            count += 1
    assert count > 10
    assert losses["loss_fcos_ctr"].item() == pytest.approx(total / count, rel=1e-4)
    assert losses["loss_fcos_ctr"] != plain["loss_fcos_ctr"]
    for name in losses.keys() - {"loss_fcos_ctr"}:
        assert torch.equal(losses[name], plain[name])


def test_elliptic_centerness_of_a_batch_without_objects(model):
    model.train().centerness = "ellipse"
    with EventStorage():
        losses = model.losses(model.predict(torch.randn(1, 3, 128, 160)), [nothing()])
    assert losses["loss_fcos_ctr"] == 0


@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_has_a_gradient(model, objects):
    model.train()
    predictions = model.predict(torch.randn(2, 3, 128, 160))
    with EventStorage():
        losses = model.losses(predictions, [scene() if objects else nothing(), nothing()])
    assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert (losses["loss_mask"] > 0) == objects


@torch.no_grad()
def test_a_mask_lies_where_its_coordinates_say(model):
    """An instance whose mask head computes the distance from its position."""
    head = DynamicMaskHead(8, channels=8, num_convs=3)
    parameters = torch.zeros(1, head.num_parameters)
    # 10 (1 - 4 (|dx| + |dy|)), with the absolute values as sums of two rectified halves.
    for row, (column, sign) in enumerate([(0, 1), (0, -1), (1, 1), (1, -1)]):
        parameters[0, row * 10 + column] = sign
    parameters[0, 80:84] = 1
    parameters[0, 144] = -4.0 * 10
    parameters[0, 168] = 10.0
    anchors = torch.tensor([[52.0, 20.0, 60.0, 28.0]])
    masks = model.masks(parameters, anchors, torch.zeros(8, 16, 20))
    assert masks.shape == (1, 32, 40)
    ys, xs = (masks[0] > 0.5).nonzero(as_tuple=True)
    # A diamond of radius 64 / 4 = 16 pixels of the input around (56, 24), at stride 4.
    assert abs((xs.double().mean() + 0.5) * 4 - 56) <= 2
    assert abs((ys.double().mean() + 0.5) * 4 - 24) <= 2
    assert 20 <= len(xs) <= 40


@torch.no_grad()
def test_found_instances_have_their_own_masks_at_the_images_own_size(model):
    """Chosen predictions: positions of two levels find diamonds of their level's size."""
    model.eval()
    features = [torch.zeros(1, 1, 128 // s, 160 // s) for s in (8, 16, 32, 64, 128)]
    anchors = [a.tensor for a in model.anchor_generator(features)]
    number = model.mask_head.num_parameters
    logits = [torch.full((1, len(a), 3), -20.0) for a in anchors]
    distances = [torch.zeros(1, len(a), 4) for a in anchors]
    centerness = [torch.full((1, len(a), 1), 6.0) for a in anchors]
    parameters = [torch.zeros(1, len(a), number) for a in anchors]
    # The same mask heads; those of all other positions predict an empty mask.
    for own in parameters:
        own[..., 168] = -10.0
    diamond = torch.zeros(number)
    for row, (column, sign) in enumerate([(0, 1), (0, -1), (1, 1), (1, -1)]):
        diamond[row * 10 + column] = sign
    diamond[80:84], diamond[144], diamond[168] = 1, -40.0, 10.0
    # Level, place, class, class logit, side of the box in strides.
    fine, coarse = 2 * 20 + 5, 5 * 10 + 6
    for level, place, label, logit, side in (
        (0, fine, 1, 4.0, 3.0),
        (1, coarse, 2, 5.0, 2.0),
        # A lower score next to the first with a similar box: suppressed.
        (0, fine + 1, 1, 3.0, 3.0),
        # A position with an empty mask.
        (2, 0, 0, 6.0, 1.0),
    ):
        logits[level][0, place, label] = logit
        distances[level][0, place] = side
        if level < 2:
            parameters[level][0, place] = diamond
    predictions = CondInstPredictions(
        logits, distances, centerness, parameters, anchors, torch.zeros(1, 8, 16, 20)
    )
    (found,) = model.inference(predictions, [(120, 152)], [(240, 304)])
    assert found.pred_classes.tolist() == [2, 1]
    centers = torch.tensor([[6.5 * 16, 5.5 * 16], [5.5 * 8, 2.5 * 8]])
    halves = torch.tensor([[32.0], [24.0]])
    boxes = torch.cat([centers - halves, centers + halves], dim=1) * 2
    boxes[:, 0::2].clamp_(0, 304)
    boxes[:, 1::2].clamp_(0, 240)
    torch.testing.assert_close(found.pred_boxes.tensor, boxes)
    sigmoid = torch.tensor([5.0, 4.0]).sigmoid() * torch.tensor(6.0).sigmoid()
    torch.testing.assert_close(found.scores, sigmoid.sqrt())
    for mask, center, radius in zip(found.pred_masks, centers, (32, 16), strict=True):
        ys, xs = mask.nonzero(as_tuple=True)
        # In pixels of the image, twice the input's.
        assert abs(xs.double().mean() + 0.5 - 2 * center[0]) < 3
        assert abs(ys.double().mean() + 0.5 - 2 * center[1]) < 3
        assert len(xs) == pytest.approx(2 * (2 * radius) ** 2, rel=0.2)


def test_nothing_is_found(model):
    model.eval()
    model.score_threshold = 1.0
    with torch.no_grad():
        (result,) = model([{"image": torch.rand(3, 96, 100) * 255, "height": 50, "width": 60}])
    instances = result["instances"]
    assert len(instances) == 0
    assert instances.pred_masks.shape == (0, 50, 60)


def test_normalised_by_the_positives_of_the_batch_alone(model):
    """The losses have no state that a checkpoint would not contain."""
    batch = [{"image": torch.rand(3, 128, 160) * 255, "instances": scene()}]
    model.train()
    with EventStorage():
        first, second = model(batch), model(batch)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value)


def test_on_another_neck(cfg):
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", "build_resnet_face_fpn_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.CONDINST.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
        ]
    )
    model = build_model(cfg)
    with EventStorage():
        losses = model.train()(
            [{"image": torch.rand(3, 128, 160) * 255, "instances": scene(full=False)}]
        )
    assert all(torch.isfinite(x) for x in losses.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NUM_CLASSES", 0),
        ("IN_FEATURES", ["p3", "p5"]),
        ("MASK_IN_FEATURES", ["p4", "p5"]),
        ("MASK_IN_FEATURES", []),
        ("CENTER_SAMPLING_RADIUS", 0.0),
        ("NUM_CONVS", 0),
        ("DYNAMIC_CONVS", 0),
        ("DYNAMIC_CHANNELS", 0),
        ("MASK_CHANNELS", 0),
        ("MAX_MASKS", 0),
        ("TOPK_CANDIDATES_TEST", 0),
        ("FOCAL_LOSS_GAMMA", -1.0),
        ("NORM", "XN"),
        ("MASK_CONV_CHANNELS", 33),
        ("PRIOR_PROB", 0.0),
        ("CENTERNESS", "circle"),
        ("ELLIPSE_BORDER", 1.0),
    ],
)
def test_wrong_values_name_their_key(cfg, key, value):
    cfg.MODEL.CONDINST[key] = value
    with pytest.raises(ValueError, match=f"MODEL.CONDINST.{key}"):
        build_model(cfg)
