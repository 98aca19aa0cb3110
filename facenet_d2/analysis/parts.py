"""Parameters, multiply-adds and activations of each part of a model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from .counter import OperatorCounter
from .operators import MMDETECTION
from .workloads import plan_inference

# "as_mmdetection" adds the operations that only MMDetection counts to the multiply-adds.
KEYS = ("parameters", "trainable", "multiply_adds", "activations", "as_mmdetection")


@dataclass(frozen=True)
class Analysis:
    """Result of :func:`analyze`.

    Attributes:
        parts: values of :data:`KEYS` for each part and for "all".
        what: sentence that describes one inference.
        input_size: (height, width) of the image after the model's padding.
        counted: see :class:`OperatorCounter`.
        not_multiplying: see :class:`OperatorCounter`.
        not_counted: see :class:`OperatorCounter`.
        run: function that runs one inference without counting.
    """

    parts: dict[str, dict[str, int]]
    what: str
    input_size: tuple[int, int]
    counted: dict[str, int]
    not_multiplying: dict[str, int]
    not_counted: dict[str, int]
    run: Callable[[], None]


def _all_parameters(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    for name, buffer in module.named_buffers():
        if name.rpartition(".")[2] in ("weight", "bias"):
            yield name, buffer


def count_parameters(module: nn.Module) -> int:
    """Count weights and biases, including those of frozen batch normalisation.

    Detectron2 stores the latter as buffers; MMDetection, which the paper used, as parameters.
    """
    return sum(p.numel() for _, p in _all_parameters(module))


def count_trainable(module: nn.Module) -> int:
    """Count the parameters that training changes."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


def padded_size(model: nn.Module, height: int, width: int) -> tuple[int, int]:
    """Return the (height, width) of an image after the model's padding."""
    divisor = max(1, getattr(model.backbone, "size_divisibility", 1))
    return -(-height // divisor) * divisor, -(-width // divisor) * divisor


def analyze(model: nn.Module, height: int, width: int, *, instances: int = 100) -> Analysis:
    """Count parameters, multiply-adds and activations of one inference.

    Args:
        model: model in evaluation mode.
        height: height of the input in pixels.
        width: width of the input in pixels.
        instances: number of instances whose masks are computed.

    Raises:
        UserError: if the model cannot find that many instances.
    """
    plan = plan_inference(model, instances)
    device = next(model.parameters()).device
    noise = torch.rand(3, height, width, generator=torch.Generator().manual_seed(0))
    image = (255 * noise).to(device)
    counter = OperatorCounter(model, plan.part_of)
    with torch.no_grad(), counter:
        plan.run(image, counter.part)
    parts: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(KEYS, 0))
    for part in ("backbone", "neck"):
        parts[part]  # Makes these two the first rows.
    for name, parameter in _all_parameters(model):
        row = parts[plan.part_of(name)]
        row["parameters"] += parameter.numel()
        row["trainable"] += parameter.numel() * parameter.requires_grad
    for name, counts in counter.parts.items():
        parts[name]["multiply_adds"] += counts.multiply_adds
        parts[name]["activations"] += counts.activations
        parts[name]["as_mmdetection"] += counts.published(MMDETECTION)
    parts = {name: row for name, row in parts.items() if any(row.values())}
    total = {key: sum(row[key] for row in parts.values()) for key in KEYS}
    if (total["parameters"], total["trainable"]) != (
        count_parameters(model),
        count_trainable(model),
    ):
        raise AssertionError("the parameters of the parts do not add up to the model's")

    @torch.no_grad()
    def run() -> None:
        plan.run(image, lambda _: nullcontext())

    return Analysis(
        parts={**parts, "all": total},
        what=plan.what,
        input_size=padded_size(model, height, width),
        counted=dict(counter.counted),
        not_multiplying=dict(counter.not_multiplying),
        not_counted=dict(counter.not_counted),
        run=run,
    )
