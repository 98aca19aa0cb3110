"""Whole calls of a model in several runtimes, with given predictions, to measure their times.

For ``tools/benchmark.py``; not imported with the package.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode

from ..modeling import SOLOv2, accelerate
from ..runtime import OnnxPredictor
from .describe import describe
from .files import metadata_of, save_onnx, to_onnx
from .networks import RawNetwork


class ReplacedOutputs:
    """A network that runs, and then returns other outputs than its own.

    Attributes:
        outputs: what a call returns.
        start: time at which the last call began, in seconds of :func:`time.perf_counter`.
        end: time at which it ended.
    """

    def __init__(self, network: Callable[[Any], Any]) -> None:
        self._network = network
        self.outputs: Any = None

    def __call__(self, images: Any) -> Any:
        self.start = time.perf_counter()
        self._network(images)
        self.end = time.perf_counter()
        return self.outputs


@dataclasses.dataclass(frozen=True)
class RuntimeModel:
    """A model in one runtime.

    Attributes:
        predict: function that returns the instances of an image, ``(H, W, 3)`` uint8 in BGR.
        network: the network that it runs.
        show: function that replaces the network's outputs by predictions of SOLOv2, of which at
            most a given number become instances.
    """

    predict: Callable[[np.ndarray], Any]
    network: ReplacedOutputs
    show: Callable[[Any, int], None]


def in_pytorch(model: SOLOv2, cfg: CfgNode, autocast: str = "") -> RuntimeModel:
    """Return a model in PyTorch, channels last.

    Args:
        model: model in evaluation mode; it is copied.
        cfg: config of the model.
        autocast: value for ``TEST.AUTOCAST``.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.TEST.CHANNELS_LAST, cfg.TEST.AUTOCAST = True, autocast
    model = copy.deepcopy(model)
    accelerate(model, cfg)
    network = ReplacedOutputs(model.predict)
    # Called like the method.
    model.predict = network  # type: ignore[method-assign]

    def predict(image: np.ndarray) -> Any:
        if cfg.INPUT.FORMAT == "RGB":
            image = image[:, :, ::-1]
        tensor = torch.as_tensor(image.astype(np.float32).transpose(2, 0, 1))
        return model([{"image": tensor}])[0]["instances"]

    def show(predictions: Any, instances: int) -> None:
        network.outputs = predictions
        model.settings = dataclasses.replace(model.settings, max_instances=instances)

    return RuntimeModel(predict, network, show)


def exported(file: Path, provider: str, threads: int) -> RuntimeModel:
    """Return an exported model in a runtime of :mod:`facenet_d2.runtime`.

    Args:
        file: ONNX file of a SOLOv2.
        provider: see :class:`OnnxPredictor`.
        threads: number of threads of the network.
    """
    predictor = OnnxPredictor(file, provider=provider, threads=threads)
    network = ReplacedOutputs(predictor.network)
    # The description has been read; from here on, the predictor only calls its network.
    predictor.network = network  # type: ignore[assignment]

    def show(predictions: Any, instances: int) -> None:
        fields = predictions._asdict().items()
        network.outputs = {name: x.numpy() for name, x in fields if x is not None}
        description = predictor.description
        settings = dataclasses.replace(description.settings, max_instances=instances)
        predictor.description = dataclasses.replace(description, settings=settings)

    return RuntimeModel(predictor, network, show)


def every_runtime(
    model: SOLOv2, cfg: CfgNode, folder: Path, threads: int
) -> dict[str, RuntimeModel]:
    """Return a model in all installed runtimes, by name.

    Args:
        model: model on the CPU, in evaluation mode.
        cfg: config of the model.
        folder: folder for the exported model.
        threads: number of threads of exported models. That of PyTorch is not changed.

    Raises:
        UserError: if ONNX Runtime, or a package that the export needs, is missing.
    """
    file = folder / "model.onnx"
    names = [f"class {i}" for i in range(model.num_classes)]
    description = describe(model, cfg, contract="raw", class_names=names)
    network = RawNetwork(model, description, deform="gridsample")
    save_onnx(to_onnx(network, opset=20), file, metadata_of(description))
    runtimes = {
        "PyTorch float32": in_pytorch(model, cfg),
        "PyTorch bf16": in_pytorch(model, cfg, "bf16"),
        "ONNX Runtime float32": exported(file, "onnxruntime", threads),
    }
    if find_spec("openvino"):
        runtimes["OpenVINO float32"] = exported(file, "openvino", threads)
        runtimes["OpenVINO bf16"] = exported(file, "openvino-bf16", threads)
    return runtimes
