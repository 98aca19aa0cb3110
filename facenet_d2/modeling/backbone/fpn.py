"""Detectron2's FPN on any bottom-up network; Detectron2's own builders put it on ResNets."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7

from .pyramid import neck_arguments, register_neck


@register_neck("fpn", resnet=False)
def fpn(cfg: CfgNode, bottom_up: Backbone, *, has_sem: bool = False) -> FPN:
    """Build an FPN with p6 pooled from p5, as ``build_resnet_fpn_backbone`` does.

    Args:
        cfg: config of the model.
        bottom_up: bottom-up network.
        has_sem: whether a semantic enhancement module will be added.
    """
    return FPN(
        **neck_arguments(cfg, bottom_up, has_sem=has_sem),
        top_block=LastLevelMaxPool(),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


@register_neck("retinanet_fpn", resnet=False)
def retinanet_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Build an FPN with p6 and p7 computed from res5, as in Detectron2's RetinaNet."""
    res5_channels = bottom_up.output_shape()["res5"].channels
    return FPN(
        **neck_arguments(cfg, bottom_up),
        top_block=LastLevelP6P7(res5_channels, cfg.MODEL.FPN.OUT_CHANNELS),
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
