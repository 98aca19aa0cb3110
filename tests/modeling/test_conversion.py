"""Converted SOLOv2 checkpoints predict the same instances as the published networks.

The checkpoints are random. The published networks are computed from them by functions, with the
parameter names of each code base.
"""

import io
import pickle
import sys

import convert_weights
import pytest
import torch
import torch.nn.functional as F
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model
from helpers import REPOSITORY
from oracles import detect_by_loops

from facenet_d2 import UserError
from facenet_d2.conversion import (
    fit,
    publisher_of,
    read_state,
    rename,
)
from facenet_d2.engine import read_config, run_command
from facenet_d2.unpickling import LenientUnpickler, Placeholder

GRIDS = (8, 7, 6, 5, 4)
CLASSES, WIDTH, KERNEL, CONVS = 3, 32, 32, 2

# Parameter names; pairs are a convolution and its normalisation.
NAMES = {
    "AdelaiDet": {
        "tower": lambda kind, i: (
            f"ins_head.{ {'category': 'cate', 'kernel': 'kernel'}[kind] }_tower.{3 * i}",
            f"ins_head.{ {'category': 'cate', 'kernel': 'kernel'}[kind] }_tower.{3 * i + 1}",
        ),
        "category": "ins_head.cate_pred",
        "kernel": "ins_head.kernel_pred",
        "level": lambda level, i: (
            f"mask_head.convs_all_levels.{level}.conv{i}.0",
            f"mask_head.convs_all_levels.{level}.conv{i}.1",
        ),
        "predict": ("mask_head.conv_pred.0", "mask_head.conv_pred.1"),
        "lateral": lambda i: f"backbone.fpn_lateral{i}",
        "output": lambda i: f"backbone.fpn_output{i}",
    },
    "WXinlong/SOLO": {
        "tower": lambda kind, i: tuple(
            f"bbox_head.{ {'category': 'cate', 'kernel': 'kernel'}[kind] }_convs.{i}.{part}"
            for part in ("conv", "gn")
        ),
        "category": "bbox_head.solo_cate",
        "kernel": "bbox_head.solo_kernel",
        "level": lambda level, i: tuple(
            f"mask_feat_head.convs_all_levels.{level}.conv{i}.{part}" for part in ("conv", "gn")
        ),
        "predict": ("mask_feat_head.conv_pred.0.conv", "mask_feat_head.conv_pred.0.gn"),
        "lateral": lambda i: f"neck.lateral_convs.{i - 2}.conv",
        "output": lambda i: f"neck.fpn_convs.{i - 2}.conv",
    },
    "MMDetection": {
        "tower": lambda kind, i: tuple(
            f"mask_head.{ {'category': 'cls', 'kernel': 'kernel'}[kind] }_convs.{i}.{part}"
            for part in ("conv", "gn")
        ),
        "category": "mask_head.conv_cls",
        "kernel": "mask_head.conv_kernel",
        "level": lambda level, i: tuple(
            f"mask_head.mask_feature_head.convs_all_levels.{level}.conv{i}.{part}"
            for part in ("conv", "gn")
        ),
        "predict": (
            "mask_head.mask_feature_head.conv_pred.conv",
            "mask_head.mask_feature_head.conv_pred.gn",
        ),
        "lateral": lambda i: f"neck.lateral_convs.{i - 2}.conv",
        "output": lambda i: f"neck.fpn_convs.{i - 2}.conv",
    },
}


@pytest.fixture(params=[*NAMES])
def published(request, model_cfg):
    """Return the name of a code base, a random state, and the network that computes B2 to B5."""
    names = NAMES[request.param]
    state = {}

    def conv(name, inputs, outputs, size, *, bias):
        fan_in = inputs * size * size
        state[f"{name}.weight"] = torch.randn(outputs, inputs, size, size) * (2 / fan_in) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(outputs) * 0.1

    def conv_gn(pair, inputs, outputs, size):
        conv(pair[0], inputs, outputs, size, bias=False)
        state[f"{pair[1]}.weight"] = torch.rand(outputs) + 0.5
        state[f"{pair[1]}.bias"] = torch.randn(outputs) * 0.1

    for i, channels in zip(range(2, 6), (64, 128, 256, 512)):
        conv(names["lateral"](i), channels, WIDTH, 1, bias=True)
        conv(names["output"](i), WIDTH, WIDTH, 3, bias=True)
    for kind, first in (("category", WIDTH), ("kernel", WIDTH + 2)):
        for i in range(CONVS):
            conv_gn(names["tower"](kind, i), WIDTH if i else first, WIDTH, 3)
        conv(names[kind], WIDTH, CLASSES if kind == "category" else KERNEL, 3, bias=True)
    for level in range(4):
        for i in range(max(level, 1)):
            first = WIDTH + 2 if level == 3 else WIDTH
            conv_gn(names["level"](level, i), WIDTH if i else first, WIDTH, 3)
    conv_gn(names["predict"], WIDTH, KERNEL, 1)

    if request.param == "AdelaiDet":
        model_cfg.MODEL.RESNETS.NORM = "FrozenBN"
        bottom_up = build_backbone(model_cfg).bottom_up.eval()
        state |= {f"backbone.bottom_up.{k}": v for k, v in bottom_up.state_dict().items()}

        def features(x):
            return list(bottom_up(x).values())
    else:
        resnet = torchvision.models.resnet18(weights=None).eval()
        without_classifier = {k: v for k, v in resnet.state_dict().items() if k[:3] != "fc."}
        state |= {f"backbone.{k}": v for k, v in without_classifier.items()}

        def features(x):
            x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
            maps = []
            for i in range(1, 5):
                x = getattr(resnet, f"layer{i}")(x)
                maps.append(x)
            return maps

    return request.param, state, features


