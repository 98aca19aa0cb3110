"""The stride of masks, in a module that needs no PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detectron2.config import CfgNode

MASK_STRIDE = 4
"""Stride of the mask features, and of the ground-truth masks they are trained with.

SOLOv2 can have another one, ``MODEL.SOLOV2.MASK_STRIDE``.
"""


def mask_stride(cfg: CfgNode) -> int:
    """Return the stride of the masks of a config's model.

    SOLO shares other keys of ``MODEL.SOLOV2``, but not this one.
    """
    stride: int = cfg.MODEL.SOLOV2.MASK_STRIDE
    return stride if cfg.MODEL.META_ARCHITECTURE == "SOLOv2" else MASK_STRIDE
