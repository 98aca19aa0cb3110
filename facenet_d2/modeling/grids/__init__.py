"""Grids whose cells find instances: targets, losses and selection of SOLO and SOLOv2."""

from .grid_model import GridModel
from .layout import GridLayout
from .losses import category_loss, mask_loss
from .matrix_nms import matrix_nms
from .selection import InferenceSettings, detect_instances
from .targets import ImageTargets, assign_targets

__all__ = [
    "GridLayout",
    "GridModel",
    "ImageTargets",
    "InferenceSettings",
    "assign_targets",
    "category_loss",
    "detect_instances",
    "mask_loss",
    "matrix_nms",
]
