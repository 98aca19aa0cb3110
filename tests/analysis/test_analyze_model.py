"""Counts of parameters, multiply-adds and activations against counts by hand."""

import json
import sys
from collections import Counter
from types import SimpleNamespace

import analyze_model
import helpers
import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from helpers import REPOSITORY
from torch import nn
from torchvision.ops import deform_conv2d, roi_align

from facenet_d2 import UserError
from facenet_d2.analysis import PAPER_RULES, OperatorCounter, analyze
from facenet_d2.analysis.counter import Counts
from facenet_d2.engine import load_config, read_config, run_command
from facenet_d2.experiments.paper import TABLES
from facenet_d2.modeling.layers import ModulatedDeformConv2d

# The sizes that are counted by hand here: a ResNet-18 and the published grids.
COUNTED = {
    "DEPTH: 50": "DEPTH: 18",
    "STEM_OUT_CHANNELS: 32": "STEM_OUT_CHANNELS: 64",
    "RES2_OUT_CHANNELS: 32": "RES2_OUT_CHANNELS: 64",
    "WIDTH_PER_GROUP: 32": "WIDTH_PER_GROUP: 64",
    "NUM_GRIDS: [12, 10, 8, 6, 4]": "NUM_GRIDS: [40, 36, 24, 16, 12]",
}


