import hashlib
import json
import sys
from collections import Counter

import numpy as np
import prepare_nwpu_vhr10
import pytest
from helpers import REAL_DATA, needs_real
from PIL import Image

from facenet_d2.data.datasets.nwpu_vhr10 import CLASSES
from facenet_d2.engine import run_command


def prepare(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["prepare_nwpu_vhr10.py", *map(str, args)])
    return run_command(prepare_nwpu_vhr10.main)


def make_source(folder, spoil=lambda content: None):
    """Write ten images with one square each, ids from 0, in the published layout."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for i in range(10):
        Image.fromarray(np.full((40, 50, 3), 20 * i, np.uint8)).save(
            folder / "images" / f"{i:03d}.jpg"
        )
        images.append({"id": i, "file_name": f"{i:03d}.jpg", "height": 40, "width": 50})
        annotations.append(
            {
                "id": i,
                "image_id": i,
                "category_id": i % 10 + 1,
                "segmentation": [[5, 5, 25, 5, 25, 20, 5, 20]],
                "bbox": [0, 0, 1, 1],
                "area": 7,
                "iscrowd": 0,
            }
        )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    spoil(content)
    (folder / "annotations.json").write_text(json.dumps(content))
    return "--images", folder / "images", "--annotations", folder / "annotations.json"


def test_splits_checks_and_repairs(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "source")
    assert prepare(monkeypatch, *source, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "out") in printed
    train = json.loads((tmp_path / "out" / "train.json").read_text())
    test = json.loads((tmp_path / "out" / "test.json").read_text())
    assert (len(train["images"]), len(test["images"])) == (7, 3)
    annotations = train["annotations"] + test["annotations"]
    assert sorted(a["id"] for a in annotations) == list(range(1, 11))
    for a in annotations:
        assert a["bbox"] == [5, 5, 20, 15]
        assert a["area"] == 300
    assert (tmp_path / "out" / "images" / "000.jpg").is_file()
    # Again from its own link, then with copies instead of the link.
    link = ("--images", tmp_path / "out" / "images", *source[2:], "--output", tmp_path / "out")
    assert prepare(monkeypatch, *link) == 0
    assert (tmp_path / "out" / "images" / "000.jpg").is_file()
    before = (tmp_path / "out" / "train.json").read_bytes()
    assert prepare(monkeypatch, *source, "--output", tmp_path / "out", "--copy") == 0
    assert (tmp_path / "out" / "train.json").read_bytes() == before
    assert not (tmp_path / "out" / "images").is_symlink()


def test_never_touches_images_that_are_there(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "source")
    originals = sorted((tmp_path / "source" / "images").iterdir())
    (tmp_path / "out" / "images").mkdir(parents=True)
    (tmp_path / "out" / "images" / "precious.txt").write_text("")
    inside = tmp_path / "source" / "images" / "out"
    for output, message in ((tmp_path / "out", "exists already"), (inside, "is inside --images")):
        for copy in ([], ["--copy"]):
            assert prepare(monkeypatch, *source, "--output", output, *copy) == 2
            assert message in capsys.readouterr().err
    assert (tmp_path / "out" / "images" / "precious.txt").exists()
    assert sorted((tmp_path / "source" / "images").iterdir()) == originals
    # If the output is the folder of the images, they are used in place.
    assert prepare(monkeypatch, *source, "--output", tmp_path / "source", "--copy") == 0
    assert sorted((tmp_path / "source" / "images").iterdir()) == originals


def set_value(key, index, field, value):
    def spoil(content):
        content[key][index][field] = value

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (set_value("images", 3, "file_name", "gone.jpg"), "1 of 10 images do not exist"),
        (set_value("images", 3, "width", 51), "50x40 pixels, but annotated as 51x40"),
        (set_value("categories", 2, "name", "windmill"), "windmill"),
        (
            set_value("annotations", 4, "image_id", 99),
            "1 of 10 annotations are not usable",
        ),
        (set_value("annotations", 4, "segmentation", [[1, 1, 2, 2]]), "a polygon has 4 numbers"),
        (lambda c: c.pop("categories"), "not COCO JSON"),
        (set_value("images", 3, "file_name", "./002.jpg"), "002.jpg is listed twice"),
        (set_value("images", 3, "file_name", "a\0.jpg"), "must be a file name"),
        (set_value("annotations", 4, "iscrowd", "x"), "'iscrowd' must be 0 or 1, not 'x'"),
        (
            set_value("annotations", 4, "segmentation", {"size": [40, 50], "counts": "PPh0" * 6}),
            "its compressed counts are damaged",
        ),
        (lambda c: [c["images"].clear(), c["annotations"].clear()], "has 0 images"),
    ],
)
def test_says_what_is_wrong(tmp_path, monkeypatch, capsys, spoil, message):
    source = make_source(tmp_path / "source", spoil)
    assert prepare(monkeypatch, *source, "--output", tmp_path / "out") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_broken_image_is_named(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "source")
    (tmp_path / "source" / "images" / "004.jpg").write_bytes(b"\xff\xd8 broken")
    assert prepare(monkeypatch, *source, "--output", tmp_path / "out") == 2
    assert "004.jpg" in capsys.readouterr().err


@pytest.fixture(scope="module")
def real_splits(tmp_path_factory):
    """Return the contents of train.json and test.json of the published set."""
    real, folder = REAL_DATA / "nwpu_vhr10", tmp_path_factory.mktemp("real")
    args = ("--images", real / "images", "--annotations", real / "annotations.json")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert prepare(monkeypatch, *args, "--output", folder) == 0
    return [json.loads((folder / f"{s}.json").read_text()) for s in ("train", "test")]


@needs_real("nwpu_vhr10")
def test_real_set(real_splits):
    published = json.loads((REAL_DATA / "nwpu_vhr10" / "annotations.json").read_text())
    splits = real_splits
    assert [len(s["images"]) for s in splits] == [455, 195]
    files = [{i["file_name"] for i in s["images"]} for s in splits]
    assert len(files[0] | files[1]) == 650
    count = Counter(a["category_id"] for s in splits for a in s["annotations"])
    assert count == Counter(a["category_id"] for a in published["annotations"])
    assert count.total() == 3921


@needs_real("nwpu_vhr10")
def test_split_is_stable(real_splits):
    files = [i["file_name"] for i in real_splits[1]["images"]]
    # Results are only comparable on the same split, so it must never change.
    assert hashlib.sha256(" ".join(files).encode()).hexdigest().startswith("ce9a16740bd8463b")


def test_backgrounds_are_split_as_well(tmp_path, monkeypatch):
    source = make_source(tmp_path / "source")
    assert prepare(monkeypatch, *source, "--output", tmp_path / "without") == 0
    (tmp_path / "negative").mkdir()
    for i in range(20):
        # The names of negative and positive images are the same.
        Image.new("RGB", (30, 20)).save(tmp_path / "negative" / f"{i:03d}.jpg")
    args = (*source, "--backgrounds", tmp_path / "negative", "--output", tmp_path / "out")
    assert prepare(monkeypatch, *args) == 0
    ids = []
    for split, number in (("train", 14), ("test", 6)):
        with_them = json.loads((tmp_path / "out" / f"{split}.json").read_text())
        without = json.loads((tmp_path / "without" / f"{split}.json").read_text())
        assert with_them["annotations"] == without["annotations"]
        assert with_them["images"][:-number] == without["images"]
        backgrounds = with_them["images"][-number:]
        assert all(i["file_name"].startswith("backgrounds/") for i in backgrounds)
        assert all((i["width"], i["height"]) == (30, 20) for i in backgrounds)
        ids += [i["id"] for i in with_them["images"]]
        assert all((tmp_path / "out" / i["file_name"]).is_file() for i in with_them["images"])
    assert len(set(ids)) == 30


def test_boxes_without_masks_are_refused(tmp_path, monkeypatch, capsys):
    source = make_source(tmp_path / "source")
    (tmp_path / "ground truth").mkdir()
    text = tmp_path / "ground truth" / "001.txt"
    text.write_text("(563,478),(630,573),1 \n(4,5),(6,7),2\n")
    for annotations in (text, text.parent):
        args = (*source[:2], "--annotations", annotations, "--output", tmp_path / "out")
        assert prepare(monkeypatch, *args) == 2
        assert "VHR-10_dataset_coco" in capsys.readouterr().err


def test_one_bad_annotation_in_hundreds_is_left_out(tmp_path, monkeypatch, caplog):
    def many(content):
        square = content["annotations"][0]
        content["annotations"] = [{**square, "id": i} for i in range(200)]
        content["annotations"][150]["segmentation"] = [[1, 1, 2, 2]]

    source = make_source(tmp_path / "source", many)
    assert prepare(monkeypatch, *source, "--output", tmp_path / "out") == 0
    assert "annotation left out in annotation 150" in caplog.text
    splits = [json.loads((tmp_path / "out" / f"{s}.json").read_text()) for s in ("train", "test")]
    assert sum(len(s["annotations"]) for s in splits) == 199
