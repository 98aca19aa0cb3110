"""Exported files compute what the models compute, for other numbers and sizes of images."""

import ast
import dataclasses
import json

import pytest
import torch
from small_networks import score_of, small_model, small_network

from facenet_d2.export import (
    DEFAULT_OPSETS,
    compare,
    describe,
    load_network,
    metadata_of,
    save_onnx,
    save_torch,
    to_onnx,
    yolo_seg_network,
)
from facenet_d2.export.checks import exported_instances, matched_ious, model_instances
from facenet_d2.export.files import METADATA_KEY, with_folded_batch_norm
from facenet_d2.runtime.description import ModelDescription

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9), reason="older exporter"
)


def noise(*sizes):
    """Images with coarse structure, (3, h, w) float32 from 0 to 255."""
    generator = torch.Generator().manual_seed(4)
    images = []
    for h, w in sizes:
        coarse = torch.rand(1, 3, h // 8 + 1, w // 8 + 1, generator=generator) * 255
        images.append(torch.nn.functional.interpolate(coarse, size=(h, w), mode="bilinear")[0])
    return images


def instances(network, run, images):
    """Yield what a network and its file find in images."""
    for image in images:
        yield model_instances(network, image), exported_instances(network, run, image)


def check_network(network, run):
    """Compare outputs and final masks of an exported file with those of its network."""
    result = compare(network, run, instances(network, run, noise((160, 128), (130, 219))))
    result.check("float32")
    assert result.difference < 1e-4
    assert result.instances > 10
    assert result.mask_iou > 0.999


@pytest.mark.parametrize(
    ("name", "deform", "facenet"),
    [
        ("SOLOv2", "deformconv", True),
        ("CondInst", "gridsample", False),
    ],
)
def test_onnx_equals_the_model(model_cfg, tmp_path, name, deform, facenet):
    model_cfg.MODEL.SOLOV2.MASK_STRIDE = 2
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = True
    network = small_network(model_cfg, name, deform=deform, facenet=facenet)
    file = tmp_path / "model.onnx"
    save_onnx(to_onnx(network, DEFAULT_OPSETS[deform]), file, metadata_of(network.description))
    check_network(network, load_network(file, "onnx"))
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = tuple(output.name for output in session.get_outputs())
    assert names == network.description.output_names
    (images,) = session.get_inputs()
    assert (images.name, images.shape) == ("images", ["count", 3, "height", "width"])
    text = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
    assert ModelDescription.from_json(text, "file") == network.description
    operators = [node.op_type for node in onnx.load(file).graph.node]
    assert operators.count("DeformConv") == (5 if facenet else 0)
    # The exporter's stack traces name files of this machine.
    assert b".py" not in file.read_bytes()


@torch.no_grad()
def test_convolutions_contain_their_batch_norm(model_cfg):
    for node, name in (("SOLOV2", "NORM"), ("FPN", "NORM"), ("FACE_FPN", "ASPP_NORM")):
        model_cfg.MODEL[node][name] = "BN"
    model_cfg.MODEL.SEM.NORM = "BN"
    network = small_network(model_cfg, facenet=True)

    def norms(module):
        return [m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)]

    for norm in norms(network):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    before = len(norms(network))
    folded = with_folded_batch_norm(network)
    # Those of S are modules beside their convolutions.
    assert len(norms(folded)) == 2
    assert len(norms(network)) == before > 20
    (image,) = noise((64, 96))
    for ours, theirs in zip(network(image[None]), folded(image[None]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("file_format", "name", "facenet"),
    [
        ("pt2", "SOLOv2", False),
        ("torchscript", "SOLOv2", True),
        ("torchscript", "SOLO", False),
        ("torchscript", "SOLO-decoupled", False),
        ("torchscript", "YOLACT", False),
    ],
)
def test_files_of_pytorch_equal_the_model(model_cfg, tmp_path, file_format, name, facenet):
    network = small_network(model_cfg, name, facenet=facenet)
    file = tmp_path / "model.pt2"
    save_torch(network, file, file_format, metadata_of(network.description))
    check_network(network, load_network(file, file_format))
    texts = {METADATA_KEY: ""}
    if file_format == "torchscript":
        torch.jit.load(str(file), _extra_files=texts)
    else:
        torch.export.load(file, extra_files=texts)
    text = texts[METADATA_KEY]
    text = text.decode() if isinstance(text, bytes) else text
    assert ModelDescription.from_json(text, "file") == network.description


def test_yolo_seg_contains_the_post_processing(model_cfg, tmp_path):
    model = small_model(model_cfg)
    model_cfg.INPUT.FORMAT = "RGB"
    (image,) = noise((96, 96))
    score = score_of(100, model, image)
    model.settings = dataclasses.replace(model.settings, score_threshold=score)
    names = ("ship", "it's", "car")
    description = describe(
        model, model_cfg, contract="yolo-seg", class_names=names, pixel_size=0.25
    )
    network = yolo_seg_network(model, description, size=96, deform="gridsample", max_candidates=400)
    file = tmp_path / "model.onnx"
    save_onnx(to_onnx(network, 20), file, metadata_of(description, size=96))
    run = load_network(file, "onnx")
    result = compare(network, run, instances(network, run, [image]))
    # The masks of a random model have many pixels at the threshold, and are small.
    assert result.instances > 10
    assert result.mask_iou > 0.9
    with torch.no_grad():
        expected = network(image[None] / 255)
    found = run(image[None] / 255)
    torch.testing.assert_close(found[1], expected[1], atol=1e-3, rtol=1e-4)
    ours, theirs = (x[0, 4:7].amax(dim=0) for x in (expected[0], found[0]))
    nearest = (ours[:, None] - theirs).abs().amin(dim=1)
    assert (nearest < 1e-3).float().mean() > 0.8
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    shapes = [output.shape for output in session.get_outputs()]
    assert shapes == [[1, 4 + 3 + 32, 100], [1, 32, 24, 24]]
    texts = session.get_modelmeta().custom_metadata_map
    # As Ultralytics and Deepness read them.
    assert ast.literal_eval(texts["names"]) == dict(enumerate(names))
    assert ast.literal_eval(texts["imgsz"]) == [96, 96]
    assert (texts["task"], int(texts["stride"]), int(texts["batch"])) == ("segment", 32, 1)
    assert json.loads(texts["class_names"]) == {str(i): name for i, name in enumerate(names)}
    assert json.loads(texts["det_type"]) == "YOLO_Ultralytics_segmentation"
    assert json.loads(texts["resolution"]) == 25
    assert ModelDescription.from_json(texts[METADATA_KEY], "file") == description


def test_instances_of_a_file_are_those_of_its_outputs(model_cfg):
    network = small_network(model_cfg)
    (image,) = noise((64, 96))

    def run(images):
        with torch.no_grad():
            outputs = list(network(images))
        return outputs

    def without_scores(images):
        logits, *others = run(images)
        return [torch.full_like(logits, -9.0), *others]

    expected = model_instances(network, image)
    assert matched_ious(expected, exported_instances(network, run, image)) == [1.0] * len(expected)
    assert len(exported_instances(network, without_scores, image)) == 0
