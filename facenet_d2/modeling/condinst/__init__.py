from .dynamic_head import DynamicMaskHead
from .heads import ControllerHead, MaskBranch
from .meta_arch import CondInst

__all__ = ["CondInst", "ControllerHead", "DynamicMaskHead", "MaskBranch"]