def coordinates(x):
    n, _, h, w = x.shape
    ys, xs = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    return torch.stack([xs, ys]).expand(n, 2, h, w)


def resize(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def published_network(name, state, features, image):
    """Compute scores and kernels of all cells and mask features as the published networks do."""
    names = NAMES[name]

    def conv(x, key):
        weight = state[f"{key}.weight"]
        return F.conv2d(x, weight, state.get(f"{key}.bias"), padding=weight.shape[-1] // 2)

    def conv_gn(x, pair):
        x = conv(x, pair[0])
        return F.group_norm(x, 32, state[f"{pair[1]}.weight"], state[f"{pair[1]}.bias"]).relu()

    maps = features(image)
    previous, pyramid = None, []
    for i in (5, 4, 3, 2):
        x = conv(maps[i - 2], names["lateral"](i))
        if previous is not None:
            x = x + F.interpolate(previous, scale_factor=2, mode="nearest")
        previous = x
        pyramid.insert(0, conv(x, names["output"](i)))
    p2, p3, p4, p5 = pyramid
    p6 = p5[..., ::2, ::2]
    half = F.interpolate(p2, scale_factor=0.5, mode="bilinear", align_corners=False)
    scores, kernels = [], []
    for x, s in zip([half, p3, p4, p5, resize(p6, p5.shape[-2:])], GRIDS, strict=True):
        kernel = resize(torch.cat([x, coordinates(x)], dim=1), (s, s))
        category = kernel[:, :-2]
        for i in range(CONVS):
            kernel = conv_gn(kernel, names["tower"]("kernel", i))
            category = conv_gn(category, names["tower"]("category", i))
        kernels.append(conv(kernel, names["kernel"])[0].flatten(1).T)
        score = conv(category, names["category"]).sigmoid()
        peak = F.max_pool2d(score, 2, stride=1, padding=1)[..., :-1, :-1]
        scores.append((score * (peak == score))[0].flatten(1).T)
    total = conv_gn(p2, names["level"](0, 0))
    for level, x in ((1, p3), (2, p4), (3, torch.cat([p5, coordinates(p5)], dim=1))):
        for i in range(level):
            x = conv_gn(x, names["level"](level, i))
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + x
    return torch.cat(scores), torch.cat(kernels), conv_gn(total, names["predict"])[0]


def settle(cfg):
    """Set the shapes of the published network, and thresholds that random logits exceed."""
    cfg.MODEL.RESNETS.NORM = "FrozenBN"
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    solo = cfg.MODEL.SOLOV2
    solo.NUM_GRIDS = list(GRIDS)
    solo.SCORE_THRESH_TEST = 0.75
    solo.MIN_MASK_AREAS = [8] * 5
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [0.0] * 3, [1.0] * 3
    return cfg


def test_the_same_instances(published, model_cfg):
    name, state, features = published
    assert publisher_of(state).name == name
    model = build_model(settle(model_cfg)).eval()
    conversion = fit(rename(state, publisher_of(state)), model)
    assert not conversion.left_out
    assert not conversion.at_random
    model.load_state_dict(conversion.state)
    image = torch.randn(3, 128, 160)
    with torch.no_grad():
        (found,) = model([{"image": image, "height": 128, "width": 160}])
        scores, kernels, masks = published_network(name, state, features, image[None])
    areas = torch.full((sum(s * s for s in GRIDS),), 8)
    sizes = ((128, 160), (128, 160))
    expected = detect_by_loops(scores, kernels, masks, areas, model.settings, *sizes)
    expected = [e for e in expected if e[2].any()]
    found = found["instances"]
    assert len(found) == len(expected) > 5
    assert found.pred_classes.tolist() == [int(e[0]) for e in expected]
    torch.testing.assert_close(
        found.scores, torch.tensor([e[1] for e in expected]), rtol=1e-4, atol=1e-5
    )
    for mask, (_, _, reference) in zip(found.pred_masks, expected, strict=True):
        assert (mask != reference).float().mean() < 1e-3


def test_command(published, model_cfg, tmp_path, monkeypatch, capsys):
    """The checkpoint has three classes instead of five, and objects of an unknown library."""
    name, state, _ = published
    file, converted = tmp_path / "published.pth", tmp_path / "converted.pth"
    key = "model" if name == "AdelaiDet" else "state_dict"
    torch.save(
        {key: state, "meta": {"opaque": pytest.Mark("unknown", (), {}, _ispytest=True)}}, file
    )
    config = tmp_path / "config.yaml"
    settle(model_cfg).MODEL.SOLOV2.NUM_CLASSES = 5
    model_cfg.DATASETS.CLASS_NAMES = ["a", "b", "c", "d", "e"]
    config.write_text(model_cfg.dump())
    command = ["convert_weights.py", str(file), "--config-file", str(config)]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(converted)])
    assert run_command(convert_weights.main) == 0
    printed = capsys.readouterr().out
    assert f"SOLOv2 of {name}" in printed
    assert "left out: instance_head.category_pred.weight: [3, 32, 3, 3], in the model [5" in printed
    assert "initialised at random: instance_head.category_pred (2)" in printed
    model = build_model(read_config(config))
    before = model.instance_head.category_pred.weight.clone()
    DetectionCheckpointer(model).load(str(converted))
    assert torch.equal(model.instance_head.category_pred.weight, before)
    last = NAMES[name]["predict"][0]
    assert torch.equal(model.mask_head.predict.weight, state[f"{last}.weight"])


