"""Configs of earlier versions, meta-architectures of users, and the predictor."""

import json

import pytest
import yaml
from detectron2.config import get_cfg
from detectron2.data import get_detection_dataset_dicts
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.events import EventStorage
from helpers import save_untrained_model, write_tiny_config

from facenet_d2 import UserError, add_facenet_config
from facenet_d2.config import RENAMED_KEYS
from facenet_d2.data import SceneMapper
from facenet_d2.engine import Predictor, load_config, read_config
from facenet_d2.engine.num_classes import num_classes_key, score_threshold_key
from facenet_d2.modeling import SOLOv2


def value_of(cfg, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


def test_renamed_keys_exist():
    cfg = get_cfg()
    add_facenet_config(cfg)
    for old, new in RENAMED_KEYS.items():
        value_of(cfg, new)
        with pytest.raises(KeyError):
            value_of(cfg, old)


def test_configs_with_keys_of_version_0_1(tiny_config, tmp_path):
    """The config.yaml of a run, written with the old names, is read as the same config."""
    cfg = load_config(tiny_config, ["MODEL.SOLOV2.SCORE_THRESH_TEST", "0.25"])
    content = yaml.safe_load(cfg.dump())
    for old, new in RENAMED_KEYS.items():
        *path, name = old.split(".")
        node = content
        for part in path:
            node = node[part]
        node[name] = node.pop(new.rpartition(".")[2])
    file = tmp_path / "recorded.yaml"
    file.write_text(yaml.safe_dump(content))
    assert "SCORE_THRESHOLD" in file.read_text()
    assert yaml.safe_load(load_config(file).dump()) == yaml.safe_load(cfg.dump())
    overridden = load_config(file, ["MODEL.SOLOV2.SCORE_THRESHOLD", "0.4"])
    assert overridden.MODEL.SOLOV2.SCORE_THRESH_TEST == 0.4


def test_overrides_of_any_type(tiny_config):
    """As in ``CfgNode.merge_from_list``, a value may be a number instead of its text."""
    values = ["SOLVER.MAX_ITER", 7, "SOLVER.BASE_LR", 0.5, "TEST.AUG.ENABLED", False]
    texts = [str(v) for v in values]
    assert load_config(tiny_config, values).dump() == load_config(tiny_config, texts).dump()
    with pytest.raises(UserError, match=r"overrides 'SOLVER\.MAX_ITERS 7'"):
        load_config(tiny_config, ["SOLVER.MAX_ITERS", 7])


def test_another_version_of_detectron2s_configs(tmp_path):
    file = tmp_path / "old.yaml"
    file.write_text("VERSION: 1\n")
    with pytest.raises(UserError, match="VERSION is 1, but must be 2"):
        read_config(file)


def test_a_config_that_is_its_own_base(tmp_path):
    file = tmp_path / "loop.yaml"
    file.write_text('_BASE_: "loop.yaml"\n')
    with pytest.raises(UserError, match=r"loop\.yaml"):
        read_config(file)


def test_proposal_files_are_rejected(tiny_config):
    with pytest.raises(UserError, match="LOAD_PROPOSALS is True"):
        load_config(tiny_config, ["MODEL.LOAD_PROPOSALS", "True"])


def test_an_unknown_meta_architecture(tiny_config):
    with pytest.raises(UserError, match=r"META_ARCHITECTURE 'Unknown' is not registered.*SOLOv2"):
        load_config(tiny_config, ["MODEL.META_ARCHITECTURE", "Unknown"])


@pytest.fixture
def own_architecture():
    class Own(SOLOv2):
        pass

    META_ARCH_REGISTRY.register(Own)
    yield "Own"
    del META_ARCH_REGISTRY._obj_map["Own"]


def test_a_subclass_under_its_own_name(tiny_config, own_architecture):
    """Subclasses use SOLOv2's config keys and mask format, and can be trained."""
    cfg = load_config(tiny_config, ["MODEL.META_ARCHITECTURE", own_architecture], train=True)
    assert num_classes_key(cfg)[0] == "MODEL.SOLOV2.NUM_CLASSES"
    assert score_threshold_key(cfg) == "MODEL.SOLOV2.SCORE_THRESH_TEST"
    assert cfg.MODEL.SOLOV2.NUM_CLASSES == 5
    record = get_detection_dataset_dicts(cfg.DATASETS.TRAIN)[0]
    sample = SceneMapper(cfg, is_train=True)(record)
    assert sample["instances"].has("gt_stride4_masks")
    with EventStorage():
        losses = build_model(cfg).train()([sample])
    assert all(value.isfinite() for value in losses.values())


def test_an_unknown_attribute_is_a_bug(tiny_config, monkeypatch):
    from facenet_d2.engine import Trainer

    monkeypatch.setattr(SOLOv2, "from_config", classmethod(lambda cls, cfg: cfg.NOT_WRITTEN_YET))
    with pytest.raises(AttributeError, match="NOT_WRITTEN_YET"):
        Trainer.build_model(load_config(tiny_config))


def test_predictor(tmp_path, scenes):
    import torch
    from detectron2.data.detection_utils import read_image
    from detectron2.engine import DefaultPredictor

    config = write_tiny_config(tmp_path, scenes)
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty"):
        Predictor(config)
    cfg = load_config(config)
    weights = tmp_path / "model.pth"
    save_untrained_model(cfg, weights)
    predictor = Predictor(config, weights)
    names = [c["name"] for c in json.loads((scenes / "annotations.json").read_text())["categories"]]
    assert predictor.metadata.thing_classes == names
    image = read_image(str(scenes / "images" / "00000.png"), format="BGR")
    instances = predictor(image)
    given = cfg.clone()
    given.defrost()
    given.MODEL.WEIGHTS = str(weights)
    expected = DefaultPredictor(given)(image)["instances"]
    assert len(instances) == len(expected) > 0
    assert instances.scores.equal(expected.scores)
    assert instances.pred_masks.rles() == expected.pred_masks.rles()
    (alone,) = predictor.predict_batch([image])
    assert alone.scores.equal(instances.scores)
    assert alone.pred_masks.rles() == instances.pred_masks.rles()
    assert predictor.predict_batch([]) == []
    images = [image, image[::-1], image[:, ::-1]]
    for single, found in zip(map(predictor, images), predictor.predict_batch(images)):
        torch.testing.assert_close(found.scores, single.scores, atol=1e-4, rtol=0)
    sizes = [found.image_size for found in predictor.predict_batch([image, image[:, :70]])]
    assert sizes == [(128, 128), (128, 70)]
