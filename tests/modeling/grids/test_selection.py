"""Inference: against the published rule written plainly, and ground truth through all of it."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import Instances
from pycocotools.coco import COCO

from facenet_d2.data.datasets.coco import load_coco, register_coco
from facenet_d2.evaluation import InstanceEvaluator
from facenet_d2.modeling.grids import matrix_nms
from facenet_d2.modeling.grids import selection as postprocess
from facenet_d2.modeling.grids.selection import (
    InferenceSettings,
    area_and_maskness,
    suppress_neighbours,
)
from facenet_d2.modeling.solov2.meta_arch import dynamic_mask_logits
from facenet_d2.structures.enlarge import enlarge_masks


def detect_instances(scores, kernels, features, *others):
    masks = dynamic_mask_logits(kernels, features)
    return postprocess.detect_instances(scores, masks, tuple(features.shape[-2:]), *others)


GRIDS = (5, 3)
MIN_AREAS = torch.cat([torch.full((25,), 8), torch.full((9,), 16)])


def test_points_nms_keeps_the_greatest_of_each_window():
    scores = torch.rand(2, 34, 3)
    out = suppress_neighbours(scores, GRIDS)
    first = 0
    for s in GRIDS:
        grid = scores[:, first : first + s * s].reshape(2, s, s, 3)
        for n in range(2):
            for y in range(s):
                for x in range(s):
                    for c in range(3):
                        window = grid[n, max(0, y - 1) : y + 1, max(0, x - 1) : x + 1, c]
                        value = grid[n, y, x, c] if grid[n, y, x, c] == window.max() else 0.0
                        assert out[n, first + y * s + x, c] == value
        first += s * s


def detect_by_loops(scores, kernels, features, settings, input_size, image_size):
    """The published rule, one candidate after the other; gives (class, score, mask)."""
    candidates = []
    for cell in range(len(scores)):
        for c in range(scores.shape[1]):
            if scores[cell, c] <= settings.score_threshold:
                continue
            mask = (kernels[cell][:, None, None] * features).sum(0).sigmoid()
            binary = mask > settings.mask_threshold
            if binary.sum() <= MIN_AREAS[cell]:
                continue
            candidates.append((scores[cell, c] * mask[binary].mean(), c, mask, binary))
    candidates.sort(key=lambda x: -x[0])
    candidates = candidates[: settings.nms_pre]
    if not candidates:
        return []
    new = matrix_nms(
        torch.stack([x[3] for x in candidates]),
        torch.tensor([x[1] for x in candidates]),
        torch.stack([x[0] for x in candidates]),
        kernel=settings.nms_kernel,
        sigma=settings.nms_sigma,
    )
    kept = [(s.item(), c, m) for s, (_, c, m, _) in zip(new, candidates, strict=True)]
    kept = sorted((k for k in kept if k[0] >= settings.update_threshold), key=lambda x: -x[0])
    results = []
    for score, c, mask in kept[: settings.max_instances]:
        size = (4 * mask.shape[0], 4 * mask.shape[1])
        mask = F.interpolate(mask[None, None], size=size, mode="bilinear")
        mask = mask[:, :, : input_size[0], : input_size[1]]
        mask = F.interpolate(mask, size=image_size, mode="bilinear")[0, 0] > settings.mask_threshold
        results.append((c, score, mask))
    return results


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("limits", [(500, 100), (7, 100), (500, 3)])
@pytest.mark.parametrize("image_size", [(60, 75), (133, 97), (21, 30)])
def test_published_rule(kernel, limits, image_size):
    settings = InferenceSettings(
        score_threshold=0.4, nms_pre=limits[0], nms_kernel=kernel, max_instances=limits[1]
    )
    scores, kernels = torch.rand(34, 2), torch.randn(34, 6)
    # Smooth maps, so that masks are blobs.
    features = F.interpolate(torch.randn(1, 6, 4, 5), size=(16, 20), mode="bicubic")[0]
    args = (settings, (60, 75), image_size)
    actual = detect_instances(scores, kernels, features, MIN_AREAS, *args)
    expected = detect_by_loops(scores, kernels, features, *args)
    expected = [e for e in expected if e[2].any()]
    assert len(actual) == len(expected) > 0
    assert actual.pred_classes.tolist() == [e[0] for e in expected]
    torch.testing.assert_close(actual.scores, torch.tensor([e[1] for e in expected]))
    for n, (_, _, mask) in enumerate(expected):
        # A pixel exactly on the threshold may fall to either side.
        assert (actual.pred_masks[n] != mask).sum() <= 1
        ys, xs = np.nonzero(actual.pred_masks[n].numpy())
        box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        assert actual.pred_boxes.tensor[n].tolist() == box


def check_fields(instances: Instances, image_size):
    assert instances.image_size == image_size
    n = len(instances)
    assert instances.pred_masks.shape == (n, *image_size)
    assert instances.pred_masks.dtype == torch.bool
    assert instances.pred_boxes.tensor.shape == (n, 4)
    assert instances.scores.shape == (n,)
    assert instances.pred_classes.dtype == torch.int64


@pytest.mark.parametrize("wanted", [0, 1, 300])
def test_zero_one_and_hundreds(wanted):
    """Masks in a row of tiles, one a cell."""
    side = 20
    cells = 400
    features = torch.full((cells, side * 4, side * 4), -10.0)
    for i in range(cells):
        y, x = divmod(i, side)
        features[i, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 10.0
    scores = torch.zeros(cells, 2)
    scores[:wanted, 1] = torch.linspace(0.9, 0.5, wanted) if wanted else 0.0
    settings = InferenceSettings(max_instances=1000)
    out = detect_instances(
        scores,
        torch.eye(cells),
        features,
        torch.full((cells,), 8),
        settings,
        (320, 320),
        (320, 320),
    )
    assert len(out) == wanted
    check_fields(out, (320, 320))
    assert (out.pred_classes == 1).all()
    for n in range(wanted):
        y, x = divmod(n, side)
        assert out.pred_boxes.tensor[n].tolist() == [16 * x, 16 * y, 16 * x + 16, 16 * y + 16]


def test_masks_up_to_the_cells_least_area_are_dropped():
    features = torch.full((2, 16, 16), -10.0)
    features[0, :2, :4] = 10.0
    features[1, 4:7, :3] = 10.0
    out = detect_instances(
        torch.full((2, 1), 0.9),
        torch.eye(2),
        features,
        torch.tensor([8, 8]),
        InferenceSettings(),
        (64, 64),
        (64, 64),
    )
    # Eight pixels are dropped; nine are not.
    assert out.pred_boxes.tensor.tolist() == [[0, 16, 12, 28]]


def enlarge_plainly(masks, input_size, image_size, threshold):
    """All of every mask at once, as the published code does."""
    size = (4 * masks.shape[1], 4 * masks.shape[2])
    masks = F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)
    masks = masks[:, :, : input_size[0], : input_size[1]]
    masks = F.interpolate(masks, size=image_size, mode="bilinear", align_corners=False)
    return masks[:, 0] - threshold


@pytest.mark.parametrize("image_size", [(120, 180), (97, 203), (500, 333), (31, 44), (120, 61)])
@pytest.mark.parametrize("input_size", [(120, 180), (113, 170), (128, 192)])
def test_enlarged_parts_are_parts_of_the_enlarged_whole(input_size, image_size):
    """Blobs of any size, at the borders too, in the padding, single pixels, none and everywhere."""
    masks = F.interpolate(torch.rand(40, 1, 7, 9), size=(32, 48), mode="bicubic")[:, 0]
    masks = masks.clamp(0, 1) ** 2
    masks[:4] = 0
    masks[1, 0, 0] = masks[2, 31, 47] = masks[3, 10, 20] = 0.9
    masks[4] = 0.7
    actual, boxes = enlarge_masks(masks, input_size, image_size, 0.5)
    margin = enlarge_plainly(masks, input_size, image_size, 0.5)
    assert ((margin > 0) == actual)[margin.abs() > 1e-5].all()
    for mask, box in zip(actual.numpy(), boxes.tolist(), strict=True):
        ys, xs = np.nonzero(mask)
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0] * 4
        assert box == expected


def test_a_mask_is_enlarged_in_place():
    """A disc comes out centred where it was, in an image of another size."""
    masks = np.zeros((1, 50, 75), np.float32)
    cv2.circle(masks[0], (30, 20), 8, 1.0, -1)
    out, _ = enlarge_masks(torch.from_numpy(masks), (200, 300), (400, 600), 0.5)
    ys, xs = np.nonzero(out[0].numpy())
    assert xs.mean() + 0.5 == pytest.approx(8 * 30.5, abs=0.5)
    assert ys.mean() + 0.5 == pytest.approx(8 * 20.5, abs=0.5)
    assert len(xs) == pytest.approx(64 * masks.sum(), rel=0.02)


def test_maskness_and_area_in_chunks(monkeypatch):
    """Against the mean over each mask's pixels, also of an empty mask."""
    logits = torch.randn(9, 50)
    logits[4] = -1
    binary = logits > 0
    monkeypatch.setattr(postprocess, "CHUNK_FLOATS", 8 * 2 * 50)
    area, maskness = area_and_maskness(logits, binary)
    for i in range(9):
        inside = [v.sigmoid().item() for v in logits[i] if v > 0]
        assert area[i] == len(inside)
        assert maskness[i].item() == pytest.approx(np.mean(inside) if inside else 0, abs=1e-6)


