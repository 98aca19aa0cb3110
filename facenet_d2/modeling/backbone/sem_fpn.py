"""Detectron2's FPN with SEM on its finest level (paper, Table 5, row "SEM")."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import build_resnet_fpn_backbone

from .face_fpn import build_sem


@BACKBONE_REGISTRY.register()
def build_resnet_sem_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The stock FPN, whose lateral convolution on the finest level SEM replaces.

    SEM is built whatever ``MODEL.SEM.ENABLED`` says: naming this builder is the switch.
    """
    fpn = build_resnet_fpn_backbone(cfg, input_shape)
    finest = cfg.MODEL.FPN.IN_FEATURES[0]
    sem = build_sem(cfg, fpn.bottom_up.output_shape()[finest].channels)
    # The FPN keeps its lateral convolutions both as named children and in a plain list, coarsest
    # first.
    (name,) = (n for n, m in fpn.named_children() if m is fpn.lateral_convs[-1])
    setattr(fpn, name, sem)
    fpn.lateral_convs[-1] = sem
    return fpn
