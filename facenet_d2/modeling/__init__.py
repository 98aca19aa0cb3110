from . import backbone, layers, solov2
from .backbone import FACEFPN
from .solov2 import SOLOv2

__all__ = ["FACEFPN", "SOLOv2", "backbone", "layers", "solov2"]
