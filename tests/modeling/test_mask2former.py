"""Mask2Former against its definition in plain loops: attention, points, assignment and losses."""

import itertools
import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from test_ignore_map import CROWD, OBJECTS, annotation, sample, square
from test_yolact import nothing, scene

from facenet_d2.modeling.mask2former import (
    Mask2FormerPredictions,
    MultiScaleDeformableAttention,
    PixelDecoder,
    QueryDecoder,
)
from facenet_d2.modeling.mask2former.decoder import attended_pixels
from facenet_d2.modeling.mask2former.deformable_attention import sample_levels
from facenet_d2.modeling.mask2former.losses import mask_costs, mask_losses
from facenet_d2.modeling.mask2former.pixel_decoder import pixel_places, sine_positions
from facenet_d2.modeling.mask2former.points import (
    draw_common_points,
    draw_points,
    draw_uncertain_points,
    label_points,
    sample_logits,
    surroundings,
)

SIZE = (128, 160)


@pytest.fixture
def cfg(model_cfg):
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "mask2former.yaml"))
    node = model_cfg.MODEL.MASK2FORMER
    node.NUM_CLASSES, node.NUM_QUERIES, node.CHANNELS, node.TRAIN_NUM_POINTS = 3, 5, 32, 64
    node.NUM_ENCODER_LAYERS, node.NUM_DECODER_LAYERS = 1, 2
    node.ENCODER_FC_DIM = node.DECODER_FC_DIM = 32
    return model_cfg


@pytest.fixture
def model(cfg):
    return build_model(cfg).train()


def bilinear(value_at, x, y):
    """Interpolate at pixel coordinates, where the first pixel's centre is (0.5, 0.5)."""
    x, y = x - 0.5, y - 0.5
    x0, y0 = math.floor(x), math.floor(y)
    total = 0.0
    for dy in (0, 1):
        for dx in (0, 1):
            weight = (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy))
            total = total + weight * value_at(x0 + dx, y0 + dy)
    return total


def test_samples_of_levels_are_interpolated_pixels():
    sizes = [(2, 3), (5, 4)]
    values = torch.randn(2, 26, 2, 3)
    # A part of the points is outside of the maps, where values are 0.
    points = torch.rand(2, 4, 2, 2, 3, 2) * 1.6 - 0.3
    weights = torch.rand(2, 4, 2, 2, 3)
    found = sample_levels(values, points, weights, sizes)
    assert found.shape == (2, 4, 2, 3)
    for n, q, head in itertools.product(range(2), range(4), range(2)):
        expected = torch.zeros(3)
        for level, (h, w) in enumerate(sizes):
            start = (0, 6)[level]

            def value_at(x, y, n=n, head=head, h=h, w=w, start=start):
                if 0 <= x < w and 0 <= y < h:
                    return values[n, start + y * w + x, head]
                return torch.zeros(3)

            for p in range(3):
                x, y = points[n, q, head, level, p].tolist()
                expected += weights[n, q, head, level, p] * bilinear(value_at, x * w, y * h)
        torch.testing.assert_close(found[n, q, head], expected, rtol=1e-4, atol=1e-5)


def test_deformable_attention():
    """With an identity as values and output, it returns weighted pixels around each place."""
    layer = MultiScaleDeformableAttention(4, num_heads=2, num_levels=2, num_points=1)
    with torch.no_grad():
        for linear in (layer.value, layer.output):
            linear.weight.copy_(torch.eye(4))
        # Offsets in pixels of the level: one right on the first level, one down on the second.
        layer.offsets.bias.copy_(torch.tensor([[1.0, 0], [0, 1]] * 2).flatten())
        layer.weights.bias.copy_(torch.tensor([math.log(3.0), 0.0] * 2))
    sizes = [(2, 4), (4, 4)]
    memory = torch.randn(1, 24, 4)
    places = torch.tensor([[0.375, 0.25], [0.125, 0.75]])
    found = layer(torch.randn(1, 2, 4), places, memory, sizes)
    first, second = memory[0, :8].view(2, 4, 4), memory[0, 8:].view(4, 4, 4)
    # The first place is the centre of column 1 and row 0 of 2 rows, or between rows 0 and 1 of 4.
    expected = 0.75 * first[0, 2] + 0.25 * (second[1, 1] + second[2, 1]) / 2
    torch.testing.assert_close(found[0, 0], expected, rtol=1e-4, atol=1e-5)
    # The second one is in column 0 and row 1, or between rows 2 and 3; then 3 and the outside.
    expected = 0.75 * first[1, 1] + 0.25 * second[3, 0] / 2
    torch.testing.assert_close(found[0, 1], expected, rtol=1e-4, atol=1e-5)


