"""CondInst: FCOS targets and losses, heads and meta-architecture."""

from .dynamic_head import DynamicMaskHead
from .heads import ControllerHead, MaskBranch
from .meta_arch import CondInst
from .predictions import CondInstPredictions

__all__ = ["CondInst", "CondInstPredictions", "ControllerHead", "DynamicMaskHead", "MaskBranch"]
