"""Conversion of detected boxes with stride-4 masks to results at the image's own size."""

from __future__ import annotations

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances

from ..structures.enlarge import enlarge_masks


def with_full_masks(
    detected: Instances,
    probabilities: torch.Tensor,
    output_size: tuple[int, int],
    threshold: float,
) -> Instances:
    """Scale detections to the image's own size and add their binary masks.

    Args:
        detected: ``pred_boxes``, ``scores`` and ``pred_classes`` of N instances. Its
            ``image_size`` is the network's input without padding.
        probabilities: mask probabilities over the padded input, ``(N, H/4, W/4)``.
        output_size: (height, width) of the result.
        threshold: mask pixels have a probability above it.

    Returns:
        The detections at ``output_size`` with ``pred_masks`` ``(M, *output_size)`` bool, without
        those whose box lies outside the image or whose mask is empty.
    """
    input_size = detected.image_size
    detected.probabilities = probabilities
    # Scales and clips the boxes.
    result = detector_postprocess(detected, *output_size)
    result.pred_masks, tight = enlarge_masks(
        result.probabilities, input_size, output_size, threshold
    )
    result.remove("probabilities")
    return result[tight[:, 2] > 0]
