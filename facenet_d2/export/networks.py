"""Networks as they are exported: tensors in, a fixed list of named tensors out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..modeling.condinst import CondInst
from ..modeling.instance_model import InstanceModel
from ..modeling.solo import SOLO, SOLOMaskHead
from ..runtime.description import ModelDescription
from .deform import replace_deformable
from .same_padding import replace_same_padding


def raw_outputs(model: InstanceModel[Any], predictions: Any) -> dict[str, torch.Tensor]:
    """Return a model's predictions as tensors by the names of the contract "raw".

    Args:
        model: the model.
        predictions: the model's named tuple of predictions.

    Returns:
        The outputs that :attr:`ModelDescription.output_names` describes, in any order.
    """
    fields = {k: v for k, v in predictions._asdict().items() if v is not None}
    if isinstance(model, CondInst):
        for name, levels in fields.items():
            if isinstance(levels, list):
                fields[name] = torch.cat(levels, dim=0 if name == "anchors" else 1)
    elif isinstance(model, SOLO):
        maps = fields.pop("mask_maps")
        fields |= {f"mask_maps_{i}": level for i, level in enumerate(maps)}
        if isinstance(model.mask_head, SOLOMaskHead):
            fields["kernels"] = torch.cat([_kernels(conv) for conv in model.mask_head.predict])
    return fields


def _kernels(conv: nn.Module) -> torch.Tensor:
    """Return the weights and the bias of a 1x1 convolution, ``(outputs, inputs + 1)``."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return torch.cat([conv.weight[:, :, 0, 0], conv.bias[:, None]], dim=1)


def restored(predictions: Any, outputs: Mapping[str, torch.Tensor]) -> Any:
    """Return outputs of the contract "raw" as a named tuple, the inverse of :func:`raw_outputs`.

    Args:
        predictions: predictions of the same model for images of the same size; their values are
            not used.
        outputs: the outputs by name.
    """
    fields: dict[str, Any] = {}
    for name, like in predictions._asdict().items():
        if not isinstance(like, list):
            fields[name] = outputs.get(name)
        elif name in outputs:
            # Levels are joined along the second-last dimension.
            fields[name] = list(outputs[name].split([len_of(x) for x in like], dim=-2))
        else:
            fields[name] = [outputs[f"{name}_{i}"] for i in range(len(like))]
    return predictions._replace(**fields)


def len_of(level: torch.Tensor) -> int:
    """Return the number of positions of a level, ``(..., R, K)``."""
    return level.shape[-2]


class ExportedNetwork(nn.Module):
    """Base class of the networks of the contracts.

    Attributes:
        model: copy of the model in evaluation mode, with deformable convolutions and paddings that
            can be exported.
        description: what inference needs besides the network.
    """

    model: InstanceModel[Any]

    def __init__(
        self, model: InstanceModel[Any], description: ModelDescription, *, deform: str
    ) -> None:
        """
        Args:
            model: trained model.
            description: description of the model.
            deform: form of deformable convolutions, see :data:`~.deform.DEFORM_FORMS`.
        """
        super().__init__()
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.description = description
        replace_deformable(self.model, deform)
        replace_same_padding(self.model)

    @property
    def fixed_size(self) -> int | None:
        """Side of the only image that the network accepts; None for any number and size."""
        return None

    def predictions(self, images: torch.Tensor) -> Any:
        """Return the model's predictions for images ``(N, C, H, W)`` before normalisation."""
        return self.model.predict((images - self.model.pixel_mean) / self.model.pixel_std)


class RawNetwork(ExportedNetwork):
    """The network of the contract "raw": normalisation and the model's predictions."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """
        Args:
            images: ``(N, C, H, W)`` float32 with the values that ``MODEL.PIXEL_MEAN`` refers to.

        Returns:
            The outputs in the order of the description's ``output_names``.
        """
        outputs = raw_outputs(self.model, self.predictions(images))
        return tuple(outputs[name] for name in self.description.output_names)
