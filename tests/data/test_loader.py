"""Batches are functions of the seed and their number."""

import itertools
from collections import Counter

import detectron2.data.transforms as T
import numpy as np
import pytest
import torch
from detectron2.data.samplers import TrainingSampler
from PIL import Image

from facenet_d2 import UserError
from facenet_d2.data import TrainLoader, build_train_loader
from facenet_d2.data.mapper import SceneMapper
from facenet_d2.engine import load_config


def draw(record):
    return {**record, "noise": np.random.rand(), "torch": torch.zeros(1)}


DATASET = [{"id": i, "width": 10 + 10 * (i % 3), "height": 20} for i in range(12)]


def loader(**kwargs):
    settings = {"batch_size": 3, "seed": 5, "num_workers": 0} | kwargs
    return TrainLoader(
        DATASET,
        draw,
        build_sampler=lambda seed: TrainingSampler(len(DATASET), seed=seed),
        **settings,
    )


def take(loader, n):
    return [[(x["id"], x["noise"]) for x in batch] for batch in itertools.islice(iter(loader), n)]


def test_workers_do_not_change_batches():
    assert take(loader(), 12) == take(loader(num_workers=2), 12)


def test_a_resumed_loader_continues_the_batches():
    whole = take(loader(), 12)
    resumed = loader()
    resumed.start_iter = 7
    assert take(resumed, 5) == whole[7:]


def test_seeds_differ_and_epochs_differ():
    a, b = take(loader(), 12), take(loader(seed=6), 12)
    assert a != b
    noise = [x for batch in a for _, x in batch]
    assert len(set(noise)) == len(noise)


def test_every_image_is_seen_and_wide_ones_stay_together():
    batches = take(loader(), 16)
    for batch in batches:
        assert len({DATASET[i]["width"] > DATASET[i]["height"] for i, _ in batch}) == 1
    seen = Counter(i for batch in batches for i, _ in batch)
    assert set(seen) == set(range(12))
    assert max(seen.values()) - min(seen.values()) <= 2


def test_the_callers_generators_are_left_alone():
    np.random.seed(1)
    expected = np.random.RandomState(1).rand(2).tolist()
    values = [np.random.rand()]
    take(loader(), 3)
    values.append(np.random.rand())
    assert values == expected


def test_wrong_batch_size_and_no_data(tiny_config):
    cfg = load_config(tiny_config).clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH = 0
    with pytest.raises(UserError, match=r"SOLVER\.IMS_PER_BATCH is 0"):
        build_train_loader(cfg)
    cfg = load_config(tiny_config, ["DATASETS.TRAIN", "()"])
    with pytest.raises(UserError, match=r"DATASETS\.TRAIN is empty"):
        build_train_loader(cfg)
    cfg = load_config(tiny_config, ["DATALOADER.SAMPLER_TRAIN", "Other"])
    with pytest.raises(UserError, match=r"SAMPLER_TRAIN is 'Other'"):
        build_train_loader(cfg)


@pytest.mark.parametrize("sampler", ["TrainingSampler", "RepeatFactorTrainingSampler"])
def test_samplers(tiny_config, sampler):
    cfg = load_config(tiny_config, ["DATALOADER.SAMPLER_TRAIN", sampler])
    first, again = (
        [[x["image_id"] for x in b] for b in itertools.islice(iter(build_train_loader(cfg)), 6)]
        for _ in range(2)
    )
    assert first == again
    assert {i for b in first for i in b} == set(range(1, 7))


def test_the_mapper_names_a_broken_image(tiny_config, tmp_path):
    cfg = load_config(tiny_config)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG broken")
    record = {"file_name": str(broken), "height": 10, "width": 10, "annotations": []}
    with pytest.raises(UserError, match=r"broken\.png cannot be used"):
        SceneMapper(cfg, is_train=True)(record)


