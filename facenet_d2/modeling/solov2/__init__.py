from .heads import SOLOv2InstanceHead, SOLOv2MaskHead
from .losses import category_loss, dice_loss, mask_loss
from .matrix_nms import matrix_nms
from .meta_arch import SOLOv2
from .postprocess import InferenceSettings, detect_instances
from .targets import GridLayout, ImageTargets, assign_targets

__all__ = [
    "GridLayout",
    "ImageTargets",
    "InferenceSettings",
    "SOLOv2",
    "SOLOv2InstanceHead",
    "SOLOv2MaskHead",
    "assign_targets",
    "category_loss",
    "detect_instances",
    "dice_loss",
    "mask_loss",
    "matrix_nms",
]
