from .fast_nms import fast_nms
from .heads import AnchorHead, PrototypeHead
from .meta_arch import YOLACT

__all__ = ["YOLACT", "AnchorHead", "PrototypeHead", "fast_nms"]
