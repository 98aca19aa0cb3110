"""Target assignment against plain loops."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks
from detectron2.structures.masks import polygons_to_bitmask
from helpers import REAL_DATA, needs_real
from pycocotools.coco import COCO
from torch.utils._python_dispatch import TorchDispatchMode

from facenet_d2.modeling.grids.layout import GridLayout
from facenet_d2.modeling.grids.targets import assign_targets
from facenet_d2.structures.masks import downsample_masks, mass_centers, mass_covariances
from facenet_d2.structures.rasterize import rasterize_instances
from facenet_d2.synthetic.scenes import draw_scene

PUBLISHED = GridLayout(
    num_grids=(40, 36, 24, 16, 12),
    scale_ranges=((1, 96), (48, 192), (96, 384), (192, 768), (384, 2048)),
    center_scale=0.2,
)


def assign_by_loops(boxes, classes, masks, layout, num_classes, mask_size):
    """Assign targets by SOLOv2's rule, one instance, level and cell after the other.

    Returns the categories of all cells in turn and the set of (cell, instance).
    """
    height, width = 4 * mask_size[0], 4 * mask_size[1]
    categories, pairs, first = [], set(), 0
    for grid, (minimum, maximum) in zip(layout.num_grids, layout.scale_ranges, strict=True):
        level = [num_classes] * (grid * grid)
        for n in range(len(boxes)):
            x0, y0, x1, y1 = (float(v) for v in boxes[n])
            if not minimum <= ((x1 - x0) * (y1 - y0)) ** 0.5 <= maximum:
                continue
            ys, xs = np.nonzero(masks[n])
            center_x, center_y = xs.mean(), ys.mean()
            half_w, half_h = 0.2 * (x1 - x0) / 2, 0.2 * (y1 - y0) / 2
            row, column = int(center_y * grid / height), int(center_x * grid / width)
            top = max(0, int((center_y - half_h) * grid // height), row - 1)
            down = min(grid - 1, int((center_y + half_h) * grid // height), row + 1)
            left = max(0, int((center_x - half_w) * grid // width), column - 1)
            right = min(grid - 1, int((center_x + half_w) * grid // width), column + 1)
            for i in range(top, down + 1):
                for j in range(left, right + 1):
                    level[i * grid + j] = int(classes[n])
                    pairs.add((first + i * grid + j, n))
        categories += level
        first += grid * grid
    return categories, pairs


def check(boxes, classes, masks, layout=PUBLISHED, num_classes=10):
    image_size = masks.shape[-2:]
    # As ImageList pads: to a multiple of 32.
    mask_size = tuple(-(-s // 32) * 8 for s in image_size)
    instances = Instances(image_size)
    instances.gt_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.as_tensor(masks))
    targets = assign_targets(instances, layout, num_classes, mask_size)
    boxes = instances.gt_boxes.tensor.tolist()
    categories, pairs = assign_by_loops(boxes, classes, masks, layout, num_classes, mask_size)
    assert targets.categories.tolist() == categories
    found = list(zip(targets.cells.tolist(), targets.instances.tolist(), strict=True))
    assert len(found) == len(set(found))
    assert set(found) == pairs
    assert targets.masks.shape == (len(boxes), *mask_size)
    return targets


def random_instances(rng, size, count):
    """Blobs, bars, single pixels and giants; concave, overlapping, cut by the border."""
    masks, boxes = [], []
    while len(masks) < count:
        mask = np.zeros(size, np.uint8)
        scale = 10 ** rng.uniform(0, np.log10(1.2 * max(size)))
        center = rng.uniform(0, 1, 2) * size[::-1]
        points = center + rng.normal(0, scale / 2, (rng.integers(3, 9), 2))
        cv2.fillPoly(mask, [points.astype(np.int32)], 1)
        if not mask.any():
            continue
        ys, xs = np.nonzero(mask)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        masks.append(mask.astype(bool))
    return np.array(boxes, float), rng.integers(0, 10, count), np.array(masks)


@pytest.mark.parametrize("seed", range(8))
def test_random_instances(seed):
    rng = np.random.default_rng(seed)
    size = tuple(int(s) for s in rng.integers(90, 700, 2))
    check(*random_instances(rng, size, 40))


@pytest.mark.parametrize("index", range(6))
def test_synthetic_scenes(index):
    _, objects = draw_scene((5, index), 256)
    masks, boxes = [], []
    for _, polygon in objects:
        mask = np.zeros((256, 256), np.uint8)
        for part in getattr(polygon, "geoms", [polygon]):
            cv2.fillPoly(mask, [np.asarray(part.exterior.coords).astype(np.int32)], 1)
        masks.append(mask.astype(bool))
        x0, y0, x1, y1 = polygon.bounds
        boxes.append([x0, y0, x1, y1])
    check(np.array(boxes), np.array([c for c, _ in objects]), np.array(masks))


@needs_real("nwpu_vhr10")
@pytest.mark.parametrize("rank", range(3))
def test_real_images(rank):
    """The images of NWPU VHR-10 with the most instances."""
    coco = COCO(str(REAL_DATA / "nwpu_vhr10" / "annotations.json"))
    densest = sorted(coco.imgs, key=lambda i: -len(coco.imgToAnns[i]))[rank]
    annotations = coco.imgToAnns[densest]
    masks = np.array([coco.annToMask(a) for a in annotations]).astype(bool)
    boxes = np.array([a["bbox"] for a in annotations])
    boxes[:, 2:] += boxes[:, :2]
    targets = check(boxes, np.array([a["category_id"] - 1 for a in annotations]), masks)
    assert len(targets.cells) > 50


@needs_real("nwpu_vhr10")
def test_annotations_of_real_images_as_training_sees_them():
    """The four images with the most instances, at 800 pixels, from annotations to targets."""
    coco = COCO(str(REAL_DATA / "nwpu_vhr10" / "annotations.json"))
    for image_id in sorted(coco.imgs, key=lambda i: -len(coco.imgToAnns[i]))[:4]:
        image, annotations = coco.imgs[image_id], coco.imgToAnns[image_id]
        annotated_size = (image["height"], image["width"])
        scale = 800 / max(annotated_size)
        size = tuple(round(s * scale) for s in annotated_size)
        mask_size = tuple(-(-s // 32) * 8 for s in size)
        resize = T.TransformList([T.ResizeTransform(*annotated_size, *size)])
        instances = rasterize_instances(annotations, resize, annotated_size, size)
        targets = assign_targets(instances, PUBLISHED, 11, mask_size)
        masks = []
        for a in annotations:
            points = [np.reshape(p, (-1, 2)).astype(float) for p in a["segmentation"]]
            flat = [resize.apply_coords(p).ravel() for p in points]
            masks.append(polygons_to_bitmask(flat, *size))
        boxes, classes = instances.gt_boxes.tensor.tolist(), instances.gt_classes.tolist()
        categories, pairs = assign_by_loops(boxes, classes, masks, PUBLISHED, 11, mask_size)
        assert targets.categories.tolist() == categories
        found = zip(targets.cells.tolist(), targets.instances.tolist(), strict=True)
        assert set(found) == pairs


class OperatorCounter(TorchDispatchMode):
    """Counts the PyTorch operators that run."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **(kwargs or {}))


