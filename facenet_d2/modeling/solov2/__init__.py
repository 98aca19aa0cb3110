from .heads import SOLOv2InstanceHead, SOLOv2MaskHead
from .meta_arch import SOLOv2

__all__ = ["SOLOv2", "SOLOv2InstanceHead", "SOLOv2MaskHead"]
