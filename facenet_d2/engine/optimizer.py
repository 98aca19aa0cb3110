"""SGD and AdamW with learning rate multipliers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    """Build the optimizer that ``SOLVER`` describes.

    Supports, in addition to Detectron2's keys,

    - ``OPTIMIZER``: ``SGD``, or ``AdamW`` with PyTorch's default betas;
    - ``BACKBONE_MULTIPLIER`` and ``OFFSET_MULTIPLIER``: learning rate multipliers of the bottom-up
      network and of the offsets and modulation of deformable convolutions;
    - ``WEIGHT_DECAY_EMBED``: weight decay of embeddings, as Detectron2's ``WEIGHT_DECAY_NORM`` is
      that of normalisation layers;
    - ``CLIP_GRADIENTS.CLIP_TYPE full_model`` for both optimizers: clips the norm of the whole
      gradient. Detectron2's ``norm`` clips each parameter separately, which changes the direction
      of the step.

    Raises:
        ValueError: If ``OPTIMIZER`` is unknown or a multiplier is negative.
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
    if solver.WEIGHT_DECAY_EMBED is not None:
        decay = {"weight_decay": solver.WEIGHT_DECAY_EMBED}
        groups = change_groups(groups, embedding_parameters(model), lambda group: decay)
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
    elif torch.device(cfg.MODEL.DEVICE).type == "cpu":
        # On a GPU, AMP leaves gradients scaled for a fused optimizer, which then cannot be clipped.
        arguments["fused"] = True
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_TYPE == "full_model":
        optimizer = kind(groups, **arguments)
        clip_whole_gradient(optimizer, clip.CLIP_VALUE, clip.NORM_TYPE)
        return optimizer
    return maybe_add_gradient_clipping(cfg, kind)(groups, **arguments)


def bottom_up_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of the bottom-up network, or of a backbone without a neck."""
    backbone = getattr(model, "backbone", None)
    if backbone is None:
        return []
    return list(getattr(backbone, "bottom_up", backbone).parameters())


def offset_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that predict offsets and modulation of deformable convolutions."""
    return [
        parameter
        for module in model.modules()
        if isinstance(module, ModulatedDeformConv2d)
        for parameter in module.conv_offset_mask.parameters()
    ]


def embedding_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of embeddings, such as learned queries."""
    return [p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()]


def multiply_learning_rate(
    groups: Iterable[dict[str, Any]], parameters: Iterable[nn.Parameter], factor: float
) -> list[dict[str, Any]]:
    """Split parameter groups, and multiply the learning rate of the given parameters.

    Args:
        groups: parameter groups with ``lr``.
        parameters: parameters whose learning rate is multiplied.
        factor: multiplier.
    """
    return change_groups(groups, parameters, lambda group: {"lr": group["lr"] * factor})


def change_groups(
    groups: Iterable[dict[str, Any]],
    parameters: Iterable[nn.Parameter],
    change: Callable[[dict[str, Any]], dict[str, Any]],
) -> list[dict[str, Any]]:
    """Split parameter groups, and change the options of the given parameters.

    Args:
        groups: parameter groups.
        parameters: parameters whose options are changed.
        change: function from a group to its new options by name.
    """
    chosen = {id(p) for p in parameters}
    split = []
    for group in groups:
        for changed in (False, True):
            part = [p for p in group["params"] if (id(p) in chosen) == changed]
            if part:
                split.append({**group, "params": part, **(change(group) if changed else {})})
    return split


def clip_whole_gradient(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float
) -> None:
    """Clip the norm of the whole gradient before each step, and log it as ``gradient_norm``."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip(*_: Any) -> None:
        # AMP has already unscaled the gradients when the optimizer steps.
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm, norm_type)
        get_event_storage().put_scalar("gradient_norm", norm.item())

    optimizer.register_step_pre_hook(clip)
