"""Selection of instances against the published rule in loops, and with perfect predictions."""

import math

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.structures import Instances
from oracles import detect_by_loops, inference_settings
from pycocotools.coco import COCO

from facenet_d2.data.datasets.coco import load_coco, register_coco
from facenet_d2.evaluation import InstanceEvaluator
from facenet_d2.modeling.grids import selection
from facenet_d2.modeling.grids.cell_masks import DynamicMasks
from facenet_d2.modeling.grids.selection import binary_masks, suppress_neighbours
from facenet_d2.structures import enlarge


def detect_instances(scores, kernels, features, *others):
    def cell_masks(cells):
        return DynamicMasks(kernels[cells], features)

    return selection.detect_instances(scores, cell_masks, *others)


GRIDS = (5, 3)
MIN_AREAS = torch.cat([torch.full((25,), 8), torch.full((9,), 16)])


def test_points_nms_keeps_the_maximum_of_each_window():
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


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
@pytest.mark.parametrize("limits", [(500, 100), (7, 100), (500, 3)])
@pytest.mark.parametrize("image_size", [(60, 75), (133, 97), (21, 30)])
@pytest.mark.parametrize("stride", [2, 4])
def test_published_rule(kernel, limits, image_size, stride):
    settings = inference_settings(
        score_threshold=0.4, nms_pre=limits[0], nms_kernel=kernel, max_instances=limits[1]
    )
    scores, kernels = torch.rand(34, 2), torch.randn(34, 6)
    # Smooth maps, so that masks are blobs.
    features = F.interpolate(torch.randn(1, 6, 4, 5), size=(16, 20), mode="bicubic")[0]
    input_size = (60 * stride // 4, 75 * stride // 4)
    args = (scores, kernels, features, MIN_AREAS, settings, input_size, image_size, stride)
    actual = detect_instances(*args)
    expected = detect_by_loops(*args)
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
    assert instances.pred_boxes.tensor.shape == (n, 4)
    assert instances.scores.shape == (n,)
    assert instances.pred_classes.dtype == torch.int64


@pytest.mark.parametrize("wanted", [0, 1, 300])
def test_zero_one_and_hundreds(wanted):
    """Each cell has a tile of its own as its mask."""
    side = 20
    cells = 400
    features = torch.full((cells, side * 4, side * 4), -10.0)
    for i in range(cells):
        y, x = divmod(i, side)
        features[i, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 10.0
    scores = torch.zeros(cells, 2)
    scores[:wanted, 1] = torch.linspace(0.9, 0.5, wanted) if wanted else 0.0
    settings = inference_settings(max_instances=1000)
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


def test_masks_up_to_the_minimum_area_of_their_cell_are_dropped():
    features = torch.full((2, 16, 16), -10.0)
    features[0, :2, :4] = 10.0
    features[1, 4:7, :3] = 10.0
    out = detect_instances(
        torch.full((2, 1), 0.9),
        torch.eye(2),
        features,
        torch.tensor([8, 8]),
        inference_settings(),
        (64, 64),
        (64, 64),
    )
    # Eight pixels are dropped; nine are not.
    assert out.pred_boxes.tensor.tolist() == [[0, 16, 12, 28]]


def enlarge_plainly(masks, input_size, image_size, threshold):
    """Interpolate whole masks, as the published code does; positive inside a mask."""
    size = (4 * masks.shape[1], 4 * masks.shape[2])
    masks = F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)
    masks = masks[:, :, : input_size[0], : input_size[1]]
    masks = F.interpolate(masks, size=image_size, mode="bilinear", align_corners=False)
    return masks[:, 0] - threshold


@pytest.mark.parametrize("image_size", [(120, 180), (97, 203), (500, 333), (31, 44), (120, 61)])
@pytest.mark.parametrize("input_size", [(120, 180), (113, 170), (128, 192)])
# For CPUs and for GPUs; both run on either.
@pytest.mark.parametrize("implementation", ["_enlarge_parts", "_enlarge_whole"])
def test_enlarged_masks(input_size, image_size, implementation, monkeypatch):
    """Empty masks, a full one, single pixels, and blobs of any size, also in the padding."""
    masks = F.interpolate(torch.rand(40, 1, 7, 9), size=(32, 48), mode="bicubic")[:, 0]
    masks = masks.clamp(0, 1) ** 2
    masks[:4] = 0
    masks[1, 0, 0] = masks[2, 31, 47] = masks[3, 10, 20] = 0.9
    masks[4] = 0.7
    monkeypatch.setattr(enlarge, "_enlarge_parts", getattr(enlarge, implementation))
    enlarged = enlarge.enlarge_masks(masks, input_size, image_size, 0.5)
    actual, boxes = enlarged.to_tensor(), enlarged.boxes()
    margin = enlarge_plainly(masks, input_size, image_size, 0.5)
    assert ((margin > 0) == actual)[margin.abs() > 1e-5].all()
    for mask, box in zip(actual.numpy(), boxes.tolist(), strict=True):
        ys, xs = np.nonzero(mask)
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [0] * 4
        assert box == expected


def test_a_mask_is_enlarged_in_place():
    """A disc keeps its centre and its relative size in an image of another size."""
    masks = np.zeros((1, 50, 75), np.float32)
    cv2.circle(masks[0], (30, 20), 8, 1.0, -1)
    out = enlarge.enlarge_masks(torch.from_numpy(masks), (200, 300), (400, 600), 0.5)
    ys, xs = np.nonzero(out[0].numpy())
    assert xs.mean() + 0.5 == pytest.approx(8 * 30.5, abs=0.5)
    assert ys.mean() + 0.5 == pytest.approx(8 * 20.5, abs=0.5)
    assert len(xs) == pytest.approx(64 * masks.sum(), rel=0.02)


@pytest.mark.parametrize("floats", [1, 60, 10**6])
def test_binary_masks_in_blocks(floats, monkeypatch):
    """Pixels, area and mean probability of each mask; one mask is empty."""
    kernels, features = torch.randn(9, 6), torch.randn(6, 7, 5)
    kernels[4] = 0
    monkeypatch.setattr(selection, "BLOCK_FLOATS", floats)
    pixels, areas, masknesses = binary_masks(DynamicMasks(kernels, features), 0.6, features.device)
    for i, kernel in enumerate(kernels):
        probabilities = (kernel[:, None, None] * features).sum(dim=0).sigmoid()
        assert torch.equal(pixels[i], probabilities > 0.6)
        inside = probabilities[pixels[i]].tolist()
        assert areas[i] == len(inside)
        assert masknesses[i].item() == pytest.approx(np.mean(inside) if inside else 0, abs=1e-6)


def test_the_mean_probability_of_a_large_mask_is_exact():
    logits = torch.linspace(1, 5, 2**20).view(1, 1024, 1024)
    *_, masknesses = binary_masks(DynamicMasks(torch.ones(1, 1), logits), 0.5, logits.device)
    assert masknesses.item() == pytest.approx(logits.double().sigmoid().mean().item(), abs=1e-6)


def test_no_masks():
    pixels, areas, masknesses = binary_masks(
        DynamicMasks(torch.ones(0, 6), torch.randn(6, 7, 5)), 0.5, torch.device("cpu")
    )
    assert pixels.shape == (0, 7, 5)
    assert len(areas) == len(masknesses) == 0


def test_cap_on_candidates_takes_the_best():
    """The tiles with the highest scores are selected from a row of tiles of one class."""
    features = torch.full((6, 4, 24), -10.0)
    for i in range(6):
        features[i, :, 4 * i : 4 * i + 4] = 10.0
    scores = torch.tensor([0.5, 0.9, 0.3, 0.8, 0.7, 0.6])[:, None]
    args = (torch.eye(6), features, torch.full((6,), 8))
    sizes = ((16, 96), (16, 96))
    whole = detect_instances(scores, *args, inference_settings(max_candidates=6), *sizes)
    assert [int(x) // 16 for x in whole.pred_boxes.tensor[:, 0]] == [1, 3, 4, 5, 0, 2]
    capped = detect_instances(scores, *args, inference_settings(max_candidates=3), *sizes)
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
    # Double precision: scores of an untrained model are too close to keep their order otherwise.
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
        differing = a.pred_masks.to_tensor() != b.pred_masks.to_tensor()
        assert differing.sum() <= 1e-3 * differing.numel()


def test_ground_truth_through_postprocessing_and_evaluator(scenes, tmp_path):
    """Perfect predictions are evaluated as AP 100.

    The kernel of each cell selects one channel of the mask features, the mask of one instance. The
    scene is used as stride-4 features of a network input of four times its size.
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
            inference_settings(),
            (4 * h, 4 * w),
            (h, w),
        )
        evaluator.process([record], [{"instances": out}])
    results = evaluator.evaluate()
    assert results["segm"]["AP"] == pytest.approx(100)
    assert results["bbox"]["AP"] >= 99
    assert not math.isnan(results["segm"]["AP-ship"])


def test_autocast_does_not_touch_postprocessing():
    """Two overlapping masks with more pixels than half precision can count."""
    features = torch.full((2, 280, 280), 10.0)
    features[1, :140] = -10.0
    args = (
        torch.tensor([[0.9], [0.8]]),
        torch.eye(2),
        features,
        torch.tensor([8, 8]),
        inference_settings(),
        (1120, 1120),
        (280, 280),
    )
    expected = detect_instances(*args)
    assert len(expected) == 2
    with torch.autocast("cpu", dtype=torch.float16):
        actual = detect_instances(*args)
    assert torch.equal(actual.scores, expected.scores)
    assert actual.pred_masks.rles() == expected.pred_masks.rles()
