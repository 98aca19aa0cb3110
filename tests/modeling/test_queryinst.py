"""QueryInst against its definition in plain loops: heads, stages, assignment, losses and masks."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from test_ignore_map import CROWD, OBJECTS, annotation, focal, in_crowd, sample, square
from test_yolact import nothing, scene

from facenet_d2.modeling.queryinst import DynamicInteraction, MaskHead, QueryInstPredictions
from facenet_d2.modeling.queryinst.losses import box_costs, focal_costs
from facenet_d2.modeling.queryinst.meta_arch import crop_masks
from facenet_d2.structures.masks import downsample_masks

SIZE = (128, 160)


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "queryinst.yaml"))
    node = model_cfg.MODEL.QUERYINST
    node.NUM_CLASSES, node.NUM_QUERIES, node.NUM_STAGES = 3, 5, 2
    node.DYNAMIC_CHANNELS, node.FC_DIM, node.NUM_MASK_CONVS = 8, 32, 1
    return model_cfg


@pytest.fixture
def model(cfg):
    return build_model(cfg).train()


def losses_of(model, predictions, gt, ignore_maps=()):
    with EventStorage() as storage:
        losses = model.losses(predictions, gt, ignore_maps)
        return losses, storage.latest()["objects_without_query"][0]


def test_dynamic_interaction():
    layer = DynamicInteraction(4, 3)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    queries, features = torch.randn(2, 4), torch.randn(2, 5, 4)
    found = layer(queries, features)
    for r in range(2):
        numbers = layer.matrices(queries[r])
        # Row after row: 4x3, then 3x4.
        first = numbers[:12].reshape(4, 3)
        second = numbers[12:].reshape(3, 4)
        for pixel in range(5):
            x = features[r, pixel] @ first
            x = (
                F.layer_norm(x, (3,), layer.inner_norm.weight, layer.inner_norm.bias).relu()
                @ second
            )
            x = F.layer_norm(x, (4,), layer.norm.weight, layer.norm.bias).relu()
            torch.testing.assert_close(found[r, pixel], x, rtol=1e-4, atol=1e-5)


def test_mask_head_keeps_pixels_in_place():
    """Without convolutions, a pixel of the RoI becomes a block of 2x2 pixels of the mask."""
    head = MaskHead(4, 3, dynamic_channels=2, num_convs=0).eval()
    queries, features = torch.randn(2, 4), torch.randn(2, 4, 5, 6)
    masks = head(queries, features)
    assert masks.shape == (2, 3, 10, 12)
    changed = features.clone()
    changed[1, :, 3, 4] += 1
    places = (head(queries, changed) - masks).abs().sum(dim=1).nonzero().tolist()
    assert {tuple(p) for p in places} <= {(1, y, x) for y in (6, 7) for x in (8, 9)}
    assert places


def test_stages(model, monkeypatch):
    """Boxes start as the whole input, and each stage moves those of the stage before."""
    deltas = torch.tensor([[0.5, -0.25, math.log(0.5), 0.0]]).expand(2, 5, 4)
    seen = []

    def fixed(head):
        original = head.forward

        def forward(queries, features):
            logits, _, attended, found = original(queries, features)
            seen.append((features, queries, attended, found))
            return logits, deltas, attended, found

        return forward

    for head in model.box_heads:
        monkeypatch.setattr(head, "forward", fixed(head))
    images = torch.randn(2, 3, *SIZE)
    predictions = model.predict(images)
    # Deltas of the centre are in halves of the sides.
    first = (80 + 0.25 * 160, 64 - 0.125 * 128, 80, 128)
    second = (first[0] + 0.25 * 80, first[1] - 0.125 * 128, 40, 128)
    for boxes, (x, y, w, h) in zip(predictions.boxes, (first, second), strict=True):
        expected = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
        torch.testing.assert_close(boxes, expected.expand(2, 5, 4))
    # The RoI features are pooled from the boxes before the stage.
    levels = model.backbone(images)
    whole = model.box_pooler(
        [levels[f] for f in model.in_features], [Boxes([[0, 0, 160, 128]])] * 2
    )
    torch.testing.assert_close(seen[0][0], whole.repeat_interleave(5, dim=0))
    # A stage's queries are those that the stage before returns; mask heads get the attended ones.
    assert seen[1][1] is seen[0][3]
    assert predictions.queries[0] is seen[0][2]
    # Only the first stage trains the boxes that it starts from.
    (grad,) = torch.autograd.grad(predictions.boxes[0].sum(), model.query_boxes.weight)
    assert grad.any()
    assert not predictions.boxes[1].requires_grad
    assert len(model.eval().predict(images).boxes) == 1


def test_boxes_stay_finite(model):
    with torch.no_grad():
        for head in model.box_heads:
            head.deltas.bias.fill_(1e6)
        predictions = model.predict(torch.randn(1, 3, *SIZE))
    losses, _ = losses_of(model, predictions, [scene()])
    assert all(torch.isfinite(x) for x in losses.values())


def focal_loss(logit, target):
    """Return the focal loss of one number."""
    return focal(logit.item(), target)


def giou(a, b):
    """Return the generalised IoU of two boxes."""
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k])) for k in (0, 1)]
    union = sum(area) - sides[0] * sides[1]
    hull = math.prod(max(a[k + 2], b[k + 2]) - min(a[k], b[k]) for k in (0, 1))
    return sides[0] * sides[1] / union - (hull - union) / hull


def test_costs():
    logits = torch.randn(4, 3)
    classes = torch.tensor([2, 0])
    corners = torch.rand(6, 2) * 60
    boxes = torch.cat([corners, corners + 5 + 60 * torch.rand(6, 2)], dim=1)
    found = focal_costs(logits, classes, alpha=0.25, gamma=2.0)
    both = box_costs(
        boxes[:4], boxes[4:], torch.tensor([160.0, 128, 160, 128]), l1_weight=5.0, giou_weight=2.0
    )
    for q in range(4):
        for n in range(2):
            logit = logits[q, classes[n]]
            expected = focal_loss(logit, True) - focal_loss(logit, False)
            assert found[q, n].item() == pytest.approx(expected, rel=1e-4)
            a, b = boxes[q].tolist(), boxes[4 + n].tolist()
            l1 = sum(abs(x - y) / s for x, y, s in zip(a, b, (160, 128, 160, 128)))
            assert both[q, n].item() == pytest.approx(5 * l1 - 2 * giou(a, b), rel=1e-4)
    assert focal_costs(logits, classes[:0], alpha=0.25, gamma=2.0).shape == (4, 0)
    assert box_costs(boxes[:4], boxes[:0], torch.ones(4), l1_weight=5.0, giou_weight=2.0).shape == (
        4,
        0,
    )


def chosen_boxes(gt):
    """Return boxes of five queries on multiples of 28 pixels, where resampled masks are exact."""
    boxes = [
        [0, 0, 112, 112],
        [56, 28, 168, 140],
        [28, 0, 84, 56],
        [84, 0, 140, 28],
        [0, 0, 160, 128],
    ]
    return torch.tensor(boxes, dtype=torch.float32) + gt


def test_losses_are_their_definition(model):
    """Two images of different sizes in a padded batch."""
    other = scene((96, 128))[torch.tensor([0, 2])]
    gt = [scene(SIZE), other]
    torch.manual_seed(1)
    boxes = torch.stack([chosen_boxes(0), chosen_boxes(1)]).requires_grad_()
    logits = torch.randn(2, 5, 3, requires_grad=True)
    queries = torch.randn(2, 5, 32)
    with torch.no_grad():
        features = model.backbone(torch.randn(2, 3, 128, 160))
    features = [features[f] for f in model.in_features]
    predictions = QueryInstPredictions([logits] * 2, [boxes] * 2, [queries] * 2, features)
    losses, missed = losses_of(model, predictions, gt)
    assert missed == 0
    assert list(losses) == [
        f"loss_{name}_stage{i}" for i in range(2) for name in ("cls", "l1", "giou", "mask")
    ]
    totals = dict.fromkeys(("cls", "l1", "giou"), 0.0)
    pairs = []
    for i, instances in enumerate(gt):
        h, w = instances.image_size
        n = len(instances)

        def cost(q, k, i=i, instances=instances, scale=(w, h, w, h)):
            logit = logits[i, q, instances.gt_classes[k]]
            a, b = boxes[i, q].tolist(), instances.gt_boxes.tensor[k].tolist()
            l1 = sum(abs(x - y) / s for x, y, s in zip(a, b, scale))
            return (
                2 * (focal_loss(logit, True) - focal_loss(logit, False)),
                5 * l1,
                -2 * giou(a, b),
            )

        best = min(
            itertools.permutations(range(5), n),
            key=lambda order: sum(sum(cost(q, k)) for k, q in enumerate(order)),
        )
        owner = {q: k for k, q in enumerate(best)}
        pairs.append(owner)
        for q in range(5):
            for c in range(3):
                target = q in owner and int(instances.gt_classes[owner[q]]) == c
                totals["cls"] += 2 * focal_loss(logits[i, q, c], target)
        for q, k in owner.items():
            _, l1, negative_giou = cost(q, k)
            totals["l1"] += l1
            totals["giou"] += 2 + negative_giou
    for name, total in totals.items():
        assert losses[f"loss_{name}_stage0"].item() == pytest.approx(total / 5, rel=1e-4), name
        assert torch.equal(losses[f"loss_{name}_stage0"], losses[f"loss_{name}_stage1"])

    # Masks: the head's logits, and the objects' pixels in 28x28 cells of each box.
    total = 0.0
    ordered = [(i, q, pairs[i][q]) for i in range(2) for q in sorted(pairs[i])]
    pooled = model.mask_pooler(
        features, [Boxes(boxes[i][[q for j, q, _ in ordered if j == i]].detach()) for i in range(2)]
    )
    with torch.no_grad():
        every = model.mask_heads[0](torch.stack([queries[i, q] for i, q, _ in ordered]), pooled)
    for (i, q, k), of_classes in zip(ordered, every):
        p = of_classes[gt[i].gt_classes[k]].sigmoid()
        target = BitMasks(gt[i].gt_masks.tensor[k : k + 1]).crop_and_resize(
            boxes[i, q : q + 1].detach(), 28
        )
        target = target[0].float()
        total += 1 - 2 * (p * target).sum() / (p.square().sum() + target.square().sum() + 1e-5)
    assert losses["loss_mask_stage0"].item() == pytest.approx(8 * total.item() / 5, rel=1e-4)


def test_cropped_masks_are_the_objects_pixels():
    masks = torch.zeros(2, 128, 160, dtype=torch.bool)
    masks[0, 8:40, 12:60] = True
    masks[1, 64:120, 72:148] = True
    boxes = torch.tensor([[0.0, 0, 112, 112], [56, 28, 168, 140]])
    whole = Instances((128, 160), gt_masks=BitMasks(masks))
    small = Instances((128, 160), gt_stride4_masks=downsample_masks(masks, (32, 40)))
    polygons = [
        [torch.tensor([12.0, 8, 60, 8, 60, 40, 12, 40]).numpy()],
        [torch.tensor([72.0, 64, 148, 64, 148, 120, 72, 120]).numpy()],
    ]
    drawn = Instances((128, 160), gt_masks=PolygonMasks(polygons))
    for instances in (whole, small, drawn):
        found = crop_masks(instances, boxes, 28)
        for k in range(2):
            x0, y0 = boxes[k, :2].int().tolist()
            for y in range(28):
                for x in range(28):
                    row, column = y0 + 4 * y, x0 + 4 * x
                    inside = row < 128 and column < 160 and bool(masks[k, row, column])
                    assert bool(found[k, y, x]) == inside


def test_more_objects_than_queries(cfg):
    cfg.MODEL.QUERYINST.NUM_QUERIES = 2
    model = build_model(cfg).train()
    predictions = model.predict(torch.randn(2, 3, *SIZE))
    losses, missed = losses_of(model, predictions, [scene(), scene()])
    assert missed == 1
    sum(losses.values()).backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "backbone" not in n)


@pytest.mark.parametrize("mask_format", ["bitmask", "stride4"])
def test_images_with_and_without_objects(model, mask_format):
    gt = [scene(full=mask_format == "bitmask"), nothing()]
    if mask_format == "bitmask":
        # Detectron2's mapper sets no masks then.
        gt[1].remove("gt_stride4_masks")
    losses, _ = losses_of(model, model.predict(torch.randn(2, 3, *SIZE)), gt)
    assert all(torch.isfinite(x) for x in losses.values())
    assert losses["loss_mask_stage1"] > 0


def test_crowds(cfg):
    cfg.MODEL.QUERYINST.PRIOR_PROB = 0.3
    model = build_model(cfg).train()
    inputs = [sample([*OBJECTS, CROWD]), sample(OBJECTS), sample([CROWD])]
    gt = [i["instances"] for i in inputs]
    maps = [i.get("ignore_map") for i in inputs]
    with torch.no_grad():
        predictions = model.predict(model.preprocess_image(inputs).tensor)
    # Centres in and around the crowd.
    centers = torch.tensor([[50.0, 30], [70, 60], [36, 30], [100, 63], [70, 64]])
    boxes = torch.cat([centers - 9, centers + 9], dim=1).expand(3, -1, -1)
    predictions = predictions._replace(boxes=[boxes, boxes])
    losses, _ = losses_of(model, predictions, gt, maps)
    plain, _ = losses_of(model, predictions, gt)
    total, skipped = 0.0, 0
    for i, instances in enumerate(gt):
        logits = predictions.logits[0][i]
        pairs = model.assign(logits, boxes[i], instances)
        owner = dict(zip(pairs.queries.tolist(), pairs.objects.tolist()))
        for q in range(5):
            if q not in owner and maps[i] is not None and in_crowd(*centers[q].tolist()):
                skipped += 1
                continue
            total += sum(focal_loss(logits[q, c], q in owner and c == 1) for c in range(3))
    assert skipped >= 3
    assert losses["loss_cls_stage0"].item() == pytest.approx(2 * total / 2, rel=1e-4)
    for name in losses:
        assert torch.equal(losses[name], plain[name]) == ("cls" not in name)


def test_a_crowd_over_everything(model):
    everything = annotation(square(0, 0, 128), iscrowd=1)
    with torch.no_grad():
        for head in model.box_heads:
            head.deltas.weight.zero_()
            head.deltas.bias.zero_()
    with EventStorage():
        losses = model([sample([everything], 128, 128)] * 2)
    assert {k: float(v.detach()) for k, v in losses.items()} == dict.fromkeys(losses, 0)


@torch.no_grad()
def test_inference_is_its_definition(model):
    """Pairs of a query and a class by score; masks pasted over whole boxes, boxes clipped."""
    model.eval()
    model.max_instances = 7
    predictions = model.predict(torch.randn(1, 3, 128, 160))
    logits = torch.randn(1, 5, 3) * 2
    # One box extends beyond the image, one lies outside.
    boxes = torch.tensor(
        [
            [
                [10.0, 12, 50, 40],
                [100, -20, 190, 60],
                [60, 60, 110, 118],
                [20, 50, 70, 90],
                [200, 8, 260, 90],
            ]
        ]
    )
    predictions = predictions._replace(logits=[logits], boxes=[boxes])
    # The input of 120x150 pixels was padded; the result is 1.5 times as large.
    (result,) = model.inference(predictions, [(120, 150)], [(180, 225)])
    scores = logits[0].sigmoid()
    ranked = sorted(
        ((float(scores[q, c]), q, c) for q in range(5) for c in range(3)), reverse=True
    )[:7]
    features = predictions.features
    pooled = model.mask_pooler(features, [Boxes(boxes[0])])
    masks = model.mask_heads[-1](predictions.queries[-1][0], pooled).sigmoid()
    expected = []
    for score, q, c in ranked:
        box = boxes[0, q] * 1.5
        if q == 4:
            continue  # It lies outside.
        mask = paste_masks_in_image(masks[q, c][None], box[None], (180, 225), 0.5)[0]
        if mask.any():
            clipped = box.clamp(min=0).minimum(torch.tensor([225.0, 180, 225, 180]))
            expected.append((score, c, clipped, mask))
    assert len(result) == len(expected) > 2
    assert 4 in [q for _, q, _ in ranked]
    for i, (score, c, box, mask) in enumerate(expected):
        assert result.scores[i].item() == pytest.approx(score, rel=1e-5)
        assert result.pred_classes[i] == c
        torch.testing.assert_close(result.pred_boxes.tensor[i], box)
        assert torch.equal(result.pred_masks[i], mask)


@torch.no_grad()
def test_nothing_is_found(model):
    model.eval()
    model.score_threshold = 1.0
    predictions = model.predict(torch.randn(1, 3, 64, 64))
    (result,) = model.inference(predictions, [(64, 64)], [(32, 48)])
    assert len(result) == 0
    assert result.pred_masks.shape == (0, 32, 48)


def test_initial_probability(model):
    for head in model.box_heads:
        torch.testing.assert_close(head.class_logits.bias.sigmoid(), torch.full((3,), 0.01))


@pytest.mark.parametrize(
    ("key", "value"),
    [("NUM_HEADS", 7), ("IN_FEATURES", ["p2", "p4"]), ("NUM_CLASSES", 0), ("NUM_QUERIES", 0)],
)
def test_wrong_values_are_named(cfg, key, value):
    cfg.MODEL.QUERYINST[key] = value
    with pytest.raises(ValueError, match=f"MODEL.QUERYINST.{key}"):
        build_model(cfg)