def write_tiny_config(folder, scenes, **options):
    file = helpers.write_tiny_config(folder, scenes, **options)
    text = file.read_text()
    for small, counted in COUNTED.items():
        assert text.count(small) == 1
        text = text.replace(small, counted)
    file.write_text(text)
    return file


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command and return its JSON, its text, or its error message."""

    def run(*args, output="--json"):
        argv = ["analyze_model.py", *map(str, args), *([output] if output else [])]
        monkeypatch.setattr(sys, "argv", argv)
        code = run_command(analyze_model.main)
        captured = capsys.readouterr()
        if code:
            return captured.err
        return json.loads(captured.out.splitlines()[-1]) if output else captured.out

    return run


def use_model(file, model):
    """Replace the model in the config of a small network by one of configs/models."""
    _, rest = file.read_text().split("\n", 1)
    configs = f"{REPOSITORY}/configs"
    file.write_text(
        f'_BASE_: ["{configs}/Base-SOLOv2.yaml", "{configs}/models/{model}.yaml"]\n{rest}'
    )


def tiny_model(folder, scenes, model, *overrides):
    """Build a small network of a config in configs/models."""
    file = write_tiny_config(folder, scenes)
    use_model(file, model)
    return build_model(load_config(file, overrides)).eval()


def check_sums(parts):
    for key in parts["all"]:
        assert parts["all"][key] == sum(row[key] for part, row in parts.items() if part != "all")


def test_counts(tmp_path, scenes, run, capsys):
    config = write_tiny_config(tmp_path, scenes)
    result = run("--config-file", config, "--input-size", 120, 64, "--instances", 7)
    rows = result["parts"]
    assert result["padded_size"] == [128, 64]
    assert result["operators"]["not_counted"] == {}
    assert result["peak_memory_mb"] > 0
    check_sums(rows)
    # One 3x3 convolution of 32 (34 with coordinates) to 32 channels, then the prediction.
    cells = 40**2 + 36**2 + 24**2 + 16**2 + 12**2
    assert rows["category branch"]["multiply_adds"] == cells * 9 * (32 * 32 + 32 * 5)
    assert rows["category branch"]["activations"] == cells * (32 + 5)
    assert rows["category branch"]["parameters"] == 9 * 32 * 32 + 2 * 32 + 9 * 32 * 5 + 5
    # The deformable one has 27 more outputs, offsets and modulation.
    assert rows["kernel branch"]["multiply_adds"] == cells * 9 * (34 * 32 + 34 * 27 + 32 * 32)
    assert rows["kernel branch"]["activations"] == cells * (32 + 27 + 32)
    kernel = (9 * 34 * 32 + 2 * 32) + (9 * 34 * 27 + 27) + (9 * 32 * 32 + 32)
    assert rows["kernel branch"]["parameters"] == kernel
    # 120x64 is padded to 128x64: levels of 32x16, 16x8, 8x4 and 4x2.
    positions = 512 * 32 + 128 * 32 + (32 * 32 + 128 * 32) + (8 * 34 + 32 * 32 + 128 * 32)
    assert rows["mask features"]["multiply_adds"] == 9 * 32 * positions + 512 * 32 * 32
    masks = rows["masks of 7 instances"]
    assert (masks["multiply_adds"], masks["activations"]) == (7 * 32 * 512, 7 * 512)
    result["operators"]["not_counted"] = {"aten.some": 3}
    analyze_model.print_parts(result)
    text, warning = capsys.readouterr()
    assert "which the model pads to 128x64" in text
    assert "One inference runs the network and computes the masks of 7 instances." in text
    assert "aten.native_group_norm (" in text
    assert warning == "warning: not counted: aten.some (3)\n"


def test_windows(tmp_path, scenes):
    """Five more outputs of the kernel branch per cell, and six products per pixel of a mask."""
    option = "MODEL.SOLOV2.MASK_WINDOW"
    with_windows, without = (
        analyze(tiny_model(tmp_path, scenes, "solov2", option, value), 128, 64, instances=7)
        for value in ("True", "False")
    )
    assert with_windows.not_counted == {}
    cells = 40**2 + 36**2 + 24**2 + 16**2 + 12**2
    added = {"kernel branch": 9 * 32 * 5 * cells, "masks of 7 instances": 7 * 6 * 512}
    assert set(with_windows.parts) == set(without.parts)
    for part, row in with_windows.parts.items():
        difference = row["multiply_adds"] - without.parts[part]["multiply_adds"]
        assert difference == (sum(added.values()) if part == "all" else added.get(part, 0))


def test_solo(tmp_path, scenes):
    options = ("MODEL.SOLO.NUM_CONVS", "1", "MODEL.SOLO.CONV_CHANNELS", "32")
    cells = 40**2 + 36**2 + 24**2 + 16**2 + 12**2
    model = tiny_model(tmp_path, scenes, "solo", *options)
    rows = analyze(model, 128, 128, instances=cells).parts
    check_sums(rows)
    # Levels at strides 8, 8, 16, 32, 32, and masks at half of these.
    positions = 16**2 + 16**2 + 8**2 + 4**2 + 4**2
    assert rows["mask branch"]["multiply_adds"] == positions * 9 * 34 * 32
    masks = 40**2 * 32**2 + 36**2 * 32**2 + 24**2 * 16**2 + 16**2 * 8**2 + 12**2 * 8**2
    # The bias is a 33rd channel.
    assert rows[f"masks of {cells} instances"]["multiply_adds"] == 33 * masks

    model = tiny_model(tmp_path, scenes, "solo_decoupled", *options)
    analysis = analyze(model, 128, 128)
    check_sums(analysis.parts)
    towers = 2 * positions * 9 * 33 * 32
    outputs = 2 * 4 * 9 * 32 * (16**2 * (40 + 36) + 8**2 * 24 + 4**2 * (16 + 12))
    assert analysis.parts["mask branch"]["multiply_adds"] == towers + outputs
    # Its masks are products of two maps, element by element.
    assert "masks of 100 instances" not in analysis.parts


RCNN = (
    *("MODEL.RPN.POST_NMS_TOPK_TEST", "30"),
    *("MODEL.ROI_BOX_HEAD.FC_DIM", "16"),
    *("MODEL.ROI_MASK_HEAD.CONV_DIM", "16", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"),
)


def test_mask_rcnn(tmp_path, scenes):
    """The box head has all proposals, the mask head all instances, whatever is found."""
    model = tiny_model(tmp_path, scenes, "mask_rcnn", *RCNN)
    analysis = analyze(model, 128, 128, instances=4)
    rows = analysis.parts
    check_sums(rows)
    assert analysis.not_counted == {}
    assert "30 boxes in the box head" in analysis.what
    positions = 32**2 + 16**2 + 8**2 + 4**2 + 2**2
    assert rows["RPN"]["multiply_adds"] == positions * (9 * 32 * 32 + 32 * 3 * 5)
    # Two layers, then 5 classes and background, and boxes of 5 classes.
    box = 49 * 32 * 16 + 16 * 16 + 16 * (6 + 20)
    assert rows["box head"]["multiply_adds"] == 30 * box
    # A convolution, a transposed one of stride 2, and the prediction.
    mask = 14**2 * (9 * 32 * 16 + 4 * 16 * 16) + 28**2 * 16 * 5
    assert rows["mask head"]["multiply_adds"] == 4 * mask
    assert rows["mask head"]["activations"] == 4 * (14**2 * 16 + 28**2 * (16 + 5))


def test_heads_on_mask_rcnn(tmp_path, scenes):
    box = 49 * 32 * 16 + 16 * 16 + 16 * 6
    model = tiny_model(tmp_path, scenes, "cascade_mask_rcnn", *RCNN)
    rows = analyze(model, 128, 128, instances=4).parts
    check_sums(rows)
    assert rows["box head"]["multiply_adds"] == 3 * 30 * (box + 16 * 4)

    iou = ("MODEL.ROI_MASK_IOU_HEAD.CONV_DIM", "8", "MODEL.ROI_MASK_IOU_HEAD.FC_DIM", "16")
    model = tiny_model(tmp_path, scenes, "mask_scoring_rcnn", *RCNN, *iou)
    rows = analyze(model, 128, 128, instances=4).parts
    check_sums(rows)
    convs = 9 * (14**2 * (33 + 8 + 8) * 8 + 7**2 * 8 * 8)
    fully_connected = 49 * 8 * 16 + 16 * 16 + 16 * 5
    assert rows["mask IoU head"]["multiply_adds"] == 4 * (convs + fully_connected)

    points = ("MODEL.POINT_HEAD.FC_DIM", "16", "MODEL.POINT_HEAD.NUM_FC", "1")
    model = tiny_model(tmp_path, scenes, "point_rend", *RCNN, *points)
    analysis = analyze(model, 128, 128, instances=4)
    check_sums(analysis.parts)
    assert analysis.not_counted == {}
    # A mask of 28x28, all of it, then three times the 784 least certain points of twice its size.
    point = (32 + 5) * 16 + (16 + 5) * 5
    assert analysis.parts["point head"]["multiply_adds"] == 4 * 784 * 4 * point


def test_panet(tmp_path, scenes):
    options = ("MODEL.RPN.POST_NMS_TOPK_TEST", "30", "MODEL.ROI_BOX_HEAD.FC_DIM", "16")
    rows = analyze(tiny_model(tmp_path, scenes, "panet", *options), 128, 128, instances=4).parts
    check_sums(rows)
    conv = 9 * 32 * 32
    # The first convolution on each of four levels, three more, and a fully connected layer.
    box = 49 * (4 + 3) * conv + 49 * 32 * 16 + 16 * (6 + 20)
    assert rows["box head"]["multiply_adds"] == 30 * box
    # Two shared convolutions, then one, the transposed one and the prediction, and two and a fully
    # connected layer.
    mask = 14**2 * ((4 + 2 + 1 + 2) * conv + 4 * 32 * 32) + 28**2 * (32 * 5 + 14**2 * 32)
    assert rows["mask head"]["multiply_adds"] == 4 * mask


def test_refine_mask(tmp_path, scenes):
    options = ("MODEL.RPN.POST_NMS_TOPK_TEST", "30")
    model = tiny_model(tmp_path, scenes, "refinemask", *options)
    analysis = analyze(model, 128, 128, instances=4)
    check_sums(analysis.parts)
    assert analysis.not_counted == {}
    semantic = analysis.parts["semantic branch"]["multiply_adds"]
    assert semantic == 32**2 * (4 * 9 * 32 * 32 + 32)
    # The semantic features of each stage are shared by all instances.
    shared = 32**2 * 32 * (32 + 16 + 8)
    mask = 2 * 14**2 * 9 * 32 * 32 + 112**2 * 4
    for size, c in ((14, 32), (28, 16), (56, 8)):
        # The mask of one class, then semantic features, fusion, three branches, two more.
        mask += size**2 * (c + c * c + (2 * c + 2) * c + 3 * 9 * c * c + c * c + c * (c // 2 - 2))
    assert analysis.parts["mask head"]["multiply_adds"] == shared + 4 * mask


@pytest.mark.parametrize("name", ["yolact", "condinst", "rdsnet"])
def test_boxes_first(tmp_path, scenes, name):
    model = tiny_model(tmp_path, scenes, name, "MODEL.YOLACT.NUM_PROTOTYPES", "8")
    analysis = analyze(model, 128, 128, instances=9)
    check_sums(analysis.parts)
    assert analysis.not_counted == {}
    # Prototypes or a pixel map of 8 channels at stride 4; or a pixel's two coordinates and 8
    # features, to 8, 8, 1 at stride 8.
    masks = (10 * 8 + 8 * 8 + 8) * 16**2 if name == "condinst" else 8 * 32**2
    assert analysis.parts["masks of 9 instances"]["multiply_adds"] == 9 * masks


def test_query_inst(tmp_path, scenes):
    analysis = analyze(tiny_model(tmp_path, scenes, "queryinst"), 128, 128, instances=4)
    check_sums(analysis.parts)
    assert analysis.not_counted == {}
    attention = 4 * 100 * 32 * 32 + 2 * 100 * 100 * 32
    # Two matrices of 32x8 for each query, applied to 7x7 pixels; then the pixels as one vector.
    interaction = 100 * (32 * 512 + 49 * 512 + 49 * 32 * 32)
    rest = 100 * 32 * (2 * 32 + 4 * 32 + 5 + 4)
    box_heads = 2 * (attention + interaction + rest)
    assert analysis.parts["box heads"]["multiply_adds"] == box_heads
    # The same on 14x14 pixels, a convolution, the transposed one and 5 classes at 28x28.
    mask = 32 * 512 + 196 * (512 + 9 * 32 * 32 + 4 * 32 * 32) + 784 * 32 * 5
    assert analysis.parts["mask heads"]["multiply_adds"] == 4 * mask
    assert analysis.parts["queries"]["parameters"] == 100 * (32 + 4)
    with pytest.raises(UserError, match="101 instances are too many: the model has 100 queries"):
        analyze(tiny_model(tmp_path, scenes, "queryinst"), 128, 128, instances=101)


def test_mask2former(tmp_path, scenes):
    analysis = analyze(tiny_model(tmp_path, scenes, "mask2former"), 128, 128, instances=4)
    check_sums(analysis.parts)
    assert analysis.not_counted == {}
    levels, channels = (4**2, 8**2, 16**2), (512, 256, 128)
    decoder = 4 * 20 * 32 * (6 + 3 * 32 + 32**2)
    for pixels in levels:
        decoder += 2 * (20 + pixels) * 32 * 32 + 2 * 20 * pixels * 32
        decoder += 4 * 20 * 32 * 32 + 2 * 20 * 20 * 32 + 2 * 20 * 32 * 32
    assert analysis.parts["decoder"]["multiply_adds"] == decoder
    encoder = sum(levels) * 32 * (8 * 3 * 4 * 3 + 2 * 32 + 2 * 32)
    projections = sum(n * c * 32 for n, c in zip(levels, channels))
    finest = 32**2 * 32 * (64 + 9 * 32 + 32)
    assert analysis.parts["pixel decoder"]["multiply_adds"] == encoder + projections + finest


def test_rdsnet(tmp_path, scenes):
    model = tiny_model(tmp_path, scenes, "rdsnet")
    rows = analyze(model, 128, 128, instances=9).parts
    # Levels of strides 8 to 128, 9 anchors a position: 5 classes, 4 sides and two vectors of 8.
    positions = 16**2 + 8**2 + 4**2 + 2**2 + 1
    tower = 9 * (3 * 32 * 64 + 64 * 9 * (5 + 4 + 16))
    assert rows["anchor head"]["multiply_adds"] == positions * tower
    # p3 and p4 once, p5 twice, then stride 8 and, after doubling, 8 channels at stride 4.
    convs = 9 * 64 * (32 * (16**2 + 8**2 + 4**2) + 64 * (8**2 + 16**2)) + 64 * 8 * 32**2
    assert rows["pixel branch"]["multiply_adds"] == convs


def test_rdsnet_at_the_size_of_table_2():
    """The detector's 227.75 G and the pixel branch's 15.44 G, with strides in the 3x3."""
    cfg = read_config(
        REPOSITORY / "configs" / "iSAID" / "rdsnet_R_101_36ep.yaml",
        ["MODEL.DEVICE", "meta", "MODEL.RDSNET.NUM_CLASSES", "15"]
        + ["MODEL.RESNETS.STRIDE_IN_1X1", "False"],
    )
    with torch.device("meta"):
        model = build_model(cfg).eval()
    with torch.no_grad(), OperatorCounter(model, lambda name: name.partition(".")[0]) as counter:
        model.predict(torch.zeros(1, 3, 800, 800, device="meta"))
    found = {name: part.multiply_adds / 1e9 for name, part in counter.parts.items()}
    assert found["backbone"] + found["anchor_head"] == pytest.approx(227.75, abs=0.005)
    assert found["pixel_branch"] == pytest.approx(15.44, abs=0.005)
    assert not counter.not_counted


RETINANET = ("MODEL.META_ARCHITECTURE", "RetinaNet", "MODEL.RETINANET.NUM_CLASSES", "5")


def test_other_models(tmp_path, scenes):
    """Any model can be counted, as it is."""
    model = tiny_model(tmp_path, scenes, "yolact", *RETINANET)
    analysis = analyze(model, 128, 128)
    assert "random weights" in analysis.what
    check_sums(analysis.parts)
    assert analysis.parts["head"]["multiply_adds"] > 0


class Whole(nn.Module):
    """Network that calls a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.deform = ModulatedDeformConv2d(4, 6)

    def forward(self, x):
        return self.function(self, x)


