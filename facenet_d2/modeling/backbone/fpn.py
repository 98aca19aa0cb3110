"""Detectron2's FPN on any bottom-up network; Detectron2's own builders put it on ResNets."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

from .pyramid import build_bottom_up, neck_arguments


def fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """FPN with p6 pooled from p5, as ``build_resnet_fpn_backbone`` makes it."""
    return FPN(
        **neck_arguments(cfg, bottom_up),
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@BACKBONE_REGISTRY.register()
def build_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The bottom-up network of ``MODEL.BOTTOM_UP`` with FPN."""
    return fpn(cfg, build_bottom_up(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_retinanet_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """FPN with p6 and p7 computed from res5, as in Detectron2's RetinaNet."""
    bottom_up = build_bottom_up(cfg, input_shape)
    res5_channels = bottom_up.output_shape()["res5"].channels
    return FPN(
        **neck_arguments(cfg, bottom_up),
        top_block=LastLevelP6P7(res5_channels, cfg.MODEL.FPN.OUT_CHANNELS),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
