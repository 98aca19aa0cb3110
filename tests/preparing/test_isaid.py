"""Patches and COCO JSON of iSAID, compared with the published images."""

import json
import re
import shutil
import signal
import sys
import time

import isaid_scene
import numpy as np
import prepare_isaid
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from helpers import REAL_DATA, needs_real
from PIL import Image
from programs import start_program, wait_for_group

from facenet_d2.data.datasets.isaid import ANNOTATION_COLORS, CLASSES
from facenet_d2.engine import run_command
from facenet_d2.preparing.color_maps import color_code, find_regions
from facenet_d2.preparing.patches import patch_starts


def prepare(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["prepare_isaid.py", *map(str, args)])
    return run_command(prepare_isaid.main)


def codes_of(image):
    rgb = np.asarray(image).astype(np.int64)
    return rgb[..., 0] * 65536 + rgb[..., 1] * 256 + rgb[..., 2]


def read(file):
    return codes_of(Image.open(file).convert("RGB"))


def check_against_scene(content, root, ids, classes, image):
    """Recompute every patch and annotation from the scene's images, pixel by pixel."""
    names = {color_code(c): i + 1 for i, c in enumerate(ANNOTATION_COLORS)}
    class_of = {code: names[int(classes[ids == code][0])] for code in np.unique(ids[ids > 0])}
    by_patch = {}
    for a in content["annotations"]:
        by_patch.setdefault(a["image_id"], []).append(a)
    rebuilt = np.zeros_like(ids)
    for patch in content["images"]:
        x, y, w, h = (patch[k] for k in ("x", "y", "width", "height"))
        window = np.s_[y : y + h, x : x + w]
        pixels = np.asarray(Image.open(root / patch["file_name"]))
        assert np.array_equal(pixels, image[window])
        annotations = by_patch.get(patch["id"], [])
        there = np.unique(ids[window])
        assert [a["instance_id"] for a in annotations] == there[there > 0].tolist()
        for a in annotations:
            mask = mask_util.decode(a["segmentation"]).astype(bool)
            assert np.array_equal(mask, ids[window] == a["instance_id"])
            rows, columns = mask.nonzero()
            assert a["area"] == len(rows)
            left, top = columns.min(), rows.min()
            assert a["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
            assert a["category_id"] == class_of[a["instance_id"]]
            rebuilt[window][mask] = a["instance_id"]
    assert np.array_equal(rebuilt, ids)
    numbers = [a["id"] for a in content["annotations"]]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [c["name"] for c in content["categories"]] == list(CLASSES)


def test_round_trip_of_a_large_scene(tmp_path, monkeypatch):
    image, ids, classes = isaid_scene.draw(2600, 2000, 120, seed=0)
    isaid_scene.write(tmp_path / "in" / "train" / "images", "P0002", image, ids, classes)
    args = ("--source", tmp_path / "in", "--output", tmp_path / "out")
    assert prepare(monkeypatch, *args) == 0
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert len(content["images"]) == 12
    codes = codes_of(ids)
    instances = np.unique(codes[codes > 0])
    crossing = len(content["annotations"]) - len(instances)
    assert len(instances) > 90
    assert crossing > 40
    check_against_scene(content, tmp_path / "out", codes, codes_of(classes), image)


def test_patches_are_where_the_publisher_has_them():
    # Names such as P0094_0_800_3000_3800: steps of 600, the last patch ending with the scene.
    assert patch_starts(2000, 800, 200) == [0, 600, 1200]
    assert patch_starts(1500, 800, 200) == [0, 600, 700]
    assert patch_starts(801, 800, 200) == [0, 1]
    assert patch_starts(800, 800, 200) == [0]
    assert patch_starts(500, 800, 200) == [0]


@pytest.mark.parametrize("options", [(), ("--cut-narrow",)])
def test_odd_sizes(tmp_path, monkeypatch, options):
    sizes = {"P0001": (90, 70), "P0002": (60, 170), "P0003": (131, 163), "P0004": (64, 64)}
    scenes = {n: isaid_scene.draw(h, w, 12, seed=5) for n, (h, w) in sizes.items()}
    for name, images in scenes.items():
        isaid_scene.write(tmp_path / "in" / "val" / "images", name, *images)
    args = ("--source", tmp_path / "in", "--output", tmp_path / "out")
    args += ("--patch-size", 64, "--overlap", 16, *options)
    assert prepare(monkeypatch, *args) == 0
    content = json.loads((tmp_path / "out" / "val.json").read_text())
    for name, (image, ids, classes) in scenes.items():
        patches = [i for i in content["images"] if i["scene"] == name]
        height, width = sizes[name]
        whole = min(sizes[name]) <= 64 and not options
        if max(sizes[name]) <= 64 or whole:
            assert [p["file_name"] for p in patches] == [f"val/{name}.png"]
        else:
            assert all(p["width"] == min(64, width) for p in patches)
            assert all(p["height"] == min(64, height) for p in patches)
            x, y = patches[0]["x"], patches[0]["y"]
            w, h = patches[0]["width"], patches[0]["height"]
            assert patches[0]["file_name"] == f"val/{name}_{y}_{y + h}_{x}_{x + w}.png"
        own = {p["id"] for p in patches}
        part = {
            **content,
            "images": patches,
            "annotations": [a for a in content["annotations"] if a["image_id"] in own],
        }
        for number, a in enumerate(part["annotations"], start=1):
            a["id"] = number
        check_against_scene(part, tmp_path / "out", codes_of(ids), codes_of(classes), image)


def tree(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_killed_and_run_again(tmp_path, monkeypatch):
    for seed in range(12):
        images = isaid_scene.draw(500, 600, 20, seed)
        isaid_scene.write(tmp_path / "in" / "train" / "images", f"P{seed:04}", *images)
    args = ("--source", tmp_path / "in", "--patch-size", 400, "--overlap", 100, "--workers", 2)
    assert prepare(monkeypatch, *args, "--output", tmp_path / "whole") == 0
    args += ("--output", tmp_path / "out")
    killed = start_program("tools/prepare_isaid.py", args, tmp_path / "printed.txt")
    records = tmp_path / "out" / ".scenes" / "train"
    deadline = time.monotonic() + 120
    while len(list(records.glob("P*.json"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "train.json").exists()
    # The workers end with their parent.
    wait_for_group(killed.pid)
    done = {p: p.stat().st_mtime_ns for p in records.glob("P*.json")}
    assert 0 < len(done) < 12
    assert prepare(monkeypatch, *args) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    # Finished scenes were not cut again.
    assert all(p.stat().st_mtime_ns == time_of for p, time_of in done.items())


@pytest.fixture
def source(tmp_path):
    for seed in range(2):
        images = isaid_scene.draw(150, 130, 5, seed)
        isaid_scene.write(tmp_path / "in" / "train" / "images", f"P{seed:04}", *images)
    return tmp_path / "in"


SMALL = ("--patch-size", 64, "--overlap", 16)


def test_second_run_does_what_is_missing_or_changed(tmp_path, monkeypatch, source, capsys):
    args = ("--source", source, "--output", tmp_path / "out", *SMALL)
    assert prepare(monkeypatch, *args) == 0
    first = tree(tmp_path / "out")
    next((tmp_path / "out" / "train").glob("P0001*")).unlink()
    capsys.readouterr()
    assert prepare(monkeypatch, *args) == 0
    assert "1 of 2 scenes are already finished" in capsys.readouterr().out
    assert tree(tmp_path / "out") == first
    isaid_scene.write(source / "train" / "images", "P0000", *isaid_scene.draw(150, 130, 7, 9))
    assert prepare(monkeypatch, *args) == 0
    assert "1 of 2 scenes are already finished" in capsys.readouterr().out
    assert tree(tmp_path / "out") != first
    assert prepare(monkeypatch, *args[:-1], 0) == 2
    assert "cut with other settings (overlap 16)" in capsys.readouterr().err


def test_flags_for_empty_patches_and_slivers(tmp_path, monkeypatch):
    image, ids, classes = isaid_scene.draw(150, 130, 0, seed=0)
    ids[10:30, 40:66] = (0, 0, 9)
    classes[10:30, 40:66] = ANNOTATION_COLORS[3]
    isaid_scene.write(tmp_path / "in" / "train" / "images", "P0007", image, ids, classes)
    numbers = {}
    options = {"all": (), "full": ("--drop-empty",), "large": ("--drop-empty", "--min-area", 361)}
    for name, flags in options.items():
        args = ("--source", tmp_path / "in", "--output", tmp_path / name, *SMALL, *flags)
        assert prepare(monkeypatch, *args) == 0
        content = json.loads((tmp_path / name / "train.json").read_text())
        files = {p.name for p in (tmp_path / name / "train").iterdir()}
        assert files == {i["file_name"].removeprefix("train/") for i in content["images"]}
        numbers[name] = (len(content["images"]), [a["area"] for a in content["annotations"]])
    # Patches start at 0, 48 and 66: 24, 18 and no columns of 20 pixels each.
    assert numbers["all"] == (9, [480, 360])
    assert numbers["full"] == (2, [480, 360])
    assert numbers["large"] == (1, [480])


def test_patches_of_one_name(tmp_path, monkeypatch, capsys):
    """A small scene with the name of another's patch; repeated splits count once."""
    folder = tmp_path / "in" / "train" / "images"
    isaid_scene.write(folder, "P0001", *isaid_scene.draw(150, 130, 3, seed=0))
    isaid_scene.write(folder, "P0001_0_64_48_112", *isaid_scene.draw(30, 30, 1, seed=1))
    args = ("--source", tmp_path / "in", "--splits", "train", "train", *SMALL)
    assert prepare(monkeypatch, *args, "--output", tmp_path / "out") == 2
    assert "P0001 and P0001_0_64_48_112 both have a patch" in capsys.readouterr().err
    for file in folder.glob("P0001_0_64*"):
        file.unlink()
    assert prepare(monkeypatch, *args, "--output", tmp_path / "again") == 0
    assert len(json.loads((tmp_path / "again" / "train.json").read_text())["images"]) == 9


def test_nothing_left(tmp_path, monkeypatch, capsys, source):
    args = ("--source", source, "--output", tmp_path / "out", "--drop-empty", "--min-area", 10**6)
    assert prepare(monkeypatch, *args) == 2
    assert "no image is left for train.json" in capsys.readouterr().err


def test_withheld_masks_and_left_out_scenes(tmp_path, monkeypatch):
    folder = tmp_path / "in" / "test" / "images"
    image = isaid_scene.draw(64, 64, 0, seed=0)[0]
    for name in ("P0006", "P1527", "P1530"):
        isaid_scene.write(folder, name, image, None, None)
    assert prepare(monkeypatch, "--source", tmp_path / "in", "--output", tmp_path / "out") == 0
    content = json.loads((tmp_path / "out" / "test.json").read_text())
    assert [i["file_name"] for i in content["images"]] == ["test/P0006.png"]
    assert "annotations" not in content


def spoil_size(folder):
    Image.new("RGB", (10, 10)).save(folder / "P0001_instance_id_RGB.png")


def spoil_color(folder):
    Image.new("RGB", (130, 150), (1, 2, 3)).save(folder / "P0001_instance_color_RGB.png")


def spoil_file(folder):
    file = folder / "P0001.png"
    file.write_bytes(file.read_bytes()[:500])


def spoil_id_file(folder):
    (folder / "P0001_instance_id_RGB.png").write_text("not an image")


def spoil_names(folder):
    (folder / "P0001_instance_color_RGB.png").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_size, r"130x150 pixels, .*10x10"),
        (spoil_color, r"colour \(1, 2, 3\), which belongs to no class"),
        (spoil_file, r"P0001.png cannot be used"),
        (spoil_id_file, r"P0001_instance_id_RGB.png cannot be used"),
        (spoil_names, r"P0001.png has no P0001_instance_color_RGB.png"),
        (lambda folder: shutil.rmtree(folder), r"contains neither train/images"),
        (lambda folder: (folder / "P0001.png").unlink(), r"1 scenes .* no image.*P0001\.png"),
    ],
)
def test_says_what_is_wrong(tmp_path, monkeypatch, capsys, source, spoil, message):
    spoil(source / "train" / "images")
    args = ("--source", source, "--output", tmp_path / "out", *SMALL)
    assert prepare(monkeypatch, *args) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(message, error)
    assert not (tmp_path / "out" / "train.json").exists()


@pytest.mark.parametrize("options", [(), ("--drop-empty",)])
def test_published_patches_without_annotations(tmp_path, monkeypatch, options):
    """A split whose masks are withheld stays without a list of annotations."""
    folder = tmp_path / "in" / "test" / "images"
    isaid_scene.write(folder, "P0006", isaid_scene.draw(64, 64, 0, seed=0)[0], None, None)
    content = {
        "images": [{"id": 1, "file_name": "P0006.png", "height": 64, "width": 64}],
        "categories": [{"id": 1, "name": "ship"}],
    }
    file = tmp_path / "in" / "test" / "instancesonly_filtered_test.json"
    file.write_text(json.dumps(content))
    args = ("--source", tmp_path / "in", "--output", tmp_path / "out", *options)
    assert prepare(monkeypatch, *args) == 0
    made = json.loads((tmp_path / "out" / "test.json").read_text())
    assert [i["file_name"] for i in made["images"]] == ["test/P0006.png"]
    assert "annotations" not in made


def test_published_annotations_of_patches(tmp_path, monkeypatch, capsys):
    """The publisher numbers categories in order of appearance, differently in each split."""
    folder = tmp_path / "in" / "val" / "images"
    image = isaid_scene.draw(64, 64, 0, seed=0)[0]
    for name in ("P0001_0_64_0_64", "P0001_0_64_48_112"):
        isaid_scene.write(folder, name, image, None, None)
    square = [[4, 4, 20, 4, 20, 14, 4, 14]]
    content = {
        "images": [
            {"id": i, "file_name": p.name, "height": 64, "width": 64, "seg_file_name": "x"}
            for i, p in enumerate(sorted(folder.iterdir()))
        ],
        "categories": [{"id": 1, "name": "Small_Vehicle"}, {"id": 2, "name": "ship"}],
        "annotations": [
            {"id": i, "image_id": 0, "category_id": i + 1, "segmentation": square}
            | {"bbox": [4, 4, 15, 9], "area": 1, "iscrowd": 0}
            for i in range(2)
        ],
    }
    (tmp_path / "in" / "val" / "instancesonly_filtered_val.json").write_text(json.dumps(content))
    args = ("--source", tmp_path / "in", "--output", tmp_path / "out")
    assert prepare(monkeypatch, *args) == 0
    assert "using the patches of" in capsys.readouterr().out
    made = json.loads((tmp_path / "out" / "val.json").read_text())
    names = [CLASSES[a["category_id"] - 1] for a in made["annotations"]]
    assert names == ["Small_Vehicle", "ship"]
    assert all(a["bbox"] == [4, 4, 16, 10] and a["area"] == 160 for a in made["annotations"])
    assert all((tmp_path / "out" / i["file_name"]).is_file() for i in made["images"])
    assert prepare(monkeypatch, *args, "--drop-empty") == 0
    assert len(json.loads((tmp_path / "out" / "val.json").read_text())["images"]) == 1
    assert len(list(folder.iterdir())) == 2


def test_regions_of_nothing_and_of_everything():
    assert find_regions(np.zeros((5, 7), np.int32)) == []
    (region,) = find_regions(np.full((5, 7), 3, np.int32))
    assert (region.label, region.area, region.box) == (3, 35, (0, 0, 7, 5))
    assert mask_util.decode(region.rle).all()


def test_instances_without_class(tmp_path, monkeypatch, capsys):
    image, ids, classes = isaid_scene.draw(64, 64, 0, seed=0)
    ids[5:15, 5:15] = (0, 0, 1)
    ids[20:30, 5:15] = (0, 1, 0)
    classes[20:27, 5:15] = ANNOTATION_COLORS[2]
    isaid_scene.write(tmp_path / "in" / "train" / "images", "P0007", image, ids, classes)
    assert prepare(monkeypatch, "--source", tmp_path / "in", "--output", tmp_path / "out") == 0
    error = capsys.readouterr().err
    assert "1 instance left out: no class" in error
    assert "1 instance with pixels of several" in error
    content = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [(a["category_id"], a["area"]) for a in content["annotations"]] == [(3, 100)]


def test_registered():
    for split in ("train", "val", "test"):
        metadata = MetadataCatalog.get(f"isaid_{split}")
        assert f"isaid_{split}" in DatasetCatalog.list()
        assert metadata.thing_classes == list(CLASSES)
        assert len(set(metadata.thing_colors)) == 15


@needs_real("hrsid_sample")
def test_hrsid_samples(tmp_path, monkeypatch):
    sample = REAL_DATA / "hrsid_sample"
    args = ("--source", sample, "--classes", "hrsid", "--splits", "test", "--output", tmp_path)
    assert prepare(monkeypatch, *args) == 0
    content = json.loads((tmp_path / "test.json").read_text())
    assert len(content["images"]) == 2
    for image in content["images"]:
        ids = read(sample / f"{image['scene']}_instance_id_RGB.png")
        own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
        assert sorted(a["instance_id"] for a in own) == sorted(set(ids[ids > 0].tolist()))
        for a in own:
            mask = mask_util.decode(a["segmentation"])
            assert np.array_equal(mask, ids == a["instance_id"])
            assert a["category_id"] == 1
    counts = [
        sum(a["image_id"] == i["id"] for a in content["annotations"]) for i in content["images"]
    ]
    assert counts == [10, 122]
