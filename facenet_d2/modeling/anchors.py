"""Anchors whose sizes follow from the strides of their levels."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator


@ANCHOR_GENERATOR_REGISTRY.register()
class StrideAnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's anchors, of one size a level: ``MODEL.ANCHOR_GENERATOR.SCALE`` strides.

    So a config of data with smaller objects or images says one number, whatever the model's levels
    are. The published Mask R-CNN has 8 (32 pixels at stride 4).
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        scale = cfg.MODEL.ANCHOR_GENERATOR.SCALE
        check_scale("MODEL.ANCHOR_GENERATOR.SCALE", scale)
        return {
            **super().from_config(cfg, input_shape),
            "sizes": [[scale * shape.stride] for shape in input_shape],
        }


def check_scale(key: str, scale: float) -> None:
    """Raise a ValueError for a scale that is not positive."""
    if scale <= 0:
        raise ValueError(f"{key} is {scale}; it must be positive")
