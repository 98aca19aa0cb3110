"""Scale jitter, RandAugment, flips and quarter turns, against warps computed pixel by pixel."""

import math

import cv2
import detectron2.data.transforms as T
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from helpers import REAL_DATA, needs_real
from PIL import Image

from facenet_d2 import UserError
from facenet_d2.data import SceneMapper
from facenet_d2.data.augmentation import (
    OPERATIONS,
    RandAugment,
    RandomPlacement,
    RandomQuarterTurn,
    ResizeScale,
    build_augmentations,
)
from facenet_d2.data.transforms import AffineTransform, PlacementTransform, QuarterTurnTransform

GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


def old_position(name, level, x, y, height, width):
    """Return the old position of the pixel at (x, y) of the new image, from the definitions."""
    cx, cy = width / 2, height / 2
    if name == "Rotate":
        # Counter-clockwise on the screen, whose y axis points down; here its inverse.
        angle = math.radians(30 * level)
        dx, dy = x - cx, y - cy
        return (
            cx + dx * math.cos(angle) - dy * math.sin(angle),
            cy + dx * math.sin(angle) + dy * math.cos(angle),
        )
    if name == "ShearX":
        return x - 0.3 * level * (y - cy), y
    if name == "ShearY":
        return x, y - 0.3 * level * (x - cx)
    if name == "TranslateX":
        return x - round(150 / 331 * width * level), y
    assert name == "TranslateY"
    return x, y - round(150 / 331 * height * level)


def dense_warp(mask, name, level):
    """Warp the full mask by looking up each new pixel in the old mask."""
    height, width = mask.shape
    ys, xs = np.mgrid[:height, :width]
    x, y = old_position(name, level, xs + 0.5, ys + 0.5, height, width)
    column, row = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return inside & mask[row.clip(0, height - 1), column.clip(0, width - 1)]


def mapper_with(*augmentations, mask_format="bitmask"):
    return SceneMapper(
        is_train=True,
        augmentations=list(augmentations),
        image_format="BGR",
        use_instance_mask=True,
        instance_mask_format=mask_format,
        recompute_boxes=True,
    )


def only(name, magnitude, sign):
    class Single(RandAugment):
        def get_transform(self, image):
            return self.operation(name, sign, *image.shape[:2])

    return Single(1, magnitude)


def tight_box(mask):
    rows, columns = np.nonzero(mask)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.fixture(scope="module")
def real_images():
    folder = REAL_DATA / "nwpu_vhr10"
    dicts = load_coco_json(str(folder / "annotations.json"), str(folder / "images"))
    return sorted(dicts, key=lambda d: -len(d["annotations"]))


FINE = 8


def fine_dense_warp(polygons, name, level, box, height, width):
    """Warp polygons inside a box at 8x8 points per pixel; more than half of them set a pixel.

    A warped mask of whole pixels is too coarse a reference: for objects of 500 pixels, its IoU with
    this one is only 0.94.
    """
    points = [np.reshape(p, (-1, 2)) for p in polygons]
    left, top = np.floor(np.concatenate(points).min(axis=0)).astype(int)
    right, bottom = np.ceil(np.concatenate(points).max(axis=0)).astype(int)
    # Nothing outside the old image is visible.
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    old = np.zeros(((bottom - top) * FINE, (right - left) * FINE), np.uint8)
    for p in points:
        # In OpenCV, pixel centres are integers; these coordinates are in 1/16 pixel.
        corners = np.round(((p - (left, top)) * FINE - 0.5) * 16).astype(np.int32)
        cv2.fillPoly(old, [corners], 1, shift=4)
    x0, y0, x1, y1 = box
    ys, xs = np.mgrid[y0 * FINE : y1 * FINE, x0 * FINE : x1 * FINE]
    x, y = old_position(name, level, (xs + 0.5) / FINE, (ys + 0.5) / FINE, height, width)
    column = np.floor((x - left) * FINE).astype(int)
    row = np.floor((y - top) * FINE).astype(int)
    inside = (column >= 0) & (column < old.shape[1]) & (row >= 0) & (row < old.shape[0])
    values = inside & (old[row.clip(0, old.shape[0] - 1), column.clip(0, old.shape[1] - 1)] > 0)
    return values.reshape(y1 - y0, FINE, x1 - x0, FINE).mean(axis=(1, 3)) > 0.5


