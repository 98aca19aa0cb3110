"""Overlays of instances on images, and pictures of several of them."""

from .comparison import draw_figure, draw_marks, resized, side_by_side, with_caption
from .overlay import draw_instances, draw_masks

__all__ = [
    "draw_figure",
    "draw_instances",
    "draw_marks",
    "draw_masks",
    "resized",
    "side_by_side",
    "with_caption",
]
