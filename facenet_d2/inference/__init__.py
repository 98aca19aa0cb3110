from .inputs import VIDEO_SUFFIXES, find_inputs, output_names
from .overlay import draw_instances

__all__ = ["VIDEO_SUFFIXES", "draw_instances", "find_inputs", "output_names"]
