"""Files of exported networks: ONNX, TorchScript and PyTorch's exported programs."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ..errors import UserError
from ..files import replaced
from ..modeling.acceleration import fold_batch_norm
from ..runtime.description import METADATA_KEY, ModelDescription
from .group_norm import replace_group_norm
from .networks import ExportedNetwork
from .program import INPUT_NAME, record, trace

if TYPE_CHECKING:
    import onnx

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "pt2": ".pt2"}
"""Suffix of the files of each format."""

DEFAULT_OPSETS = {"gridsample": 20, "deformconv": 22}
"""Version of ONNX's operators by the form of deformable convolutions."""


def to_onnx(network: ExportedNetwork, opset: int) -> onnx.ModelProto:
    """Convert a network to an ONNX model.

    Args:
        network: network on the CPU.
        opset: version of ONNX's operators.

    Raises:
        UserError: if the packages of the extra ``[export]`` are missing, or PyTorch is too old.
    """
    require_onnx()
    network = with_folded_batch_norm(network)
    replace_group_norm(network)
    program = record(network)
    with warnings.catch_warnings():
        # Deprecations of the exporter, and operators that are missing but not needed.
        warnings.simplefilter("ignore")
        converted = torch.onnx.export(
            program,
            input_names=[INPUT_NAME],
            output_names=list(network.description.output_names),
            opset_version=opset,
            verbose=False,
        )
    assert converted is not None
    model: onnx.ModelProto = converted.model_proto
    _remove_traces(model)
    _name_dimensions(model)
    return model


def save_onnx(model: onnx.ModelProto, file: Path, metadata: Mapping[str, str]) -> None:
    """Write an ONNX model with its weights to one file.

    Args:
        model: the model; it gets the metadata.
        file: file to write or replace.
        metadata: texts for the file's ``metadata_props``, see :func:`metadata_of`.
    """
    del model.metadata_props[:]
    for key, text in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    with replaced(file) as temporary:
        temporary.write_bytes(model.SerializeToString())


def save_torch(
    network: ExportedNetwork, file: Path, file_format: str, metadata: Mapping[str, str]
) -> None:
    """Write a network as TorchScript or as an exported program of PyTorch.

    Args:
        network: network on the CPU.
        file: file to write or replace.
        file_format: "torchscript" or "pt2".
        metadata: texts stored in the file as extra files, see :func:`metadata_of`.

    Raises:
        UserError: if PyTorch is too old for exported programs.
    """
    network = with_folded_batch_norm(network)
    with replaced(file) as temporary:
        if file_format == "torchscript":
            torch.jit.save(trace(network), str(temporary), _extra_files=dict(metadata))
        else:
            torch.export.save(record(network), temporary, extra_files=dict(metadata))


def with_folded_batch_norm(network: ExportedNetwork) -> ExportedNetwork:
    """Return a copy of a network whose convolutions contain the batch normalisation after them.

    The exporter would not fold it into convolutions that several levels share.
    """
    network = copy.deepcopy(network)
    fold_batch_norm(network)
    return network


def require_onnx() -> None:
    """Check that the packages of the extra ``[export]`` are installed.

    Raises:
        UserError: if one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"the export to ONNX needs packages that are not installed ({error}); install "
            "facenet_d2 with its extra [export]: pip install 'facenet_d2[export]'"
        ) from error


def _remove_traces(model: onnx.ModelProto) -> None:
    """Remove the stack traces of the exporter, which name files of this machine."""
    graph = model.graph
    del model.metadata_props[:], graph.metadata_props[:]
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    for function in model.functions:
        del function.metadata_props[:]
        for node in function.node:
            del node.metadata_props[:]
            node.doc_string = ""


def _name_dimensions(model: onnx.ModelProto) -> None:
    """Replace the exporter's formulas of sizes, which can take lines, by names or nothing."""
    del model.graph.value_info[:]
    (images,) = model.graph.input
    dims = images.type.tensor_type.shape.dim
    names = {}
    for dim, name in zip(dims, ("count", "channels", "height", "width"), strict=True):
        if dim.dim_param:
            names[dim.dim_param] = dim.dim_param = name
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.dim_param in names:
                dim.dim_param = names[dim.dim_param]
            elif dim.dim_param:
                dim.Clear()


def metadata_of(description: ModelDescription, *, size: int | None = None) -> dict[str, str]:
    """Return the texts that a file of a model contains.

    Args:
        description: description of the model, stored under
            :data:`~facenet_d2.runtime.description.METADATA_KEY`.
        size: side of the image for the contract "yolo-seg", whose files also have the metadata that
            Ultralytics and QGIS Deepness read.
    """
    texts = {METADATA_KEY: description.to_json()}
    if description.contract != "yolo-seg":
        return texts
    assert size is not None
    names = dict(enumerate(description.class_names))
    ultralytics = {
        "description": "facenet_d2",
        "task": "segment",
        "stride": str(description.size_divisibility),
        "batch": "1",
        "channels": "3",
        "imgsz": str([size, size]),
        "names": str(names),
        "end2end": "False",
    }
    # Scores are already lowered by Matrix NMS, which leaves little to a threshold on boxes.
    overlap = 0.5 if description.meta_architecture == "YOLACT" else 0.9
    deepness = {
        "model_type": "Detector",
        "det_type": "YOLO_Ultralytics_segmentation",
        "class_names": names,
        "tile_size": size,
        "tiles_size": size,
        "tiles_overlap": 25,
        "det_conf": 0.3,
        "det_iou_thresh": overlap,
    }
    if description.pixel_size is not None:
        # In centimetres per pixel.
        deepness["resolution"] = 100 * description.pixel_size
    return texts | ultralytics | {key: json.dumps(value) for key, value in deepness.items()}
