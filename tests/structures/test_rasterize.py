"""Masks rasterised at stride 4, against the full-size masks of Detectron2's mapper."""

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from fvcore.transforms.transform import GridSampleTransform
from helpers import REAL_DATA, needs_real
from PIL import Image

from facenet_d2.data import SceneMapper
from facenet_d2.data.loader import augmentation_seed
from facenet_d2.modeling.grids.layout import GridLayout
from facenet_d2.modeling.grids.targets import assign_targets
from facenet_d2.structures import rasterize
from facenet_d2.structures.masks import (
    downsample_mask,
    downsample_masks,
    mass_centers,
    mass_covariances,
)
from facenet_d2.structures.rasterize import affine_matrix, rasterize_instances

FLIPS = ["INPUT.RANDOM_FLIP", "both", "INPUT.RANDOM_QUARTER_TURN", "True"]
JITTER = ["INPUT.SCALE_JITTER.ENABLED", "True", "INPUT.SCALE_JITTER.SIZE", "402"]
STRIDE2 = ["MODEL.SOLOV2.MASK_STRIDE", 2]
ALL = [*FLIPS, "INPUT.RAND_AUGMENT.ENABLED", "True", "INPUT.RAND_AUGMENT.MAGNITUDE", "20"]


def both_mappers(cfg: CfgNode):
    small = SceneMapper(cfg, is_train=True)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    return small, SceneMapper(cfg, is_train=True)


def mapped(mappers, record, *seed):
    """Map a record with each mapper, with the same augmentations."""
    results = []
    for mapper in mappers:
        with augmentation_seed(*seed):
            results.append(mapper(record))
    return results


