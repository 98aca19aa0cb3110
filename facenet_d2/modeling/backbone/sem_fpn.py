"""Detectron2's FPN with SEM on its finest level (paper, Table 5, row "SEM")."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone

from .face_fpn import build_sem
from .fpn import fpn
from .pyramid import build_bottom_up


def sem_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """The stock FPN, whose lateral convolution on the finest level SEM replaces.

    SEM is built whatever ``MODEL.SEM.ENABLED`` says: naming this neck is the switch.
    """
    neck = fpn(cfg, bottom_up)
    finest = cfg.MODEL.FPN.IN_FEATURES[0]
    sem = build_sem(cfg, bottom_up.output_shape()[finest].channels)
    # The FPN keeps its lateral convolutions both as named children and in a plain list, coarsest
    # first.
    (name,) = (n for n, m in neck.named_children() if m is neck.lateral_convs[-1])
    setattr(neck, name, sem)
    neck.lateral_convs[-1] = sem
    return neck


@BACKBONE_REGISTRY.register()
def build_sem_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The bottom-up network of ``MODEL.BOTTOM_UP`` with this neck."""
    return sem_fpn(cfg, build_bottom_up(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_resnet_sem_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """ResNet with this neck."""
    return sem_fpn(cfg, build_resnet_backbone(cfg, input_shape))
