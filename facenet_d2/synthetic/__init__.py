"""Synthetic aerial scenes with exact instance masks.

Four kinds of scene: ships by a quay, aircraft on an apron, storage tanks in a farm, vehicles on
roads and parking lots with tennis courts. Objects are rotated, stand in dense groups, cast shadows
and never overlap; trees, roofs, kerbs, waves and sensor noise are clutter. A scene is a function of
its seed and size alone.
"""

from .canvas import CLASSES
from .dataset import SCENES_VERSION, write_dataset
from .scenes import draw_scene

__all__ = ["CLASSES", "SCENES_VERSION", "draw_scene", "write_dataset"]
