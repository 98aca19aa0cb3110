"""Conversion of published SOLOv2 checkpoints.

They come from three code bases: AdelaiDet (on Detectron2), WXinlong/SOLO (on MMDetection 1) and
MMDetection. Apart from parameter names, the networks differ only in the normalisation of images and
in the position of the stride in the ResNet.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .errors import UserError
from .unpickling import load_tensors
from .weights import rename_resnet


@dataclass(frozen=True)
class Publisher:
    """Code base that published a checkpoint.

    Attributes:
        name: name of the code base.
        mark: prefix of parameter names that identifies it.
        rules: patterns and replacements, applied in order to each name.
        settings: config keys and values that these ResNets require.
        torchvision_resnet: whether the ResNets have torchvision's parameter names instead of
            Detectron2's.
    """

    name: str
    mark: str
    rules: tuple[tuple[str, Any], ...]
    settings: Mapping[str, Any]
    torchvision_resnet: bool


# For ResNets that started from Detectron2's ImageNet weights.
MSRA_SETTINGS = {
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.FORMAT": "BGR",
}
# For ResNets that started from torchvision's ImageNet weights.
TORCHVISION_SETTINGS = {
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
}

# Infixes by index in AdelaiDet's Sequential of a convolution and its normalisation.
_AT = ("", "norm.")


def _in_tower(match: re.Match[str]) -> str:
    # A tower is a flat list: convolution, normalisation, ReLU, convolution, ...
    conv, part = divmod(int(match[1]), 3)
    return f"_tower.{conv}.{_AT[part]}"


# In MMDetection, the normalisation is a sibling of the convolution; in Detectron2, a submodule.
_PARTS = ((r"\.conv\.", "."), (r"\.gn\.", ".norm."), (r"\.conv_offset\.", ".conv_offset_mask."))
# MMDetection numbers levels from 0, Detectron2 by the logarithm of their stride.
_FPN = (
    (r"^neck\.lateral_convs\.(\d)\.", lambda m: f"backbone.fpn_lateral{int(m[1]) + 2}."),
    (r"^neck\.fpn_convs\.(\d)\.", lambda m: f"backbone.fpn_output{int(m[1]) + 2}."),
)

PUBLISHERS = (
    Publisher(
        "AdelaiDet",
        "ins_head.",
        (
            (r"^ins_head\.cate", "instance_head.category"),
            (r"^ins_head\.", "instance_head."),
            (r"_tower\.(\d+)\.", _in_tower),
            (r"^mask_head\.convs_all_levels\.(\d)\.conv(\d)\.", r"mask_head.levels.\1.\2."),
            (r"^mask_head\.conv_pred\.", "mask_head.predict."),
            (r"^(mask_head\..*\.)([01])\.(\w+)$", lambda m: f"{m[1]}{_AT[int(m[2])]}{m[3]}"),
        ),
        settings=MSRA_SETTINGS,
        torchvision_resnet=False,
    ),
    Publisher(
        "WXinlong/SOLO",
        "bbox_head.solo_kernel.",
        (
            *_PARTS,
            *_FPN,
            (r"^bbox_head\.cate_convs\.", "instance_head.category_tower."),
            (r"^bbox_head\.kernel_convs\.", "instance_head.kernel_tower."),
            (r"^bbox_head\.solo_cate\.", "instance_head.category_pred."),
            (r"^bbox_head\.solo_kernel\.", "instance_head.kernel_pred."),
            (r"^mask_feat_head\.convs_all_levels\.(\d)\.conv(\d)\.", r"mask_head.levels.\1.\2."),
            (r"^mask_feat_head\.conv_pred\.0\.", "mask_head.predict."),
        ),
        settings=TORCHVISION_SETTINGS,
        torchvision_resnet=True,
    ),
    Publisher(
        "MMDetection",
        "mask_head.mask_feature_head.",
        (
            *_PARTS,
            *_FPN,
            (r"^mask_head\.cls_convs\.", "instance_head.category_tower."),
            (r"^mask_head\.kernel_convs\.", "instance_head.kernel_tower."),
            (r"^mask_head\.conv_cls\.", "instance_head.category_pred."),
            (r"^mask_head\.conv_kernel\.", "instance_head.kernel_pred."),
            (r"^mask_head\.mask_feature_head\.", "mask_head."),
            (r"^mask_head\.convs_all_levels\.(\d)\.conv(\d)\.", r"mask_head.levels.\1.\2."),
            (r"^mask_head\.conv_pred\.", "mask_head.predict."),
        ),
        settings=TORCHVISION_SETTINGS,
        torchvision_resnet=True,
    ),
)


def publisher_of(names: Iterable[str]) -> Publisher:
    """Identify the code base of a checkpoint by its parameter names.

    Raises:
        UserError: If the code base is unknown.
    """
    for publisher in PUBLISHERS:
        if any(name.startswith(publisher.mark) for name in names):
            return publisher
    known = ", ".join(p.name for p in PUBLISHERS)
    raise UserError(
        f"the checkpoint is not a SOLOv2 of {known}; its first parameters are {[*names][:3]}."
    )


def rename(state: Mapping[str, torch.Tensor], publisher: Publisher) -> dict[str, torch.Tensor]:
    """Rename the state of a published SOLOv2 to the names of this project."""
    renamed = {}
    resnet = {}
    for name, value in state.items():
        if publisher.torchvision_resnet and name.startswith("backbone."):
            resnet[name.removeprefix("backbone.")] = value
            continue
        for pattern, replacement in publisher.rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    for name, value in rename_resnet(resnet).items():
        renamed[f"backbone.bottom_up.{name}"] = torch.as_tensor(value)
    return renamed


@dataclass(frozen=True)
class Conversion:
    """Result of matching a checkpoint to a model.

    Attributes:
        state: parameters and buffers for the model.
        left_out: unused parameters of the checkpoint, with the reasons.
        at_random: parameters of the model that are not in the checkpoint.
    """

    state: dict[str, torch.Tensor]
    left_out: dict[str, str]
    at_random: list[str]


def fit(state: Mapping[str, torch.Tensor], model: torch.nn.Module) -> Conversion:
    """Select the entries of a state whose name and shape match the model.

    Args:
        state: state with the names of this project.
        model: target model, possibly on the meta device.
    """
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    kept, left_out = {}, {}
    for name, value in state.items():
        if name not in shapes:
            left_out[name] = "the model has no such parameter"
        elif shapes[name] != value.shape:
            left_out[name] = f"{[*value.shape]}, in the model {[*shapes[name]]}"
        else:
            kept[name] = value
    return Conversion(kept, left_out, [name for name in shapes if name not in kept])


def read_state(file: str | Path) -> dict[str, torch.Tensor]:
    """Read the parameters and buffers of a checkpoint without executing code in it.

    Args:
        file: file written by ``torch.save`` that contains a state, or a dict with a state under
            ``model`` or ``state_dict``.

    Raises:
        UserError: If the file is missing or not such a checkpoint.
    """
    try:
        content = load_tensors(file, lenient=True)
    except Exception as error:  # Damaged files make torch raise errors of many types.
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{file} cannot be read as a PyTorch checkpoint ({type(error).__name__}: {reason})."
        ) from error
    if isinstance(content, Mapping):
        content = content.get("model", content.get("state_dict", content))
    state = (
        {k: v for k, v in content.items() if torch.is_tensor(v)}
        if isinstance(content, Mapping)
        else {}
    )
    if not state:
        raise UserError(f"{file} does not contain the state of a model.")
    return {name.removeprefix("module."): value for name, value in state.items()}
