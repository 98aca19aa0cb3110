"""Programs of networks: their operations, recorded for images of any number and size."""

from __future__ import annotations

import warnings

import torch

from ..errors import UserError
from .networks import ExportedNetwork

INPUT_NAME = "images"
"""Name of the input of all exported networks."""

MIN_TORCH = "2.9"
"""First version of PyTorch whose exporter is supported."""

EXAMPLE = {"count": 2, "rows": 5, "columns": 9}
"""Number and size of the recorded images: a number of 1, or a level of one row or column, would
become a constant of the program. The coarsest level of YOLACT and CondInst has stride 128."""


def example_images(
    network: ExportedNetwork, *, count: int, rows: int, columns: int
) -> torch.Tensor:
    """Return noise around the mean colour, ``(count, C, H, W)``, the same in each call.

    Args:
        network: network that takes the images.
        count: number of images; 1 if the network takes one only.
        rows: H in multiples of the size divisibility, unless the network has a fixed size.
        columns: W in the same unit.
    """
    description = network.description
    generator = torch.Generator().manual_seed(0)
    if network.fixed_size is not None:
        return torch.rand(1, 3, network.fixed_size, network.fixed_size, generator=generator)
    divisor = description.size_divisibility
    shape = (count, len(description.pixel_mean), rows * divisor, columns * divisor)
    model = network.model
    return torch.randn(shape, generator=generator) * model.pixel_std + model.pixel_mean


def record(network: ExportedNetwork) -> torch.export.ExportedProgram:
    """Record the operations of a network.

    The program holds for any number of images whose sides are multiples of the size divisibility,
    unless the network has a fixed size.

    Args:
        network: network on the CPU.

    Raises:
        UserError: if PyTorch is too old.
    """
    require_torch()
    example = example_images(network, **EXAMPLE)
    shapes = None
    if network.fixed_size is None:
        divisor = network.description.size_divisibility
        count, rows, columns = (
            torch.export.Dim("count", min=1),
            torch.export.Dim("rows", min=2),
            torch.export.Dim("columns", min=2),
        )
        shapes = {INPUT_NAME: {0: count, 2: divisor * rows, 3: divisor * columns}}
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes=shapes)


def require_torch() -> None:
    """Check that PyTorch can record programs.

    Raises:
        UserError: if it is older than :data:`MIN_TORCH`.
    """
    if torch.__version__ < MIN_TORCH:
        raise UserError(
            f"PyTorch is {torch.__version__}, and the formats onnx and pt2 need at least "
            f"{MIN_TORCH}; install a newer PyTorch, or export with --format torchscript."
        )


def trace(network: ExportedNetwork) -> torch.jit.ScriptModule:
    """Record the operations of a network as TorchScript."""
    example = example_images(network, **EXAMPLE)
    with torch.no_grad(), warnings.catch_warnings():
        # Warnings about conditions on sizes, which hold for all sizes that the description allows.
        warnings.simplefilter("ignore")
        # Networks with top-k have ties in their outputs, which only checks.compare allows for.
        traced = torch.jit.trace(network, example, check_trace=False)
    assert isinstance(traced, torch.jit.ScriptModule)
    return traced