def test_cap_on_candidates_takes_the_best():
    """Of tiles in a row, all of one class, those of the greatest scores have their masks made."""
    features = torch.full((6, 4, 24), -10.0)
    for i in range(6):
        features[i, :, 4 * i : 4 * i + 4] = 10.0
    scores = torch.tensor([0.5, 0.9, 0.3, 0.8, 0.7, 0.6])[:, None]
    args = (torch.eye(6), features, torch.full((6,), 8))
    sizes = ((16, 96), (16, 96))
    whole = detect_instances(scores, *args, InferenceSettings(max_candidates=6), *sizes)
    assert [int(x) // 16 for x in whole.pred_boxes.tensor[:, 0]] == [1, 3, 4, 5, 0, 2]
    capped = detect_instances(scores, *args, InferenceSettings(max_candidates=3), *sizes)
    assert [int(x) // 16 for x in capped.pred_boxes.tensor[:, 0]] == [1, 3, 4]
    torch.testing.assert_close(capped.scores, whole.scores[:3])


@pytest.fixture
def model(model_cfg):
    model_cfg.MODEL.SOLOV2.SCORE_THRESH_TEST = 0.009
    model_cfg.MODEL.SOLOV2.NMS_SCORE_THRESH_TEST = 0.0
    return build_model(model_cfg).eval()


@pytest.mark.parametrize("size", [(64, 64), (97, 61), (33, 130), (40, 36)])
def test_any_image_size(model, size):
    with torch.no_grad():
        (out,) = model([{"image": torch.rand(3, *size) * 255, "height": 77, "width": 41}])
    check_fields(out["instances"], (77, 41))


def test_a_batch_gives_what_its_images_give_alone(model):
    # In double precision: an untrained model's scores lie too close to keep their order in single.
    model.double()
    images = [{"image": torch.rand(3, 96, 64).double() * 255} for _ in range(3)]
    with torch.no_grad():
        together = model(images)
        alone = [model([x])[0] for x in images]
    assert any(len(x["instances"]) for x in alone)
    for a, b in zip(together, alone, strict=True):
        a, b = a["instances"], b["instances"]
        assert a.pred_classes.tolist() == b.pred_classes.tolist()
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-3, atol=1e-5)
        differing = (a.pred_masks != b.pred_masks).float().mean() if len(a) else 0
        assert differing < 1e-3


def test_ground_truth_through_postprocessing_and_evaluator(scenes, tmp_path):
    """Perfect predictions come out of the whole chain as AP 100.

    Each instance is a cell whose kernel picks one channel of the mask features, the instance's own
    mask. The scene plays the features, at a quarter of a network input four times its size.
    """
    name = f"ground_truth_{tmp_path.name}"
    register_coco(name, scenes / "annotations.json", scenes / "images")
    dicts = load_coco(name, scenes / "annotations.json", scenes / "images")
    coco = COCO(str(scenes / "annotations.json"))
    evaluator = InstanceEvaluator(name, output_dir=str(tmp_path))
    evaluator.reset()
    for record in dicts:
        annotations = coco.imgToAnns[record["image_id"]]
        masks = torch.from_numpy(np.array([coco.annToMask(a) for a in annotations]))
        n, h, w = masks.shape
        scores = torch.zeros(n, 5)
        scores[range(n), [a["category_id"] - 1 for a in annotations]] = 0.99
        out = detect_instances(
            scores,
            torch.eye(n),
            20.0 * masks.float() - 10.0,
            torch.full((n,), 8),
            InferenceSettings(),
            (4 * h, 4 * w),
            (h, w),
        )
        evaluator.process([record], [{"instances": out}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] >= 99
    assert not math.isnan(results["segm"]["AP-ship"])


def test_autocast_does_not_touch_postprocessing():
    """Masks of more pixels than half precision can count, one on top of the other."""
    features = torch.full((2, 280, 280), 10.0)
    features[1, :140] = -10.0
    args = (
        torch.tensor([[0.9], [0.8]]),
        torch.eye(2),
        features,
        torch.tensor([8, 8]),
        InferenceSettings(),
        (1120, 1120),
        (280, 280),
    )
    expected = detect_instances(*args)
    assert len(expected) == 2
    with torch.autocast("cpu", dtype=torch.float16):
        actual = detect_instances(*args)
    assert torch.equal(actual.scores, expected.scores)
    assert torch.equal(actual.pred_masks, expected.pred_masks)
