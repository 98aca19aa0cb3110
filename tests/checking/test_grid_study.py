"""The grid study against the target assigner, and the best masks against plain scaling."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BitMasks, Boxes, Instances
from helpers import REPOSITORY

from facenet_d2.checking import GridSettings, Objects, check_dataset, study_grids, suggest_grids
from facenet_d2.checking.objects import Measurement
from facenet_d2.engine import read_config
from facenet_d2.modeling.grids.layout import GridLayout
from facenet_d2.modeling.grids.targets import assign_targets
from facenet_d2.structures.masks import downsample_masks

BASE_CONFIG = REPOSITORY / "configs" / "Base-SOLOv2.yaml"


@pytest.mark.parametrize(("longest", "stride"), [(128, 4), (96, 4), (64, 4), (64, 2)])
def test_best_masks_against_targets_enlarged_plainly(scenes, longest, stride):
    cfg = read_config(BASE_CONFIG)
    cfg.defrost()
    cfg.MODEL.SOLOV2.MASK_STRIDE = stride
    settings = GridSettings.from_config(cfg, longest)
    report = check_dataset(
        scenes / "annotations.json", scenes / "images", workers=0, settings=settings
    )
    best_ious = report.objects.best_ious
    content = json.loads((scenes / "annotations.json").read_text())
    expected = []
    for image in content["images"]:
        for a in (a for a in content["annotations"] if a["image_id"] == image["id"]):
            own = rle_of(a["segmentation"], 128, 128)
            small = own
            if isinstance(a["segmentation"], list):
                scaled = [[v * longest / 128 for v in p] for p in a["segmentation"]]
                small = rle_of(scaled, longest, longest)
            elif longest != 128:
                expected.append(None)
                continue
            size = (longest // stride, longest // stride)
            target = downsample_masks(torch.from_numpy(small)[None], size, stride)
            # Scaled twice, like the network's output: to its input, then to the image.
            mask = target[None].float()
            for size in (longest, 128):
                mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
            best = (mask[0, 0] > 0.5).numpy()
            expected.append((best & own).sum() / (best | own).sum())
    assert len(best_ious) == len(expected) > 20
    compared = [(a, b) for a, b in zip(best_ious, expected, strict=True) if b is not None]
    assert len(compared) > 20
    # Pixels whose value is 0.5 up to rounding can differ.
    np.testing.assert_allclose(*zip(*compared, strict=True), atol=0.005)
    assert sum(a == pytest.approx(b, abs=1e-9) for a, b in compared) > 0.9 * len(compared)
    assert len({round(a, 2) for a, _ in compared}) > 5


def rle_of(segmentation, height, width):
    if isinstance(segmentation, dict):
        rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return mask_util.decode(rle).astype(bool)


def brute_force(objects, settings, masks_of):
    """Count with the target assigner, image by image, on full-size masks."""
    no_cell = no_own = sharing = 0
    levels = len(settings.layout.num_grids)
    per_level = [0] * levels
    for image, (height, width) in enumerate(objects.image_sizes.astype(int)):
        own = np.flatnonzero(objects.image_of == image)
        transform = ResizeShortestEdge(settings.shortest, settings.longest).get_transform(
            np.zeros((height, width, 3), np.uint8)
        )
        new_h, new_w = transform.new_h, transform.new_w
        masks = masks_of(image)
        instances = Instances((new_h, new_w))
        scale = np.array([new_w / width, new_h / height] * 2)
        instances.gt_boxes = Boxes(torch.tensor(objects.boxes[own] * scale))
        instances.gt_classes = torch.arange(len(own))
        resized = [cv2.resize(m, (new_w, new_h), interpolation=cv2.INTER_NEAREST) for m in masks]
        instances.gt_masks = BitMasks(torch.from_numpy(np.stack(resized)).bool())
        size = (-(-new_h // 32) * 8, -(-new_w // 32) * 8)
        targets = assign_targets(instances, settings.layout, len(own), size)
        first = 0
        has, keeps, shares = set(), set(), set()
        for level, grid in enumerate(settings.layout.num_grids):
            here = (targets.cells >= first) & (targets.cells < first + grid**2)
            cells, owners = targets.cells[here].tolist(), targets.instances[here].tolist()
            per_level[level] += len(set(owners))
            for cell, owner in zip(cells, owners):
                has.add(owner)
                if targets.categories[cell] == owner:
                    keeps.add(owner)
                if cells.count(cell) > 1:
                    shares.add(owner)
            first += grid**2
        no_cell += len(own) - len(has)
        no_own += len(has - keeps)
        sharing += len(shares)
    return no_cell, no_own, sharing, tuple(per_level)


@pytest.mark.parametrize("ranges", [((1, 30), (24, 60)), ((10, 20), (15, 25))])
def test_grid_study_agrees_with_the_target_assigner(scenes, ranges):
    report = check_dataset(scenes / "annotations.json", scenes / "images", workers=0)
    annotations = report.cleaned["annotations"]
    ids = [i["id"] for i in report.cleaned["images"]]

    def masks_of(image):
        own = [a for a in annotations if a["image_id"] == ids[image]]
        rles = [mask_util.merge(mask_util.frPyObjects(a["segmentation"], 128, 128)) for a in own]
        return [mask_util.decode(r) for r in rles]

    layout = GridLayout((9, 5), ranges, 0.2)
    settings = GridSettings(layout, (0, 0), shortest=128, longest=128)
    result = study_grids(report.objects, settings)
    expected = brute_force(report.objects, settings, masks_of)
    assert (result.no_cell, result.no_own_cell, result.sharing, result.per_level) == expected
    assert result.num_objects == len(annotations)
    # Some objects lose all their cells with the first ranges, and are on no level with the second.
    assert expected[1 if ranges[0][0] == 1 else 0] > 0


def square_objects(centers, side, image_size):
    """Squares in one image."""
    half = side / 2
    own = [
        Measurement(
            category_id=1,
            box=(x - half, y - half, x + half, y + half),
            area=side**2,
            center=(x - 0.5, y - 0.5),
            best_iou=1.0,
        )
        for x, y in centers
    ]
    return Objects.from_measurements([own], [(image_size, image_size)])


def test_suggestion_for_crowded_small_objects():
    """Objects of 8 pixels, 10 apart, in an image of 800: the finest published cells have 20."""
    centers = [(100 + 10 * i, 100 + 10 * j) for i in range(20) for j in range(20)]
    objects = square_objects(centers, 8, 800)
    settings = GridSettings.from_config(read_config(BASE_CONFIG))
    now = study_grids(objects, settings)
    # Cells are 20 pixels wide: a quarter of the objects keeps one. At stride 4, masks are 2x2.
    assert now.no_own_cell == pytest.approx(300, abs=40)
    assert now.too_small == 400
    assert now.lost == 400
    better, then = suggest_grids(objects, settings)
    assert then == study_grids(objects, better)
    assert then.lost <= 4
    assert better.layout.num_grids[0] == 80
    assert better.min_mask_areas[0] < 4
    # Nothing is lost, and the settings are kept.
    few = square_objects([(200, 200), (600, 300)], 60, 800)
    assert suggest_grids(few, settings)[0] == settings


def test_scaled_objects():
    """Against the transform of Detectron2, with pixel indices moved to pixel centres."""
    box, center = (10.0, 20.0, 50.0, 44.0), (29.0, 31.5)
    own = Measurement(category_id=3, box=box, area=700.0, center=center, best_iou=0.5)
    objects = Objects.from_measurements([[], [own]], [(100, 100), (300, 500)])
    settings = GridSettings(GridLayout((9,), ((1, 900),), 0.2), (0,), shortest=200, longest=250)
    scaled = objects.scaled(settings)
    assert objects.image_of.tolist() == scaled.image_of.tolist() == [1]
    assert scaled.category_ids.tolist() == [3]
    # 500 pixels are scaled to 250, since 300 to 200 would exceed it.
    assert scaled.boxes.tolist() == [[5, 10, 25, 22]]
    assert scaled.areas.tolist() == [175]
    assert scaled.centers.tolist() == [[14.25, 15.5]]
    assert scaled.image_sizes.tolist() == [[200, 200], [150, 250]]
    assert objects.sides.tolist() == pytest.approx([(40 * 24) ** 0.5])
