"""Overlays of instances on images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import GenericMask, Visualizer

# Smaller images are enlarged to about this longest side, so that labels are legible.
MIN_LONGEST_SIDE = 800


def draw_instances(image: np.ndarray, instances: Instances, metadata: Metadata) -> np.ndarray:
    """Draw masks with outlines, class names and scores on an image, with one colour per class.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        instances: predictions with ``pred_masks``, ``pred_classes`` and ``scores``, on the CPU.
        metadata: ``thing_classes`` and optionally ``thing_colors``.

    Returns:
        RGB uint8 image of the same size or, for a small image, of a multiple of it.
    """
    classes = instances.pred_classes.tolist()
    names = metadata.thing_classes
    labels = [f"{names[c]} {score:.0%}" for c, score in zip(classes, instances.scores.tolist())]
    return draw_masks(image, instances.pred_masks.numpy(), classes, metadata, labels=labels)


def draw_masks(
    image: np.ndarray,
    masks: np.ndarray | Sequence[np.ndarray],
    classes: Sequence[int],
    metadata: Metadata,
    *,
    labels: Sequence[str] | None = None,
    boxes: np.ndarray | None = None,
    with_labels: bool = True,
) -> np.ndarray:
    """Draw masks with outlines on an image, with one colour per class.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        masks: ``(N, H, W)`` bool, or a sequence of N masks.
        classes: class indices of the N masks.
        metadata: ``thing_classes`` and optionally ``thing_colors``.
        labels: N labels; by default the names of the classes.
        boxes: optional boxes to draw, ``(N, 4)`` as (x0, y0, x1, y1).
        with_labels: whether to draw labels.

    Returns:
        RGB uint8 image of the same size or, for a small image, of a multiple of it.
    """
    scale = max(1, round(MIN_LONGEST_SIDE / max(image.shape[:2])))
    visualizer = Visualizer(image, metadata, scale=scale)
    height, width = image.shape[:2]
    palette = metadata.get("thing_colors", None) or colormap(rgb=True).tolist()
    if not with_labels:
        labels = None
    elif labels is None:
        labels = [metadata.thing_classes[c] for c in classes]
    visualizer.overlay_instances(
        masks=[GenericMask(m, height, width) for m in masks],
        boxes=boxes,
        labels=labels,
        assigned_colors=[[v / 255 for v in palette[c % len(palette)]] for c in classes],
        alpha=0.4,
    )
    return visualizer.output.get_image()
