"""Every committed config describes a model that can be built, of the size the paper gives."""

import re

import pytest
from conftest import REPOSITORY
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from torch import nn

from facenet_d2 import add_facenet_config
from facenet_d2.data.datasets import resolve_num_classes
from facenet_d2.modeling import FACEFPN, SOLO, SOLOv2
from facenet_d2.modeling.backbone import HRFPN, PAFPN, BiFPN
from facenet_d2.modeling.layers import ModulatedDeformConv2d, SemanticEnhancementModule

CONFIGS = sorted(
    p.relative_to(REPOSITORY).as_posix()
    for p in (REPOSITORY / "configs").rglob("*.yaml")
    if not p.name.startswith("Base-")
)

# Training images with objects: section 4.2 of the paper; 70 % of 650 for NWPU VHR-10.
IMAGES = {"NWPU-VHR10": 455, "iSAID": 18100, "HRSID": 3642}

PARTS = {"face_fpn": FACEFPN, "sem": SemanticEnhancementModule, "dcn": ModulatedDeformConv2d}
RIVALS = {"pafpn": PAFPN, "bifpn": BiFPN, "hrfpn": HRFPN}


def read(config: str) -> CfgNode:
    cfg = get_cfg()
    add_facenet_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / config), allow_unsafe=False)
    cfg.MODEL.DEVICE = "cpu"
    return cfg


@pytest.mark.parametrize("config", CONFIGS)
def test_config_builds_what_its_name_says(config):
    cfg = read(config)
    name = config.rsplit("/", 1)[1]
    depth = int(re.search(r"_R_(\d+)_", name).group(1))
    assert depth == cfg.MODEL.RESNETS.DEPTH
    assert name.removesuffix(".yaml") in cfg.OUTPUT_DIR
    assert ("NWPU" in config) == cfg.INPUT.RAND_AUGMENT.ENABLED
    epochs = re.search(r"_(\d+)ep", name)
    if epochs:
        steps = int(epochs.group(1)) * IMAGES[config.split("/")[1]] // cfg.SOLVER.IMS_PER_BATCH
        assert pytest.approx(steps, rel=0.01) == cfg.SOLVER.MAX_ITER
        # The protocol of MODEL_ZOO.md is of the project's own making, and so is its learning rate.
        faster = 2 if "_256_" in name else 1
        assert pytest.approx(faster * 0.0025 * cfg.SOLVER.IMS_PER_BATCH / 2) == cfg.SOLVER.BASE_LR
        assert all(s < cfg.SOLVER.MAX_ITER for s in cfg.SOLVER.STEPS)
    resolve_num_classes_without_data(cfg)
    model = build_model(cfg)
    kinds = {type(m) for m in model.modules()}
    for part, kind in PARTS.items():
        assert (kind in kinds) == (name.startswith("facenet") or f"_{part}_" in name), part
    for rival, kind in RIVALS.items():
        assert (kind in kinds) == (f"_{rival}_" in name)
    assert type(model) is (SOLO if name.startswith("solo_") else SOLOv2)
    scratch = "scratch" in name or "synthetic" in config
    assert (cfg.MODEL.WEIGHTS == "") == scratch
    if scratch:
        assert all(p.requires_grad for p in model.parameters())
        assert nn.GroupNorm in {type(m) for m in model.backbone.bottom_up.modules()}


def resolve_num_classes_without_data(cfg):
    # The built-in sets' class names are known without their files.
    resolve_num_classes(cfg)
    assert len(cfg.DATASETS.CLASS_NAMES) == cfg.MODEL.SOLOV2.NUM_CLASSES


def parameters(model) -> int:
    """As the paper's framework counts them: frozen batch normalisation included."""
    frozen = sum(
        b.numel() for n, b in model.named_buffers() if n.endswith(("norm.weight", "norm.bias"))
    )
    return frozen + sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("config", "millions", "tolerance"),
    [("solov2_R_101_36ep", 65.84, 0.01), ("facenet_R_101_36ep", 93.28, 0.02)],
)
def test_parameters_of_table_2(config, millions, tolerance):
    cfg = read(f"configs/NWPU-VHR10/{config}.yaml")
    cfg.MODEL.SOLOV2.NUM_CLASSES = 15
    assert parameters(build_model(cfg)) / 1e6 == pytest.approx(millions, rel=tolerance)
