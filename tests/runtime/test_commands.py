"""Commands give the same results with a checkpoint and with the exported model."""

import json
import sys

import numpy as np
import predict_scenes
import pytest
import rasterio
from affine import Affine
from helpers import save_untrained_model, write_tiny_config
from models import ModelAsNetwork, describe
from PIL import Image

import demo
from facenet_d2.engine import Predictor, run_command
from facenet_d2.engine.setup import load_config
from facenet_d2.runtime import predictor


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    """A config and a checkpoint of a model that predicts something everywhere."""
    folder = tmp_path_factory.mktemp("exported")
    cfg = load_config(
        write_tiny_config(folder, scenes),
        ["TEST.DETECTIONS_PER_IMAGE", "10", "INPUT.FORMAT", "BGR"],
    )
    save_untrained_model(cfg, folder / "model.pth")
    (folder / "config.yaml").write_text(cfg.dump())
    (folder / "model.onnx").write_text("in place of an exported model")
    return folder


@pytest.fixture
def run(trained, monkeypatch):
    """Return a function that runs a command with the checkpoint or the exported model."""

    def run_with(command, kind, *args):
        argv = ["command", *args]
        if kind == "exported":
            argv += ["--weights", trained / "model.onnx"]
        else:
            argv += ["--config-file", trained / "config.yaml"]
            argv += ["--opts", "MODEL.WEIGHTS", trained / "model.pth"]
        monkeypatch.setattr(sys, "argv", list(map(str, argv)))
        return run_command(command.main)

    model = Predictor(trained / "config.yaml", trained / "model.pth")
    names = model.metadata.thing_classes
    description = describe(model.cfg, model.model, "SOLOv2", names)
    network = ModelAsNetwork(model.model, "SOLOv2", description)
    monkeypatch.setattr(predictor, "load_network", lambda *args, **kwargs: network)
    return run_with


def check_equal(found, expected):
    """Compare two lists of COCO results, whose masks may differ in single pixels."""
    assert len(found) == len(expected) > 3
    for one, other in zip(found, expected):
        assert one["category_id"] == other["category_id"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
        assert one["bbox"] == pytest.approx(other["bbox"], abs=1.01)
    equal = sum(a["segmentation"] == b["segmentation"] for a, b in zip(found, expected))
    assert equal >= 0.8 * len(found)


def test_scenes(run, scenes, tmp_path):
    pixels = np.asarray(Image.open(scenes / "images" / "00000.png"))
    file = tmp_path / "scene.tif"
    with rasterio.open(
        *(file, "w"),
        driver="GTiff",
        height=128,
        width=128,
        count=3,
        dtype="uint8",
        crs="EPSG:32633",
        transform=Affine(0.5, 0, 500000, 0, -0.5, 4649776),
    ) as dataset:
        dataset.write(np.moveaxis(pixels, 2, 0))
    results = {}
    for kind in ("checkpoint", "exported"):
        output = tmp_path / f"{kind}.json"
        args = ("--input", file, "--output", output, "--confidence-threshold", "0")
        assert run(predict_scenes, kind, *args, "--tile-size", "96", "--overlap", "32") == 0
        results[kind] = json.loads(output.read_text())
    check_equal(results["exported"], results["checkpoint"])


def test_demo(run, scenes, tmp_path):
    results = {}
    for kind in ("checkpoint", "exported"):
        output = tmp_path / f"{kind}.json"
        args = ("--input", scenes / "images" / "00001.png", "--output", tmp_path / kind)
        assert run(demo, kind, *args, "--save-json", output) == 0
        results[kind] = json.loads(output.read_text())
    check_equal(results["exported"], results["checkpoint"])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "--config-file is required, or --weights"),
        (("--weights", "model.pth"), "name an exported model, FILE.onnx"),
        (("--weights", "m.onnx", "--config-file", "c.yaml"), "leave out --config-file and --opts"),
        (("--weights", "m.onnx", "--opts", "TEST.DETECTIONS_PER_IMAGE", "5"), "leave out"),
        (("--weights", "m.onnx", "--ray"), "--ray does not run exported models"),
    ],
)
def test_one_model_is_named(args, message, monkeypatch, capsys):
    argv = ["predict_scenes.py", "--input", "a.tif", "--output", "a.gpkg", *args]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as exit_:
        predict_scenes.parse_args()
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err
