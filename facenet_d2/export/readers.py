"""Exported files, run by their own runtimes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

Run = Callable[[torch.Tensor], list[torch.Tensor]]
"""Function from images to the outputs of a network."""


def load_network(file: Path, file_format: str) -> Run:
    """Load an exported file.

    Args:
        file: a file that this package has written.
        file_format: its format, a key of :data:`~.files.FORMATS`.

    Returns:
        Function that runs the network on the CPU.
    """
    if file_format == "onnx":
        return _onnx(file)
    module = (
        torch.jit.load(str(file), map_location="cpu")
        if file_format == "torchscript"
        # Its guards needlessly bind max pooling to sizes of the same parity as the recorded ones.
        else torch.export.load(file).module(check_guards=False)
    )

    def run(images: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(module(images))

    return run


def _onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()

    def run(images: torch.Tensor) -> list[torch.Tensor]:
        outputs = session.run(None, {entry.name: images.contiguous().numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return run