def test_number_of_operators_does_not_grow_with_the_instances():
    """Neither a loop over instances nor one over cells is left."""
    numbers, pairs = [], []
    for count in (2, 20, 200):
        boxes, classes, masks = random_instances(np.random.default_rng(count), (320, 320), count)
        instances = Instances((320, 320))
        instances.gt_boxes = Boxes(torch.from_numpy(boxes))
        instances.gt_classes = torch.from_numpy(classes)
        masks = torch.from_numpy(masks)
        instances.gt_centers = torch.stack(mass_centers(masks), dim=1)
        instances.gt_covariances = mass_covariances(masks)
        instances.gt_stride4_masks = downsample_masks(masks, (80, 80))
        with OperatorCounter() as counter:
            targets = assign_targets(instances, PUBLISHED, 10, (80, 80))
        numbers.append(counter.number)
        pairs.append(len(targets.cells))
    assert pairs[2] > 20 * pairs[0] > 0
    assert numbers[0] == numbers[1] == numbers[2] > 0


@pytest.mark.parametrize("at_stride", [False, True])
def test_moments_are_those_of_the_pixels(at_stride):
    """Centres and covariances of squares of one pixel, in shares of the padded image."""
    boxes, classes, masks = random_instances(np.random.default_rng(0), (96, 120), 5)
    masks[1] = False
    masks[1, 7, 11] = True
    instances = Instances((96, 120))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes))
    instances.gt_classes = torch.from_numpy(classes)
    masks = torch.from_numpy(masks)
    if at_stride:
        instances.gt_centers = torch.stack(mass_centers(masks), dim=1)
        instances.gt_covariances = mass_covariances(masks)
        instances.gt_stride4_masks = downsample_masks(masks, (24, 30))
    else:
        instances.gt_masks = BitMasks(masks)
    targets = assign_targets(instances, PUBLISHED, 10, (24, 32), with_covariances=True)
    # Sixteen points in each pixel of the image of 96 x 128 pixels.
    inside = (np.arange(4) + 0.5) / 4
    for n, mask in enumerate(masks.numpy()):
        ys, xs = np.nonzero(mask)
        x = ((xs[:, None, None] + inside) / 128 - 0.5 + 0 * inside[:, None]).ravel()
        y = ((ys[:, None, None] + inside[:, None]) / 96 - 0.5 + 0 * inside).ravel()
        assert targets.centers[n].tolist() == pytest.approx([x.mean(), y.mean()])
        (xx, xy), (_, yy) = np.cov(x, y, bias=True)
        # The points leave out a sixteenth of a pixel's own variance of 1/12.
        rest = 1 / 12 / 16
        expected = [xx + rest / 128**2, xy, yy + rest / 96**2]
        assert targets.covariances[n].tolist() == pytest.approx(expected)


