"""Every implemented row of the paper's tables can be trained and evaluated by train_net.py.

The tests use synthetic scenes and the committed config of the row with small sizes.
"""

import json
import sys

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY, write_tiny_config

import train_net
from facenet_d2.data import SceneMapper
from facenet_d2.engine import Trainer, load_config, run_command
from facenet_d2.experiments.paper import TABLES
from facenet_d2.synthetic.dataset import write_dataset

CONFIGS = REPOSITORY / "configs"


def committed(dataset: str, model: str):
    """Find the committed config of a model on a data set."""
    (file,) = (
        p
        for name in (model, f"solov2_{model}")
        for p in (CONFIGS / dataset).rglob(f"{name}_R_101_36ep.yaml")
    )
    return file


# One config per model, from the first table that contains it.
ROWS = {
    row.model: committed(table.dataset, row.model)
    for table in reversed(TABLES.values())
    for row in table.rows
}
# Not in the tables.
EXTRA = ("condinst", "mask2former", "panet", "refinemask")
ROWS |= {model: committed("iSAID", model) for model in EXTRA}


def test_every_row_has_a_committed_config():
    for number, table in TABLES.items():
        assert number in range(2, 9)
        assert table.row(table.baseline).model == "solov2"
        for row in table.rows:
            assert row.config.is_file()
            # It equals the row's model file merged into the data set's protocol.
            file = committed(table.dataset, row.model)
            expected = CfgNode.load_yaml_with_base(str(committed(table.dataset, "solov2")))
            model = CfgNode.load_yaml_with_base(str(row.config))
            merge(expected, model)
            actual = CfgNode.load_yaml_with_base(str(file))
            assert file.stem in actual.pop("OUTPUT_DIR")
            expected.pop("OUTPUT_DIR")
            assert actual == expected


def merge(base: dict, other: dict) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


@pytest.fixture(scope="module")
def two_scenes(tmp_path_factory):
    """Return the folder of a batch of scenes; evaluating more would take most of the time."""
    folder = tmp_path_factory.mktemp("two") / "scenes"
    write_dataset(folder, num_scenes=2, seed=11, size=128)
    return folder


@pytest.mark.parametrize("model", ROWS)
def test_a_step_and_an_evaluation(model, tmp_path, two_scenes, monkeypatch, capsys):
    if model == "point_rend":
        pytest.importorskip("detectron2.projects.point_rend")
    config = write_tiny_config(tmp_path, two_scenes, base=str(ROWS[model]))
    overrides = ["SOLVER.MAX_ITER", "1", "TEST.DETECTIONS_PER_IMAGE", "10"]
    # After one step, scores are close to their prior; low thresholds keep some instances.
    for key in ("SCORE_THRESH_TEST", "NMS_SCORE_THRESH_TEST", "MASK_THRESH_TEST"):
        overrides += [f"MODEL.SOLOV2.{key}", "0.000001"]
    overrides += ["MODEL.RDSNET.SCORE_THRESH_TEST", "0.001"]
    if model == "point_rend":
        # The slow part: two subdivisions instead of five.
        overrides += ["MODEL.POINT_HEAD.SUBDIVISION_STEPS", "2"]
    monkeypatch.setattr(
        sys, "argv", ["train_net.py", "--config-file", str(config), "--json", *overrides]
    )
    assert run_command(train_net.run) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    for task in ("segm", "bbox"):
        assert 0 <= results[task]["AP"] <= 100
    found = [json.loads(f.read_text()) for f in tmp_path.rglob("coco_instances_results.json")]
    assert len(found) == 1
    assert found[0]
    assert {tuple(f["segmentation"]["size"]) for f in found[0]} == {(128, 128)}
    lines = [json.loads(line) for line in (tmp_path / "output" / "metrics.json").open()]
    (step,) = (line for line in lines if "total_loss" in line)
    assert 0 < step["total_loss"] < 100


@pytest.mark.parametrize("model", ROWS)
def test_a_batch_with_and_without_objects(model, tmp_path, scenes):
    """Augmentation may remove all objects; losses are finite and every parameter has a gradient."""
    if model == "point_rend":
        pytest.importorskip("detectron2.projects.point_rend")
    cfg = load_config(write_tiny_config(tmp_path, scenes, base=str(ROWS[model])), train=True)
    network = Trainer.build_model(cfg).train()
    (record, *_) = get_detection_dataset_dicts(cfg.DATASETS.TRAIN)
    for objects in (True, False):
        annotations = record["annotations"] if objects else []
        image = SceneMapper(cfg, is_train=True)({**record, "annotations": annotations})
        assert bool(len(image["instances"])) == objects
        network.zero_grad()
        with EventStorage():
            losses = network([image, image])
        total = sum(losses.values())
        assert torch.isfinite(total)
        total.backward()
        parameters = dict(network.named_parameters())
        assert not [n for n, p in parameters.items() if p.requires_grad and p.grad is None]


def test_point_rend_is_not_installed(tmp_path, scenes, monkeypatch, capsys):
    # None in sys.modules makes an import fail.
    monkeypatch.setitem(sys.modules, "detectron2.projects.point_rend", None)
    config = write_tiny_config(tmp_path, scenes, base="iSAID/point_rend_R_101_36ep.yaml")
    monkeypatch.setattr(sys, "argv", ["train_net.py", "--config-file", str(config)])
    assert run_command(train_net.run) == 2
    error = capsys.readouterr().err
    assert "PointRend" in error
    assert "detectron2.projects.point_rend" in error
    assert len(error.splitlines()) == 1
