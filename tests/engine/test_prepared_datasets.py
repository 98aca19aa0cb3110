"""From each publisher's files to training, by the documented commands."""

import json
import shutil
import sys
from pathlib import Path

import isaid_scene
import numpy as np
import prepare_hrsid
import prepare_isaid
import prepare_nwpu_vhr10
import pytest
from detectron2.data import MetadataCatalog
from helpers import REPOSITORY
from PIL import Image

import train_net
from facenet_d2.data.datasets.nwpu_vhr10 import CLASSES
from facenet_d2.engine import run_command

# The models and image sizes of the configs are for GPUs.
SMALL = {
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 50,
    "MODEL.RESNETS.NORM": "GN",
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 32,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 32,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 32,
    "MODEL.FPN.OUT_CHANNELS": 32,
    "MODEL.FACE_FPN.ASPP_CHANNELS": 32,
    "MODEL.SEM.CHANNELS": 32,
    "MODEL.SOLOV2.NUM_GRIDS": "[12, 10, 8, 6, 4]",
    "MODEL.SOLOV2.NUM_CONVS": 1,
    "MODEL.SOLOV2.DEFORM_CONVS": 1,
    "MODEL.SOLOV2.CONV_CHANNELS": 32,
    "MODEL.SOLOV2.KERNEL_CHANNELS": 32,
    "MODEL.SOLOV2.MASK_CHANNELS": 32,
    "INPUT.MIN_SIZE_TRAIN": "(96,)",
    "INPUT.MAX_SIZE_TRAIN": 128,
    "INPUT.MIN_SIZE_TEST": 96,
    "INPUT.MAX_SIZE_TEST": 128,
    "DATALOADER.NUM_WORKERS": 0,
    "SOLVER.MAX_ITER": 2,
    "SEED": 1,
}


def run(monkeypatch, main, *args):
    monkeypatch.setattr(sys, "argv", ["command", *map(str, args)])
    return run_command(main)


def publish_isaid(folder):
    for split in ("train", "val"):
        for i in range(2):
            images = isaid_scene.draw(150, 170, 20, seed=i)
            isaid_scene.write(folder / split / "images", f"P{i:04}", *images)
    return prepare_isaid.main, ("--source", folder, "--patch-size", 100, "--overlap", 25)


def coco(name, numbers, class_names):
    square = [[10, 20, 50, 20, 50, 40, 10, 40]]
    return {
        "images": [
            {"id": i, "file_name": f"{name}{i}.jpg", "height": 80, "width": 80} for i in numbers
        ],
        "annotations": [
            {
                "id": i,
                "image_id": i,
                "category_id": i % len(class_names) + 1,
                "segmentation": square,
                "bbox": [10, 20, 40, 20],
                "area": 800,
                "iscrowd": 0,
            }
            for i in numbers
        ],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(class_names)],
    }


def draw_images(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        pixels = np.full((80, 80, 3), 60, np.uint8)
        pixels[20:40, 10:50] = 220
        Image.fromarray(pixels).save(folder / image["file_name"])


def publish_hrsid(folder):
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "test"):
        content = coco(f"{split}_", range(3), ["ship"])
        draw_images(folder / "JPEGImages", content)
        (folder / "annotations" / f"{split}2017.json").write_text(json.dumps(content))
    args = ("--images", folder / "JPEGImages", "--annotations", folder / "annotations")
    return prepare_hrsid.main, args


def publish_nwpu_vhr10(folder):
    content = coco("", range(10), CLASSES)
    draw_images(folder / "positive image set", content)
    (folder / "annotations.json").write_text(json.dumps(content))
    args = ("--images", folder / "positive image set", "--annotations")
    return prepare_nwpu_vhr10.main, (*args, folder / "annotations.json")


@pytest.mark.parametrize("model", ["solov2", "facenet"])
@pytest.mark.parametrize(
    ("publish", "configs", "train", "num_classes"),
    [
        (publish_isaid, "iSAID", "isaid_train", 15),
        (publish_hrsid, "HRSID", "hrsid_train", 1),
        (publish_nwpu_vhr10, "NWPU-VHR10", "nwpu_vhr10_train", 10),
    ],
)
def test_from_published_files_to_training(
    tmp_path, monkeypatch, publish, configs, train, num_classes, model
):
    main, args = publish(tmp_path / "published")
    prepared = Path(MetadataCatalog.get(train).json_file).parent
    try:
        assert run(monkeypatch, main, *args, "--output", prepared) == 0
        config = REPOSITORY / "configs" / configs / f"{model}_R_50_36ep.yaml"
        overrides = [str(v) for pair in SMALL.items() for v in pair]
        output = ("OUTPUT_DIR", tmp_path / "output")
        assert run(monkeypatch, train_net.run, "--config-file", config, *overrides, *output) == 0
    finally:
        shutil.rmtree(prepared, ignore_errors=True)
    lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    metrics = {k: v for line in lines for k, v in json.loads(line).items()}
    assert 0 < metrics["total_loss"] < 100
    assert "segm/AP" in metrics
    names = MetadataCatalog.get(train).thing_classes
    assert len(names) == num_classes
