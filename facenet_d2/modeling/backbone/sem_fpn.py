"""Detectron2's FPN with SEM on its finest level (paper, Table 5, row "SEM")."""

from __future__ import annotations

from detectron2.config import CfgNode
from detectron2.modeling import FPN, Backbone

from .face_fpn import build_sem
from .fpn import fpn
from .pyramid import register_neck


@register_neck("sem_fpn")
def sem_fpn(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """Build an FPN with SEM in place of the lateral convolution of its finest level.

    The choice of this neck enables SEM, whatever ``MODEL.SEM.ENABLED`` says.
    """
    neck = fpn(cfg, bottom_up, has_sem=True)
    finest = cfg.MODEL.FPN.IN_FEATURES[0]
    sem = build_sem(cfg, bottom_up.output_shape()[finest].channels)
    # FPN holds its lateral convolutions as named children and in a plain list, coarsest first.
    (name,) = (n for n, m in neck.named_children() if m is neck.lateral_convs[-1])
    setattr(neck, name, sem)
    neck.lateral_convs[-1] = sem
    return neck
