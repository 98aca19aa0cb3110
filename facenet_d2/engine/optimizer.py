"""The optimizer that a config describes: Detectron2's SGD or AdamW, and factors of its rates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.utils.events import get_event_storage
from torch import nn

from ..modeling.layers import ModulatedDeformConv2d

OPTIMIZERS = ("SGD", "AdamW")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of ``SOLVER``.

    Supports, in addition to Detectron2's keys,

    - ``OPTIMIZER``: ``SGD`` or ``AdamW``, whose other arguments are PyTorch's defaults;
    - ``BACKBONE_MULTIPLIER`` and ``OFFSET_MULTIPLIER``: factors of the learning rate of the
      bottom-up network and of the offsets and modulation of deformable convolutions;
    - ``CLIP_GRADIENTS.CLIP_TYPE full_model``: the norm of all gradients together is clipped.
      Detectron2's own ``norm`` clips each parameter by itself, which changes the direction of the
      step.

    Raises:
        ValueError: for an unknown ``OPTIMIZER`` or a negative factor.
    """
    solver = cfg.SOLVER
    if solver.OPTIMIZER not in OPTIMIZERS:
        raise ValueError(
            f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; it must be one of {[*OPTIMIZERS]}"
        )
    groups = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        bias_lr_factor=solver.BIAS_LR_FACTOR,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
    )
    factors = {
        "BACKBONE_MULTIPLIER": bottom_up_parameters(model),
        "OFFSET_MULTIPLIER": offset_parameters(model),
    }
    for key, parameters in factors.items():
        if solver[key] < 0:
            raise ValueError(f"SOLVER.{key} is {solver[key]}; it must be at least 0")
        if solver[key] != 1:
            groups = multiply_learning_rate(groups, parameters, solver[key])
    kind = torch.optim.SGD if solver.OPTIMIZER == "SGD" else torch.optim.AdamW
    arguments: dict[str, Any] = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if kind is torch.optim.SGD:
        arguments |= {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        optimizer = kind(groups, **arguments)
        clip_whole_gradient(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
        return optimizer
    return maybe_add_gradient_clipping(cfg, kind)(groups, **arguments)


def bottom_up_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters of the bottom-up network, which without a neck is the backbone."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return []
    return list(getattr(backbone, "bottom_up", backbone).parameters())


def offset_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that give offsets and modulation of the deformable convolutions."""
    return [
        parameter
        for module in model.modules()
        if isinstance(module, ModulatedDeformConv2d)
        for parameter in module.conv_offset_mask.parameters()
    ]


def multiply_learning_rate(
    groups: Iterable[dict[str, Any]], parameters: Iterable[nn.Parameter], factor: float
) -> list[dict[str, Any]]:
    """Split parameter groups, so that some parameters have another learning rate.

    Args:
        groups: parameter groups with ``lr``.
        parameters: parameters whose learning rate is to be multiplied.
        factor: the factor.
    """
    chosen = {id(p) for p in parameters}
    split = []
    for group in groups:
        for multiplied in (False, True):
            part = [p for p in group["params"] if (id(p) in chosen) == multiplied]
            if part:
                rate = group["lr"] * (factor if multiplied else 1)
                split.append({**group, "params": part, "lr": rate})
    return split


def clip_whole_gradient(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float
) -> None:
    """Clip the norm of all gradients together before each step, and log it as ``gradient_norm``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: Any) -> None:
        # A hook before the step sees gradients that AMP has already scaled back.
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
        get_event_storage().put_scalar("gradient_norm", norm.item())

    optimizer.register_step_pre_hook(clip)