@needs_real("nwpu_vhr10")
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_operations_move_masks_with_the_image(real_images, name, sign):
    """Real objects, as full masks and as polygons."""
    level, agreements = sign * 2 / 3, []
    mapper = mapper_with(only(name, 20, sign))
    for d in real_images[3::120]:
        height, width = d["height"], d["width"]
        polygons = [a["segmentation"] for a in d["annotations"]]
        merged = [mask_util.merge(mask_util.frPyObjects(p, height, width)) for p in polygons]
        masks = [mask_util.decode(rle).astype(bool) for rle in merged]
        expected = [dense_warp(mask, name, level) for mask in masks]
        kept = [i for i, mask in enumerate(expected) if mask.any()]
        as_masks = [{**a, "segmentation": rle} for a, rle in zip(d["annotations"], merged)]
        from_masks = mapper({**d, "annotations": as_masks})["instances"]
        from_polygons = mapper(d)["instances"]
        assert len(from_masks) == len(kept)
        for i, mask, box in zip(kept, from_masks.gt_masks.tensor.numpy(), from_masks.gt_boxes):
            assert box.tolist() == tight_box(mask)
            if expected[i].sum() > 400:
                assert (mask & expected[i]).sum() >= 0.97 * (mask | expected[i]).sum()
        if len(from_polygons) < len(kept):
            continue  # An object of which only a corner is left was lost; its index is unknown.
        for i, mask, box in zip(
            kept, from_polygons.gt_masks.tensor.numpy(), from_polygons.gt_boxes
        ):
            assert box.tolist() == tight_box(mask)
            if expected[i].sum() > 400:
                x0, y0, x1, y1 = map(int, box)
                around = (max(x0 - 3, 0), max(y0 - 3, 0), min(x1 + 3, width), min(y1 + 3, height))
                fine = fine_dense_warp(polygons[i], name, level, around, height, width)
                part = mask[around[1] : around[3], around[0] : around[2]]
                agreements.append((part & fine).sum() / (part | fine).sum())
    # Rasterising unmoved polygons with pycocotools costs up to 0.02.
    assert len(agreements) > 20
    assert min(agreements) >= 0.95
    assert np.mean(agreements) >= 0.985


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_rles_and_image_move_alike(tmp_path, name, sign):
    """A white object on black: the warped image is where the warped mask is."""
    mask = np.zeros((120, 160), bool)
    mask[30:70, 50:120] = True
    mask[40:50, 60:80] = False
    Image.fromarray(mask).convert("RGB").save(tmp_path / "a.png")
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    d = scene(tmp_path / "a.png", 120, 160, [{"bbox": [50, 30, 70, 40], "segmentation": rle}])
    augmentation = only(name, 15, sign)
    augmentation.fill = (0.0, 0.0, 0.0)
    mapped = mapper_with(augmentation)(d)
    (warped,) = mapped["instances"].gt_masks.tensor.numpy()
    expected = dense_warp(mask, name, sign * 0.5)
    assert (warped & expected).sum() >= 0.99 * (warped | expected).sum()
    bright = mapped["image"][0].numpy() > 127
    assert (warped & bright).sum() >= 0.97 * (warped | bright).sum()


def scene(file, height, width, annotations):
    return {
        "file_name": str(file),
        "height": height,
        "width": width,
        "image_id": 1,
        "annotations": [
            {"bbox_mode": BoxMode.XYWH_ABS, "category_id": i, "iscrowd": 0, **a}
            for i, a in enumerate(annotations)
        ],
    }


def square(x, y, side):
    return {
        "bbox": [x, y, side, side],
        "segmentation": [[x, y, x + side, y, x + side, y + side, x, y + side]],
    }


