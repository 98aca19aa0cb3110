from . import backbone, layers, solov2
from .acceleration import accelerate, set_tf32
from .backbone import FACEFPN
from .solov2 import SOLOv2

__all__ = ["FACEFPN", "SOLOv2", "accelerate", "backbone", "layers", "set_tf32", "solov2"]