def assert_same_targets(small, full):
    """Everything that the targets depend on, to the last bit."""
    masks = full.gt_masks.tensor
    height, width = full.image_size
    stride = 2 if small.has("gt_stride2_masks") else 4
    size = (-(-height // stride), -(-width // stride))
    assert torch.equal(small.gt_classes, full.gt_classes)
    assert torch.equal(small.gt_boxes.tensor, full.gt_boxes.tensor)
    expected = downsample_masks(masks, size, stride)
    assert torch.equal(small.get(f"gt_stride{stride}_masks"), expected)
    assert torch.equal(small.gt_centers, torch.stack(mass_centers(masks), dim=1))
    torch.testing.assert_close(small.gt_covariances, mass_covariances(masks))
    layout = GridLayout((40, 24, 12), ((1, 48), (24, 96), (48, 400)), 0.2)
    padded = tuple(-(-side // 32) * 32 // stride for side in (height, width))
    a, b = (assign_targets(x, layout, 10, padded, stride) for x in (small, full))
    assert torch.equal(a.categories, b.categories)
    assert torch.equal(a.cells, b.cells)
    assert torch.equal(a.instances, b.instances)
    assert torch.equal(a.masks, b.masks)


@needs_real("nwpu_vhr10")
@pytest.mark.parametrize(
    "options",
    [[], FLIPS, ALL, JITTER + ALL, [*JITTER, *ALL, *STRIDE2]],
    ids=["resize", "flips", "all", "jitter", "stride2"],
)
def test_polygons_of_real_images(model_cfg, options):
    folder = REAL_DATA / "nwpu_vhr10"
    dicts = load_coco_json(str(folder / "annotations.json"), str(folder / "images"))
    dicts.sort(key=lambda d: -len(d["annotations"]))
    model_cfg.merge_from_list([*options, "INPUT.MIN_SIZE_TRAIN", (401,)])
    mappers = both_mappers(model_cfg)
    objects = 0
    for number, d in enumerate([*dicts[:3], *dicts[5::90]]):
        results = mapped(mappers, d, 7, number)
        assert torch.equal(results[0]["image"], results[1]["image"])
        assert_same_targets(results[0]["instances"], results[1]["instances"])
        objects += len(results[0]["instances"])
    assert objects > 150


def scene_of_rles(folder, size=(120, 160), number=12, seed=0):
    rng = np.random.default_rng(seed)
    height, width = size
    Image.new("RGB", (width, height)).save(folder / "a.png")
    annotations = []
    for i in range(number):
        mask = np.zeros(size, np.uint8)
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        h, w = rng.integers(1, 40, 2)
        mask[y : y + h, x : x + w] = 1
        mask[min(y + h // 2, height - 1), x : x + w : 2] = 0
        if not mask.any():
            continue
        rle = mask_util.encode(np.asfortranarray(mask))
        annotations.append(
            {
                "bbox": mask_util.toBbox(rle).tolist(),
                "bbox_mode": BoxMode.XYWH_ABS,
                "segmentation": rle,
                "category_id": i % 10,
            }
        )
    return {
        "file_name": str(folder / "a.png"),
        "height": height,
        "width": width,
        "image_id": 1,
        "annotations": annotations,
    }


@pytest.mark.parametrize("stride", [2, 4])
def test_rles_that_are_not_resampled(model_cfg, tmp_path, stride):
    """Flips and quarter turns map pixels to pixels: both mappers give the same."""
    model_cfg.MODEL.SOLOV2.MASK_STRIDE = stride
    model_cfg.merge_from_list([*FLIPS, "INPUT.MIN_SIZE_TRAIN", (120,), "INPUT.MAX_SIZE_TRAIN", 160])
    mappers = both_mappers(model_cfg)
    for seed in range(12):
        d = scene_of_rles(tmp_path, seed=seed)
        small, full = (r["instances"] for r in mapped(mappers, d, seed))
        assert small.has(f"gt_stride{stride}_masks")
        assert_same_targets(small, full)


def test_rles_that_are_placed_and_cut(model_cfg, tmp_path):
    """At scale 1, of which a part is cut, pixels are mapped to pixels."""
    model_cfg.merge_from_list([*JITTER, *FLIPS, "INPUT.SCALE_JITTER.SIZE", 100])
    model_cfg.INPUT.SCALE_JITTER.MIN_SCALE = model_cfg.INPUT.SCALE_JITTER.MAX_SCALE = 1.6
    mappers = both_mappers(model_cfg)
    found = 0
    for seed in range(12):
        d = scene_of_rles(tmp_path, seed=seed)
        small, full = mapped(mappers, d, seed)
        assert small["image"].shape[1:] == (100, 100)
        assert_same_targets(small["instances"], full["instances"])
        found += len(small["instances"])
    assert 60 < found < 12 * 12


def test_rles_that_are_resampled(model_cfg, tmp_path):
    """They are sampled once, not once per transform: the masks agree closely."""
    model_cfg.merge_from_list([*ALL, "INPUT.MIN_SIZE_TRAIN", (180,)])
    mappers = both_mappers(model_cfg)
    agreements = []
    for seed in range(12):
        d = scene_of_rles(tmp_path, seed=seed)
        a, b = (r["instances"] for r in mapped(mappers, d, seed))
        if len(a) != len(b):
            continue  # One of a pixel or two.
        size = a.gt_stride4_masks.shape[1:]
        masks = downsample_masks(b.gt_masks.tensor, size)
        inter = (a.gt_stride4_masks & masks).flatten(1).sum(1)
        union = (a.gt_stride4_masks | masks).flatten(1).sum(1)
        agreements += (inter / union)[union > 20].tolist()
        assert (a.gt_boxes.tensor - b.gt_boxes.tensor).abs().max() <= 2
    assert len(agreements) > 40
    assert np.mean(agreements) > 0.93


def test_transforms_that_are_not_affine(tmp_path):
    """They fall back to warping the whole mask."""
    ys, xs = np.mgrid[0:1:120j, 0:1:160j]
    grid = np.stack([xs**1.5, ys], axis=-1) * 2 - 1
    d = scene_of_rles(tmp_path)

    class Bend(GridSampleTransform):
        def apply_coords(self, coords):
            x = (coords[:, 0] / 160) ** (2 / 3) * 160
            return np.stack([x, coords[:, 1]], axis=1)

    transforms = T.TransformList([Bend(grid[None].astype(np.float32), "nearest")])
    assert affine_matrix(transforms, (120, 160)) is None
    instances = rasterize_instances(d["annotations"], transforms, (120, 160), (120, 160))
    expected = [
        transforms.apply_segmentation(mask_util.decode(a["segmentation"])) for a in d["annotations"]
    ]
    expected = torch.from_numpy(np.stack([e for e in expected if e.any()])).bool()
    assert torch.equal(instances.gt_stride4_masks, downsample_masks(expected, (30, 40)))


def test_masks_are_drawn_once_and_within_their_boxes(monkeypatch):
    drawn = []

    def recorded(mask, stride):
        drawn.append(mask.size)
        return downsample_mask(mask, stride)

    monkeypatch.setattr(rasterize, "downsample_mask", recorded)
    annotations = [
        {"category_id": 0, "segmentation": [[x, y, x + 10, y, x + 10, y + 6, x, y + 6]]}
        for x in range(0, 800, 20)
        for y in range(0, 800, 40)
    ]
    nothing = T.TransformList([T.NoOpTransform()])
    assert len(rasterize_instances(annotations, nothing, (800, 800), (800, 800))) == 800
    assert len(drawn) == 800
    # The boxes have 10x6 pixels; the frame of each adds a margin and starts at a multiple of 4.
    assert max(drawn) <= (10 + 6) * (6 + 6)


def test_downsample_mask_keeps_thin_masks():
    pixels = np.zeros((6, 9), np.uint8)
    pixels[:, 0] = 1
    small = downsample_mask(pixels)
    assert small.tolist() == [[True, False, False], [True, False, False]]
    expected = downsample_masks(torch.from_numpy(pixels)[None].bool(), (2, 3))[0]
    assert torch.equal(torch.from_numpy(small), expected)


def test_uncompressed_rles_and_invalid_segmentations():
    annotation = {"category_id": 2, "segmentation": {"size": [4, 4], "counts": [5, 2, 9]}}
    nothing = T.TransformList([T.NoOpTransform()])
    instances = rasterize_instances([annotation], nothing, (4, 4), (4, 4))
    assert instances.gt_boxes.tensor.tolist() == [[1, 1, 2, 3]]
    assert instances.gt_centers.tolist() == [[1, 1.5]]
    assert len(rasterize_instances([], nothing, (4, 4), (5, 9)).gt_stride4_masks) == 0
    with pytest.raises(ValueError, match="is a ndarray"):
        rasterize_instances([{**annotation, "segmentation": np.ones(4)}], nothing, (4, 4), (4, 4))
