"""check_dataset.py: planted faults are found, all of them and no others, and mended."""

import json
import shutil
import sys
import time

import check_dataset
import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
import torch.nn.functional as F
from conftest import REAL_DATA, needs_real
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BitMasks, Boxes, Instances
from PIL import Image

from facenet_d2.checking import KINDS, Setting, examine, study, suggest
from facenet_d2.data.datasets.coco import load_coco
from facenet_d2.engine import read_config, run_command
from facenet_d2.modeling.grids.layout import GridLayout
from facenet_d2.modeling.grids.targets import assign_targets
from facenet_d2.structures.masks import downsample_masks


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, args)])
    return run_command(check_dataset.main)


class Planted:
    """A data set that faults are planted in, and which ones."""

    def __init__(self, content, folder):
        self.content, self.folder = content, folder
        self.expected = []
        self.used = iter(
            a for a in content["annotations"] if isinstance(a["segmentation"], list) and a["id"]
        )
        self.images = iter(content["images"])

    def annotation(self, kind):
        """The next annotation that nothing is wrong with yet."""
        a = next(self.used)
        self.expected.append((kind, a["id"]))
        return a

    def image(self, kind):
        image = next(self.images)
        self.expected.append((kind, image["file_name"]))
        return image

    def size(self, annotation):
        image = next(i for i in self.content["images"] if i["id"] == annotation["image_id"])
        return image["height"], image["width"]


def plant_image_faults(p):
    (p.folder / p.image("image-missing")["file_name"]).unlink()
    broken = p.folder / p.image("image-unreadable")["file_name"]
    broken.write_bytes(broken.read_bytes()[:900])
    p.image("image-size")["width"] += 7
    deep = p.image("image-depth")
    pixels = np.full((deep["height"], deep["width"]), 3000, np.uint16)
    assert cv2.imwrite(str(p.folder / "deep.png"), pixels)
    deep["file_name"] = "deep.png"
    p.expected[-1] = ("image-depth", "deep.png")


def plant_entry_faults(p):
    c = p.content
    last = max(i["id"] for i in c["images"])
    twice = p.image("image-file-twice")
    c["images"].append({**twice, "id": last + 1})
    c["images"].append({**p.image("image-id-twice"), "file_name": "other.png"})
    c["images"].append({"id": last + 2, "file_name": "unsized.png", "height": 0, "width": 5})
    p.expected.append(("image-entry", last + 2))
    c["categories"].append({"id": c["categories"][0]["id"], "name": "kite"})
    p.expected.append(("category-id-twice", c["categories"][0]["id"]))
    c["categories"].append({"id": 901})
    p.expected.append(("category-entry", 901))
    p.annotation("category-unknown")["category_id"] = 777
    p.annotation("image-unknown")["image_id"] = 99999
    p.annotation("annotation-entry")["bbox"] = [1, 2, 3]
    p.annotation("annotation-entry")["segmentation"] = [[1, 2, float("nan"), 4, 5, 6]]
    number = p.annotation("annotation-id-twice")["id"]
    next(p.used)["id"] = number


def plant_object_faults(p):
    p.annotation("box-empty")["bbox"][2] = 0
    a = p.annotation("box-outside")
    a["bbox"][0] = p.size(a)[1] - 5
    a["bbox"][2] = 20
    p.annotation("box-disagrees")["bbox"][1] += 9
    p.annotation("area-disagrees")["area"] *= 2
    del p.annotation("area-missing")["area"]
    a = p.annotation("polygon-degenerate")
    a["segmentation"].append(a["segmentation"][0][:4])
    a = p.annotation("polygon-degenerate")
    a["segmentation"].append(a["segmentation"][0][:7])
    # A bow-tie in place of a rectangle: its mask is half of it.
    a = p.annotation("polygon-self-crossing")
    x, y, w, h = a["bbox"]
    a["segmentation"] = [[x, y, x + w, y + h, x + w, y, x, y + h]]
    a["area"] = w * h / 2
    a = p.annotation("polygon-outside")
    width = p.size(a)[1]
    a["segmentation"] = [[width - 20, 5, width + 30, 5, width + 30, 25, width - 20, 25]]
    a["bbox"], a["area"] = [width - 20, 5, 20, 20], 400
    a = p.annotation("mask-empty")
    a["segmentation"] = [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]
    a["bbox"] = [5, 5, 1, 1]
    a = p.annotation("rle-invalid")
    a["segmentation"] = {"size": [7, 9], "counts": [63]}
    a = p.annotation("rle-invalid")
    a["segmentation"] = {"size": list(p.size(a)), "counts": "P1" * 9}
    a = p.annotation("rle-invalid")
    a["segmentation"] = {"size": list(p.size(a)), "counts": [10, 10]}
    a = next(p.used)
    copy = {**a, "id": max(b["id"] for b in p.content["annotations"]) + 1}
    p.content["annotations"].append(copy)
    p.expected.append(("annotation-twice", copy["id"]))


