"""Ignored regions in the losses, against losses computed by loops without what is ignored."""

import math

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.data.transforms import NoOpTransform, TransformList
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY

import facenet_d2
from facenet_d2.data import SceneMapper
from facenet_d2.structures.masks import inside_map
from facenet_d2.structures.rasterize import rasterize_instances

HEIGHT, WIDTH = 96, 128


def square(x, y, side):
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def annotation(polygons, **fields):
    return {
        "segmentation": polygons,
        "category_id": 1,
        "bbox": [0, 0, 9, 9],
        "bbox_mode": 0,
        **fields,
    }


OBJECTS = [annotation(square(20, 20, 30))]
# It covers a part of the object, whose cells stay positive.
CROWD = annotation(square(40, 4, 60), iscrowd=1)


@pytest.fixture(params=["solov2", "solo", "solo_decoupled", "yolact", "condinst", "rdsnet"])
def model(request):
    cfg = get_cfg()
    facenet_d2.add_facenet_config(cfg)
    for file in ("Base-SOLOv2.yaml", f"models/{request.param}.yaml"):
        cfg.merge_from_file(str(REPOSITORY / "configs" / file))
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 18, 64
    cfg.MODEL.RESNETS.NORM = "GN"
    cfg.MODEL.FPN.OUT_CHANNELS = 32
    for node in (cfg.MODEL.SOLOV2, cfg.MODEL.YOLACT, cfg.MODEL.CONDINST, cfg.MODEL.RDSNET):
        node.NUM_CLASSES = 3
        node.CONV_CHANNELS = 32
    # With the usual prior, background costs next to nothing at first.
    for node in (cfg.MODEL.SOLOV2, cfg.MODEL.CONDINST, cfg.MODEL.RDSNET):
        node.PRIOR_PROB = 0.3
    cfg.MODEL.SOLOV2.NUM_CONVS = 1
    cfg.MODEL.SOLOV2.MASK_CHANNELS = cfg.MODEL.SOLOV2.KERNEL_CHANNELS = 32
    cfg.MODEL.SOLO.NUM_CONVS, cfg.MODEL.SOLO.CONV_CHANNELS = 1, 32
    cfg.MODEL.CONDINST.NUM_CONVS, cfg.MODEL.CONDINST.MASK_NORM = 1, "GN"
    cfg.MODEL.CONDINST.MASK_CONV_CHANNELS = 32
    cfg.MODEL.RDSNET.NUM_CONVS = 1
    torch.manual_seed(0)
    return build_model(cfg).train()


def sample(annotations, height=HEIGHT, width=WIDTH):
    """Return the input of a model, with the map that the mapper makes."""
    mapper = SceneMapper(
        is_train=True,
        augmentations=[],
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format="stride4",
        recompute_boxes=True,
    )
    record = {"file_name": "", "height": height, "width": width, "annotations": annotations}
    mapper._transform_annotations(record, TransformList([NoOpTransform()]), (height, width))
    noise = torch.Generator().manual_seed(1)
    return {**record, "image": 255 * torch.rand(3, height, width, generator=noise)}


def in_crowd(x, y):
    """Return whether a point lies in a pixel at stride 4 of which the crowd sets the centre."""
    # The crowd's sides are multiples of 4.
    return 40 <= 4 * math.floor(x / 4) < 100 and 4 <= 4 * math.floor(y / 4) < 64


def focal(logit, target):
    p = 1 / (1 + math.exp(-logit))
    return -0.25 * (1 - p) ** 2 * math.log(p) if target else -0.75 * p**2 * math.log1p(-p)


def grid_loss(model, predictions, inputs):
    """Return ``loss_category`` of a batch by loops over its cells."""
    from facenet_d2.modeling.grids import assign_targets

    size = model.mask_size(predictions)
    total, positives, skipped = 0.0, 0, 0
    for logits, given in zip(predictions.logits.double().tolist(), inputs, strict=True):
        categories = assign_targets(given["instances"], model.layout, 3, size).categories.tolist()
        cell = 0
        for number in model.layout.num_grids:
            for row in range(number):
                for column in range(number):
                    x = (column + 0.5) * 4 * size[1] / number
                    y = (row + 0.5) * 4 * size[0] / number
                    category = categories[cell]
                    positives += category < 3
                    if category == 3 and "ignore_map" in given and in_crowd(x, y):
                        skipped += 1
                    else:
                        total += sum(focal(logits[cell][c], c == category) for c in range(3))
                    cell += 1
    return {"loss_category": total / (positives + 1)}, skipped


