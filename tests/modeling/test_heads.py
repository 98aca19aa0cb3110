"""SOLOv2's heads against a functional version of its description, and wrong values."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from helpers import REPOSITORY
from test_yolact import scene

from facenet_d2.modeling.grids import GridLayout
from facenet_d2.modeling.grids.cell_masks import DynamicMasks
from facenet_d2.modeling.grids.targets import assign_cells
from facenet_d2.modeling.grids.towers import resize_instance_features
from facenet_d2.modeling.layers import ModulatedDeformConv2d
from facenet_d2.modeling.solov2 import SOLOv2Predictions
from facenet_d2.modeling.solov2.heads import (
    SOLOv2InstanceHead,
    SOLOv2MaskHead,
)
from facenet_d2.modeling.solov2.window import cell_positions, position_maps, window_coefficients
from facenet_d2.runtime import mask_windows


def coordinates(x):
    n, _, h, w = x.shape
    out = torch.empty(n, 2, h, w)
    for i in range(h):
        for j in range(w):
            out[:, 0, i, j] = -1 + 2 * j / (w - 1)
            out[:, 1, i, j] = -1 + 2 * i / (h - 1)
    return out


def conv_gn_relu(x, state, prefix, padding=1):
    x = F.conv2d(x, state[f"{prefix}.weight"], None, padding=padding)
    x = F.group_norm(x, 32, state[f"{prefix}.norm.weight"], state[f"{prefix}.norm.bias"])
    return x.relu()


def test_instance_head():
    head = SOLOv2InstanceHead(
        32, num_classes=3, kernel_channels=5, num_grids=(6, 4), conv_channels=64, num_convs=4
    )
    state = head.state_dict()
    features = [torch.randn(2, 32, 10, 12), torch.randn(2, 32, 5, 6)]
    logits, kernels, windows = head(features)
    assert windows is None
    assert logits.shape == (2, 36 + 16, 3)
    assert kernels.shape == (2, 36 + 16, 5)
    first = 0
    for x, s in zip(features, (6, 4), strict=True):
        kernel = F.interpolate(torch.cat([x, coordinates(x)], 1), size=(s, s), mode="bilinear")
        category = F.interpolate(x, size=(s, s), mode="bilinear")
        for i in range(4):
            kernel = conv_gn_relu(kernel, state, f"kernel_tower.{i}")
            category = conv_gn_relu(category, state, f"category_tower.{i}")
        kernel = F.conv2d(kernel, state["kernel_pred.weight"], state["kernel_pred.bias"], padding=1)
        category = F.conv2d(
            category, state["category_pred.weight"], state["category_pred.bias"], padding=1
        )
        for row in range(s):
            for column in range(s):
                cell = first + row * s + column
                torch.testing.assert_close(logits[:, cell], category[:, :, row, column])
                torch.testing.assert_close(kernels[:, cell], kernel[:, :, row, column])
        first += s * s


def test_instance_head_starts_as_published():
    head = SOLOv2InstanceHead(256, num_classes=80, kernel_channels=256, num_grids=(4,))
    assert head.category_pred.bias[0].item() == pytest.approx(-math.log(99))
    for conv in (*head.kernel_tower, *head.category_tower, head.kernel_pred, head.category_pred):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.05)
    x = torch.randn(1, 256, 8, 8)
    assert head([x])[0].sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("subpixel", [False, True])
def test_mask_head(subpixel):
    head = SOLOv2MaskHead(32, conv_channels=64, out_channels=96, subpixel=subpixel)
    state = head.state_dict()
    features = [torch.randn(1, 32, 16 // 2**i, 24 // 2**i) for i in range(4)]

    def double(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear")

    total = conv_gn_relu(features[0], state, "levels.0.0")
    for level in (1, 2, 3):
        x = features[level]
        if level == 3:
            x = torch.cat([x, coordinates(x)], 1)
        for i in range(level):
            x = double(conv_gn_relu(x, state, f"levels.{level}.{i}"))
        total = total + x
    if not subpixel:
        expected = conv_gn_relu(total, state, "predict", padding=0)
        torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-5)
        return
    # Channel 4 d + 2 i + j of the convolution is pixel (i, j) of each 2x2 block of map d.
    maps = F.conv2d(total, state["predict.project.weight"])
    fine = torch.empty(1, 96, 32, 48)
    for i in (0, 1):
        for j in (0, 1):
            fine[:, :, i::2, j::2] = maps[:, 2 * i + j :: 4]
    norm = state["predict.norm.weight"], state["predict.norm.bias"]
    expected = F.group_norm(fine, 32, *norm).relu()
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-5)
    # It starts as upsampling: the pixels of a block are equal.
    torch.testing.assert_close(F.avg_pool2d(expected, 2), expected[:, :, ::2, ::2])


def test_grids_lie_on_strides_8_8_16_32_32():
    names = ["p2", "p3", "p4", "p5", "p6"]
    features = {n: torch.randn(1, 2, 64 // 2**i, 96 // 2**i) for i, n in enumerate(names)}
    levels = resize_instance_features(features, names)
    assert [tuple(x.shape[2:]) for x in levels] == [(32, 48), (32, 48), (16, 24), (8, 12), (8, 12)]
    # Bilinear halving is the mean of 2x2.
    torch.testing.assert_close(levels[0], F.avg_pool2d(features["p2"], 2))
    assert levels[1] is features["p3"]
    # Without p6, nothing else changes.
    four = resize_instance_features(features, names[:4])
    assert len(four) == 4
    assert all(torch.equal(a, b) for a, b in zip(four, levels))
    assert four[3] is features["p5"]


@pytest.mark.parametrize("files", [["solov2"], ["facenet"], ["solov2", "solo"]])
def test_four_levels(model_cfg, files):
    """Every parameter is trained, and objects of 950 pixels belong to the last level."""
    models = REPOSITORY / "configs" / "models"
    model_cfg.merge_from_file(str(models / f"{files[0]}_four_levels.yaml"))
    for file in files[1:]:
        model_cfg.merge_from_file(str(models / f"{file}.yaml"))
    model_cfg.MODEL.SOLO.NUM_CONVS, model_cfg.MODEL.SOLO.CONV_CHANNELS = 1, 32
    model = build_model(model_cfg).train()
    assert model.layout.num_grids == (40, 36, 24, 16)
    middle = torch.tensor([512.0])
    pairs = assign_cells(
        torch.tensor([[37.0, 37.0, 987.0, 987.0]]), middle, middle, (1024, 1024), model.layout
    )
    assert [len(cells) > 0 for _, cells in pairs] == [False, False, False, True]
    with EventStorage():
        losses = model([{"image": torch.rand(3, 128, 160) * 255, "instances": scene()}])
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("branches", [[], ["kernel"], ["category"], ["category", "kernel"]])
@pytest.mark.parametrize("convs", [1, 2])
def test_deformable_switch_changes_its_branches_and_nothing_else(model_cfg, branches, convs):
    model_cfg.MODEL.SOLOV2.DEFORM_BRANCHES = branches
    model_cfg.MODEL.SOLOV2.DEFORM_CONVS = convs
    model = build_model(model_cfg)
    found = {name for name, m in model.named_modules() if isinstance(m, ModulatedDeformConv2d)}
    expected = {f"instance_head.{b}_tower.{i}" for b in branches for i in range(2 - convs, 2)}
    assert found == expected
    # Other parameters have the same names and shapes in both models, so checkpoints are compatible.
    model_cfg.MODEL.SOLOV2.DEFORM_BRANCHES = []
    plain = {k: v.shape for k, v in build_model(model_cfg).state_dict().items()}
    ours = {k: v.shape for k, v in model.state_dict().items() if "conv_offset_mask" not in k}
    assert ours == plain


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("DEFORM_BRANCHES", ["mask"], "MODEL.SOLOV2.DEFORM_BRANCHES.*mask.*category.*kernel"),
        ("DEFORM_CONVS", 3, "MODEL.SOLOV2.DEFORM_CONVS is 3.*between 0 and"),
        ("NMS_KERNEL", "hard", "MODEL.SOLOV2.NMS_KERNEL.*hard.*gaussian.*linear"),
        ("IN_FEATURES", ["p2", "p3", "p4", "p5", "p7"], "MODEL.SOLOV2.IN_FEATURES.*p7"),
        ("IN_FEATURES", ["p2", "p3"], "MODEL.SOLOV2.IN_FEATURES.*4, 8, 16, 32, 64"),
        ("MASK_IN_FEATURES", ["p3", "p4", "p5"], "MODEL.SOLOV2.MASK_IN_FEATURES.*4, 8, 16, 32"),
        ("NORM", "GNN", "MODEL.SOLOV2.NORM is 'GNN'.*'GN'"),
        ("CONV_CHANNELS", 48, "MODEL.SOLOV2.CONV_CHANNELS is 48.*multiple of 32"),
        ("SCALE_RANGES", [[1, 2, 3]] * 5, "MODEL.SOLOV2.SCALE_RANGES.*pairs"),
        ("PRIOR_PROB", 0.0, "MODEL.SOLOV2.PRIOR_PROB is 0.0.*from 0.000001 to 0.999999"),
        ("NUM_GRIDS", [40, 36], "MODEL.SOLOV2.NUM_GRIDS"),
        ("NUM_CLASSES", 0, "MODEL.SOLOV2.NUM_CLASSES is 0"),
    ],
)
def test_wrong_values_are_named(model_cfg, key, value, match):
    setattr(model_cfg.MODEL.SOLOV2, key, value)
    with pytest.raises(ValueError, match=match):
        build_model(model_cfg)


def test_constructors_name_their_arguments():
    arguments = {"num_classes": 3, "kernel_channels": 5, "num_grids": (6, 4)}
    with pytest.raises(ValueError, match=r"deform_branches is \['mask'\]"):
        SOLOv2InstanceHead(32, deform_branches=["mask"], **arguments)
    with pytest.raises(ValueError, match=r"deform_convs is 5; it must be between 0 and 4"):
        SOLOv2InstanceHead(32, deform_convs=5, num_convs=4, **arguments)
    with pytest.raises(ValueError, match=r"'num_grids': 2, 'scale_ranges': 1"):
        GridLayout((6, 4), ((1, 96),), 0.2)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("SEM.NORM", "XX", "MODEL.SEM.NORM is 'XX'"),
        ("SEM.CHANNELS", 33, "MODEL.SEM.CHANNELS is 33"),
        ("SEM.DILATIONS", [], "MODEL.SEM.DILATIONS is"),
        ("FACE_FPN.ASPP_CHANNELS", 100, "MODEL.FACE_FPN.ASPP_CHANNELS is 100"),
        ("FACE_FPN.ASPP_DILATIONS", [0, 6], "MODEL.FACE_FPN.ASPP_DILATIONS is"),
        ("FPN.NORM", "GNN", "MODEL.FPN.NORM is 'GNN'"),
        ("FPN.IN_FEATURES", ["res3", "res4"], "MODEL.FPN.IN_FEATURES is.*4, 8, 16, 32"),
    ],
)
def test_wrong_values_of_the_neck_are_named(model_cfg, key, value, match):
    model_cfg.MODEL.BACKBONE.NAME = "build_resnet_face_fpn_backbone"
    model_cfg.MODEL.SEM.ENABLED = True
    node, name = key.split(".")
    setattr(model_cfg.MODEL[node], name, value)
    with pytest.raises(ValueError, match=match):
        build_model(model_cfg)


@pytest.mark.parametrize("size", [(6, 8), (5, 11)])
def test_windows_are_gaussians_around_the_cells(size):
    """The product of coefficients and maps, in both implementations, against the equation."""
    grids = (4, 3)
    windows = torch.randn(25, 5)
    maps = position_maps(size, torch.device("cpu"))
    product = window_coefficients(windows, cell_positions(grids)) @ maps
    other = mask_windows.window_coefficients(windows.numpy(), mask_windows.cell_positions(grids))
    np.testing.assert_allclose(other @ mask_windows.position_maps(*size), product, atol=1e-4)
    cells = [(grid, row, column) for grid in grids for row, column in np.ndindex(grid, grid)]
    for (grid, row, column), window, values in zip(cells, windows.tolist(), product, strict=True):
        a, b, c, ox, oy = window
        for (y, x), value in zip(np.ndindex(*size), values.tolist(), strict=True):
            # Position relative to the predicted centre, in cells.
            dx = (x + 0.5) / size[1] * grid - (column + 0.5) - ox
            dy = (y + 0.5) / size[0] * grid - (row + 0.5) - oy
            assert value == pytest.approx(-((a * dx) ** 2) - (b * dx + c * dy) ** 2, abs=1e-4)


@pytest.mark.parametrize("window", [False, True])
def test_parts_of_the_logits_of_dynamic_masks(window):
    """Those of the kernel plus those of the window, in whole and in blocks."""
    kernels, features = torch.randn(3, 7), torch.randn(7, 4, 5)
    coefficients, maps = torch.randn(3, 6), torch.randn(6, 20)
    expected = torch.einsum("kd,dhw->khw", kernels, features)
    if window:
        expected += (coefficients @ maps).unflatten(1, (4, 5))
    masks = DynamicMasks(kernels, features, (coefficients, maps) if window else None)
    assert (len(masks), masks.size) == (3, (4, 5))
    torch.testing.assert_close(masks.logits(), expected)
    some = masks.logits(torch.tensor([2, 0]), slice(1, 3), slice(2, 5))
    torch.testing.assert_close(some, expected[[2, 0], 1:3, 2:5])
    for floats, number in ((1, 4), (30, 2), (1000, 1)):
        blocks = list(masks.blocks(floats))
        assert len(blocks) == number
        joined = torch.full_like(expected, math.nan)
        for cells, rows in blocks:
            joined[cells, rows] = masks.logits(cells, rows)
        torch.testing.assert_close(joined, expected)


@pytest.mark.parametrize("points_nms", [False, True])
def test_objects_in_neighbouring_cells(model_cfg, points_nms):
    """Two objects side by side, of which Points NMS drops the one with the lower score."""
    model_cfg.MODEL.SOLOV2.POINTS_NMS = points_nms
    model = build_model(model_cfg).eval()
    cells, (grid, *_) = model.layout.num_cells, model.layout.num_grids
    logits, kernels = torch.full((1, cells, 3), -10.0), torch.zeros(1, cells, 2)
    first = grid + 1
    logits[0, first, 1], logits[0, first + 1, 1] = 3.0, 2.0
    kernels[0, first, 0] = kernels[0, first + 1, 1] = 1.0
    features = torch.full((1, 2, 32, 32), -9.0)
    features[0, 0, 8:16, 4:12] = features[0, 1, 8:16, 14:22] = 9.0
    predictions = SOLOv2Predictions(logits, kernels, features)
    (found,) = model.inference(predictions, [(128, 128)], [(128, 128)])
    assert found.pred_boxes.tensor[:, 0].round().tolist() == ([16] if points_nms else [16, 56])


def test_a_new_window_is_a_circle():
    """It does not depend on the image."""
    head = SOLOv2InstanceHead(
        32, num_classes=3, kernel_channels=5, num_grids=(6, 4), conv_channels=64, window=True
    )
    _, _, windows = head([torch.randn(2, 32, 10, 12), torch.randn(2, 32, 5, 6)])
    assert windows.shape == (2, 36 + 16, 5)
    torch.testing.assert_close(windows, torch.tensor([0.3, 0, 0.3, 0, 0]).expand_as(windows))