def found_in(report):
    """(kind, id or file name) of the faults that a report lists."""
    found = []
    for fault in report["faults"]:
        subject = fault["where"].split(" of ")[0].split(" ", 1)[1]
        found.append((fault["kind"], int(subject) if subject.isdigit() else subject))
    return sorted(found, key=str)


def check(monkeypatch, capsys, p, *args):
    (p.folder / "planted.json").write_text(json.dumps(p.content))
    where = ("--annotations", p.folder / "planted.json", "--images", p.folder)
    code = run(monkeypatch, *where, "--json", *args)
    return code, json.loads(capsys.readouterr().out)


def expected_of(p):
    # Entries are named by their ids, images that can be by their files.
    files = {i["id"]: i["file_name"] for i in p.content["images"]}
    expected = []
    for kind, subject in p.expected:
        if kind in ("image-file-twice", "image-id-twice"):
            subject = next(i for i, name in files.items() if name in (subject, "other.png"))
        expected.append((kind, subject))
    return sorted(expected, key=str)


@pytest.mark.parametrize("longest", [128, 96, 64])
def test_best_masks_against_targets_enlarged_plainly(scenes, longest):
    setting = Setting.from_config(read_config("configs/Base-SOLOv2.yaml"), longest)
    found = examine(scenes / "annotations.json", scenes / "images", workers=0, setting=setting)
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
            target = downsample_masks(torch.from_numpy(small)[None], (longest // 4, longest // 4))
            # Twice, as the network's output is: to its input, then to the image.
            mask = target[None].float()
            for size in (longest, 128):
                mask = F.interpolate(mask, size=(size, size), mode="bilinear", align_corners=False)
            best = (mask[0, 0] > 0.5).numpy()
            expected.append((best & own).sum() / (best | own).sum())
    assert len(found.best_ious) == len(expected) > 20
    compared = [(a, b) for a, b in zip(found.best_ious, expected, strict=True) if b is not None]
    assert len(compared) > 20
    # Where a pixel's value is 0.5 but for rounding, it may be in one mask alone.
    np.testing.assert_allclose(*zip(*compared, strict=True), atol=0.005)
    assert sum(a == pytest.approx(b, abs=1e-9) for a, b in compared) > 0.9 * len(compared)
    assert len({round(a, 2) for a, _ in compared}) > 5


def rle_of(segmentation, height, width):
    if isinstance(segmentation, dict):
        rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    return mask_util.decode(rle).astype(bool)


@pytest.fixture
def copy_of_scenes(scenes, tmp_path):
    shutil.copytree(scenes / "images", tmp_path / "set")
    return Planted(json.loads((scenes / "annotations.json").read_text()), tmp_path / "set")


def test_synthetic_scenes_have_no_fault(copy_of_scenes, monkeypatch, capsys):
    code, report = check(monkeypatch, capsys, copy_of_scenes)
    assert (code, report["faults"], report["counts"]) == (0, [], {})
    assert report["images"] == 6
    assert report["objects"] == len(copy_of_scenes.content["annotations"])


@pytest.mark.parametrize(
    "plant", [plant_image_faults, plant_object_faults, plant_entry_faults], ids=lambda f: f.__name__
)
def test_planted_faults_are_found_and_mended(copy_of_scenes, monkeypatch, capsys, tmp_path, plant):
    p = copy_of_scenes
    plant(p)
    code, report = check(monkeypatch, capsys, p, "--fix", tmp_path / "fixed.json")
    assert code == 1
    kinds = sorted(kind for kind, _ in p.expected)
    assert sorted(f["kind"] for f in report["faults"]) == kinds
    subjects = [subject for _, subject in found_in(report)]
    for kind, subject in p.expected:
        if not kind.startswith("image-id") and kind != "image-file-twice":
            assert subject in subjects, (kind, subject)
    # The copy has none left, and Detectron2 takes it.
    changes = (tmp_path / "fixed.changes.txt").read_text().splitlines()
    assert len(changes) == 1 + len(p.expected)
    where = ("--annotations", tmp_path / "fixed.json", "--images", p.folder)
    assert run(monkeypatch, *where, "--json") == 0
    assert json.loads(capsys.readouterr().out)["faults"] == []
    assert load_coco(f"fixed_{plant.__name__}", tmp_path / "fixed.json", p.folder)


def test_every_kind_is_planted(copy_of_scenes):
    p = copy_of_scenes
    for plant in (plant_image_faults, plant_object_faults):
        plant(p)
    p.images = iter(p.content["images"])
    plant_entry_faults(p)
    assert set(KINDS) - {kind for kind, _ in p.expected} == {"category-name-twice"}


def test_mended_masks(copy_of_scenes, tmp_path):
    p = copy_of_scenes
    a, b = p.content["annotations"][:2]
    a["segmentation"] = [[10, 10, 50, 50, 50, 10, 10, 50]]
    b["segmentation"] = [[100, 100, 200, 100, 200, 120, 100, 120]]
    (tmp_path / "planted.json").write_text(json.dumps(p.content))
    found = examine(tmp_path / "planted.json", p.folder, workers=0)
    tie, cut = found.cleaned["annotations"][:2]
    drawn = mask_util.decode(mask_util.merge(mask_util.frPyObjects(tie["segmentation"], 128, 128)))
    rows, columns = np.mgrid[:128, :128]
    inside = (abs(columns - 29.5) >= abs(rows - 29.5)) & (abs(columns - 29.5) < 20)
    assert (drawn != inside).sum() < 100  # Two triangles, 800 pixels; borders may differ.
    assert tie["area"] == drawn.sum()
    assert cut["bbox"] == [100, 100, 28, 20]


@needs_real("nwpu_vhr10")
def test_faults_in_a_copy_of_nwpu(tmp_path, monkeypatch, capsys):
    real = REAL_DATA / "nwpu_vhr10"
    folder = tmp_path / "set"
    folder.mkdir()
    for file in (real / "images").iterdir():
        (folder / file.name).symlink_to(file)
    content = json.loads((real / "annotations.json").read_text())
    clean = Planted(content, folder)
    start = time.monotonic()
    code, report = check(monkeypatch, capsys, clean)
    assert time.monotonic() - start < 60
    assert (code, report["faults"]) == (0, [])
    assert (report["images"], report["objects"]) == (650, 3921)
    # A part of it suffices to find them in.
    kept = content["images"][:40]
    ids = {i["id"] for i in kept}
    content["images"] = kept
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    p = Planted(content, folder)
    for file in [i["file_name"] for i in kept[:2]]:
        (folder / file).unlink()
        shutil.copy(real / "images" / file, folder / file)
    first_objects = {a["image_id"] for a in content["annotations"][:60]}
    plant_object_faults(p)
    p.images = iter([i for i in kept if i["id"] not in first_objects or i in kept[:2]])
    plant_image_faults(p)
    code, report = check(monkeypatch, capsys, p)
    assert code == 1
    assert len(p.expected) >= 12
    found = found_in(report)
    assert sorted(k for k, _ in found) == sorted(k for k, _ in p.expected)
    assert {s for _, s in p.expected} <= {s for _, s in found}


def brute_force(examination, setting, masks_of):
    """The study's figures from the target assigner itself, image by image, with full-size masks."""
    no_cell = no_own = sharing = 0
    levels = len(setting.layout.num_grids)
    per_level = [0] * levels
    for image, (height, width) in enumerate(examination.sizes.astype(int)):
        own = np.flatnonzero(examination.image_of == image)
        transform = ResizeShortestEdge(setting.shortest, setting.longest).get_transform(
            np.zeros((height, width, 3), np.uint8)
        )
        new_h, new_w = transform.new_h, transform.new_w
        masks = masks_of(image)
        instances = Instances((new_h, new_w))
        scale = np.array([new_w / width, new_h / height] * 2)
        instances.gt_boxes = Boxes(torch.tensor(examination.measures[own, 1:5] * scale))
        instances.gt_classes = torch.arange(len(own))
        resized = [cv2.resize(m, (new_w, new_h), interpolation=cv2.INTER_NEAREST) for m in masks]
        instances.gt_masks = BitMasks(torch.from_numpy(np.stack(resized)).bool())
        size = (-(-new_h // 32) * 8, -(-new_w // 32) * 8)
        targets = assign_targets(instances, setting.layout, len(own), size)
        first = 0
        has, keeps, shares = set(), set(), set()
        for level, grid in enumerate(setting.layout.num_grids):
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
    found = examine(scenes / "annotations.json", scenes / "images", workers=0)
    annotations = found.cleaned["annotations"]
    ids = [i["id"] for i in found.cleaned["images"]]

    def masks_of(image):
        own = [a for a in annotations if a["image_id"] == ids[image]]
        rles = [mask_util.merge(mask_util.frPyObjects(a["segmentation"], 128, 128)) for a in own]
        return [mask_util.decode(r) for r in rles]

    layout = GridLayout((9, 5), ranges, 0.2)
    setting = Setting(layout, (0, 0), shortest=128, longest=128)
    result = study(found.sizes, found.image_of, found.measures, setting)
    expected = brute_force(found, setting, masks_of)
    assert (result.no_cell, result.no_own_cell, result.sharing, result.per_level) == expected
    assert result.num_objects == len(annotations)
    # Of objects that lose all their cells there are some in the one case, of no level in the other.
    assert expected[1 if ranges[0][0] == 1 else 0] > 0


def square_objects(centers, side, image_size):
    """Measures of squares, one image."""
    rows = []
    for x, y in centers:
        half = side / 2
        box = (x - half, y - half, x + half, y + half)
        rows.append((1, *box, side**2, x - 0.5, y - 0.5))
    sizes = np.array([[image_size, image_size]], float)
    return sizes, np.zeros(len(rows), int), np.array(rows, float)


def test_suggestion_for_crowded_small_objects():
    """Objects of 8 pixels, 10 apart, at 800 pixels: 20 to a published grid's finest cell or so."""
    centers = [(100 + 10 * i, 100 + 10 * j) for i in range(20) for j in range(20)]
    objects = square_objects(centers, 8, 800)
    setting = Setting.from_config(read_config(check_dataset.DEFAULT_CONFIG))
    now = study(*objects, setting)
    # Cells are 20 pixels: a quarter of the objects keeps one. Masks are of 2x2 at a quarter size.
    assert now.no_own_cell == pytest.approx(300, abs=40)
    assert now.too_small == 400
    assert now.lost == 400
    better, then = suggest(*objects, setting)
    assert then == study(*objects, better)
    assert then.lost <= 4
    assert better.layout.num_grids[0] == 80
    assert better.min_mask_areas[0] < 4
    # Nothing to better: the present setting stays.
    few = square_objects([(200, 200), (600, 300)], 60, 800)
    assert suggest(*few, setting)[0] == setting


def test_no_objects_at_all(copy_of_scenes, monkeypatch, capsys, tmp_path):
    p = copy_of_scenes
    p.content["annotations"] = []
    code, report = check(monkeypatch, capsys, p, "--html", tmp_path / "page.html")
    assert code == 0
    assert report["objects"] == report["grids"]["now"]["lost"] == 0
    del p.content["annotations"]
    code, report = check(monkeypatch, capsys, p)
    assert code == 0
    assert {n["kind"] for n in report["notes"]} == {"image-empty", "category-unused"}


def test_odd_values(copy_of_scenes, monkeypatch, capsys, tmp_path):
    """Entries that would stop the examination, or say something else than they seem to."""
    p = copy_of_scenes
    p.content["images"][0]["file_name"] = "./" + p.content["images"][1]["file_name"]
    turned = p.content["images"][2]
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (turned["width"], turned["height"] - 8))
    picture.save(p.folder / "turned.jpg", exif=exif)
    turned.update(file_name="turned.jpg", height=turned["height"] - 8)
    p.content["images"][3].update(width=90_000, height=90_000)
    p.content["images"][4].update(file_name="gone.png", width=90_000, height=90_000)
    ids = {i["id"] for i in p.content["images"][5:]}
    a, b, c = [a for a in p.content["annotations"] if a["image_id"] in ids][:3]
    a["area"] = float("nan")
    b["iscrowd"] = "0"
    c["bbox"][0] = 10**400
    code, report = check(monkeypatch, capsys, p, "--html", tmp_path / "page.html")
    assert code == 1
    found = {(f["kind"], f["where"]) for f in report["faults"]}
    assert {kind for kind, _ in found} == {
        "image-file-twice",
        "image-size",
        "image-missing",
        "area-missing",
        "annotation-entry",
    }
    assert report["counts"]["image-size"] == 2
    assert report["counts"]["annotation-entry"] == 2
    assert ("image-size", "image turned.jpg") in found
    assert "turned as its EXIF orientation says" in (tmp_path / "page.html").read_text()


def test_page_is_self_contained(copy_of_scenes, monkeypatch, capsys, tmp_path):
    p = copy_of_scenes
    p.content["categories"][0]["name"] = "<b>kite</b>"
    p.annotation("box-disagrees")["bbox"][1] += 9
    check(monkeypatch, capsys, p, "--html", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert page.count("data:image/png;base64,") == 2
    assert "&lt;b&gt;kite" in page
    assert "<b>" not in page
    assert "http" not in page
    assert "box-disagrees" in page


def test_terminal_report_and_crowds(copy_of_scenes, monkeypatch, capsys):
    p = copy_of_scenes
    p.content["annotations"][0]["iscrowd"] = 1
    (p.folder / "planted.json").write_text(json.dumps(p.content))
    where = ("--annotations", p.folder / "planted.json", "--images", p.folder)
    assert run(monkeypatch, *where, "--input-size", 64) == 0
    printed = capsys.readouterr().out
    assert "0 faults" in printed
    assert "1 crowd: " in printed
    assert "Input 64 to 64 pixels" in printed
    number = len(p.content["annotations"]) - 1
    row = next(line for line in printed.splitlines() if line.startswith("objects"))
    assert int(row.split()[-1]) == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "top level is no object"),
        ('{"images": 1}', 'no list "images"'),
        ("[" * 10**5, "nested too deeply"),
    ],
)
def test_what_is_not_coco_at_all(tmp_path, monkeypatch, capsys, text, message):
    (tmp_path / "a.json").write_text(text)
    assert run(monkeypatch, "--annotations", tmp_path / "a.json", "--images", tmp_path) == 2
    assert message in capsys.readouterr().err


def test_wrong_arguments(tmp_path, monkeypatch, capsys, scenes):
    where = ("--annotations", scenes / "annotations.json", "--images", scenes / "images")
    for args, message in (
        (("--dataset", "nwpu_vhr10_trian"), "is not registered"),
        (("--dataset", "hrsid_train"), "prepare_hrsid.py"),
        ((*where[:3], tmp_path / "gone"), "is not a folder"),
        ((*where, "--config-file", tmp_path / "no.yaml"), "does not exist"),
        ((*where, "--fix", scenes / "annotations.json"), "is the file to be checked"),
        ((*where, "--html", tmp_path), "is a folder"),
        (where[:2], "give either --annotations and --images, or --dataset"),
        ((*where, "--dataset", "nwpu_vhr10_test"), "give either"),
        ((*where, "--html", tmp_path / "a", "--fix", tmp_path / "a"), "is --html, too"),
    ):
        assert run(monkeypatch, *args) == 2
        assert message in capsys.readouterr().err
    Image.open(scenes / "images" / "00000.png").verify()
