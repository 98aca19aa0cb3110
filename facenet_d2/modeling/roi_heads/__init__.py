"""Mask R-CNN and the RoI heads of its variants."""

from .mask_scoring import MaskIoUHead, MaskScoringHead, mask_ious
from .meta_arch import MaskRCNN

__all__ = ["MaskIoUHead", "MaskRCNN", "MaskScoringHead", "mask_ious"]
