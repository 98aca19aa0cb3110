"""Readers of Ultralytics' segmentation models find the instances of the model."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from scipy.special import expit
from small_networks import CLASSES, score_of, small_model

from facenet_d2.errors import UserError
from facenet_d2.export import describe, yolo_seg_network
from facenet_d2.export.checks import matched_ious

SIZE = 128


def network_of(cfg, name="SOLOv2", *, facenet=False, candidates=300, **settings):
    cfg.INPUT.FORMAT = "BGR"
    model = small_model(cfg, name, facenet=facenet)
    if name == "SOLOv2":
        model.settings = dataclasses.replace(model.settings, **settings)
        settings = {"score_threshold": score_of(200, model, as_values(picture()))} | settings
        model.settings = dataclasses.replace(model.settings, **settings)
    for key, value in settings.items():
        if name != "SOLOv2":
            setattr(model, key, value)
    description = describe(model, cfg, contract="yolo-seg", class_names=CLASSES)
    return yolo_seg_network(
        model, description, size=SIZE, deform="gridsample", max_candidates=candidates
    )


def picture():
    """RGB, (SIZE, SIZE, 3) uint8."""
    coarse = np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8)
    return cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)


def as_values(image):
    """The picture as the model sees it, (3, SIZE, SIZE) float32 in BGR."""
    return torch.from_numpy(image[:, :, ::-1].astype(np.float32).transpose(2, 0, 1).copy())


def as_yolo_input(image):
    return torch.from_numpy(image.astype(np.float32).transpose(2, 0, 1)[None] / 255)


@torch.no_grad()
def model_instances(network, image):
    """What the model finds in an image of its own colour order."""
    return network.model([{"image": as_values(image)}])[0]["instances"]


def matches(expected, classes, scores, masks):
    """IoU of each expected mask with the found mask of nearly the same score, and its class."""
    ious = []
    for mask, score, number in zip(
        expected.pred_masks.numpy(), expected.scores.tolist(), expected.pred_classes.tolist()
    ):
        own = [
            (mask & masks[i]).sum() / max(1, (mask | masks[i]).sum())
            for i in range(len(scores))
            if classes[i] == number and abs(scores[i] - score) < 1e-4
        ]
        ious.append(max(own, default=0.0))
    return np.array(ious)


def read_as_ultralytics(output0, output1, num_classes, *, conf, iou):
    """The rules of Ultralytics 8.4: best class, NMS of each class, logits enlarged and cropped."""
    rows = output0[0].T
    rows = rows[rows[:, 4 : 4 + num_classes].max(axis=1) > conf]
    classes = rows[:, 4 : 4 + num_classes].argmax(axis=1)
    scores = rows[:, 4 : 4 + num_classes].max(axis=1)
    half = rows[:, 2:4] / 2
    boxes = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if all(_box_iou(boxes[i], boxes[j]) <= iou for j in kept if classes[i] == classes[j]):
            kept.append(i)
    kept = kept[:300]
    logits = np.einsum("ke,ehw->khw", rows[kept, 4 + num_classes :], output1[0])
    line = np.arange(SIZE)
    masks = []
    for logit, (x0, y0, x1, y1) in zip(logits, boxes[kept]):
        large = cv2.resize(logit, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        columns = (line >= x0) & (line < x1)
        masks.append((large > 0) & columns & ((line >= y0) & (line < y1))[:, None])
    return classes[kept], scores[kept], masks, boxes[kept]


def _box_iou(a, b):
    width, height = (min(a[2 + i], b[2 + i]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    union = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)) - shared
    return shared / union if union else 0.0


def read_as_deepness(output0, output1, num_classes, *, conf, iou):
    """The rules of QGIS Deepness 0.6: whole boxes, probabilities cropped and then enlarged."""
    rows = output0[0].T
    rows = rows[rows[:, 4 : 4 + num_classes].max(axis=1) >= conf]
    scores = rows[:, 4 : 4 + num_classes].max(axis=1)
    half = rows[:, 2:4] / 2
    boxes = np.concatenate([rows[:, :2] - half, rows[:, :2] + half], axis=1)
    order, kept = np.argsort(scores), []
    while len(order):
        best = order[-1]
        kept.append(best)
        order = order[:-1]
        order = order[_pixel_iou(boxes[best], boxes[order]) < iou]
    boxes = boxes[kept].astype(int)
    logits = np.einsum("ke,ehw->khw", rows[kept, 4 + num_classes :], output1[0])
    stride = SIZE // output1.shape[2]
    line = np.arange(SIZE // stride)
    masks = []
    for logit, box in zip(expit(logits), boxes / stride):
        columns, lines = ((line >= box[i]) & (line < box[2 + i]) for i in (0, 1))
        small = logit * columns * lines[:, None]
        masks.append(cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) >= 0.5)
    return rows[kept, 4 : 4 + num_classes].argmax(axis=1), scores[kept], masks


def _pixel_iou(box, boxes):
    shared = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2]) + 1
    shared = shared.clip(min=0).prod(axis=1)
    areas = [(b[..., 2:] - b[..., :2] + 1).prod(axis=-1) for b in (box, boxes)]
    return shared / (areas[0] + areas[1] - shared)


@pytest.mark.parametrize(
    ("facenet", "stride", "settings"),
    [
        (False, 4, {}),
        (False, 4, {"mask_threshold": 0.4, "nms_kernel": "linear", "points_nms": False}),
        (False, 2, {"mask_threshold": 0.6, "nms_sigma": 9.0}),
        (True, 4, {}),
    ],
)
def test_readers_find_the_instances_of_solov2_and_facenet(model_cfg, facenet, stride, settings):
    model_cfg.MODEL.SOLOV2.MASK_STRIDE = stride
    network = network_of(model_cfg, facenet=facenet, max_instances=50, **settings)
    image = picture()
    expected = model_instances(network, image)
    assert len(expected) == 50
    with torch.no_grad():
        output0, output1 = (x.numpy() for x in network(as_yolo_input(image)))
    coefficients = 32 + bool(settings)
    assert output0.shape == (1, 4 + 3 + coefficients, 50)
    assert output1.shape == (1, coefficients, SIZE // stride, SIZE // stride)

    found = network.instances(*(torch.from_numpy(x[0]) for x in (output0, output1)), (SIZE, SIZE))
    assert np.mean(matched_ious(expected, found)) > 0.999

    # NMS that keeps all: what remains are the differences of enlarging.
    classes, scores, masks, boxes = read_as_ultralytics(output0, output1, 3, conf=0, iou=1)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
    ious = matches(expected, classes, scores, masks)
    assert ious.mean() > 0.98
    tight = np.array([_tight(m) for m in masks])
    assert np.abs(boxes - tight).mean() < 0.5
    # No mask reaches beyond its box: cropping changes nothing.
    rows = output0[0].T[np.argsort(-output0[0, 4:7].max(axis=0), kind="stable")]
    whole = np.einsum("ke,ehw->khw", rows[:, 7:], output1[0])
    for logit, mask in zip(whole, masks):
        large = cv2.resize(logit, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(large > 0, mask)

    classes, scores, masks = read_as_deepness(output0, output1, 3, conf=1e-6, iou=2)
    assert len(scores) == 50
    assert matches(expected, classes, scores, masks).mean() > 0.95


def _tight(mask):
    ys, xs = np.nonzero(mask)
    return xs.min(), ys.min(), xs.max() + 1, ys.max() + 1


def test_windows_are_prototypes(model_cfg):
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = True
    network = network_of(model_cfg, max_instances=50)
    image = picture()
    expected = model_instances(network, image)
    with torch.no_grad():
        output0, output1 = network(as_yolo_input(image))
    assert output0.shape == (1, 4 + 3 + 38, 50)
    assert output1.shape == (1, 38, SIZE // 4, SIZE // 4)
    found = network.instances(output0[0], output1[0], (SIZE, SIZE))
    assert np.mean(matched_ious(expected, found)) > 0.999
    classes, scores, masks, _ = read_as_ultralytics(
        output0.numpy(), output1.numpy(), 3, conf=0, iou=1
    )
    # Masks of random windows are small, and enlarged logits differ from enlarged probabilities.
    assert matches(expected, classes, scores, masks).mean() > 0.95


def test_few_candidates_are_the_best(model_cfg):
    network = network_of(model_cfg, candidates=6, update_threshold=0.0)
    with torch.no_grad():
        output0, _ = network(as_yolo_input(picture()))
    # Ultralytics takes six columns for another format.
    assert output0.shape[2] == 7
    assert (output0[0, :, 6] == 0).all()
    assert (output0[0, 4:7, :6].amax(dim=0) > 0).sum() >= 3


def test_nothing_is_found(model_cfg):
    network = network_of(model_cfg, score_threshold=1.0)
    with torch.no_grad():
        output0, _ = network(as_yolo_input(picture()))
    assert (output0[0, :7] == 0).all()
    assert output0.isfinite().all()


def test_readers_find_the_instances_of_yolact(model_cfg):
    network = network_of(model_cfg, "YOLACT", nms_threshold=0.5, mask_threshold=0.5)
    with torch.no_grad():
        # Boxes near their anchors; random ones are lines at the image's border.
        network.model.anchor_head.predict[1].weight.mul_(0.02)
    image = picture()
    expected = model_instances(network, image)
    assert len(expected) > 5
    with torch.no_grad():
        output0, output1 = (x.numpy() for x in network(as_yolo_input(image)))
    found = network.instances(*(torch.from_numpy(x[0]) for x in (output0, output1)), (SIZE, SIZE))
    assert np.mean(matched_ious(expected, found)) > 0.999
    scores = np.sort(output0[0, 4:7].max(axis=0))
    assert math.isclose(scores[-1], expected.scores[0].item(), abs_tol=1e-5)
    # The model's Fast NMS lets dropped boxes suppress others, so it keeps fewer.
    best = expected[:15]
    conf = float(best.scores.min()) - 1e-6
    classes, scores, masks, _ = read_as_ultralytics(output0, output1, 3, conf=conf, iou=0.5)
    assert (matches(best, classes, scores, masks) > 0).all()
    # The model's masks reach one pixel at stride 4 beyond the box.
    inside = inside_boxes(best)
    assert matches(inside, classes, scores, masks).mean() > 0.85

    classes, scores, masks = read_as_deepness(output0, output1, 3, conf=conf, iou=0.5)
    # Boxes of all classes suppress each other.
    assert (matches(best, classes, scores, masks) > 0).mean() > 0.8
    # Cropped before they are enlarged, masks lose up to two pixels at the border of the box.
    assert matches(inside, classes, scores, masks).mean() > 0.55


def inside_boxes(instances):
    """Instances whose masks have at least 400 pixels in their boxes, without the other pixels."""
    line = np.arange(SIZE) + 0.5
    masks = []
    for mask, (x0, y0, x1, y1) in zip(instances.pred_masks, instances.pred_boxes):
        rows, columns = (
            (line > y0.item()) & (line < y1.item()),
            (line > x0.item()) & (line < x1.item()),
        )
        masks.append(mask & torch.from_numpy(rows[:, None] & columns))
    result = Instances(instances.image_size, **instances.get_fields())
    result.pred_masks = torch.stack(masks)
    return result[result.pred_masks.flatten(1).sum(dim=1) >= 400]


def test_models_and_sizes_without_the_contract_are_refused(model_cfg):
    model = small_model(model_cfg, "CondInst")
    description = describe(model, model_cfg, contract="yolo-seg", class_names=CLASSES)
    arguments = {"deform": "gridsample", "max_candidates": 10}
    with pytest.raises(UserError, match="not for CondInst"):
        yolo_seg_network(model, description, size=64, **arguments)
    with pytest.raises(UserError, match="--size is 100; it must be a multiple of 32"):
        yolo_seg_network(model, description, size=100, **arguments)
    stretched = dataclasses.replace(description, stretch="range 0 1000")
    with pytest.raises(UserError, match=r"INPUT\.STRETCH"):
        yolo_seg_network(model, stretched, size=64, **arguments)
