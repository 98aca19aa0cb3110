"""Mask R-CNN and the RoI heads of its variants."""

from .mask_scoring import MaskIoUHead, MaskScoringHead, mask_ious
from .meta_arch import MaskRCNN
from .panet import AdaptivePooler, PANetBoxHead, PANetMaskHead, PANetROIHeads
from .refine_mask import RefineMaskHead, RefineMaskROIHeads

__all__ = [
    "AdaptivePooler",
    "MaskIoUHead",
    "MaskRCNN",
    "MaskScoringHead",
    "PANetBoxHead",
    "PANetMaskHead",
    "PANetROIHeads",
    "RefineMaskHead",
    "RefineMaskROIHeads",
    "mask_ious",
]
