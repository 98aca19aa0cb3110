"""SOLOv2: heads and meta-architecture."""

from .heads import SOLOv2InstanceHead, SOLOv2MaskHead
from .meta_arch import SOLOv2, SOLOv2Predictions

__all__ = [
    "SOLOv2",
    "SOLOv2InstanceHead",
    "SOLOv2MaskHead",
    "SOLOv2Predictions",
]
