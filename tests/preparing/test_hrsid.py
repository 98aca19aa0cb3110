import json
import sys

import numpy as np
import prepare_hrsid
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from facenet_d2.engine import run_command


def prepare(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["prepare_hrsid.py", *map(str, args)])
    return run_command(prepare_hrsid.main)


def make_source(folder):
    """The published layout: JPEGImages/ and annotations/{train,test}2017.json, ids from 0."""
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / "annotations").mkdir()
    for split, names in (("train", ("P0001_0", "P0001_1", "P0002_0")), ("test", ("P0003_0",))):
        images, annotations = [], []
        for i, name in enumerate(names):
            pixels = np.full((80, 80, 3), 40 + 20 * i, np.uint8)
            pixels[20:40, 10:50] = 220
            Image.fromarray(pixels).save(folder / "JPEGImages" / f"{name}.jpg")
            images.append({"id": i, "file_name": f"{name}.jpg", "height": 80, "width": 80})
            annotations.append(
                {
                    "id": i,
                    "image_id": i,
                    "category_id": 1,
                    "segmentation": [[10, 20, 50, 20, 50, 40, 10, 40]],
                    "bbox": [10, 20, 40, 20],
                    "area": 800,
                    "iscrowd": 0,
                }
            )
        content = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "ship"}],
        }
        (folder / "annotations" / f"{split}2017.json").write_text(json.dumps(content))
    return "--images", folder / "JPEGImages", "--annotations", folder / "annotations"


def test_prepares_the_published_layout(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "HRSID_JPG")
    assert prepare(monkeypatch, *source, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr()
    assert "the published train split has 3642 images, but this one has 3" in printed.err
    for split, number in (("train", 3), ("test", 1)):
        content = json.loads((tmp_path / "out" / f"{split}.json").read_text())
        assert len(content["images"]) == len(content["annotations"]) == number
        assert [a["id"] for a in content["annotations"]] == list(range(1, number + 1))
        for image in content["images"]:
            assert Image.open(tmp_path / "out" / image["file_name"]).size == (80, 80)


def test_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "HRSID_JPG")
    out = ("--output", tmp_path / "out")
    train, test = (source[3] / f"{s}2017.json" for s in ("train", "test"))
    content = train.read_text()
    test_content = test.read_text()
    test.write_text(content)
    assert prepare(monkeypatch, *source, *out) == 2
    assert "3 images are in both splits, such as P0001_0.jpg" in capsys.readouterr().err
    test.write_text(test_content)
    train.unlink()
    assert prepare(monkeypatch, *source, *out) == 2
    assert "train2017.json does not exist" in capsys.readouterr().err
    train.write_text(content)
    (source[1] / "P0002_0.jpg").unlink()
    assert prepare(monkeypatch, *source, *out) == 2
    assert "1 of 3 images do not exist in" in capsys.readouterr().err
    assert prepare(monkeypatch, "--images", train, *source[2:], *out) == 2
    assert "is not a folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_registered(split):
    assert f"hrsid_{split}" in DatasetCatalog.list()
    assert MetadataCatalog.get(f"hrsid_{split}").thing_classes == ["ship"]
