"""Files of networks, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
from test_description import MODEL

from facenet_d2 import UserError
from facenet_d2.runtime import OnnxPredictor
from facenet_d2.runtime.description import METADATA_KEY
from facenet_d2.runtime.networks import load_network

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a file with the images, doubled, as all of its outputs.

    They are doubled by a sum, or by a product with a matrix, for images 5 pixels wide.
    """

    def write_file(description=None, outputs=MODEL.output_names, *, by_matrix=False):
        shape = ["count", 3, "height", "width"]
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
            for name in ("images", *outputs)
        ]
        matrix = onnx.numpy_helper.from_array(2 * np.eye(5, dtype=np.float32), "matrix")
        operation = ("MatMul", ["images", "matrix"]) if by_matrix else ("Add", ["images"] * 2)
        nodes = [onnx.helper.make_node(*operation, [name]) for name in outputs]
        graph = onnx.helper.make_graph(nodes, "graph", values[:1], values[1:], [matrix])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
        model.ir_version = 9
        if description is not None:
            onnx.helper.set_model_props(model, {METADATA_KEY: description})
        file = tmp_path / "model.onnx"
        onnx.save(model, file)
        return file

    return write_file


@pytest.mark.parametrize("provider", ["onnxruntime", "openvino"])
def test_networks_return_outputs_by_name(provider, write):
    pytest.importorskip(provider)
    network = load_network(write(MODEL.to_json()), provider=provider, threads=1)
    assert network.description == MODEL.to_json()
    assert network.output_names == MODEL.output_names
    images = np.random.default_rng(0).random((2, 3, 4, 5), np.float32)
    outputs = network(images)
    assert list(outputs) == list(MODEL.output_names)
    np.testing.assert_array_equal(outputs["kernels"], images * 2)
    # OpenVINO compiles the network for a shape that comes again.
    for width in (5, 5, 7, 7, 5):
        shape = (1, 3, 4, width)
        images = np.random.default_rng(width).random(shape, np.float32)
        np.testing.assert_array_equal(network(images)["logits"], images * 2)
    assert load_network(write(), provider=provider, threads=1).description is None


def test_bfloat16_is_chosen_by_name(write):
    """Values between those of bfloat16 are rounded where the processor computes with it."""
    openvino = pytest.importorskip("openvino")
    file = write(MODEL.to_json(), by_matrix=True)
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    images = np.full((1, 3, 4, 5), 1 + 2.0**-12, np.float32)
    for provider, exact in (("openvino", True), ("openvino-bf16", not has_bf16)):
        outputs = load_network(file, provider=provider, threads=1)(images)
        assert (outputs["kernels"] == images * 2).all() == exact
        np.testing.assert_allclose(outputs["kernels"], images * 2, rtol=2.0**-7)


@pytest.mark.parametrize(
    ("description", "outputs", "message"),
    [
        (None, MODEL.output_names, "has no description of its model"),
        ("{}", MODEL.output_names, "has no usable description of its model"),
        (replace(MODEL, contract="yolo-seg").to_json(), ("output0",), "--contract raw"),
        (MODEL.to_json(), ("logits", "kernels"), "has no output 'mask_features'"),
        (
            replace(MODEL, settings=replace(MODEL.settings, windows=True)).to_json(),
            MODEL.output_names,
            "has no output 'windows'",
        ),
    ],
)
def test_other_files_are_refused(description, outputs, message, write):
    with pytest.raises(UserError, match=message):
        OnnxPredictor(write(description, outputs))


def test_unusable_files_and_options_are_refused(tmp_path, write):
    with pytest.raises(UserError, match=r"none\.onnx does not exist"):
        OnnxPredictor(tmp_path / "none.onnx")
    with pytest.raises(UserError, match="is not a file"):
        OnnxPredictor(tmp_path)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"\x08\x01" * 50)
    with pytest.raises(UserError, match=r"cannot load .*damaged\.onnx"):
        OnnxPredictor(damaged)
    file = write(MODEL.to_json())
    with pytest.raises(UserError, match="must be one of onnxruntime, openvino"):
        OnnxPredictor(file, provider="tensorrt")
    with pytest.raises(UserError, match="at least 1"):
        OnnxPredictor(file, threads=0)
    predict = OnnxPredictor(file)
    with pytest.raises(UserError, match=r"\(height, width, 3\), not \(8, 8\)"):
        predict(np.zeros((8, 8), np.uint8))
    with pytest.raises(UserError, match=r"not \(8, 8, 4\)"):
        predict(np.zeros((8, 8, 4), np.uint8))
    assert predict.predict_batch([]) == []
