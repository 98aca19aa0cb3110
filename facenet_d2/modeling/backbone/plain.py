"""Bottom-up networks without a neck."""

from __future__ import annotations

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone

from .pyramid import no_sem, register_neck


class PlainBackbone(Backbone):
    """The levels of a bottom-up network as they are, of images padded to their strides."""

    def __init__(self, bottom_up: Backbone) -> None:
        """
        Args:
            bottom_up: network that returns levels by name.
        """
        super().__init__()
        self.bottom_up = bottom_up
        self._shapes = bottom_up.output_shape()

    @property
    def size_divisibility(self) -> int:
        """Number whose multiples images are padded to, so that all levels are aligned."""
        return max(shape.stride for shape in self._shapes.values())

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.size_divisibility}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return self._shapes

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the levels of images ``(N, 3, H, W)``."""
        return self.bottom_up(x)


@register_neck("plain", resnet=False)
def plain(cfg: CfgNode, bottom_up: Backbone) -> PlainBackbone:
    """Build ``MODEL.BOTTOM_UP`` without a neck.

    Raises:
        ValueError: if ``MODEL.SEM.ENABLED`` is True, because SEM is a part of necks.
    """
    if cfg.MODEL.SEM.ENABLED:
        raise ValueError(no_sem(cfg.MODEL.BACKBONE.NAME))
    return PlainBackbone(bottom_up)