def counted(function, x):
    model = Whole(function)
    with torch.no_grad(), OperatorCounter(model, lambda name: name) as counter:
        model(x)
    return counter


X = torch.rand(1, 4, 8, 8)


@pytest.mark.parametrize(
    ("function", "multiply_adds", "activations"),
    [
        (lambda m, x: F.conv2d(x, torch.rand(6, 4, 3, 3)), 36 * 9 * 4 * 6, 6 * 36),
        (lambda m, x: F.conv2d(x, torch.rand(6, 2, 3, 3), groups=2), 36 * 9 * 2 * 6, 6 * 36),
        (lambda m, x: F.conv2d(x[0], torch.rand(6, 4, 3, 3)), 36 * 9 * 4 * 6, 6 * 36),
        (lambda m, x: F.conv1d(x[0], torch.rand(6, 8, 1)), 4 * 8 * 8 * 6, 4 * 6 * 8),
        (
            lambda m, x: F.conv_transpose2d(x, torch.rand(4, 6, 2, 2), stride=2),
            64 * 4 * 4 * 6,
            6 * 256,
        ),
        (lambda m, x: F.linear(x, torch.rand(5, 8), torch.rand(5)), 32 * 8 * 5, 32 * 5),
        (lambda m, x: torch.einsum("kc,chw->khw", torch.rand(3, 4), x[0]), 3 * 4 * 64, 3 * 64),
        (lambda m, x: torch.rand(5, 1, 3, 8) @ x, 5 * 4 * 3 * 8 * 8, 5 * 4 * 3 * 8),
        (lambda m, x: x @ torch.rand(8), 32 * 8, 32),
        (lambda m, x: torch.dot(x[0, 0, 0], torch.rand(8)), 8, 1),
        (lambda m, x: torch.addbmm(torch.rand(8, 8), x[0], x[0]), 4 * 8 * 8 * 8, 64),
        # Offsets and modulation of 9 taps, then the convolution.
        (lambda m, x: m.deform(x), 64 * 9 * 4 * (27 + 6), 64 * (27 + 6)),
        (
            lambda m, x: deform_conv2d(x, torch.zeros(1, 18, 6, 6), torch.rand(6, 2, 3, 3)),
            36 * 9 * 2 * 6,
            6 * 36,
        ),
        (lambda m, x: F.linear(x[:0], torch.rand(5, 8)), 0, 0),
    ],
)
def test_operators(function, multiply_adds, activations):
    counter = counted(function, X)
    assert counter.multiply_adds == multiply_adds
    assert sum(p.activations for p in counter.parts.values()) == activations
    assert not counter.not_counted