def test_initial_points_surround_the_place():
    layer = MultiScaleDeformableAttention(8, num_heads=4, num_levels=3, num_points=2)
    points = layer.offsets.bias.view(4, 3, 2, 2)
    for head, (x, y) in enumerate(((1, 0), (0, 1), (-1, 0), (0, -1))):
        for distance in (1, 2):
            expected = torch.tensor([[x, y]] * 3) * float(distance)
            torch.testing.assert_close(points[head, :, distance - 1], expected, rtol=0, atol=1e-6)
    assert not layer.weights.weight.any()


def test_positions_of_pixels():
    positions = sine_positions((3, 5), 8)
    places = pixel_places((3, 5))
    assert positions.shape == (15, 8)
    for y, x in itertools.product(range(3), range(5)):
        expected = []
        for place, length in ((y, 3), (x, 5)):
            angle = (place + 1) / length * 2 * math.pi
            for k in range(2):
                expected += [math.sin(angle / 10000 ** (k / 2)), math.cos(angle / 10000 ** (k / 2))]
        torch.testing.assert_close(positions[y * 5 + x], torch.tensor(expected), rtol=0, atol=1e-5)
        torch.testing.assert_close(places[y * 5 + x], torch.tensor([(x + 0.5) / 5, (y + 0.5) / 3]))


def test_pixel_decoder_of_odd_sizes():
    decoder = PixelDecoder([4, 6, 8, 10], channels=32, num_layers=2, num_heads=4, fc_dim=16)
    sizes = [(13, 18), (7, 9), (4, 5), (2, 3)]
    features = [torch.randn(2, c, *s) for c, s in zip((4, 6, 8, 10), sizes)]
    mask_features, levels = decoder(features)
    assert mask_features.shape == (2, 32, 13, 18)
    assert [x.shape for x in levels] == [(2, 32, *s) for s in sizes[:0:-1]]
    (mask_features.sum() + sum(x.square().sum() for x in levels)).backward()
    assert all(p.grad is not None for p in decoder.parameters())
    # An encoder without its attention and feed-forward part only normalises each pixel.
    for layer in decoder.layers:
        for linear in (layer.attention.output, layer.feed_forward.reduce):
            torch.nn.init.zeros_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
    _, levels = decoder(features)
    for conv, x, level in zip(decoder.projections, features[:0:-1], levels):
        expected = torch.nn.functional.layer_norm(conv(x).movedim(1, 3), (32,)).movedim(3, 1)
        torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-3)


def test_attended_pixels():
    masks = torch.full((1, 2, 4, 4), -1.0)
    # The first query's mask fills one of four pixels; in another, it has the smaller part.
    masks[0, 0, :2, :2] = 1.0
    masks[0, 0, 3, 3] = 1.5
    # The second one has no pixel, and may attend to all.
    assert attended_pixels(masks, (2, 2)).tolist() == [[[True, False, False, False], [True] * 4]]
    masks[0, 0, 3, 3] = 30.0
    assert attended_pixels(masks, (2, 2))[0, 0].tolist() == [True, False, False, True]


