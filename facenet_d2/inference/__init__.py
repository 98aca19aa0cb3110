from .inputs import VIDEO_SUFFIXES, find_inputs, output_names
from .overlay import draw_instances, draw_masks

__all__ = ["VIDEO_SUFFIXES", "draw_instances", "draw_masks", "find_inputs", "output_names"]
