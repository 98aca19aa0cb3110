"""RDSNet against its definition in plain loops: heads, matching, losses, detections and masks."""

import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import CycleBatchNormList
from detectron2.modeling import build_model
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from test_yolact import nothing, random_boxes, scene
from torch import nn
from torchvision.ops import box_iou

from facenet_d2.modeling.rdsnet import AnchorHead, PixelBranch, RDSNetPredictions
from facenet_d2.modeling.rdsnet.losses import mask_losses
from facenet_d2.modeling.rdsnet.matching import match_anchors


@torch.no_grad()
def test_towers():
    """Each output has a tower of its own; the anchors of a position follow each other."""
    head = AnchorHead(
        4,
        num_levels=2,
        num_classes=2,
        num_anchors=3,
        representation_channels=5,
        conv_channels=32,
        num_convs=2,
        norm="GN",
    )
    for parameter in head.parameters():
        parameter.normal_()
    levels = [torch.randn(2, 4, 5, 7), torch.randn(2, 4, 3, 4)]
    for output, size, tower, last in zip(
        head(levels), (2, 4, 10), head.towers, head.predict, strict=True
    ):
        for level, x in zip(output, levels, strict=True):
            for conv in tower:
                x = F.conv2d(x, conv.weight, padding=1)
                x = F.group_norm(x, 32, conv.norm.weight, conv.norm.bias).relu()
            x = F.conv2d(x, last.weight, last.bias, padding=1)
            height, width = x.shape[2:]
            assert level.shape == (2, height * width * 3, size)
            for y, column, anchor in ((0, 0, 0), (2, 3, 1), (height - 1, width - 1, 2)):
                place = (y * width + column) * 3 + anchor
                wanted = x[:, anchor * size : (anchor + 1) * size, y, column]
                torch.testing.assert_close(level[:, place], wanted, rtol=1e-4, atol=1e-3)