@pytest.mark.parametrize("mask_format", ["bitmask", "polygon"])
def test_objects_outside_the_image_are_dropped_with_their_labels(tmp_path, mask_format):
    Image.new("RGB", (100, 100)).save(tmp_path / "a.png")
    # After a shift of 45 pixels to the right: outside, cut in half, and inside.
    annotations = [square(70, 10, 20), square(45, 40, 20), square(5, 5, 20)]
    d = scene(tmp_path / "a.png", 100, 100, annotations)
    mapper = mapper_with(only("TranslateX", 30, 1), mask_format=mask_format)
    instances = mapper(d)["instances"]
    assert instances.gt_classes.tolist() == [1, 2]
    assert instances.gt_boxes.tensor.tolist() == [[90, 40, 100, 60], [50, 5, 70, 25]]
    assert len(instances.gt_masks) == 2
    d["annotations"] = d["annotations"][:1]
    nothing = mapper(d)["instances"]
    assert len(nothing) == len(nothing.gt_masks) == 0


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
def test_photometric_operations(image_format):
    """Against values worked out by hand, and without touching the annotations."""
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[..., 0], rgb[..., 1], rgb[..., 2] = 10, 100, 200
    rgb[2:] = 77
    image = {"RGB": rgb, "BGR": rgb[..., ::-1], "L": rgb[..., 1:2]}[image_format]
    coords = np.array([[1.0, 2.0]])

    def apply(name, magnitude, sign=1):
        augment = RandAugment(1, magnitude, image_format=image_format)
        transform = augment.operation(name, sign, 4, 4)
        assert np.array_equal(transform.apply_coords(coords), coords)
        mask = image[..., 0] > 50
        assert np.array_equal(transform.apply_segmentation(mask), mask)
        result = transform.apply_image(image.copy()).astype(int)
        assert result.shape == image.shape
        return result

    values = image.astype(int)
    assert np.array_equal(apply("Identity", 9), values)
    assert np.abs(apply("Brightness", 30, -1) - 0.1 * values).max() <= 1
    assert np.array_equal(apply("Posterize", 30), values // 16 * 16)
    assert np.array_equal(apply("Posterize", 0), values)
    assert np.array_equal(apply("Solarize", 30), 255 - values)
    assert np.array_equal(apply("Solarize", 0), values)
    assert np.array_equal(apply("Solarize", 15), np.where(values >= 128, 255 - values, values))
    stretched = apply("AutoContrast", 9)
    for channel in np.moveaxis(stretched, 2, 0):
        assert channel.min() == 0
        assert channel.max() >= 254
    if image_format != "L":
        luma = 0.299 * 10 + 0.587 * 100 + 0.114 * 200  # ITU-R 601-2
        gray = apply("Color", 30, -1)[0, 0] - (0.9 * luma + 0.1 * values[0, 0])
        assert np.abs(gray).max() <= 1.5
    for name, (kind, _) in OPERATIONS.items():
        if kind != "geometric":
            apply(name, 17, -1)


def test_draws_follow_the_seed_and_the_list():
    image = np.random.default_rng(0).integers(0, 256, (40, 30, 3), dtype=np.uint8)
    augment = RandAugment(3, 10)
    results = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        results.append(augment.get_transform(image).apply_image(image))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])
    np.random.seed(0)
    transforms = RandAugment(200, 10, operations=["Rotate"]).get_transform(image).transforms
    angles = {round(math.degrees(math.asin(t.matrix[0, 1])), 6) for t in transforms}
    assert angles == {-10.0, 10.0}
    with pytest.raises(ValueError, match=r"unknown operations Rotate90; choose from Identity"):
        RandAugment(operations=["Rotate90"])


def test_random_quarter_turn():
    image = np.zeros((5, 8, 3), np.uint8)
    for sideways, expected in ((None, {0, 1, 2, 3}), (False, {0, 2}), (True, {1, 3})):
        augmentation = RandomQuarterTurn(sideways)
        np.random.seed(0)
        assert {augmentation.get_transform(image).turns for _ in range(50)} == expected
    np.random.seed(1)
    by_argument = [RandomQuarterTurn(True).get_transform(image).turns for _ in range(20)]
    augmentation = RandomQuarterTurn()
    augmentation.sideways = True
    np.random.seed(1)
    assert [augmentation.get_transform(image).turns for _ in range(20)] == by_argument


@pytest.mark.parametrize("turns", range(4))
def test_quarter_turns(turns):
    image = np.random.default_rng(turns).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    transform = QuarterTurnTransform(turns, 5, 8)
    turned = transform.apply_image(image)
    for y in range(5):
        for x in range(8):
            u, v = transform.apply_coords(np.array([[x + 0.5, y + 0.5]]))[0] - 0.5
            assert (turned[int(v), int(u)] == image[y, x]).all()
    assert np.array_equal(transform.inverse().apply_image(turned), image)
    points = np.random.default_rng(0).uniform(0, 5, (9, 2))
    assert np.allclose(transform.inverse().apply_coords(transform.apply_coords(points)), points)


