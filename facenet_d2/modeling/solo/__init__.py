from .heads import CategoryHead, DecoupledMaskHead, SOLOMaskHead
from .meta_arch import SOLO

__all__ = ["SOLO", "CategoryHead", "DecoupledMaskHead", "SOLOMaskHead"]