def test_what_published_counters_add():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.Conv2d(2, 2, 1, bias=False),
    ).eval()
    with torch.no_grad(), OperatorCounter(model, lambda name: name) as counter:
        model(torch.rand(1, 3, 8, 8))
    assert counter.multiply_adds == 64 * 3 * 9 * 4 + 16 * 4 * 4 * 2 + 64 * 2 * 2
    expected = {
        "0": {"bias": 64 * 4},
        "1": {"batch norm": 64 * 4},
        "2": {"rectifier": 64 * 4},
        "3": {"pooling": 64 * 4},
        # Its kernel of 2x2 at each of 64 pixels, of which 16 times is what there is.
        "4": {"bias": 64 * 2, "transposed": (64 - 16) * 4 * 4 * 2},
        "5": {},
    }
    assert {name: counter.parts[name].operations for name in expected} == expected
    counts = Counts(multiply_adds=5, operations=Counter({"bias": 7, "group norm": 11}))
    assert counts.published({"bias": 1, "group norm": 4, "pooling": 1}) == 5 + 7 + 4 * 11


def test_inference_mode():
    """In inference mode, composite operators are not decomposed."""
    counter = counted(torch.inference_mode()(lambda m, x: F.linear(x, torch.rand(5, 8))), X)
    assert counter.multiply_adds == 32 * 8 * 5
    assert not counter.not_counted