@torch.no_grad()
def test_queries_see_their_masks_only():
    decoder = QueryDecoder(32, 3, num_queries=4, num_layers=1, num_heads=4, fc_dim=16)
    mask_features = torch.randn(1, 32, 8, 8)
    levels = [torch.randn(1, 32, s, s) for s in (2, 4, 8)]
    _, (first, _) = decoder(mask_features, levels)
    allowed = attended_pixels(first, (2, 2))[0]
    seen = [q for q in range(4) if 0 < allowed[q].sum() < 4]
    assert seen
    # Only the first layer's level matters, and only inside the mask of some query.
    for q in seen:
        calls = {}
        for inside in (True, False):
            changed = levels[0].flatten(2).clone()
            changed[:, :, allowed[q] == inside] += 1
            maps = [changed.unflatten(2, (2, 2)), *levels[1:]]
            attention = decoder.layers[0].cross_attention
            handle = attention.register_forward_hook(
                lambda _, __, out, key=inside, calls=calls: calls.update({key: out})
            )
            decoder(mask_features, maps)
            handle.remove()
        handle = attention.register_forward_hook(
            lambda _, __, out, calls=calls: calls.update(plain=out)
        )
        decoder(mask_features, levels)
        handle.remove()
        assert torch.equal(calls[False][0, q], calls["plain"][0, q])
        assert not torch.allclose(calls[True][0, q], calls["plain"][0, q], atol=1e-4)


def test_number_of_predictions():
    decoder = QueryDecoder(32, 3, num_queries=4, num_layers=4, num_heads=4, fc_dim=16)
    levels = [torch.randn(2, 32, s, s) for s in (2, 4, 8)]
    logits, masks = decoder(torch.randn(2, 32, 16, 16), levels)
    assert [x.shape for x in logits] == [(2, 4, 4)] * 5
    assert [x.shape for x in masks] == [(2, 4, 16, 16)] * 5
    last = decoder.eval()(torch.zeros(2, 32, 16, 16), levels)
    assert len(last[0]) == len(last[1]) == 1


def test_labels_of_points():
    masks = torch.rand(2, 6, 9) > 0.5
    # The padded input has 8x12 pixels.
    points = torch.rand(2, 200, 2)
    found = label_points(masks, points, (8, 12))
    for k, p in itertools.product(range(2), range(200)):
        x, y = math.floor(points[k, p, 0].item() * 12), math.floor(points[k, p, 1].item() * 8)
        assert bool(found[k, p]) == (x < 9 and y < 6 and bool(masks[k, y, x]))
    assert label_points(masks, torch.ones(2, 1, 2), (8, 12)).tolist() == [[False]] * 2


def test_logits_at_points():
    logits = torch.randn(2, 3, 4)
    points = torch.tensor([[[0.375, 0.5], [0.5, 1 / 3]], [[0.125, 0.5], [0.625, 5 / 6]]])
    found = sample_logits(logits, points)
    assert found[0, 0].item() == pytest.approx(logits[0, 1, 1].item(), rel=1e-4)
    assert found[0, 1].item() == pytest.approx(logits[0, :2, 1:3].mean().item(), rel=1e-4)
    assert found[1].tolist() == pytest.approx([logits[1, 1, 0].item(), logits[1, 2, 2].item()])


def test_points_around_small_objects():
    """An object of 8x8 pixels in 800x800: uniform points hardly see it."""
    instances = Instances((800, 800))
    instances.gt_boxes = Boxes(torch.tensor([[100.0, 300, 108, 308], [2, 0, 10, 8]]))
    boxes = surroundings(instances, (800, 800))
    expected = torch.tensor([[96.0, 296, 112, 312], [0, 0, 14, 12]])
    torch.testing.assert_close(boxes * 800, expected)

    def inside(points, box):
        return ((points >= box[:2]) & (points <= box[2:])).all(dim=-1).sum().item()

    for ratio in (0.0, 0.5):
        points = draw_points(boxes, 10_000, ratio)
        assert points.shape == (2, 10_000, 2)
        common = draw_common_points(boxes, 10_000, ratio)
        assert common.shape == (10_000, 2)
        assert 0 <= common.min() <= common.max() <= 1
        for k in range(2):
            # Uniform: about 4 or 2.6 of 10,000.
            assert inside(points[k], boxes[k]) - 10_000 * ratio == pytest.approx(6, abs=20)
            assert inside(common, boxes[k]) - 5_000 * ratio == pytest.approx(6, abs=20)