def test_initial_scores_and_batch_norm_of_each_level():
    head = AnchorHead(4, num_levels=3, num_classes=2, num_anchors=1, norm="BN", prior_prob=0.2)
    norms = [m for m in head.modules() if isinstance(m, CycleBatchNormList)]
    assert len(norms) == 12
    assert {len(n) for n in norms} == {3}
    logits, _, _ = head([torch.zeros(2, 4, 8 // 2**i, 8 // 2**i) for i in range(3)])
    torch.testing.assert_close(logits[0].sigmoid(), torch.full((2, 64, 2), 0.2))


def upsample(x):
    """Bilinear upsampling by 2 with the corners in place, in loops over the lines of an axis."""
    for dim in (2, 3):
        size = x.shape[dim]
        lines = []
        for i in range(2 * size):
            place = i * (size - 1) / (2 * size - 1)
            low = min(int(place), size - 1)
            high = min(low + 1, size - 1)
            weight = place - low
            lines.append((1 - weight) * x.select(dim, low) + weight * x.select(dim, high))
        x = torch.stack(lines, dim)
    return x


@torch.no_grad()
@pytest.mark.parametrize("size", [(4, 12), (12, 20)])
def test_pixel_map(size):
    branch = PixelBranch(6, num_levels=3, conv_channels=32, out_channels=3, norm="GN")

    def conv(layer, x):
        x = F.conv2d(x, layer.weight, padding=1)
        return F.group_norm(x, 32, layer.norm.weight, layer.norm.bias).relu()

    fine, middle, coarse = (torch.randn(2, 6, size[0] // s, size[1] // s) for s in (1, 2, 4))
    fused = conv(branch.lateral[0][0], fine) + upsample(conv(branch.lateral[1][0], middle))
    x = upsample(conv(branch.lateral[2][0], coarse))
    fused = fused + upsample(conv(branch.lateral[2][2], x))
    expected = F.conv2d(
        upsample(conv(branch.after[0], fused)), branch.predict.weight, branch.predict.bias
    )
    actual = branch([fine, middle, coarse])
    assert actual.shape == (2, 3, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert len(list(branch.parameters())) == 5 * 3 + 2


@pytest.mark.parametrize("size", [3, 30])
def test_matching_in_loops(size):
    """Tiny objects, whose anchors all have a low IoU, or objects of the anchors' size."""
    places = torch.cartesian_prod(torch.arange(0, 64, 8), torch.arange(0, 64, 8)) + 4.0
    anchors = torch.cat([places - 12, places + 12], dim=1)
    anchors = torch.cat([anchors, random_boxes(100)])
    corners = torch.rand(40, 2) * 56
    objects = torch.cat([corners, corners + size], dim=1)
    # Two equal objects; the last one gets their anchors.
    objects = torch.cat([objects, objects[:1]])
    iou = box_iou(objects, anchors)
    owners, kinds = match_anchors(iou, Matcher([0.4, 0.5], [0, -1, 1]))
    for a in range(len(anchors)):
        best = [n for n in range(41) if 0 < iou[n, a] == iou[n].max()]
        if best:
            assert (owners[a], kinds[a]) == (max(best), 1)
            continue
        highest = iou[:, a].max()
        assert kinds[a] == (1 if highest >= 0.5 else -1 if highest >= 0.4 else 0)
        if kinds[a] == 1:
            assert iou[owners[a], a] == highest
    assert 40 in owners
    assert (owners[kinds == 1] != 0).all()


def test_an_object_without_anchors():
    """Detectron2's own rule would make every anchor positive."""
    iou = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.1, 0.6]])
    owners, kinds = match_anchors(iou, Matcher([0.4, 0.5], [0, -1, 1]))
    assert kinds.tolist() == [0, 0, 1]
    assert owners[2] == 1


def cross_entropy(logits, target):
    """Return -log softmax of two logits."""
    return math.log(sum(math.exp(x - logits[target]) for x in logits))


def mask_loss_by_loops(background, objects, pixel_map, mask, box, margin, ratio):
    """Return the loss of one mask: two logits a pixel, all object pixels, the hardest others."""
    margins = [max(1.0, margin * (box[i + 2] - box[i])) for i in (0, 1)] * 2
    logits = torch.einsum("sk,khw->hws", torch.stack([background, objects]), pixel_map).tolist()
    mask = mask.tolist()
    x0, y0, x1, y1 = (box[i] + (-1 if i < 2 else 1) * margins[i] for i in range(4))
    own, others = [], []
    for y, row in enumerate(mask):
        for x, is_object in enumerate(row):
            if x0 <= x + 0.5 <= x1 and y0 <= y + 0.5 <= y1:
                loss = cross_entropy(logits[y][x], int(is_object))
                (own if is_object else others).append(loss)
    hardest = sorted(others)[::-1][: int(ratio * len(own))]
    return (sum(own) + sum(hardest)) / (len(own) + len(hardest) + 1)


def test_hardest_background_by_hand():
    """One row: two object pixels, three others in the box, of which the two hardest count."""
    logits = torch.tensor([[[2.0, -1.0, 0.5, -3.0, 1.0, 9.0]]])
    mask = torch.tensor([[[True, True, False, False, False, False]]])
    boxes = torch.tensor([[0.0, 0.0, 5.0, 1.0]])
    loss = mask_losses([logits], mask, boxes, 1.0)
    total = sum(math.log1p(math.exp(x)) for x in (-2.0, 1.0, 0.5, 1.0))
    torch.testing.assert_close(loss, torch.tensor([total / 5]))
    # Half as many, rounded down; more than there are.
    total = sum(math.log1p(math.exp(x)) for x in (-2.0, 1.0, 1.0))
    torch.testing.assert_close(mask_losses([logits], mask, boxes, 0.5), torch.tensor([total / 4]))
    total = sum(math.log1p(math.exp(x)) for x in (-2.0, 1.0, 0.5, -3.0, 1.0))
    torch.testing.assert_close(mask_losses([logits], mask, boxes, 9.0), torch.tensor([total / 6]))


def test_no_masks_and_masks_without_background():
    assert mask_losses([], torch.zeros(0, 4, 4).bool(), torch.zeros(0, 4), 1.0).shape == (0,)
    full = torch.ones(1, 3, 3, dtype=torch.bool)
    box = torch.tensor([[-1.0, -2.0, 4.5, 3.5]])
    loss = mask_losses([torch.zeros(2, 3, 3)], full, box, 1.0)
    torch.testing.assert_close(loss, torch.full((2,), 9 * math.log(2) / 10))


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "rdsnet.yaml"))
    model_cfg.merge_from_list(
        [
            *("MODEL.RDSNET.NUM_CLASSES", 3),
            *("MODEL.RDSNET.NUM_CONVS", 1),
            *("MODEL.RDSNET.CONV_CHANNELS", 64),
            *("MODEL.RDSNET.REPRESENTATION_CHANNELS", 4),
        ]
    )
    return model_cfg


@pytest.fixture
def model(cfg):
    return build_model(cfg)


def spread(model):
    """Make the outputs of a new network differ between anchors and pixels."""
    for layer in (*model.anchor_head.predict, model.pixel_branch.predict):
        nn.init.normal_(layer.weight, std=0.3)


def losses_of(model, batch):
    model.train()
    predictions = model.predict(torch.randn(len(batch), 3, 128, 160))
    with EventStorage():
        return model.losses(predictions, batch), predictions


def test_anchors(model):
    """Three sizes in an octave and three ratios, from 4 strides."""
    predictions = model.predict(torch.zeros(1, 3, 128, 160))
    for level, stride in enumerate((8, 16, 32, 64, 128)):
        anchors = predictions.anchors[level]
        height, width = math.ceil(128 / stride), math.ceil(160 / stride)
        assert len(anchors) == 9 * height * width
        assert predictions.representations[level].shape == (1, len(anchors), 8)
        sides = anchors[:9, 2:] - anchors[:9, :2]
        found = sorted((h / w, math.sqrt(w * h)) for w, h in sides.tolist())
        expected = [(r, 4 * stride * 2 ** (i / 3)) for r in (0.5, 1, 2) for i in range(3)]
        for (ratio, size), (wanted_ratio, wanted_size) in zip(found, expected, strict=True):
            assert ratio == pytest.approx(wanted_ratio, rel=1e-4)
            assert size == pytest.approx(wanted_size, rel=1e-4)
    assert predictions.pixel_map.shape == (1, 4, 32, 40)


@pytest.mark.parametrize("objects", [True, False])
def test_every_parameter_has_a_gradient(model, objects):
    losses, _ = losses_of(model, [scene(), nothing()] if objects else [nothing()])
    assert set(losses) == {"loss_cls", "loss_box", "loss_mask"}
    assert all(torch.isfinite(x) for x in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    for name in ("loss_mask", "loss_box"):
        assert (losses[name] > 0) == objects


class _HeadOfRetinaNet(nn.Module):
    """The first two towers of the head with the interface of Detectron2's RetinaNet head."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features):
        outputs = []
        for tower, predict in zip(self.head.towers[:2], self.head.predict[:2], strict=True):
            outputs.append([predict(tower(x)) for x in features])
        return outputs


@pytest.fixture
def retinanet(model):
    return RetinaNet(
        backbone=model.backbone,
        head=_HeadOfRetinaNet(model.anchor_head),
        head_in_features=list(model.in_features),
        anchor_generator=model.anchor_generator,
        box2box_transform=model.box_transform,
        anchor_matcher=Matcher([0.4, 0.5], [0, -1, 1], allow_low_quality_matches=True),
        num_classes=3,
        smooth_l1_beta=0.11,
        test_score_thresh=0.0,
        pixel_mean=model.pixel_mean.flatten().tolist(),
        pixel_std=model.pixel_std.flatten().tolist(),
    )


def test_detection_losses_are_those_of_retinanet(model, retinanet, monkeypatch):
    """The objects of the scene do not share their best anchors."""
    spread(model)
    monkeypatch.setattr(RetinaNet, "_ema_update", lambda self, name, value, *_: value)
    batch = [{"image": torch.rand(3, 128, 160) * 255, "instances": scene()} for _ in range(2)]
    with EventStorage():
        expected = retinanet.train()(batch)
        actual = model.train()(batch)
    torch.testing.assert_close(actual["loss_cls"], expected["loss_cls"])
    torch.testing.assert_close(actual["loss_box"], expected["loss_box_reg"])
    assert expected["loss_box_reg"] > 0


@torch.no_grad()
def test_boxes_are_those_of_retinanet(model, retinanet):
    spread(model)
    # All pixels have a probability of 0.5, so no mask is empty.
    nn.init.zeros_(model.pixel_branch.predict.weight)
    model.score_threshold = 0.0
    # Detectron2 clips boxes after NMS, not before. Boxes of a tenth of their anchors' sides lie in
    # the image.
    nn.init.normal_(model.anchor_head.predict[1].weight, std=0.01)
    model.anchor_head.predict[1].bias.view(-1, 4)[:, 2:] = -math.log(10)
    batch = [{"image": torch.rand(3, 128, 160) * 255}]
    (expected,), (actual,) = retinanet.eval()(batch), model.eval()(batch)
    expected, actual = expected["instances"], actual["instances"]
    assert len(expected) > 20
    assert torch.equal(actual.pred_classes, expected.pred_classes)
    torch.testing.assert_close(actual.scores, expected.scores)
    torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor)


def masks_by_loops(model, predictions, batch, *, limit=10**6, min_area=0):
    """Return the mask losses of all positive anchors of a batch, one by one."""
    anchors = torch.cat(predictions.anchors)
    representations = torch.cat(predictions.representations, dim=1).detach().double()
    pixel_map = predictions.pixel_map.detach().double()
    masks = scene(full=False).gt_stride4_masks
    losses = []
    for i, gt in enumerate(batch):
        labels, owners = model.match(anchors, gt)
        found = [
            a
            for a in range(len(anchors))
            if 0 <= labels[a] < 3 and 16 * masks[owners[a]].sum() > min_area
        ]
        if len(found) > limit:
            found = [found[k * len(found) // limit] for k in range(limit)]
        for a in found:
            background, objects = representations[i, a].view(2, -1)
            box = [x / 4 for x in gt.gt_boxes.tensor[owners[a]].tolist()]
            losses.append(
                mask_loss_by_loops(
                    background, objects, pixel_map[i], masks[owners[a]], box, 0.25, 1.0
                )
            )
    return losses


def test_mask_loss_in_loops(model):
    """The batch has images of two sizes; the smaller one is padded."""
    spread(model)
    batch = [scene(), nothing(), scene(size=(120, 152), full=False)]
    losses, predictions = losses_of(model, batch)
    each = masks_by_loops(model, predictions, batch)
    assert len(each) > 8
    assert losses["loss_mask"].item() == pytest.approx(sum(each) / (len(each) + 1), rel=1e-4)


def test_the_rule_of_the_published_code_for_small_objects(model):
    """MIN_MASK_AREA leaves the smallest of three objects out: 16x16 pixels."""
    spread(model)
    model.min_mask_area, model.mask_weight = 256, 2.0
    batch = [scene()]
    losses, predictions = losses_of(model, batch)
    each = masks_by_loops(model, predictions, batch, min_area=256)
    assert 0 < len(each) < len(masks_by_loops(model, predictions, batch, min_area=255))
    assert losses["loss_mask"].item() == pytest.approx(2 * sum(each) / (len(each) + 1), rel=1e-4)
    model.min_mask_area = 10**6
    with EventStorage():
        assert model.losses(predictions, batch)["loss_mask"] == 0


def test_masks_are_chosen_evenly(model):
    spread(model)
    model.max_masks = 3
    batch = [scene(), scene()]
    losses, predictions = losses_of(model, batch)
    each = masks_by_loops(model, predictions, batch, limit=3)
    assert len(each) == 6
    assert losses["loss_mask"].item() == pytest.approx(sum(each) / 7, rel=1e-4)


@torch.no_grad()
def test_found_objects_at_the_images_own_size(model):
    """Chosen predictions. Two logits are enlarged, then compared; masks end with their boxes."""
    model.eval()
    predictions = model.predict(torch.zeros(1, 3, 128, 160))
    logits = [torch.full_like(x, -9.0) for x in predictions.logits]
    deltas = [torch.zeros_like(x) for x in predictions.deltas]
    representations = [torch.zeros_like(x) for x in predictions.representations]
    # The anchors of ratio 1 and size 32 at the position (60, 36), and of size 64 at (104, 72).
    found = []
    for level, box, label in ((0, [44, 20, 76, 52], 1), (1, [72, 40, 136, 104], 2)):
        distance = (predictions.anchors[level] - torch.tensor(box).float()).abs().sum(dim=1)
        assert distance.min() < 1e-3
        found.append((level, int(distance.argmin())))
        logits[level][0, found[-1][1], label] = 4.0 - level
    pixel_map = torch.randn(1, 4, 32, 40)
    for level, place in found:
        representations[level][0, place] = torch.randn(8)
    (level, place), _ = found
    predictions = RDSNetPredictions(logits, deltas, representations, predictions.anchors, pixel_map)
    (result,) = model.inference(predictions, [(120, 150)], [(240, 300)])
    assert result.pred_classes.tolist() == [1, 2]
    boxes = torch.tensor([[88.0, 40, 152, 104], [144, 80, 272, 208]])
    torch.testing.assert_close(result.pred_boxes.tensor, boxes)
    ys, xs = torch.arange(240) + 0.5, torch.arange(300) + 0.5
    for mask, (level, place), (x0, y0, x1, y1) in zip(
        result.pred_masks, found, boxes.tolist(), strict=True
    ):
        two = representations[level][0, place].view(2, 4)
        two = torch.einsum("sk,khw->shw", two, pixel_map[0])[None]
        two = F.interpolate(two, size=(128, 160), mode="bilinear")[:, :, :120, :150]
        two = F.interpolate(two, size=(240, 300), mode="bilinear").softmax(dim=1)
        margin = 0.1 * (x1 - x0)
        inside = ((ys >= y0 - margin) & (ys <= y1 + margin))[:, None]
        inside = inside & (xs >= x0 - margin) & (xs <= x1 + margin)
        expected = (two[0, 1] > 0.4) & inside
        assert 500 < expected.sum() < inside.sum()
        assert (mask != expected).sum() <= 2


@torch.no_grad()
def test_nothing_is_found(model):
    model.eval()
    model.score_threshold = 1.0
    (result,) = model([{"image": torch.rand(3, 96, 100) * 255, "height": 50, "width": 60}])
    assert result["instances"].pred_masks.shape == (0, 50, 60)


@pytest.mark.parametrize("neck", ["bifpn", "face_fpn"])
def test_on_another_neck(cfg, neck):
    cfg.merge_from_list(
        [
            *("MODEL.BACKBONE.NAME", f"build_resnet_{neck}_backbone"),
            *("MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.FPN.IN_FEATURES", ["res2", "res3", "res4", "res5"]),
            *("MODEL.RDSNET.IN_FEATURES", ["p2", "p3", "p4", "p5", "p6"]),
        ]
    )
    losses, _ = losses_of(build_model(cfg), [scene()])
    assert all(torch.isfinite(x) for x in losses.values())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("NUM_CLASSES", 0),
        ("IN_FEATURES", ["p3", "p5"]),
        ("MASK_IN_FEATURES", ["p4", "p5"]),
        ("MASK_IN_FEATURES", ["p3", "p5"]),
        ("CONV_CHANNELS", 48),
        ("ANCHOR_SCALE", 0.0),
        ("ANCHORS_PER_OCTAVE", 0),
        ("NUM_CONVS", -1),
        ("REPRESENTATION_CHANNELS", 0),
        ("PRIOR_PROB", 1.0),
        ("MAX_MASKS", 0),
        ("MIN_MASK_AREA", -1),
        ("MASK_BOX_MARGIN", -0.1),
        ("NEGATIVE_RATIO", -1.0),
        ("MASK_THRESH_TEST", 1.0),
        ("IOU_THRESHOLDS", [0.5, 0.4]),
        ("BBOX_REG_WEIGHTS", [1.0]),
    ],
)
def test_wrong_values_name_their_key(cfg, key, value):
    cfg.MODEL.RDSNET[key] = value
    with pytest.raises(ValueError, match=f"MODEL.RDSNET.{key}"):
        build_model(cfg)
