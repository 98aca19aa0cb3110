"""Drawing instances over an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.structures import Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import GenericMask, Visualizer

# Labels cannot be read on smaller pictures; these are enlarged to about this longest side.
LEAST_SIDE = 800


def draw_instances(image: np.ndarray, instances: Instances, metadata: Metadata) -> np.ndarray:
    """Masks with outlines, class names and scores over an image; one colour a class.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        instances: ``pred_masks``, ``pred_classes`` and ``scores``, on the CPU.
        metadata: ``thing_classes``, and ``thing_colors`` where there are.

    Returns:
        RGB uint8, of the image's size or, for a small image, a multiple of it.
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
    """Masks with outlines over an image; one colour a class.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        masks: N of ``(H, W)`` bool.
        classes: the class of each.
        metadata: ``thing_classes``, and ``thing_colors`` where there are.
        labels: a text for each; its class's name by default.
        boxes: ``(N, 4)``, (x0, y0, x1, y1), to be drawn as well.
        with_labels: without, no texts are drawn.

    Returns:
        RGB uint8, of the image's size or, for a small image, a multiple of it.
    """
    scale = max(1, round(LEAST_SIDE / max(image.shape[:2])))
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