def test_uncertain_points():
    logits = torch.linspace(-4, 4, 64).expand(1, 64, 64)
    settings = {"object_ratio": 0.0, "oversample_ratio": 3.0, "importance_ratio": 0.75}
    points = draw_uncertain_points(logits, torch.tensor([[0.0, 0, 1, 1]]), 400, **settings)
    assert points.shape == (1, 400, 2)
    # A quarter of 1200 candidates is in the middle quarter of the map, where logits are below 1.
    certainty = sample_logits(logits, points)[0].abs()
    assert certainty[:300].max() < 1.2
    assert certainty[300:].max() > 3
    again = draw_uncertain_points(logits, torch.tensor([[0.0, 0, 1, 1]]), 400, **settings)
    assert not torch.equal(again, points)


def pair_losses(logits, labels):
    """Return binary cross-entropy and Dice loss of two lists of numbers."""
    p = [1 / (1 + math.exp(-x)) for x in logits]
    bce = -sum(math.log(a if y else 1 - a) for a, y in zip(p, labels)) / len(p)
    dice = 1 - (2 * sum(a * y for a, y in zip(p, labels)) + 1) / (sum(p) + sum(labels) + 1)
    return bce, dice


def test_costs_and_losses_of_masks():
    logits, labels = torch.randn(3, 20) * 2, torch.rand(2, 20) > 0.6
    costs = mask_costs(logits, labels, mask_weight=5.0, dice_weight=2.0)
    for q, n in itertools.product(range(3), range(2)):
        bce, dice = pair_losses(logits[q].tolist(), labels[n].tolist())
        assert costs[q, n].item() == pytest.approx(5 * bce + 2 * dice, rel=1e-4)
    bce, dice = mask_losses(logits[:2], labels)
    expected = [pair_losses(logits[k].tolist(), labels[k].tolist()) for k in range(2)]
    assert bce.item() == pytest.approx(sum(x for x, _ in expected), rel=1e-4)
    assert dice.item() == pytest.approx(sum(x for _, x in expected), rel=1e-4)


def losses_of(model, predictions, gt, ignore_maps=()):
    torch.manual_seed(3)
    with EventStorage() as storage:
        losses = model.losses(predictions, gt, ignore_maps)
        return losses, storage.latest()["objects_without_query"][0]


def test_assignment(model):
    """The assignment with the lowest cost of all, with class probabilities and points by hand."""
    gt = scene(SIZE)
    logits, masks = torch.randn(5, 4), torch.randn(5, 32, 40) * 3
    points = torch.rand(50, 2)
    labels = label_points(gt.gt_masks.tensor, points.expand(3, -1, -1), SIZE)
    found = model.assign(logits, masks, gt.gt_classes, points, labels)
    at_points = [
        [
            float(
                bilinear(
                    lambda i, j, q=q: masks[q, min(max(j, 0), 31), min(max(i, 0), 39)],
                    40 * x,
                    32 * y,
                )
            )
            for x, y in points.tolist()
        ]
        for q in range(5)
    ]

    def cost(q, k):
        bce, dice = pair_losses(at_points[q], labels[k].tolist())
        return 5 * bce + 5 * dice - 2 * logits[q].softmax(dim=0)[gt.gt_classes[k]].item()

    best = min(
        itertools.permutations(range(5), 3), key=lambda o: sum(cost(q, k) for k, q in enumerate(o))
    )
    assert dict(zip(found.objects.tolist(), found.queries.tolist())) == dict(enumerate(best))


