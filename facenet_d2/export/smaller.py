"""Smaller ONNX models: weights of 16 bits, and convolutions with integers of 8 bits."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import nn

from .program import INPUT_NAME

if TYPE_CHECKING:
    import onnx

# Names of the last layers of heads, which for SOLO and YOLACT are lists of convolutions.
SENSITIVE = {
    *("predict", "predict_x", "predict_y", "category_pred", "kernel_pred", "window_pred"),
    *("cls_score", "bbox_pred", "ctrness", "controller", "conv_offset_mask"),
}

# Smaller constants, such as shapes, thresholds and biases, stay as they are.
MIN_VALUES = 1024


def halve_weights(model: onnx.ModelProto) -> int:
    """Store the weights of a model in float16. Computation stays in float32.

    A runtime converts them when it loads the file.

    Args:
        model: changed in place.

    Returns:
        The number of values that are now stored in float16.
    """
    from onnx import TensorProto, helper, numpy_helper

    limit = np.finfo(np.float16).max
    casts, halved = [], 0
    for tensor in model.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < MIN_VALUES or np.abs(values).max() > limit:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT))
        halved += values.size
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return halved


def sensitive_weights(network: nn.Module) -> list[str]:
    """Return the names of the weights that :func:`quantize` should leave in float32.

    These are the layers whose outputs are scores, boxes, kernels and masks, the offsets of
    deformable convolutions, and bottom-up networks with depthwise convolutions, such as
    EfficientNets: the ranges of their channels differ too much for one scale per tensor.
    """
    convs = {
        name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)
    }
    bottom_up = {name for name in convs if "bottom_up" in name.split(".")}
    if not any(convs[name].groups == convs[name].in_channels > 1 for name in bottom_up):
        bottom_up.clear()
    return [
        f"{name}.weight"
        for name in convs
        if name in bottom_up or SENSITIVE & {*name.split(".")[-2:]}
    ]


def quantize(
    model: onnx.ModelProto, images: Sequence[np.ndarray], *, excluded: Sequence[str]
) -> onnx.ModelProto:
    """Quantise the convolutions of a model to int8, with ranges measured on images.

    Each channel of a weight has its own scale. Activations have one scale per tensor.

    Args:
        model: float32 model.
        images: inputs of the network, ``(N, C, H, W)`` float32 each.
        excluded: names of weights whose convolutions stay in float32.

    Returns:
        The quantised model.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self) -> None:
            self.rest: Iterator[np.ndarray] = iter(images)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.rest, None)
            return None if image is None else {INPUT_NAME: image}

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, result = (
            Path(folder) / f"{name}.onnx" for name in ("plain", "prepared", "result")
        )
        onnx.save(model, plain)
        # Folds batch normalisation; shapes are not needed for convolutions.
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared, load_external_data=False).graph.node
        quantize_static(
            prepared,
            result,
            Images(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=[n.name for n in nodes if {*n.input} & {*excluded}],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(result)
