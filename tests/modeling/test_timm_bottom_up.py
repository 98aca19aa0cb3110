"""timm's models as bottom-up networks: features, frozen stages, and every neck on top."""

import json
import sys

import pytest
import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone
from helpers import write_tiny_config
from torch import nn

import train_net
from facenet_d2.engine import run_command
from facenet_d2.modeling.backbone import TimmBottomUp, build_timm_backbone

# One family each: inverted residuals, RegNet, ConvNeXt.
MODELS = ["tf_efficientnet_lite0", "regnety_002", "convnext_atto"]
NECKS = ["fpn", "sem_fpn", "face_fpn", "pafpn", "bifpn", "hrfpn", "retinanet_fpn"]


def features_of_whole_model(model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """Collect the features of a timm classifier in its own forward pass.

    The feature of a stage is the last map of its stride.
    """
    maps = {}

    def keep(_module, _inputs, output):
        if torch.is_tensor(output) and output.dim() == 4 and output.shape[-1] > 1:
            maps[x.shape[-1] // output.shape[-1]] = output

    stages = [
        m
        for name in ("blocks", "stages")
        if hasattr(model, name)
        for m in getattr(model, name).children()
    ] or [model.s1, model.s2, model.s3, model.s4]
    handles = [m.register_forward_hook(keep) for m in stages]
    model(x)
    for handle in handles:
        handle.remove()
    return [maps[stride] for stride in (4, 8, 16, 32)]


def with_statistics(model: nn.Module) -> nn.Module:
    """Set random statistics and parameters of batch normalisation."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_features_are_those_of_timm(name, freeze):
    theirs = with_statistics(timm.create_model(name)).eval()
    ours = TimmBottomUp(name, freeze_batch_norm=freeze, freeze_at=2 if freeze else 0)
    names = {k.replace(".", "_"): v for k, v in theirs.state_dict().items()}
    ours.model.load_state_dict({k: names[k.replace(".", "_")] for k in ours.model.state_dict()})
    # In training too where batch normalisation is frozen.
    ours.train(freeze)
    x = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        found = ours(x)
        expected = features_of_whole_model(theirs, x)
    assert list(found) == ["res2", "res3", "res4", "res5"]
    for (feature, value), reference in zip(found.items(), expected, strict=True):
        assert value.shape[1] == ours.output_shape()[feature].channels
        torch.testing.assert_close(value, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*MODELS, "resnet18", "mobilenetv3_small_100"])
def test_freezing_by_stages(name):
    """``freeze_at`` k freezes exactly the layers that ``res{k}`` depends on."""
    x = torch.randn(1, 3, 64, 64)
    for freeze_at in range(6):
        model = TimmBottomUp(name, freeze_at=freeze_at, freeze_batch_norm=False)
        features = model(x)
        learned = [f for f, v in features.items() if v.requires_grad]
        # The stem has no feature of its own.
        assert learned == ["res2", "res3", "res4", "res5"][max(freeze_at - 1, 0) :]
        if learned:
            sum(v.sum() for f, v in features.items() if f in learned).backward()
    trainable = [p.requires_grad for p in TimmBottomUp(name, freeze_at=0).parameters()]
    assert trainable[0]


def test_stages_that_cannot_be_frozen(model_cfg):
    assert len(TimmBottomUp("hrnet_w18_small").output_shape()) == 4
    with pytest.raises(ValueError, match=r"freeze_at is 2.*must be 0"):
        TimmBottomUp("hrnet_w18_small", freeze_at=2)
    model_cfg.MODEL.TIMM.NAME, model_cfg.MODEL.BACKBONE.FREEZE_AT = "hrnet_w18_small", 2
    with pytest.raises(ValueError, match=r"MODEL\.BACKBONE\.FREEZE_AT 2.*must be 0"):
        build_timm_backbone(model_cfg, ShapeSpec(channels=3))


def test_frozen_batch_norm_does_not_change():
    model = with_statistics(TimmBottomUp("tf_efficientnet_lite0", freeze_at=2))
    before = {n: b.clone() for n, b in model.named_buffers()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model.train()
    sum(v.mean() for v in model(torch.randn(2, 3, 64, 64)).values()).backward()
    optimizer.step()
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, before[name], rtol=0, atol=0)
    assert not any(
        p.requires_grad
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
        for p in m.parameters()
    )


def test_batch_norm_of_frozen_stages_alone():
    model = TimmBottomUp("resnet18", freeze_at=2, freeze_batch_norm=False).train()
    frozen = {n for n, m in model.model.named_modules() if not m.training}
    assert {n.split(".")[0] for n in frozen} == {"bn1", "layer1"}


def test_nhwc_features_are_turned():
    """Swin's stages return their maps with the channels last."""
    model = TimmBottomUp("swin_tiny_patch4_window7_224", model_arguments={"img_size": 64})
    for feature, value in model(torch.randn(1, 3, 64, 64)).items():
        spec = model.output_shape()[feature]
        assert value.shape == (1, spec.channels, 64 // spec.stride, 64 // spec.stride)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnet_lite99", "efficientnet_lite99 is not a model of timm"),
        ("vit_tiny_patch16_224", r"it must have some at \[4, 8, 16, 32\]"),
    ],
)
def test_unsuitable_models_are_named(name, message, model_cfg):
    model_cfg.MODEL.TIMM.NAME = name
    with pytest.raises(ValueError, match=message):
        build_timm_backbone(model_cfg, ShapeSpec(channels=3))


@pytest.mark.parametrize("name", ["build_vgg_backbone", "build_fpn_backbone"])
def test_unsuitable_bottom_up_is_named(name, model_cfg):
    model_cfg.MODEL.BOTTOM_UP.NAME = name
    with pytest.raises(ValueError, match=rf"MODEL\.BOTTOM_UP\.NAME is '{name}'"):
        build_backbone(model_cfg)


@pytest.mark.parametrize("neck", NECKS)
def test_every_neck_takes_every_bottom_up(neck, model_cfg):
    model_cfg.MODEL.BACKBONE.NAME = f"build_{neck}_backbone"
    if neck == "retinanet_fpn":
        model_cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    outputs = {}
    for bottom_up in ("build_resnet_backbone", "build_timm_backbone"):
        model_cfg.MODEL.BOTTOM_UP.NAME = bottom_up
        backbone = build_backbone(model_cfg)
        assert isinstance(backbone.bottom_up, TimmBottomUp) == (bottom_up == "build_timm_backbone")
        with torch.no_grad():
            out = backbone(torch.zeros(1, 3, 64, 96))
        assert {k: v.channels for k, v in backbone.output_shape().items()} == {
            k: v.shape[1] for k, v in out.items()
        }
        outputs[bottom_up] = {k: v.shape for k, v in out.items()}
    assert outputs["build_resnet_backbone"] == outputs["build_timm_backbone"]


def test_names_with_resnet_stay(model_cfg):
    model_cfg.MODEL.BOTTOM_UP.NAME = "build_timm_backbone"
    for neck in ("sem_fpn", "face_fpn", "pafpn", "bifpn", "hrfpn"):
        builder = BACKBONE_REGISTRY.get(f"build_resnet_{neck}_backbone")
        backbone = builder(model_cfg, ShapeSpec(channels=3))
        assert not isinstance(backbone.bottom_up, TimmBottomUp)


@pytest.mark.parametrize("neck", ["fpn", "face_fpn"])
@pytest.mark.parametrize("name", MODELS)
def test_a_step_and_an_evaluation(name, neck, tmp_path, scenes, monkeypatch, capsys):
    config = write_tiny_config(tmp_path, scenes, base="Base-SOLOv2.yaml")
    overrides = [
        *("MODEL.BACKBONE.NAME", f"build_{neck}_backbone"),
        *("MODEL.BOTTOM_UP.NAME", "build_timm_backbone", "MODEL.TIMM.NAME", name),
        *("SOLVER.MAX_ITER", "1"),
    ]
    for key in ("SCORE_THRESH_TEST", "NMS_SCORE_THRESH_TEST", "MASK_THRESH_TEST"):
        overrides += [f"MODEL.SOLOV2.{key}", "0.000001"]
    arguments = ["train_net.py", "--config-file", str(config), "--json", *overrides]
    monkeypatch.setattr(sys, "argv", arguments)
    assert run_command(train_net.run) == 0
    results = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 <= results["segm"]["AP"] <= 100
    (found,) = tmp_path.rglob("coco_instances_results.json")
    assert json.loads(found.read_text())