def test_losses(model):
    """Masks of one value: every point has the same logit, wherever it is."""
    gt = [scene(SIZE), nothing((96, 128))]
    values = torch.tensor([[-2.0, -1, 0.5, 1, 3], [1, 1, 1, 1, 1]])
    masks = values[:, :, None, None].expand(2, 5, 32, 40)
    logits = torch.randn(2, 5, 4)
    predictions = Mask2FormerPredictions([logits] * 2, [masks.clone().requires_grad_()] * 2)
    losses, missed = losses_of(model, predictions, gt)
    assert missed == 0
    names = [f"loss_{n}_layer{i}" for i in range(2) for n in ("cls", "mask", "dice")]
    assert list(losses) == names
    # The weighted mean of the classes' losses. The pairs depend on the points; any of them has
    # three of the first image's queries.
    torch.manual_seed(3)
    boxes = surroundings(gt[0], SIZE)
    points = draw_common_points(boxes, 64, 0.5)
    labels = label_points(gt[0].gt_masks.tensor, points.expand(3, -1, -1), SIZE)
    queries, objects = model.assign(logits[0], masks[0], gt[0].gt_classes, points, labels)
    target = torch.full((2, 5), 3)
    target[0, queries] = gt[0].gt_classes[objects]
    total = weights = 0.0
    for i, q in itertools.product(range(2), range(5)):
        weight = 0.1 if target[i, q] == 3 else 1.0
        total -= weight * logits[i, q].log_softmax(dim=0)[target[i, q]].item()
        weights += weight
    assert losses["loss_cls_layer0"].item() == pytest.approx(2 * total / weights, rel=1e-4)
    # Masks: at the points drawn next.
    settings = {"object_ratio": 0.5, "oversample_ratio": 3.0, "importance_ratio": 0.75}
    drawn = draw_uncertain_points(masks[0, queries], boxes[objects], 64, **settings)
    at_points = label_points(gt[0].gt_masks.tensor[objects], drawn, SIZE)
    pairs = [
        pair_losses([values[0, q].item()] * 64, y.tolist()) for q, y in zip(queries, at_points)
    ]
    assert at_points.any(dim=1).all()
    assert losses["loss_mask_layer0"].item() == pytest.approx(
        5 * sum(x for x, _ in pairs) / 3, 1e-4
    )
    assert losses["loss_dice_layer0"].item() == pytest.approx(
        5 * sum(x for _, x in pairs) / 3, 1e-4
    )


def test_masks_at_stride_4_are_an_alternative(model):
    """Labels at points of both are the same where the objects' sides are multiples of four."""
    predictions = model.predict(torch.randn(1, 3, *SIZE))
    full, small = scene(SIZE), scene(SIZE, full=False)
    keep = torch.tensor([2])  # Box 100, 4, 116, 20.
    found = [losses_of(model, predictions, [x[keep]])[0] for x in (full, small)]
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value)


def test_more_objects_than_queries(cfg):
    cfg.MODEL.MASK2FORMER.NUM_QUERIES = 2
    model = build_model(cfg).train()
    predictions = model.predict(torch.randn(2, 3, *SIZE))
    losses, missed = losses_of(model, predictions, [scene(), scene()])
    assert missed == 1
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_crowds(model):
    inputs = [sample([*OBJECTS, CROWD]), sample(OBJECTS), sample([CROWD])]
    gt = [i["instances"] for i in inputs]
    maps = [i.get("ignore_map") for i in inputs]
    # Query 0 predicts the object, 1 the crowd, 2 a little more of it, 3 half of it, 4 everything.
    masks = torch.full((5, 24, 32), -20.0)
    masks[0, 5:12, 5:12] = 20
    masks[1, 1:16, 10:25] = 20
    masks[2, 1:16, 8:27] = 20
    masks[3, 1:16, 16:38] = 20
    masks[4] = 20
    ignored = {1, 2, 3}
    share = (16 - 1) * (25 - 16) / ((16 - 1) * (32 - 16))
    assert share > 0.5
    masks = masks.expand(3, -1, -1, -1)
    logits = torch.randn(3, 5, 4)
    predictions = Mask2FormerPredictions([logits], [masks])
    losses, _ = losses_of(model, predictions, gt, maps)
    plain, _ = losses_of(model, predictions, gt)
    total = weights = 0.0
    for i in range(3):
        for q in range(5):
            has_object = q == 0 and len(gt[i]) == 1
            if not has_object and q in ignored and maps[i] is not None:
                continue
            weight = 1.0 if has_object else 0.1
            label = int(gt[i].gt_classes[0]) if has_object else 3
            total -= weight * logits[i, q].log_softmax(dim=0)[label].item()
            weights += weight
    assert losses["loss_cls_layer0"].item() == pytest.approx(2 * total / weights, rel=1e-4)
    for name in losses:
        assert torch.equal(losses[name], plain[name]) == ("cls" not in name)


