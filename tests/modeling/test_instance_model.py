"""Base class of the meta-architectures: config nodes, and gradients of unused levels."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from test_yolact import scene

from facenet_d2.modeling import InstanceModel


@pytest.mark.parametrize(
    "name", ["SOLO", "SOLOv2", "YOLACT", "CondInst", "RDSNet", "QueryInst", "Mask2Former"]
)
def test_nodes_of_the_config(name, model_cfg):
    model = META_ARCH_REGISTRY.get(name)
    assert issubclass(model, InstanceModel)
    assert "NUM_CLASSES" in model_cfg.MODEL[model.CONFIG_NODE]


@pytest.fixture
def model(model_cfg):
    """A YOLACT that does not use p2."""
    model_cfg.merge_from_file(str(REPOSITORY / "configs" / "models" / "yolact.yaml"))
    levels = ["res2", "res3", "res4", "res5"]
    model_cfg.MODEL.RESNETS.OUT_FEATURES = levels
    model_cfg.MODEL.FPN.IN_FEATURES = levels
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    model_cfg.MODEL.YOLACT.IN_FEATURES = ["p3", "p4", "p5", "p6"]
    model_cfg.MODEL.YOLACT.NUM_CLASSES = 3
    model_cfg.MODEL.YOLACT.CONV_CHANNELS = 16
    return build_model(model_cfg).train()


def test_an_unused_level_has_a_zero_gradient_with_one_process_too(model):
    with EventStorage():
        losses = model([{"image": torch.rand(3, 128, 160) * 255, "instances": scene()}])
    sum(losses.values()).backward()
    unused = [
        p for n, p in model.backbone.named_parameters() if n.startswith(("fpn_lateral2", "fpn_out"))
    ]
    assert all(p.grad is not None for p in model.parameters())
    assert not any(p.grad.any() for p in model.backbone.fpn_output2.parameters())
    assert len(unused) > 2


def test_an_unused_level_does_not_change_the_losses(model):
    batch = [{"image": torch.rand(3, 128, 160) * 255, "instances": scene()}]
    with EventStorage(), torch.no_grad():
        before = model(batch)
        for p in model.backbone.fpn_output2.parameters():
            p.fill_(torch.inf)
        after = model(batch)
    for name, value in before.items():
        assert torch.equal(after[name], value)
