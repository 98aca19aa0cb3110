"""tools/check_dataset.py finds exactly the planted faults, and repairs them."""

import json
import os
import shutil
import sys
from collections import Counter

import check_dataset as tool
import numpy as np
import pycocotools.mask as mask_util
import pytest
from helpers import REAL_DATA, REPOSITORY, needs_real
from PIL import Image
from planted import Planted, plant_entry_faults, plant_image_faults, plant_object_faults

from facenet_d2.checking import FAULT_KINDS, check_dataset
from facenet_d2.data.datasets.coco import load_coco
from facenet_d2.engine import run_command


def run(monkeypatch, *args):
    monkeypatch.setattr(sys, "argv", ["check_dataset.py", *map(str, args)])
    return run_command(tool.main)


def check(monkeypatch, capsys, p, *args):
    (p.folder / "planted.json").write_text(json.dumps(p.content))
    where = ("--annotations", p.folder / "planted.json", "--images", p.folder)
    code = run(monkeypatch, *where, "--json", *args)
    return code, json.loads(capsys.readouterr().out)


@pytest.fixture
def copy_of_scenes(scenes, tmp_path):
    shutil.copytree(scenes / "images", tmp_path / "set")
    return Planted(json.loads((scenes / "annotations.json").read_text()), tmp_path / "set")


def found_in(report):
    """Return (kind, id or file name) of the faults in a report."""
    found = []
    for fault in report["faults"]:
        subject = fault["where"].split(" of ")[0].split(" ", 1)[1]
        found.append((fault["kind"], int(subject) if subject.isdigit() else subject))
    return sorted(found, key=str)


def test_synthetic_scenes_have_no_fault(copy_of_scenes, monkeypatch, capsys):
    code, report = check(monkeypatch, capsys, copy_of_scenes)
    assert (code, report["faults"], report["counts"]) == (0, [], {})
    assert report["images"] == 6
    assert report["objects"] == len(copy_of_scenes.content["annotations"])


@pytest.mark.parametrize(
    "plant", [plant_image_faults, plant_object_faults, plant_entry_faults], ids=lambda f: f.__name__
)
def test_planted_faults_are_found_and_repaired(
    copy_of_scenes, monkeypatch, capsys, tmp_path, plant
):
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
    # The copy has no faults, and can be loaded.
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
    assert set(FAULT_KINDS) - {kind for kind, _ in p.expected} == {"category-name-twice"}


def test_repaired_masks(copy_of_scenes, tmp_path):
    p = copy_of_scenes
    a, b = p.content["annotations"][:2]
    a["segmentation"] = [[10, 10, 50, 50, 50, 10, 10, 50]]
    b["segmentation"] = [[100, 100, 200, 100, 200, 120, 100, 120]]
    (tmp_path / "planted.json").write_text(json.dumps(p.content))
    report = check_dataset(tmp_path / "planted.json", p.folder, workers=0)
    tie, cut = report.cleaned["annotations"][:2]
    drawn = mask_util.decode(mask_util.merge(mask_util.frPyObjects(tie["segmentation"], 128, 128)))
    rows, columns = np.mgrid[:128, :128]
    inside = (abs(columns - 29.5) >= abs(rows - 29.5)) & (abs(columns - 29.5) < 20)
    assert (drawn != inside).sum() < 100  # Two triangles, 800 pixels; borders may differ.
    assert tie["area"] == drawn.sum()
    assert cut["bbox"] == [100, 100, 28, 20]


def test_rle_with_height_and_width_exchanged(copy_of_scenes, tmp_path):
    """Either the size is wrong, or the mask is transposed; the box tells which."""
    p = copy_of_scenes
    image = p.content["images"][0]
    # Cut to an image that is not square.
    Image.open(p.folder / image["file_name"]).crop((0, 0, 128, 100)).save(p.folder / "cut.png")
    image.update(file_name="cut.png", height=100)
    mask = np.zeros((100, 128), np.uint8)
    mask[20:50, 60:120] = mask[20:30, 5:60] = 1
    box = [5, 20, 115, 30]
    own = mask_util.encode(np.asfortranarray(mask))["counts"].decode()
    transposed = mask_util.encode(np.asfortranarray(mask.T))["counts"].decode()
    entry = {"image_id": image["id"], "category_id": 1, "iscrowd": 0, "area": int(mask.sum())}
    p.content["annotations"] = [
        {**entry, "id": 1, "bbox": box, "segmentation": {"size": [128, 100], "counts": own}},
        {
            **entry,
            "id": 2,
            "bbox": box,
            "category_id": 2,
            "segmentation": {"size": [128, 100], "counts": transposed},
        },
        {
            **entry,
            "id": 3,
            "bbox": [0, 0, 9, 9],
            "segmentation": {"size": [128, 100], "counts": own},
        },
    ]
    (tmp_path / "planted.json").write_text(json.dumps(p.content))
    report = check_dataset(tmp_path / "planted.json", p.folder, workers=0)
    assert [f.fix for f in report.faults if f.kind == "rle-invalid"] == [
        "its height and width exchanged",
        "its mask transposed",
        "annotation left out",
    ]
    kept = report.cleaned["annotations"]
    assert [a["id"] for a in kept] == [1, 2]
    for annotation in kept:
        np.testing.assert_array_equal(mask_util.decode(annotation["segmentation"]), mask)


def test_polygons_far_outside_are_clipped(copy_of_scenes, tmp_path):
    p = copy_of_scenes
    a = p.content["annotations"][0]
    a["segmentation"] = [[100, 10, 1e9, 10, 1e9, 30, 100, 30]]
    (tmp_path / "planted.json").write_text(json.dumps(p.content))
    report = check_dataset(tmp_path / "planted.json", p.folder, workers=0)
    (cleaned,) = (c for c in report.cleaned["annotations"] if c["id"] == a["id"])
    assert (cleaned["bbox"], cleaned["area"]) == ([100, 10, 28, 20], 560)


