"""Mask2Former: pixel decoder, query decoder, losses and meta-architecture."""

from .decoder import QueryDecoder
from .deformable_attention import MultiScaleDeformableAttention
from .meta_arch import Mask2Former, Mask2FormerPredictions
from .pixel_decoder import PixelDecoder

__all__ = [
    "Mask2Former",
    "Mask2FormerPredictions",
    "MultiScaleDeformableAttention",
    "PixelDecoder",
    "QueryDecoder",
]
