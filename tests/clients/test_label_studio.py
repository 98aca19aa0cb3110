"""Tasks for Label Studio."""

import importlib.util
import json
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from clients.pictures import iou, painted
from detectron2.structures import Boxes, Instances

from facenet_d2.clients import label_studio
from facenet_d2.engine import run_command
from facenet_d2.structures.rle_masks import RLEMasks

SHAPE = (60, 80)


def simple_masks():
    """A disc, a box at the corner, a pixel, nothing, a ring, and two discs."""
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    distance = np.hypot(rows - 30, columns - 40)
    box, pixel = np.zeros((2, *SHAPE), bool)
    box[48:, 70:] = True
    pixel[7, 9] = True
    two = (np.hypot(rows - 20, columns - 20) < 10) | (np.hypot(rows - 40, columns - 60) < 9)
    ring = (distance < 25) & (distance > 12)
    return np.stack([distance < 20, box, pixel, distance < -1, ring, two])


def instances(masks):
    rles = RLEMasks.from_dense(masks, SHAPE)
    count = len(masks)
    return Instances(
        SHAPE,
        pred_masks=rles,
        pred_boxes=Boxes(rles.boxes()),
        pred_classes=torch.arange(count) % 2,
        scores=torch.linspace(0.9, 0.4, count),
    )


def unpacked(data):
    """Decode @thi.ng/rle-pack bit by bit."""
    bits = "".join(f"{byte:08b}" for byte in data)
    place = 0

    def read(count):
        nonlocal place
        place += count
        return int(bits[place - count : place], 2)

    number, size = read(32), read(5) + 1
    lengths = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < number:
        is_run, length = read(1), read(lengths[read(2)]) + 1
        values += [read(size)] * length if is_run else [read(size) for _ in range(length)]
    assert len(values) == number
    assert len(bits) - place < 8
    return np.array(values, np.uint8)


def label_studios_own(data):
    spec = importlib.util.find_spec("label_studio_sdk")
    if spec is None:
        pytest.skip("label_studio_sdk is not installed")
    # The rest of its converter has many dependencies.
    file = Path(spec.submodule_search_locations[0]) / "converter" / "brush.py"
    brush_spec = importlib.util.spec_from_file_location("brush", file)
    brush = importlib.util.module_from_spec(brush_spec)
    brush_spec.loader.exec_module(brush)
    return brush.decode_rle(data)


@pytest.mark.parametrize("decode", [unpacked, label_studios_own])
def test_brush_masks(decode):
    rng = np.random.default_rng(0)
    long_runs = np.zeros((300, 400), bool)
    long_runs[200:, 7:] = True
    for mask in (rng.random((13, 17)) < 0.5, np.ones((1, 1), bool), *simple_masks(), long_runs):
        values = decode(label_studio.brush_rle(mask)).reshape(*mask.shape, 4)
        # Label Studio reads the fourth channel.
        np.testing.assert_array_equal(values[..., 3], np.where(mask, 255, 0))


@pytest.mark.parametrize("simplify", [0.0, 1.0])
def test_a_task_has_the_masks_of_the_instances(simplify):
    masks = simple_masks()
    names = ["ship", "harbour"]
    task = label_studio.predicted_task("a.png", instances(masks), names, simplify=simplify)
    task = json.loads(json.dumps(task))
    assert task["data"] == {"image": "a.png"}
    (prediction,) = task["predictions"]
    assert prediction["score"] == pytest.approx(0.65)
    results = prediction["result"]
    assert [r["type"] for r in results] == 3 * ["polygonlabels"] + 2 * ["brushlabels"]
    assert len({r["id"] for r in results}) == 5
    for result, i in zip(results, (0, 1, 2, 4, 5)):
        assert result["score"] == pytest.approx(0.9 - 0.1 * i)
        assert (result["original_height"], result["original_width"]) == SHAPE
        value = result["value"]
        assert value[result["type"]] == [names[i % 2]]
        if result["type"] == "polygonlabels":
            percent = np.array(value["points"])
            assert percent.min() >= 0
            assert percent.max() <= 100
            points = percent * [0.8, 0.6]
            found = painted([points.ravel().tolist()], *SHAPE)
        else:
            found = unpacked(value["rle"]).reshape(*SHAPE, 4)[..., 0] > 0
        assert iou(found, masks[i]) >= (0.9 if simplify else 1)


def test_no_instances():
    task = label_studio.predicted_task("a.png", instances(simple_masks())[:0], ["ship"])
    assert task["predictions"][0]["result"] == []
    assert task["predictions"][0]["score"] == 0


def test_the_interface_has_the_tags_of_the_results():
    names = ["ship", 'a "big" <harbour> & pier']
    root = ElementTree.fromstring(label_studio.labeling_config(names))
    tags = {element.get("name"): element for element in root}
    results = label_studio.predicted_task("a.png", instances(simple_masks()), names)
    for result in results["predictions"][0]["result"]:
        tag = tags[result["from_name"]]
        assert tag.tag.lower() == result["type"]
        assert tag.get("toName") == result["to_name"]
        assert [label.get("value") for label in tag] == names
    assert tags["image"].get("value") == "$image"


def test_the_command(trained, scenes, tmp_path, monkeypatch):
    config, weights = trained
    argv = ["label_studio", "--config-file", config, "--input", scenes / "images" / "0000[01].png"]
    argv += ["--output", tmp_path / "tasks.json", "--labels", tmp_path / "labels.xml"]
    argv += ["--url", "/data/local-files/?d=photos/", "--opts", "MODEL.WEIGHTS", weights]
    monkeypatch.setattr(sys, "argv", list(map(str, argv)))
    assert run_command(label_studio.main) == 0
    tasks = json.loads((tmp_path / "tasks.json").read_text())
    urls = [t["data"]["image"] for t in tasks]
    assert urls == [f"/data/local-files/?d=photos/0000{i}.png" for i in range(2)]
    assert all(t["predictions"][0]["result"] for t in tasks)
    assert tasks[0]["predictions"][0]["model_version"] == "model"
    assert "<PolygonLabels" in (tmp_path / "labels.xml").read_text()


def test_images_of_the_same_name_are_refused(tmp_path, monkeypatch, capsys):
    """Their tasks would show one image."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").touch()
    argv = ["label_studio", "--config-file", "none.yaml", "--output", tmp_path / "tasks.json"]
    monkeypatch.setattr(sys, "argv", list(map(str, [*argv, "--input", tmp_path / "*" / "0.png"])))
    assert run_command(label_studio.main) == 2
    assert f"{tmp_path / 'b' / '0.png'} would get the same URL" in capsys.readouterr().err
