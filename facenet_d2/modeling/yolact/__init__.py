"""YOLACT: heads, Fast NMS and meta-architecture."""

from .fast_nms import fast_nms
from .heads import AnchorHead, PrototypeHead
from .meta_arch import YOLACT, YOLACTPredictions

__all__ = ["YOLACT", "AnchorHead", "PrototypeHead", "YOLACTPredictions", "fast_nms"]