def test_a_crowd_over_everything(model):
    everything = annotation(square(0, 0, 128), iscrowd=1)
    with EventStorage():
        losses = model([sample([everything], 128, 128)] * 2)
    assert {k: float(v.detach()) for k, v in losses.items()} == dict.fromkeys(losses, 0)
    sum(losses.values()).backward()


@torch.no_grad()
def test_inference_is_its_definition(model):
    model.eval()
    model.max_instances = 7
    logits = torch.randn(1, 5, 4) * 2
    masks = torch.full((1, 5, 32, 40), -4.0)
    # Constant rows and columns, so that enlarged masks are known; query 3 has none.
    masks[0, 0, 4:10, 5:20] = 1.0
    masks[0, 1, 20:30, 0:8] = 6.0
    masks[0, 2, 12:13, 30:31] = 3.0
    masks[0, 4, 31:, :] = 2.0
    predictions = Mask2FormerPredictions([logits], [masks])
    # The lowest row of pixels at stride 4 is padding.
    (result,) = model.inference(predictions, [(124, 160)], [(124, 160)])
    p = logits[0].softmax(dim=1)
    ranked = sorted(((p[q, c].item(), q, c) for q in range(5) for c in range(3)), reverse=True)[:7]
    probability = {q: 1 / (1 + math.exp(-x)) for q, x in ((0, 1.0), (1, 6.0), (2, 3.0))}
    expected = sorted(
        ((s * probability[q], q, c) for s, q, c in ranked if q in probability), reverse=True
    )
    assert len(result) == len(expected) >= 3
    for i, (score, q, c) in enumerate(expected):
        assert result.scores[i].item() == pytest.approx(score, rel=1e-4)
        assert result.pred_classes[i] == c
        large = torch.nn.functional.interpolate(
            masks[:, q : q + 1], scale_factor=4, mode="bilinear", align_corners=False
        )[0, 0, :124]
        mask = large > 0
        assert torch.equal(result.pred_masks[i], mask)
        rows, columns = mask.any(dim=1).nonzero()[:, 0], mask.any(dim=0).nonzero()[:, 0]
        box = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        assert result.pred_boxes.tensor[i].tolist() == box


@torch.no_grad()
def test_nothing_is_found(model):
    model.eval()
    model.score_threshold = 1.0
    (out,) = model([{"image": torch.rand(3, 50, 70) * 255, "height": 32, "width": 48}])
    assert len(out["instances"]) == 0
    assert out["instances"].pred_masks.shape == (0, 32, 48)


@pytest.mark.parametrize(
    ("key", "value"),
    [("NUM_HEADS", 7), ("CHANNELS", 48), ("IN_FEATURES", ["res3", "res4"]), ("NUM_CLASSES", 0)],
)
def test_wrong_values_are_named(cfg, key, value):
    cfg.MODEL.MASK2FORMER[key] = value
    with pytest.raises(ValueError, match=f"MODEL.MASK2FORMER.{key}"):
        build_model(cfg)


def test_sem_needs_a_neck(cfg):
    cfg.MODEL.SEM.ENABLED = True
    with pytest.raises(ValueError, match="build_plain_backbone has no SEM"):
        build_model(cfg)
