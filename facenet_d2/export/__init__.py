"""Export of trained models to ONNX, TorchScript and PyTorch's exported programs."""

from .checks import Comparison, compare
from .deform import DEFORM_FORMS
from .describe import describe
from .files import (
    DEFAULT_OPSETS,
    FORMATS,
    metadata_of,
    require_onnx,
    save_onnx,
    save_torch,
    to_onnx,
)
from .networks import ExportedNetwork, RawNetwork
from .readers import load_network
from .yolo_seg import yolo_seg_network

__all__ = [
    "DEFAULT_OPSETS",
    "DEFORM_FORMS",
    "FORMATS",
    "Comparison",
    "ExportedNetwork",
    "RawNetwork",
    "compare",
    "describe",
    "load_network",
    "metadata_of",
    "require_onnx",
    "save_onnx",
    "save_torch",
    "to_onnx",
    "yolo_seg_network",
]