def test_nothing_is_left_out_silently():
    distances = counted(lambda m, x: torch.cdist(x[0, 0], x[0, 1]), X)
    assert distances.not_counted == {"aten._cdist_forward": 1}
    assert counted(lambda m, x: torch.fft.rfft(x), X).not_counted == {"aten._fft_r2c": 1}
    boxes = torch.tensor([[0.0, 0, 0, 4, 4]])
    pooled = counted(lambda m, x: roi_align(x, boxes, 2).relu(), X)
    assert (pooled.multiply_adds, pooled.not_counted) == (0, {})
    assert set(pooled.not_multiplying) == {"torchvision.roi_align", "aten.relu"}

    # An extension outside of PyTorch's operators leaves no other trace.
    class Extension(nn.Conv2d):
        def forward(self, x):
            return x

    model = nn.Sequential(Extension(4, 4, 3))
    with torch.no_grad(), OperatorCounter(model, lambda name: name) as counter:
        model(X)
    assert counter.not_counted == {"weights of Extension": 1}


def test_number_of_classes(tmp_path, scenes):
    """With a number of classes, the data need not exist."""
    file = write_tiny_config(tmp_path, scenes / "elsewhere")
    assert build_model(analyze_model.read_model_config(str(file), 9)).num_classes == 9
    use_model(file, "point_rend")
    model = build_model(analyze_model.read_model_config(str(file), 9))
    assert model.roi_heads.num_classes == 9
    assert model.roi_heads.mask_head.point_head.predictor.out_channels == 9


