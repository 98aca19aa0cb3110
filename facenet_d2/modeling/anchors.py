"""Anchors with sizes proportional to the strides of their levels."""

from __future__ import annotations

from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import ANCHOR_GENERATOR_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from ..config_checks import check_nodes


@ANCHOR_GENERATOR_REGISTRY.register()
class StrideAnchorGenerator(DefaultAnchorGenerator):
    """Detectron2's anchors with one size per level: ``MODEL.ANCHOR_GENERATOR.SCALE`` strides.

    A config for smaller objects or images sets this one number, whatever levels the model has. The
    published Mask R-CNN uses 8, which is 32 pixels at stride 4.
    """

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: list[ShapeSpec]) -> dict[str, Any]:
        check_nodes(cfg, "MODEL.ANCHOR_GENERATOR")
        scale = cfg.MODEL.ANCHOR_GENERATOR.SCALE
        return {
            **super().from_config(cfg, input_shape),
            "sizes": [[scale * shape.stride] for shape in input_shape],
        }
