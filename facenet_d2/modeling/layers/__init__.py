"""Layers of FACENet's necks and heads."""

from .aspp import ASPP
from .cag import ChannelAttentionGuidance
from .coordinates import append_coordinates
from .deform import ModulatedDeformConv2d
from .sce import SubPixelContextEnhancement
from .sem import SemanticEnhancementModule
from .subpixel import SubPixelConv2d

__all__ = [
    "ASPP",
    "ChannelAttentionGuidance",
    "ModulatedDeformConv2d",
    "SemanticEnhancementModule",
    "SubPixelContextEnhancement",
    "SubPixelConv2d",
    "append_coordinates",
]