def test_polygons_are_as_good_as_bitmasks():
    square = [np.array([8.0, 8, 40, 8, 40, 40, 8, 40])]
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes([[8.0, 8, 40, 40]])
    instances.gt_classes = torch.tensor([2])
    instances.gt_masks = PolygonMasks([square])
    a = assign_targets(instances, PUBLISHED, 3, (16, 16), with_covariances=True)
    instances.gt_masks = BitMasks.from_polygon_masks(PolygonMasks([square]), 64, 64)
    b = assign_targets(instances, PUBLISHED, 3, (16, 16), with_covariances=True)
    for name in ("categories", "cells", "instances", "masks", "centers", "covariances"):
        assert torch.equal(getattr(a, name), getattr(b, name))
    assert a.masks.sum() == 64


def test_no_instances_and_empty_masks_give_background():
    for count in (0, 2):
        instances = Instances((64, 64))
        instances.gt_boxes = Boxes(torch.tensor([[8.0, 8, 40, 40]] * count).reshape(-1, 4))
        instances.gt_classes = torch.zeros(count, dtype=torch.int64)
        instances.gt_masks = BitMasks(torch.zeros(count, 64, 64, dtype=torch.bool))
        targets = assign_targets(instances, PUBLISHED, 3, (16, 16))
        assert (targets.categories == 3).all()
        assert len(targets.cells) == 0


def test_last_instance_names_a_shared_cell():
    masks = np.zeros((2, 64, 64), bool)
    masks[0, 20:44, 20:44] = True
    masks[1, 24:40, 24:40] = True
    boxes = np.array([[20, 20, 44, 44], [24, 24, 40, 40]], float)
    targets = check(boxes, np.array([4, 7]), masks)
    shared = targets.cells[targets.instances == 1]
    assert (targets.categories[shared] == 7).all()


def test_downsampling_is_rounded_bilinear_scaling():
    masks = torch.rand(5, 37, 50) > 0.5
    small = downsample_masks(masks, (10, 13))
    padded = torch.nn.functional.pad(masks, (0, 2, 0, 3))
    bilinear = torch.nn.functional.interpolate(
        padded[:, None].double(), scale_factor=0.25, mode="bilinear"
    )[:, 0]
    assert torch.equal(small, bilinear >= 0.5)


def test_an_instance_too_small_for_its_blocks_keeps_those_it_touches():
    masks = torch.zeros(2, 16, 16, dtype=torch.bool)
    masks[0, 4, 7] = True
    masks[1, 0, :9] = True
    small = downsample_masks(masks, (4, 4))
    assert small[0].nonzero().tolist() == [[1, 1]]
    assert small[1].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]


def test_mass_centers_are_exact():
    masks = torch.rand(4, 61, 83) > 0.7
    xs, ys = mass_centers(masks)
    for n in range(4):
        rows, columns = np.nonzero(masks[n].numpy())
        assert xs[n].item() == pytest.approx(columns.mean(), rel=1e-12)
        assert ys[n].item() == pytest.approx(rows.mean(), rel=1e-12)