def test_affine_inverse():
    transform = AffineTransform.rotation(17, 50, 80, (0.0,))
    points = np.random.default_rng(0).uniform(-20, 100, (9, 2))
    assert np.allclose(transform.inverse().apply_coords(transform.apply_coords(points)), points)


@needs_real("nwpu_vhr10")
def test_a_thousand_draws_on_real_images(real_images, model_cfg):
    model_cfg.INPUT.MIN_SIZE_TRAIN, model_cfg.INPUT.MAX_SIZE_TRAIN = (160, 224), 256
    model_cfg.INPUT.RANDOM_FLIP = "both"
    model_cfg.INPUT.RANDOM_QUARTER_TURN = True
    model_cfg.INPUT.RAND_AUGMENT.ENABLED = True
    kept = 0
    for magnitude in (3, 9, 20, 30):
        # Half of them as for SOLOv2, half as for Detectron2's models.
        model_cfg.MODEL.META_ARCHITECTURE = "SOLOv2" if magnitude % 2 else "GeneralizedRCNN"
        model_cfg.INPUT.RAND_AUGMENT.MAGNITUDE = magnitude
        mapper = SceneMapper(model_cfg, is_train=True)
        np.random.seed(magnitude)
        for d in real_images[::13] * 5:
            mapped = mapper(d)
            instances = mapped["instances"]
            assert tuple(mapped["image"].shape[1:]) == instances.image_size
            assert mapped["image"].dtype == torch.uint8
            if instances.has("gt_stride4_masks"):
                masks = instances.gt_stride4_masks
            else:
                masks = instances.gt_masks.tensor
                tight = instances.gt_masks.get_bounding_boxes().tensor
                assert torch.equal(tight, instances.gt_boxes.tensor)
            assert masks.flatten(1).any(1).all()
            assert len(masks) == len(instances.gt_classes) <= len(d["annotations"])
            kept += len(instances)
    assert len(real_images[::13]) * 5 * 4 == 1000
    assert kept > 4000


def test_built_from_config(model_cfg):
    names = [type(a).__name__ for a in build_augmentations(model_cfg, True)]
    assert names == ["ResizeShortestEdge", "RandomFlip"]
    model_cfg.INPUT.RANDOM_FLIP = "both"
    model_cfg.INPUT.RANDOM_QUARTER_TURN = True
    model_cfg.INPUT.RAND_AUGMENT.ENABLED = True
    augmentations = build_augmentations(model_cfg, True)
    assert all(isinstance(a, T.RandomFlip) for a in augmentations[1:3])
    assert [(a.horizontal, a.vertical) for a in augmentations[1:3]] == [
        (True, False),
        (False, True),
    ]
    assert augmentations[3].sideways is None
    assert build_augmentations(model_cfg, True, sideways=True)[3].sideways is True
    assert augmentations[4].fill == tuple(model_cfg.MODEL.PIXEL_MEAN)
    (resize,) = build_augmentations(model_cfg, False)
    assert isinstance(resize, T.ResizeShortestEdge)
    model_cfg.INPUT.CROP.ENABLED = True
    assert isinstance(SceneMapper(model_cfg, True).augmentations.augs[0], T.RandomCrop)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize(
    ("x", "y", "new_size"),
    [(0, 0, (5, 7)), (3, 2, (12, 11)), (-2, -3, (2, 4)), (-2, 4, (8, 6)), (9, 0, (6, 6))],
)
def test_placement_moves_each_pixel(dtype, x, y, new_size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (5, 7, 5)).astype(dtype)
    mask = rng.integers(0, 2, (5, 7), np.uint8)
    fill = (1.25, 2.75, 3.0, 4.0, 5.0)
    place = PlacementTransform(x, y, (5, 7), new_size, fill)
    placed, placed_mask = place.apply_image(image), place.apply_segmentation(mask)
    assert placed.shape == (*new_size, 5)
    assert placed.dtype == dtype
    for row in range(new_size[0]):
        for column in range(new_size[1]):
            if 0 <= row - y < 5 and 0 <= column - x < 7:
                assert (placed[row, column] == image[row - y, column - x]).all()
                assert placed_mask[row, column] == mask[row - y, column - x]
            else:
                expected = [1, 3, 3, 4, 5] if dtype == np.uint8 else fill
                assert placed[row, column].tolist() == list(expected)
                assert placed_mask[row, column] == 0
    points = rng.uniform(0, 9, (6, 2))
    np.testing.assert_array_equal(place.apply_coords(points), points + (x, y))
    np.testing.assert_allclose(place.inverse().apply_coords(place.apply_coords(points)), points)
    if (x, y) == (3, 2):
        np.testing.assert_array_equal(place.inverse().apply_image(placed), image)