def position_loss(model, predictions, inputs):
    """Return ``loss_fcos_cls`` of a batch by loops over its positions."""
    anchors = torch.cat(predictions.anchors).tolist()
    every = torch.cat(predictions.logits, dim=1).double().tolist()
    total, positives, skipped = 0.0, 0, 0
    for logits, given in zip(every, inputs, strict=True):
        owners = model.match(predictions.anchors, given["instances"]).tolist()
        for logit, owner, (x0, y0, x1, y1) in zip(logits, owners, anchors, strict=True):
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            positives += owner >= 0
            if owner < 0 and "ignore_map" in given and in_crowd(x, y):
                skipped += 1
            else:
                total += sum(focal(logit[c], owner >= 0 and c == 1) for c in range(3))
    return {"loss_fcos_cls": total / max(positives, 1)}, skipped


def retinanet_loss(model, predictions, inputs):
    """Return ``loss_cls`` of a batch by loops over its anchors."""
    anchors = torch.cat(predictions.anchors)
    every = torch.cat(predictions.logits, dim=1).double().tolist()
    total, positives, skipped = 0.0, 0, 0
    for logits, given in zip(every, inputs, strict=True):
        labels, _ = model.match(anchors, given["instances"])
        # In float32, as some centres lie on the border of the crowd.
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        for row, label, (x, y) in zip(logits, labels.tolist(), centers.tolist(), strict=True):
            positives += 0 <= label < 3
            if label == 3 and "ignore_map" in given and in_crowd(x, y):
                skipped += 1
            elif label >= 0:
                total += sum(focal(row[c], c == label) for c in range(3))
    return {"loss_cls": total / max(positives, 1)}, skipped


