"""Models by name: the door like Detectron2's model_zoo, and what Predictor accepts."""

import shutil

import numpy as np
import PIL.Image
import pytest
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from helpers import REPOSITORY, save_untrained_model, write_tiny_config
from safetensors.torch import load_file, save_file

from facenet_d2 import Predictor, UserError, model_zoo, zoo_files
from facenet_d2.data.images import ImageError, convert_image, read_image
from facenet_d2.engine import load_config, read_config
from facenet_d2.engine.model_files import find_config, find_model
from facenet_d2.engine.num_classes import model_node
from facenet_d2.modeling import SOLOv2

CONFIGS = REPOSITORY / "configs"
# The only config of its name.
LITE = "NWPU-VHR10/facenet_lite0_320_9ep"


@pytest.mark.parametrize(
    "name",
    [
        *(LITE, f"{LITE}.yaml", f"configs/{LITE}.yaml"),
        *("facenet_lite0_320_9ep", "facenet_lite0_320_9ep.yaml"),
    ],
)
def test_names_of_a_config(name, monkeypatch, tmp_path):
    # Not in the checkout, where the last one of the first line is a file.
    monkeypatch.chdir(tmp_path)
    assert model_zoo.get_config_file(name) == str(CONFIGS / f"{LITE}.yaml")
    assert find_config(name) == CONFIGS / f"{LITE}.yaml"


def test_parts_of_configs_have_names():
    for name in ("Base-FACENet", "models/facenet.yaml"):
        assert model_zoo.get_config_file(name).startswith(str(CONFIGS / name))
    assert not {"Base-FACENet", "models/facenet"} & set(model_zoo.config_names())
    assert LITE in model_zoo.config_names()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("facenet_R_50_36ep", "HRSID/facenet_R_50_36ep, NWPU.*; add the folder"),
        ("NWPU-VHR10/facenet_lite0_320_9epochs", f"not in the model zoo; similar names: {LITE}"),
        ("../setup", "not in the model zoo"),
        (str(CONFIGS / LITE), "not in the model zoo"),
        ("", "not in the model zoo"),
    ],
)
def test_unknown_names(name, message):
    # Detectron2's functions raise a RuntimeError.
    for error in (RuntimeError, UserError):
        with pytest.raises(error, match=message):
            model_zoo.get_config_file(name)
    with pytest.raises(RuntimeError, match="trained model"):
        model_zoo.get_checkpoint_url(name or "none")


def test_config_of_an_untrained_model():
    """The classes are known without the data; all else is as in the file."""
    cfg = model_zoo.get_config(LITE)
    assert isinstance(cfg, CfgNode)
    assert not cfg.is_frozen()
    assert cfg.MODEL.SOLOV2.NUM_CLASSES == len(cfg.DATASETS.CLASS_NAMES) == 10
    expected = read_config(CONFIGS / f"{LITE}.yaml")
    assert cfg.MODEL.WEIGHTS == expected.MODEL.WEIGHTS
    assert cfg.SOLVER == expected.SOLVER


def test_an_untrained_model():
    model = model_zoo.get("NWPU-VHR10/solov2_R_18_256_scratch_GN_8ep.yaml", device="cpu")
    assert isinstance(model, SOLOv2)
    assert model.training
    assert model.device.type == "cpu"


