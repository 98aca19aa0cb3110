"""Exported networks, run by ONNX Runtime or OpenVINO on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..cores import default_workers
from ..errors import UserError
from .description import METADATA_KEY

INPUT_NAME = "images"
"""Name of the network's input."""

SHAPES = 4
"""Number of shapes of images for which compiled networks of OpenVINO are kept."""


class Network(Protocol):
    """A network in a file.

    Attributes:
        description: text that describes the model; None for a file of another program.
        output_names: names of the outputs.
    """

    description: str | None
    output_names: tuple[str, ...]

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Run the network.

        Args:
            images: ``(N, C, H, W)`` float32, contiguous.

        Returns:
            The outputs by name, float32.
        """


class OnnxRuntimeNetwork:
    """A network in ONNX Runtime (extra ``[onnx]``)."""

    def __init__(self, file: Path, threads: int) -> None:
        """
        Args:
            file: an ONNX file.
            threads: number of threads.

        Raises:
            UserError: if the file cannot be loaded, or ONNX Runtime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise _missing("onnxruntime", "onnx") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Errors are raised; warnings of the graph's optimisation are not the user's concern.
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(file), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime has a class of its own for each of its codes.
            raise _unreadable(file, "ONNX Runtime", error) from error
        self.description = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        self.output_names = tuple(output.name for output in self._session.get_outputs())

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        outputs = self._session.run(self.output_names, {INPUT_NAME: images})
        return dict(zip(self.output_names, outputs, strict=True))


class OpenVinoNetwork:
    """A network in OpenVINO (extra ``[openvino]``)."""

    def __init__(self, file: Path, threads: int, precision: str = "f32") -> None:
        """
        Args:
            file: an ONNX file.
            threads: number of threads.
            precision: "f32", or "bf16" for bfloat16 on processors that have it.

        Raises:
            UserError: if the file cannot be loaded, or OpenVINO is not installed.
        """
        try:
            import openvino
        except ImportError as error:
            raise _missing("openvino", "openvino") from error
        # Without the hint, processors with bfloat16 use it, at a loss of accuracy.
        options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}

        def compile_for(shape: tuple[int, ...]) -> Any:
            fixed = model.clone()
            fixed.reshape(shape)
            return core.compile_model(fixed, "CPU", options)

        try:
            core = openvino.Core()
            model = core.read_model(file)
            self._any_shape = core.compile_model(model, "CPU", options)
        except Exception as error:  # OpenVINO raises a plain RuntimeError for all of its errors.
            raise _unreadable(file, "OpenVINO", error) from error
        # The metadata of the ONNX file.
        key = ["framework", METADATA_KEY]
        self.description = model.get_rt_info(key).value if model.has_rt_info(key) else None
        # Compiled outputs also have the names of operators that were left out before them.
        self.output_names = tuple(output.get_any_name() for output in model.outputs)

        # Compiled for one shape of images, a network is about 1.5 times as fast as for all shapes.
        self._compile = lru_cache(SHAPES)(compile_for)
        self._previous: tuple[int, ...] = ()

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        # Compiling takes seconds: only for a shape that comes again, as in videos and scenes.
        again, self._previous = images.shape == self._previous, images.shape
        outputs = (self._compile(images.shape) if again else self._any_shape)({INPUT_NAME: images})
        return {name: outputs[name] for name in self.output_names}


PROVIDERS: dict[str, Callable[[Path, int], Network]] = {
    "onnxruntime": OnnxRuntimeNetwork,
    "openvino": OpenVinoNetwork,
    "openvino-bf16": partial(OpenVinoNetwork, precision="bf16"),
}
"""Function that loads a network by the name of the runtime."""


def load_network(file: str | Path, *, provider: str, threads: int | None) -> Network:
    """Load the network of a file.

    Args:
        file: an ONNX file.
        provider: a key of :data:`PROVIDERS`.
        threads: number of threads; by default that of the cores which this process may use.

    Raises:
        UserError: if the file or the provider is not usable.
    """
    path = Path(file)
    if provider not in PROVIDERS:
        raise UserError(f"provider is {provider!r}; it must be one of {', '.join(PROVIDERS)}.")
    if threads is not None and threads < 1:
        raise UserError(f"threads is {threads}; it must be at least 1.")
    if not path.is_file():
        reason = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {reason}; name a file that tools/export_model.py has written.")
    return PROVIDERS[provider](path, threads or default_workers())


def _missing(package: str, extra: str) -> UserError:
    return UserError(
        f"Exported models need {package}, which is not installed: pip install "
        f"'facenet_d2[{extra}]', or {package} alone."
    )


def _unreadable(file: Path, runtime: str, error: Exception) -> UserError:
    text = " ".join(str(error).split())[:300]
    return UserError(f"{runtime} cannot load {file}: {text}")