def anchor_loss(model, predictions, inputs):
    """Return ``loss_cls`` and ``loss_semantic`` of a batch by loops over anchors and pixels."""
    total, positives, skipped, semantic = 0.0, 0, 0, 0.0
    for i, given in enumerate(inputs):
        labels, _ = model.match_anchors(predictions.anchors, given["instances"])
        own, others = [], []
        log_p = predictions.logits[i].double().log_softmax(dim=1).tolist()
        for row, label, (x0, y0, x1, y1) in zip(
            log_p, labels.tolist(), predictions.anchors.tolist(), strict=True
        ):
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            if label == 3 and "ignore_map" in given and in_crowd(x, y):
                skipped += 1
            elif label >= 0:
                (own if label < 3 else others).append(-row[label])
        positives += len(own)
        total += sum(own) + sum(sorted(others)[::-1][: 3 * len(own)])
        logits = predictions.semantic_logits[i].detach().double()
        h, w = logits.shape[-2:]
        for y in range(h):
            for x in range(w):
                block = given["instances"].gt_stride4_masks[:, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
                is_object = bool(block.any())
                within = any(in_crowd(8 * x + a, 8 * y + b) for a in (0, 4) for b in (0, 4))
                if within and not is_object and "ignore_map" in given:
                    continue
                for c in range(3):
                    z = float(logits[c, y, x])
                    semantic += math.log1p(math.exp(-z if is_object and c == 1 else z)) / (h * w)
    return {"loss_cls": total / max(positives, 1), "loss_semantic": semantic / len(inputs)}, skipped


def test_losses_do_without_the_background_in_crowds(model):
    """A batch of an image with a crowd over a part of its object, and one without crowds."""
    inputs = [sample([*OBJECTS, CROWD]), sample(OBJECTS), sample([CROWD])]
    assert [("ignore_map" in i) for i in inputs] == [True, False, True]
    assert [len(i["instances"]) for i in inputs] == [1, 1, 0]
    with EventStorage():
        losses = model(inputs)
        predictions = model.predict(model.preprocess_image(inputs).tensor)
        plain = model.losses(predictions, [i["instances"] for i in inputs])
    expected = {"SOLOv2": grid_loss, "SOLO": grid_loss, "YOLACT": anchor_loss}
    expected["RDSNet"] = retinanet_loss
    found, skipped = expected.get(type(model).__name__, position_loss)(model, predictions, inputs)
    assert skipped > 20
    for name, value in found.items():
        scale = model.semantic_weight if name == "loss_semantic" else 1
        assert losses[name].item() == pytest.approx(scale * value, rel=1e-4), name
        assert plain[name].item() != pytest.approx(scale * value, rel=1e-4), name
    for name in losses.keys() - found.keys():
        assert torch.equal(losses[name], plain[name]), name
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name


def test_a_crowd_over_everything(model):
    """All losses are zero. The image has a multiple of all strides: padding is not ignored."""
    everything = annotation(square(0, 0, 128), iscrowd=1)
    with EventStorage():
        losses = model([sample([everything], 128, 128)] * 2)
    assert {name: float(loss.detach()) for name, loss in losses.items()} == dict.fromkeys(losses, 0)
    sum(losses.values()).backward()


def test_points_in_a_map():
    ignore_map = torch.zeros(3, 5, dtype=torch.bool)
    ignore_map[1, 2] = True
    points = torch.tensor([[8.0, 4], [11.9, 7.9], [12, 4], [8, 8], [7.9, 5], [-1, 5], [99, 5]])
    inside = inside_map(ignore_map, points[:, 0], points[:, 1])
    assert inside.tolist() == [True, True, False, False, False, False, False]
    every = torch.ones(3, 5, dtype=torch.bool)
    outside = torch.tensor([-0.1, 20.0])
    assert not inside_map(every, outside, torch.ones(2)).any()


def test_the_map_moves_with_the_image(model_cfg, tmp_path):
    """The crowd's map is that of an instance of the same mask, whatever the augmentation."""
    from PIL import Image

    file = tmp_path / "image.png"
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(file)
    model_cfg.INPUT.RANDOM_FLIP = "both"
    model_cfg.INPUT.RANDOM_QUARTER_TURN = True
    model_cfg.INPUT.RAND_AUGMENT.ENABLED = True
    rle = mask_util.merge(mask_util.frPyObjects(square(60, 30, 40), HEIGHT, WIDTH))
    second = annotation(rle, iscrowd=1)
    for mask_format in ("stride4", "bitmask", "polygon"):
        model_cfg.INPUT.MASK_FORMAT = mask_format
        mapper = SceneMapper(model_cfg, is_train=True)
        model_cfg.INPUT.MASK_FORMAT = "stride4"
        as_objects = SceneMapper(model_cfg, is_train=True)
        record = {"file_name": str(file), "height": HEIGHT, "width": WIDTH}
        for seed in range(4):
            np.random.seed(seed)
            ours = mapper({**record, "annotations": [*OBJECTS, CROWD, second]})
            np.random.seed(seed)
            masks = as_objects(
                {**record, "annotations": [{**CROWD, "iscrowd": 0}, {**second, "iscrowd": 0}]}
            )["instances"].gt_stride4_masks
            assert ours["ignore_map"].equal(masks.any(dim=0))
            assert ours["ignore_map"].any()
            assert len(ours["instances"]) <= 1
            np.random.seed(seed)
            assert "ignore_map" not in mapper({**record, "annotations": OBJECTS})


def test_rasterised_crowds_are_their_pixels():
    transforms = TransformList([NoOpTransform()])
    size = (HEIGHT, WIDTH)
    drawn = rasterize_instances([CROWD], transforms, size, size).gt_stride4_masks.any(dim=0)
    expected = [[in_crowd(4 * x, 4 * y) for x in range(WIDTH // 4)] for y in range(HEIGHT // 4)]
    assert drawn.tolist() == expected
    assert F.avg_pool2d(drawn[None].float(), drawn.shape[0]).max() > 0