def test_another_depth_is_refused(published, model_cfg, tmp_path, monkeypatch, capsys):
    _, state, _ = published
    file = tmp_path / "published.pth"
    torch.save({"model": state}, file)
    config = tmp_path / "config.yaml"
    settle(model_cfg).MODEL.RESNETS.DEPTH = 34
    config.write_text(model_cfg.dump())
    command = ["convert_weights.py", str(file), "--config-file", str(config)]
    monkeypatch.setattr(sys, "argv", [*command, "--output", str(tmp_path / "out.pth")])
    assert run_command(convert_weights.main) == 2
    assert "MODEL.RESNETS.DEPTH" in capsys.readouterr().err
    assert not (tmp_path / "out.pth").exists()


def test_facenet_takes_backbone_and_heads(published, model_cfg):
    _, state, _ = published
    settle(model_cfg).MODEL.BACKBONE.NAME = "build_face_fpn_backbone"
    conversion = fit(rename(state, publisher_of(state)), build_model(model_cfg))
    left = {name.split(".")[1][:4] for name in conversion.left_out}
    assert left == {"fpn_"}
    assert {n.split(".")[0] for n in conversion.at_random} == {"backbone"}
    assert not [n for n in conversion.at_random if "bottom_up" in n]


def test_deformable_convolutions(model_cfg):
    """In MMDetection, too, one convolution predicts offsets and modulation."""
    model_cfg.MODEL.SOLOV2.DEFORM_BRANCHES = ["category", "kernel"]
    model = build_model(model_cfg)
    names = model.state_dict()
    state = {"mask_head.mask_feature_head.conv_pred.conv.weight": torch.zeros(32, 32, 1, 1)}
    for kind, theirs in (("category", "cls"), ("kernel", "kernel")):
        weight = names[f"instance_head.{kind}_tower.0.conv_offset_mask.weight"]
        state[f"mask_head.{theirs}_convs.0.conv.conv_offset.weight"] = torch.randn_like(weight)
    conversion = fit(rename(state, publisher_of(state)), model)
    assert not conversion.left_out
    assert len(conversion.state) == 3


class Harm:
    """Object whose unpickling calls a function, as in a hostile file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_dotted_names_are_not_followed(tmp_path):
    """``_rebuild_tensor.__globals__...`` leads from an allowed function to all of Python."""

    def text(value):
        return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()

    function = text("torch._utils") + text("_rebuild_tensor.__globals__.__getitem__")
    call = function + pickle.STACK_GLOBAL + text("sys") + pickle.TUPLE1 + pickle.REDUCE
    content = pickle.PROTO + b"\x04" + call + pickle.STOP
    assert pickle.loads(content) is sys
    assert isinstance(LenientUnpickler(io.BytesIO(content)).load(), Placeholder)


def test_a_file_runs_no_code(tmp_path):
    file = tmp_path / "hostile.pth"
    torch.save({"model": {"x": torch.ones(2)}, "meta": Harm(tmp_path / "written")}, file)
    assert list(read_state(file)) == ["x"]
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no pickle", "cannot be read as a PyTorch checkpoint"),
        (b"", "cannot be read as a PyTorch checkpoint"),
        ({"epoch": 3}, "does not contain the state of a model"),
        ({"state_dict": {"roi_head.weight": torch.ones(1)}}, "is not a SOLOv2 of AdelaiDet"),
    ],
)
def test_other_files_give_one_sentence(content, message, tmp_path):
    file = tmp_path / "file.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(UserError, match=message):
        publisher_of(read_state(file))


def test_missing_file(tmp_path, monkeypatch, capsys):
    config = REPOSITORY / "configs/NWPU-VHR10/solov2_R_50_36ep.yaml"
    command = ["convert_weights.py", "none.pth", "--config-file", str(config), "--output", "x.pth"]
    monkeypatch.setattr(sys, "argv", command)
    assert run_command(convert_weights.main) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
