"""What models that find boxes first, YOLACT and CondInst, do with masks."""

from __future__ import annotations

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances

from ..structures.enlarge import enlarge_masks


def with_full_masks(
    detected: Instances,
    probabilities: torch.Tensor,
    image_size: tuple[int, int],
    threshold: float,
) -> Instances:
    """Detections with boxes, to those of the image's own size with masks.

    Args:
        detected: ``pred_boxes``, ``scores`` and ``pred_classes`` of N instances, in pixels of the
            network's input without padding, which is its ``image_size``.
        probabilities: of their masks, ``(N, H/4, W/4)``, of the padded input.
        image_size: (height, width) of the result.
        threshold: a pixel is set above it.

    Returns:
        the same at ``image_size``, with ``pred_masks`` ``(M, *image_size)`` bool; those with
        a box outside of the image or without a pixel are left out.
    """
    input_size = detected.image_size
    detected.probabilities = probabilities
    # Scales and clips the boxes.
    result = detector_postprocess(detected, *image_size)
    result.pred_masks, tight = enlarge_masks(
        result.probabilities, input_size, image_size, threshold
    )
    result.remove("probabilities")
    return result[tight[:, 2] > 0]