@pytest.mark.parametrize("crop", ["True", "False"])
@pytest.mark.parametrize("mask_format", ["bitmask", "polygon", "stride4"])
def test_an_image_without_objects_has_no_masks_but_the_field(
    tiny_config, scenes, mask_format, crop
):
    cfg = load_config(tiny_config, ["INPUT.CROP.ENABLED", crop]).clone()
    cfg.defrost()
    cfg.INPUT.MASK_FORMAT = mask_format
    record = {
        "file_name": str(scenes / "images" / "00000.png"),
        "height": 128,
        "width": 128,
        "annotations": [],
    }
    instances = SceneMapper(cfg, is_train=True)(record)["instances"]
    masks = instances.gt_stride4_masks if mask_format == "stride4" else instances.gt_masks
    assert len(instances) == len(masks) == len(instances.gt_boxes) == 0


def test_an_error_of_an_augmentation_is_not_the_images(tiny_config, scenes):
    class Broken(T.Augmentation):
        def get_transform(self, image):
            raise ValueError("a bug")

    mapper = SceneMapper(load_config(tiny_config), is_train=True)
    mapper.augmentations.augs.append(Broken())
    file = str(scenes / "images" / "00000.png")
    with pytest.raises(ValueError, match="a bug"):
        mapper({"file_name": file, "height": 128, "width": 128, "annotations": []})


@pytest.mark.parametrize("segmentation", ["text", 7])
def test_segmentations_of_another_type_are_named(tiny_config, scenes, segmentation):
    mapper = SceneMapper(load_config(tiny_config), is_train=True)
    file = str(scenes / "images" / "00000.png")
    annotation = {"bbox": [1, 1, 9, 9], "bbox_mode": 1, "category_id": 0}
    annotation["segmentation"] = segmentation
    record = {"file_name": file, "height": 128, "width": 128, "annotations": [annotation]}
    with pytest.raises(UserError, match=r"00000\.png.*not polygons or an RLE"):
        mapper(record)


def test_annotations_without_masks_are_named(tiny_config, scenes):
    cfg = load_config(tiny_config)
    box = {"bbox": [1, 1, 20, 20], "bbox_mode": 1, "category_id": 0}
    file = str(scenes / "images" / "00000.png")
    record = {"file_name": file, "height": 128, "width": 128, "annotations": [box]}
    with pytest.raises(UserError, match=r"00000\.png.*without a segmentation"):
        SceneMapper(cfg, is_train=True)(record)


def test_turned_images_are_batched_by_how_they_lie(scenes, tiny_config):
    options = ["INPUT.RANDOM_QUARTER_TURN", "True", "SOLVER.IMS_PER_BATCH", "2"]
    cfg = load_config(tiny_config, [*options, "INPUT.RANDOM_FLIP", "none"])
    image = np.zeros((60, 100, 3), np.uint8)
    image[:, :10] = 255
    file = scenes / "wide.png"
    Image.fromarray(image).save(file)
    record = {"file_name": str(file), "width": 100, "height": 60, "annotations": []}
    batches = TrainLoader(
        [record] * 8,
        SceneMapper(cfg, is_train=True),
        build_sampler=lambda seed: TrainingSampler(8, seed=seed),
        batch_size=2,
        seed=0,
        quarter_turns=True,
    )
    white_sides = Counter()
    for batch in itertools.islice(iter(batches), 200):
        assert len({x["image"].shape for x in batch}) == 1
        for x in batch:
            left, right = x["image"][0, :, 0], x["image"][0, :, -1]
            top, bottom = x["image"][0, 0], x["image"][0, -1]
            sides = {"left": left, "right": right, "top": top, "bottom": bottom}
            (white,) = (name for name, line in sides.items() if line.min() == 255)
            white_sides[white] += 1
    # Each turn is expected 100 times in 400; 35 are four standard deviations.
    assert len(white_sides) == 4
    assert all(abs(n - 100) < 35 for n in white_sides.values())