@pytest.mark.parametrize(
    "forget",
    [
        lambda a: a.pop("bbox"),
        lambda a: a.update(iscrowd=None),
        lambda a: a.update(image_id=str(a["image_id"]), category_id=str(a["category_id"])),
        lambda a: a.pop("id"),
        lambda a: a.pop("area"),
        lambda a: [a.pop(field) for field in ("bbox", "id", "area", "iscrowd")],
    ],
)
def test_nothing_with_a_mask_is_removed(copy_of_scenes, tmp_path, forget):
    p = copy_of_scenes
    original = json.loads(json.dumps(p.content))
    for annotation in p.content["annotations"]:
        forget(annotation)
    for image in p.content["images"]:
        del image["height"], image["width"]
    (tmp_path / "planted.json").write_text(json.dumps(p.content))
    report = check_dataset(tmp_path / "planted.json", p.folder, workers=0)
    cleaned = report.cleaned["annotations"]
    assert len(cleaned) == len(original["annotations"])
    assert report.cleaned["images"] == original["images"]
    for own, expected in zip(cleaned, original["annotations"], strict=True):
        for field in ("image_id", "category_id", "iscrowd", "segmentation"):
            assert own[field] == expected[field]
        assert own["area"] == pytest.approx(expected["area"], rel=0.15)
        np.testing.assert_allclose(own["bbox"], expected["bbox"], atol=2)


def test_crowds_as_objects(copy_of_scenes, monkeypatch, capsys, tmp_path):
    p = copy_of_scenes
    for annotation in p.content["annotations"]:
        annotation["iscrowd"] = 1
    fixed = tmp_path / "fixed.json"
    _, report = check(monkeypatch, capsys, p, "--fix", fixed)
    assert report["objects"] == 0
    _, report = check(monkeypatch, capsys, p, "--fix", fixed, "--crowds-as-objects")
    assert report["objects"] == len(p.content["annotations"])
    assert not any(a["iscrowd"] for a in json.loads(fixed.read_text())["annotations"])
    assert len(fixed.with_suffix(".changes.txt").read_text().splitlines()) == 1 + report["objects"]


def test_limit_of_detections(copy_of_scenes, monkeypatch, capsys):
    p = copy_of_scenes
    (p.folder / "planted.json").write_text(json.dumps(p.content))
    per_image = Counter(a["image_id"] for a in p.content["annotations"])
    most = max(per_image.values())
    where = ("--annotations", p.folder / "planted.json", "--images", p.folder)
    assert run(monkeypatch, *where) == 0
    assert f"At most {most} objects in an image" in capsys.readouterr().out
    config = p.folder / "limit.yaml"
    config.write_text(
        f"_BASE_: {REPOSITORY}/configs/Base-SOLOv2.yaml\nTEST: {{DETECTIONS_PER_IMAGE: 2}}"
    )
    assert run(monkeypatch, *where, "--config-file", config) == 0
    printed = capsys.readouterr().out
    lost = sum(n - 2 for n in per_image.values() if n > 2)
    assert f"than TEST.DETECTIONS_PER_IMAGE 2, at most {most}: {lost} (" in printed


@needs_real("nwpu_vhr10")
def test_faults_in_a_copy_of_nwpu(tmp_path, monkeypatch, capsys):
    real = REAL_DATA / "nwpu_vhr10"
    folder = tmp_path / "set"
    folder.mkdir()
    for file in (real / "images").iterdir():
        (folder / file.name).symlink_to(file)
    content = json.loads((real / "annotations.json").read_text())
    clean = Planted(content, folder)
    before = os.times()
    code, report = check(monkeypatch, capsys, clean)
    # Seconds of the CPU, not of the clock: the machine may be shared. os.times() counts user and
    # system time of this process and of its children, the workers.
    assert sum(os.times()[:4]) - sum(before[:4]) < 60
    assert (code, report["faults"]) == (0, [])
    assert (report["images"], report["objects"]) == (650, 3921)
    # Faults are planted in a part of it.
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
    """Entries that could crash or mislead the check."""
    p = copy_of_scenes
    p.content["images"][0]["file_name"] = "./" + p.content["images"][1]["file_name"]
    turned = p.content["images"][2]
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = Image.new("RGB", (turned["width"], turned["height"] - 8))
    rotated.save(p.folder / "turned.jpg", exif=exif)
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
        "box-missing",
        "field-type",
    }
    assert report["counts"]["image-size"] == 2
    assert ("image-size", "image turned.jpg") in found
    assert "after its EXIF orientation" in (tmp_path / "page.html").read_text()


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
    assert "Input: shortest side 64, longest side at most 64 pixels" in printed
    number = len(p.content["annotations"]) - 1
    row = next(line for line in printed.splitlines() if line.startswith("objects"))
    assert int(row.split()[-1]) == number


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "top level is a list, not an object"),
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
        ((*where, "--fix", scenes / "annotations.json"), "is also the file to be checked"),
        ((*where, "--html", tmp_path), "is a folder"),
        (where[:2], "give either --annotations and --images, or --dataset"),
        ((*where, "--dataset", "nwpu_vhr10_test"), "give either"),
        ((*where, "--html", tmp_path / "a", "--fix", tmp_path / "a"), "is also --html"),
    ):
        assert run(monkeypatch, *args) == 2
        assert message in capsys.readouterr().err
    Image.open(scenes / "images" / "00000.png").verify()
