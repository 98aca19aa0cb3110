"""Overlays of instances on images."""

from .overlay import draw_instances, draw_masks

__all__ = ["draw_instances", "draw_masks"]