def test_a_base_by_name(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text(f'_BASE_: "zoo://{LITE}"\nSEED: 5\n')
    expected = read_config(CONFIGS / f"{LITE}.yaml", ["SEED", "5"])
    assert read_config(file) == expected
    file.write_text('_BASE_: "zoo://facenet_R_50_36ep"\n')
    with pytest.raises(UserError, match="add the folder"):
        read_config(file)


@pytest.fixture(scope="module")
def run(tmp_path_factory, scenes):
    """The folder of a training run with two checkpoints, the best of which has other weights."""
    folder = tmp_path_factory.mktemp("run")
    config = write_tiny_config(folder, scenes, base="Base-SOLOv2.yaml", output=".")
    cfg = load_config(config)
    config.write_text(cfg.dump())
    (folder / "last_checkpoint").write_text("model_0000001.pth")
    save_untrained_model(cfg, folder / "model_best.pth")
    state = torch.load(folder / "model_best.pth", weights_only=True)["model"]
    state["instance_head.category_pred.bias"] -= 0.5
    torch.save({"model": state}, folder / "model_0000001.pth")
    return folder


@pytest.fixture
def zoo(run, tmp_path, monkeypatch):
    """A model zoo with the best weights, as models with and without a folder."""
    state = torch.load(run / "model_best.pth", weights_only=True)["model"]
    metadata = {"config": (run / "config.yaml").read_text()}
    for name in ("facenet_lite0_320_9ep", "own", "iSAID/twice", "HRSID/twice"):
        file = tmp_path / f"{name}.safetensors"
        file.parent.mkdir(exist_ok=True)
        save_file(state, file, metadata)
    save_file(state, tmp_path / "plain.safetensors")
    save_file(state, tmp_path / "tagged.safetensors", {"config": "A: !!python/name:os.system"})
    save_file(state, tmp_path / "long.safetensors", {"config": f"A: {'a' * 600_000}"})
    (tmp_path / "damaged.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    monkeypatch.setattr(zoo_files, "WEIGHTS", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def image(scenes):
    return scenes / "images" / "00000.png"


def test_all_sources_of_a_model(run, zoo, image):
    """Folder, checkpoint, config with weights, and the model zoo give the same instances."""
    expected = Predictor(run / "config.yaml", run / "model_best.pth")(image)
    assert len(expected) > 0
    for source in (
        run,
        str(run),
        run / "model_best.pth",
        *("own", "zoo://own", zoo / "own.safetensors"),
        *(LITE, f"{LITE}.yaml", "facenet_lite0_320_9ep"),
        "HRSID/twice",
    ):
        found = Predictor(source)(image)
        assert found.scores.equal(expected.scores), source
        assert found.pred_masks.rles() == expected.pred_masks.rles()


def test_weights_in_place_of_a_models_own(run, zoo, image):
    other = run / "model_0000001.pth"
    expected = Predictor(run / "config.yaml", other)(image)
    assert not expected.scores.equal(Predictor(run)(image).scores)
    for predictor in (
        Predictor(other),
        Predictor(run, other),
        Predictor("own", overrides=["MODEL.WEIGHTS", str(other)]),
        Predictor(run / "model_best.pth", other),
    ):
        assert predictor(image).scores.equal(expected.scores)


def test_the_last_checkpoint_without_a_best_one(run, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(run, folder)
    (folder / "model_best.pth").unlink()
    assert find_model(folder).weights == folder / "model_0000001.pth"
    (folder / "last_checkpoint").unlink()
    with pytest.raises(UserError, match=r"contains no checkpoint"):
        find_model(folder)
    (folder / "model_0000001.pth").rename(folder / "model_final.pth")
    assert find_model(folder).weights == folder / "model_final.pth"
    (folder / "config.yaml").unlink()
    for source in (folder, folder / "model_final.pth"):
        with pytest.raises(UserError, match=r"contains no config\.yaml"):
            find_model(source)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("none.yaml", r"config file none\.yaml does not exist .* not in the model zoo"),
        ("NWPU-VHR10/solov2_lite0_320_9ep", r"checkpoint of your own in MODEL\.WEIGHTS"),
        ("twice", "HRSID/twice, iSAID/twice; add the folder"),
        ("plain", "contain no config"),
        ("facenet.onnx", r"runtime\.OnnxPredictor"),
        ("damaged", "cannot be read"),
        ("tagged", "not plain YAML"),
        ("long", "at most 500000 are read"),
    ],
)
def test_sources_without_a_model(source, message, zoo):
    with pytest.raises(UserError, match=message):
        Predictor(source)


def test_a_trained_model(zoo, run):
    cfg = model_zoo.get_config(f"{LITE}.yaml", trained=True)
    assert cfg.MODEL.WEIGHTS == "zoo://facenet_lite0_320_9ep"
    # The config in the weights, not that of the name.
    assert cfg.DATASETS.CLASS_NAMES == load_config(run / "config.yaml").DATASETS.CLASS_NAMES
    model = model_zoo.get(LITE, trained=True, device="cpu")
    assert model.training
    stored = load_file(zoo / "own.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    names = model_zoo.trained_names()
    assert names == sorted(names)
    assert {"HRSID/twice", "facenet_lite0_320_9ep", "own"} < set(names)


@pytest.mark.parametrize("name", zoo_files.trained_names())
def test_the_model_zoo_has_models_of_its_configs(name):
    """The config in the weights is the committed one, without the paths of the run."""
    trained, committed = model_zoo.get_config(name, trained=True), model_zoo.get_config(name)
    trained.MODEL.WEIGHTS = committed.MODEL.WEIGHTS
    assert trained.INPUT == committed.INPUT
    # Stored configs have lists in place of tuples.
    stored, expected = (yaml.safe_load(cfg.MODEL.dump()) for cfg in (trained, committed))
    if name.endswith("/facenet_lite0_window_384_36ep"):
        # These weights are older than this loss: their config lacks the key.
        stored["SOLOV2"]["WINDOW_LOSS_WEIGHT"] = 0.0
    others = {getattr(model, "CONFIG_NODE", "") for _, model in META_ARCH_REGISTRY}
    for node in expected.keys() - others | {model_node(trained)}:
        assert stored[node] == expected[node], node
    assert trained.DATASETS.COCO == []
    assert f"output/{name}" == trained.OUTPUT_DIR


def test_images_of_pillow(run, image, tmp_path):
    predictor = Predictor(run)
    assert predictor(PIL.Image.open(image)).scores.equal(predictor(image).scores)
    with pytest.raises(ImageError, match="mode F cannot be used"):
        predictor(PIL.Image.new("F", (8, 8)))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_pillows_images_are_converted_as_files_are(mode, orientation, tmp_path):
    rng = np.random.default_rng(0)
    pixels = PIL.Image.fromarray(rng.integers(0, 256, (7, 5, 4), np.uint8)).convert(mode)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    pixels.save(file, exif=exif)
    with PIL.Image.open(file) as opened:
        np.testing.assert_array_equal(convert_image(opened), read_image(file))
    expected_shape = (7, 5, 3) if orientation == 1 else (5, 7, 3)
    assert read_image(file).shape == expected_shape
    converted = convert_image(pixels)
    assert converted.shape == (7, 5, 3)
    if mode == "RGB":
        np.testing.assert_array_equal(converted, np.asarray(pixels)[:, :, ::-1])