def test_placement_is_uniform_over_what_fits():
    rng_state = np.random.get_state()
    np.random.seed(3)
    try:
        augmentation = RandomPlacement(10, (0.0,))
        wide = [augmentation.get_transform(np.zeros((8, 13, 3), np.uint8)) for _ in range(600)]
        exact = augmentation.get_transform(np.zeros((10, 10, 3), np.uint8))
    finally:
        np.random.set_state(rng_state)
    for offsets, expected in (
        ([t.x for t in wide], [-3, -2, -1, 0]),
        ([t.y for t in wide], [0, 1, 2]),
    ):
        values, counts = np.unique(offsets, return_counts=True)
        assert values.tolist() == expected
        assert counts.min() > 0.75 * 600 / len(expected)
    assert (exact.x, exact.y) == (0, 0)


def test_scale_jitter_resizes_relative_to_the_square(model_cfg):
    jitter = model_cfg.INPUT.SCALE_JITTER
    jitter.ENABLED, jitter.SIZE, jitter.MIN_SCALE, jitter.MAX_SCALE = True, 96, 0.25, 1.5
    resize, placement, flip = build_augmentations(model_cfg, True)
    assert isinstance(resize, ResizeScale)
    assert placement.fill == tuple(model_cfg.MODEL.PIXEL_MEAN)
    assert isinstance(flip, T.RandomFlip)
    image = np.full((40, 120, 3), 200, np.uint8)
    scales = []
    for _ in range(200):
        transform = resize.get_transform(image)
        # The longer side fits the square at scale 1; the aspect ratio is kept to half a pixel.
        scales.append(transform.new_w / 96)
        assert abs(transform.new_h - transform.new_w / 3) < 1
        inputs = T.AugInput(image)
        transforms = T.AugmentationList([resize, placement])(inputs)
        assert inputs.image.shape == (96, 96, 3)
        assert len(transforms.transforms) == 2
    assert 0.24 < min(scales) < 0.35
    assert 1.4 < max(scales) < 1.51
    # Images of one row keep a pixel; evaluation is not affected.
    assert resize.get_transform(np.zeros((1, 3000, 3), np.uint8)).new_h == 1
    (only_resize,) = build_augmentations(model_cfg, False)
    assert isinstance(only_resize, T.ResizeShortestEdge)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("INPUT.RANDOM_FLIP", "sideways", r"INPUT.RANDOM_FLIP is 'sideways'"),
        ("INPUT.RAND_AUGMENT.MAGNITUDE", 31, r"INPUT.RAND_AUGMENT: magnitude is 31.*0 to 30"),
        ("INPUT.RAND_AUGMENT.NUM_OPS", -1, r"num_ops is -1"),
        ("INPUT.RAND_AUGMENT.OPERATIONS", ["Blur"], r"unknown operations Blur"),
        ("INPUT.FORMAT", "YUV-BT.601", r"'YUV-BT.601' is not BGR, RGB or L"),
    ],
)
def test_wrong_values_are_named(model_cfg, key, value, message):
    model_cfg.INPUT.RAND_AUGMENT.ENABLED = True
    model_cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        build_augmentations(model_cfg, True)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1, 3000), (1, 1333)),
        ((9000, 2), (1333, 1)),
        ((1, 1), (800, 800)),
        ((600, 900), (800, 1200)),
    ],
)
@pytest.mark.parametrize("is_train", [False, True])
def test_thin_images_keep_a_pixel(model_cfg, size, expected, is_train):
    model_cfg.INPUT.MIN_SIZE_TRAIN = (800,)
    model_cfg.INPUT.MIN_SIZE_TEST = 800
    model_cfg.INPUT.MAX_SIZE_TRAIN = model_cfg.INPUT.MAX_SIZE_TEST = 1333
    resize = build_augmentations(model_cfg, is_train)[0]
    inputs = T.AugInput(np.full((*size, 3), 90, np.uint8))
    resize(inputs)
    assert inputs.image.shape[:2] == expected
    assert (inputs.image == 90).all()
