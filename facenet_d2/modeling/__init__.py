from . import backbone, layers, roi_heads, solo, solov2
from .acceleration import accelerate, set_tf32
from .backbone import FACEFPN
from .solo import SOLO
from .solov2 import SOLOv2

__all__ = [
    "FACEFPN",
    "SOLO",
    "SOLOv2",
    "accelerate",
    "backbone",
    "layers",
    "roi_heads",
    "set_tf32",
    "solo",
    "solov2",
]
