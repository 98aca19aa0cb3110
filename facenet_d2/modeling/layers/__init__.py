"""Layers of FACENet's necks and heads, and of transformers."""

from .aspp import ASPP
from .attention import Attention, FeedForward
from .cag import ChannelAttentionGuidance
from .coordinates import append_coordinates
from .deform import ModulatedDeformConv2d
from .sce import SubPixelContextEnhancement
from .sem import SemanticEnhancementModule
from .subpixel import SubPixelConv2d

__all__ = [
    "ASPP",
    "Attention",
    "ChannelAttentionGuidance",
    "FeedForward",
    "ModulatedDeformConv2d",
    "SemanticEnhancementModule",
    "SubPixelContextEnhancement",
    "SubPixelConv2d",
    "append_coordinates",
]
