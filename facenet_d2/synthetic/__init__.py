"""Synthetic aerial scenes with exact instance masks.

There are four kinds of scenes: ships at a quay, aircraft on an apron, storage tanks in a farm, and
vehicles on roads and parking lots with tennis courts. Objects are rotated, stand in dense groups,
cast shadows and never overlap; trees, roofs, waves and sensor noise are clutter. A scene is a
function of its seed and size only.

This package has constants only, so that registering the data set is cheap. Scenes are drawn by
:mod:`~facenet_d2.synthetic.scenes`, and written as a data set by
:mod:`~facenet_d2.synthetic.dataset`.
"""

CLASSES = ("ship", "airplane", "storage_tank", "vehicle", "tennis_court")
# Must be raised whenever a change alters the pixels or annotations of a seed.
SCENES_VERSION = 1

__all__ = ["CLASSES", "SCENES_VERSION"]
