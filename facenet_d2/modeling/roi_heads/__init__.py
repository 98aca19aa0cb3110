"""RoI heads of Mask R-CNN's variants."""

from .mask_scoring import MaskIoUHead, MaskScoringHead, mask_ious

__all__ = ["MaskIoUHead", "MaskScoringHead", "mask_ious"]
