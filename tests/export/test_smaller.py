"""Weights in float16 and convolutions in int8."""

import numpy as np
import pytest
from torch import nn

from facenet_d2.export.smaller import halve_weights, quantize, sensitive_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

CHANNELS = 16


def two_convolutions(scale=1.0):
    """images -> 3x3 convolution -> ReLU -> 3x3 convolution -> out."""
    rng = np.random.default_rng(0)
    tensors = {
        "first.weight": rng.normal(0, scale, (CHANNELS, 3, 3, 3)),
        "first.bias": rng.normal(0, 1, CHANNELS),
        "second.weight": rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["images", "first.weight", "first.bias"], ["a"], "conv1", **pads),
        helper.make_node("Relu", ["a"], ["b"], "relu"),
        helper.make_node("Conv", ["b", "second.weight"], ["out"], "conv2", **pads),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", CHANNELS, "h", "w"])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, images):
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"images": images})[0]


def pictures(count):
    return np.random.default_rng(1).normal(0, 1, (count, 1, 3, 12, 20)).astype(np.float32)


def test_large_weights_are_halved():
    model = two_convolutions()
    (images,) = pictures(1)
    expected, before = run(model, images), model.ByteSize()
    assert halve_weights(model) == CHANNELS * CHANNELS * 9
    assert before - model.ByteSize() > 2 * 0.9 * CHANNELS * CHANNELS * 9
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    assert kinds["second.weight_half"] == TensorProto.FLOAT16
    assert kinds["first.weight"] == TensorProto.FLOAT
    difference = np.abs(run(model, images) - expected).max() / np.abs(expected).max()
    assert 0 < difference < 1e-3


def test_weights_beyond_float16_stay():
    model = two_convolutions()
    weight = model.graph.initializer[2]
    values = numpy_helper.to_array(weight) * 1e6
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    (images,) = pictures(1)
    expected = run(model, images)
    assert halve_weights(model) == 0
    np.testing.assert_array_equal(run(model, images), expected)


def test_convolutions_are_quantised_except_some():
    model = two_convolutions()
    images = pictures(4)
    expected = run(model, images[0])
    quantised = quantize(model, list(images), excluded=[])
    difference = np.abs(run(quantised, images[0]) - expected).max() / np.abs(expected).max()
    assert 1e-4 < difference < 0.05
    stored = {t.name: t.data_type for t in quantised.graph.initializer}
    assert stored["second.weight_quantized"] == TensorProto.INT8
    # Each output channel has its own scale.
    scales = {t.name: t for t in quantised.graph.initializer}["second.weight_scale"]
    assert len(numpy_helper.to_array(scales)) == CHANNELS

    partly = quantize(model, list(images), excluded=["second.weight"])
    stored = {t.name: t.data_type for t in partly.graph.initializer}
    assert stored["second.weight"] == TensorProto.FLOAT
    assert stored["first.weight_quantized"] == TensorProto.INT8


def test_last_layers_are_sensitive():
    model = nn.ModuleDict(
        {
            "tower": nn.Conv2d(1, 1, 1),
            "kernel_pred": nn.Conv2d(1, 1, 1),
            "window_pred": nn.Conv2d(1, 1, 1),
            "predict": nn.ModuleList([nn.Conv2d(1, 1, 1)]),
        }
    )
    found = sensitive_weights(model)
    assert {"kernel_pred.weight", "window_pred.weight", "predict.0.weight"} <= {*found}
    assert "tower.weight" not in found


@pytest.mark.parametrize("groups", [1, 4])
def test_bottom_up_networks_with_depthwise_convolutions_are_sensitive(groups):
    """EfficientNet's narrow outputs have channels of very different ranges, ResNet's have not."""
    bottom_up = nn.Sequential(nn.Conv2d(4, 4, 3, groups=groups), nn.Conv2d(4, 8, 1))
    model = nn.ModuleDict(
        {"backbone": nn.ModuleDict({"bottom_up": bottom_up, "lateral": nn.Conv2d(8, 8, 1)})}
    )
    bottom_up_weights = ["backbone.bottom_up.0.weight", "backbone.bottom_up.1.weight"]
    assert sensitive_weights(model) == (bottom_up_weights if groups > 1 else [])
