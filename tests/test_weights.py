"""torchvision's weights through ``MODEL.WEIGHTS`` compute what torchvision computes."""

import pytest
import torch
import torchvision
from conftest import REPOSITORY
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from facenet_d2 import UserError, add_facenet_config
from facenet_d2.engine.checkpointer import ModelCheckpointer, load_checkpoint


@pytest.mark.parametrize("depth", [18, 50])
def test_backbone_gives_torchvisions_features(depth, tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    theirs = torchvision.models.get_model(f"resnet{depth}", weights=None).eval()
    for name, value in theirs.state_dict().items():
        if "running_mean" in name or name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.1)
        elif "running_var" in name:
            torch.nn.init.uniform_(value, 0.5, 2.0)
    weights = torchvision.models.get_weight(f"ResNet{depth}_Weights.IMAGENET1K_V1")
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: theirs.state_dict())

    cfg = get_cfg()
    add_facenet_config(cfg)
    cfg.merge_from_file(str(REPOSITORY / "configs/NWPU-VHR10/facenet_R_18_36ep.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64 if depth == 18 else 256
    cfg.MODEL.WEIGHTS = f"torchvision://{weights}"
    backbone = build_backbone(cfg).eval()
    load_checkpoint(ModelCheckpointer(backbone), cfg)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        ours = backbone.bottom_up(x)
        y = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
        for i in range(1, 5):
            y = getattr(theirs, f"layer{i}")(y)
            torch.testing.assert_close(ours[f"res{i + 1}"], y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["ResNet19_Weights.DEFAULT", "VGG16_Weights.DEFAULT", "resnet18"])
def test_unknown_weights_give_one_sentence(name, model_cfg):
    model_cfg.MODEL.WEIGHTS = f"torchvision://{name}"
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=rf"torchvision://{name} cannot be loaded"):
        load_checkpoint(ModelCheckpointer(model), model_cfg)
