"""tools/export_model.py writes files, compares them, and refuses what cannot be exported."""

import json
import re
import sys

import export_model
import numpy as np
import pytest
import torch
from helpers import save_untrained_model
from runtime.models import ModelAsNetwork
from torch.torch_version import TorchVersion

from facenet_d2 import UserError
from facenet_d2.engine import Predictor, load_config
from facenet_d2.export import Comparison, load_network
from facenet_d2.runtime import predictor as runner
from facenet_d2.runtime.description import METADATA_KEY, ModelDescription


@pytest.fixture
def exported(tiny_config, tmp_path, monkeypatch):
    """Function that runs the command on an untrained SOLOv2."""
    weights = tmp_path / "model.pth"
    overrides = ["MODEL.BACKBONE.NAME", "build_fpn_backbone", "MODEL.SEM.ENABLED", "False"]
    save_untrained_model(load_config(tiny_config, overrides), weights)
    overrides += ["MODEL.WEIGHTS", str(weights)]

    def run(output, *options):
        command = ["--config-file", str(tiny_config), "--output", str(output), *options, "--opts"]
        monkeypatch.setattr(sys, "argv", ["export_model.py", *command, *overrides])
        export_model.main()

    run.predictor = lambda: Predictor(tiny_config, overrides=overrides)
    return run


def test_a_model_is_exported_and_compared(exported, scenes, tmp_path, capsys):
    file = tmp_path / "model.pt"
    options = ["--images", str(scenes / "images"), "--max-images", "2", "--json"]
    exported(file, *options)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["bytes"] == file.stat().st_size
    assert report["difference"] < 1e-4
    assert report["instances"] > 0
    assert report["mask_iou"] == 1.0

    predictor = exported.predictor()
    images = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        model = predictor.model
        expected = model.predict((images - model.pixel_mean) / model.pixel_std)
    for ours, theirs in zip(expected, load_network(file, "torchscript")(images)):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
    texts = {METADATA_KEY: ""}
    torch.jit.load(str(file), _extra_files=texts)
    text = texts[METADATA_KEY]
    description = ModelDescription.from_json(text.decode() if isinstance(text, bytes) else text, "")
    assert description.class_names == tuple(predictor.metadata.thing_classes)
    assert (description.min_size, description.max_size) == (96, 128)


def test_a_file_that_differs_is_not_written(exported, tmp_path, monkeypatch):
    file = tmp_path / "model.pt"
    file.write_text("earlier")

    def wrong(*args):
        run = load_network(*args)
        return lambda images: [x + 0.1 for x in run(images)]

    monkeypatch.setattr(export_model, "load_network", wrong)
    with pytest.raises(UserError, match="differ from PyTorch's"):
        exported(file)
    assert file.read_text() == "earlier"
    assert [p.name for p in tmp_path.glob("*model*.pt")] == ["model.pt"]


def test_masks_of_the_runner_are_compared_on_synthetic_scenes(
    exported, tmp_path, monkeypatch, capsys
):
    """The slow conversion to ONNX is left out: the network of PyTorch takes the file's place."""
    spoiled = []

    def to_onnx(network, opset):
        exported.network = network

    class Network(ModelAsNetwork):
        def __call__(self, images):
            outputs = super().__call__(images)
            if spoiled:
                outputs["mask_features"] = np.roll(outputs["mask_features"], 4, axis=3)
            return outputs

    def load(file, **kwargs):
        network = exported.network
        return Network(network.model, "SOLOv2", network.description)

    for name in ("require_torch", "require_onnx"):
        monkeypatch.setattr(export_model, name, lambda: None)
    monkeypatch.setattr(export_model, "to_onnx", to_onnx)
    monkeypatch.setattr(export_model, "save_onnx", lambda model, file, metadata: file.touch())
    monkeypatch.setattr(export_model, "load_network", lambda *args: exported.network)
    monkeypatch.setattr(runner, "load_network", load)
    file = tmp_path / "model.onnx"
    exported(file)
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"final masks: mean IoU 1\.0000 over \d\d+ instances in two synthetic", last)
    file.unlink()

    spoiled.append(True)
    with pytest.raises(UserError, match="masks of the exported file have a mean IoU of"):
        exported(file)
    assert not file.exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.pt2"])
def test_pytorch_is_too_old(name, tmp_path, monkeypatch):
    command = ["export_model.py", "--config-file", "c.yaml", "--output", str(tmp_path / name)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.8.0+cpu"))
    with pytest.raises(UserError, match=r"PyTorch is 2\.8\.0\+cpu, .* need at least 2\.9;"):
        export_model.main()
    # Others come further: to the missing config.
    for version, suffix in (("2.8.0", ".pt"), ("2.9.0", ".pt2"), ("2.11.0+cu128", ".pt2")):
        monkeypatch.setattr(torch, "__version__", TorchVersion(version))
        command[-1] = str(tmp_path / f"model{suffix}")
        with pytest.raises(UserError, match=r"c\.yaml"):
            export_model.main()


def test_masks_of_a_model_that_finds_nothing_are_not_compared(monkeypatch, capsys):
    command = ["export_model.py", "--config-file", "c.yaml", "--output", "x.pt"]
    for images in ("two synthetic scenes", "the images"):
        options = ["--images", "y.jpg"] if images == "the images" else []
        monkeypatch.setattr(sys, "argv", [*command, *options])
        args = export_model.parse_args()
        export_model.report(args, Comparison(1e-6, 0, None), "float32", 2**20)
        last = capsys.readouterr().out.splitlines()[-1]
        assert f"final masks: not compared, the model finds nothing in {images};" in last


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x.txt"], "give --format"),
        (["x.pt", "--half"], "are for --format onnx"),
        (["x.onnx", "--int8"], "needs --images"),
        (["x.onnx", "--half", "--int8", "--images", "y"], "not allowed with"),
        (["x.onnx", "--opset", "18", "--deform", "deformconv"], "--opset 18 is too low"),
        (["x.onnx", "--candidates", "0"], "must be at least 1"),
        (["x.onnx", "--pixel-size", "0"], "must be positive"),
    ],
)
def test_options_are_checked(options, message, monkeypatch, capsys):
    command = ["export_model.py", "--config-file", "c.yaml", "--output", *options]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        export_model.parse_args()
    assert message in capsys.readouterr().err