def test_table_2(run, monkeypatch):
    """All models are in the table; the counting itself is tested above."""

    counted = SimpleNamespace(
        parts={
            "all": {
                "parameters": 64_000_000,
                "multiply_adds": 300_000_000_000,
                "as_mmdetection": 320_000_000_000,
            }
        },
        input_size=(800, 1280),
        not_counted={},
    )
    built = []
    monkeypatch.setattr(
        analyze_model, "analyze_config", lambda cfg, size, instances: built.append(cfg) or counted
    )
    as_paper = {"SOLOv2": (65.0, 250.0), "FACENet": (90.0, 300.0)}
    monkeypatch.setattr(
        analyze_model,
        "count_row_as_paper",
        lambda row, rule: as_paper.get(row.name, (1.0, 1.0)),
    )
    table = run("--table", 2, output=None)
    cells = {line.split(" | ")[0]: line for line in table.splitlines() if line.startswith("| ")}
    expected = "| SOLOv2 | 64.00 | 65.00 | 65.84 | 0.987 | 300.00 | 250.00 | 284.44 | 0.879 |"
    assert cells["| SOLOv2"] == expected
    assert cells["| CondInst"].endswith("| 300.00" + " | \N{EN DASH}" * 3 + " |")
    assert "1.000 times SOLOv2's (as the paper counted: 1.200; paper: 1.335)" in table
    assert "- SOLOv2: 10 classes, 800x1280, ResNet-101, SOLO's repository" in table
    # Every row with multiply-adds in the paper has a rule.
    assert {row.name for row in TABLES[2].rows if row.multiply_adds} == set(PAPER_RULES)
    assert len(built) == len(analyze_model.EXTRA) + len(TABLES[2].rows)
    assert {cfg.MODEL.RESNETS.DEPTH for cfg in built} == {101}
    assert {cfg.MODEL.RPN.POST_NMS_TOPK_TEST for cfg in built} == {1000}
    assert {len(cfg.DATASETS.CLASS_NAMES) for cfg in built} == {15}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "give either --config-file"),
        (("--table", 2, "--config-file", "x.yaml"), "give either --config-file"),
        (("--table", 3), "only Table 2"),
        (("--table", 2, "--num-classes", 3), "--table 2 has iSAID's 15 classes"),
        (("--table", 2, "--input-size", 0, 64), "--input-size is 0 64; both must be positive"),
        (("--table", 2, "--instances", -1), "--instances is -1; it must not be negative"),
        (("--config-file", "none.yaml"), "none.yaml does not exist"),
        (("--config-file", "none.yaml", "--num-classes", 0), "--num-classes is 0"),
    ],
)
def test_wrong_arguments(run, args, message):
    answer = run(*args)
    assert message in answer
    assert answer.count("\n") == 1


def test_too_many_instances(tmp_path, scenes, run):
    file = write_tiny_config(tmp_path, scenes)
    answer = run("--config-file", file, "--input-size", 64, 64, "--instances", 4000)
    assert "4000 instances are too many: the model has 3872 cells" in answer
