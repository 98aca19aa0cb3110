"""Conversion of detected boxes with small masks to results at the image's own size."""

from __future__ import annotations

import torch
from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances

from ..structures.enlarge import enlarge_masks
from ..structures.masks import widen_boxes
from ..structures.paste import paste_masks


def with_full_masks(
    detected: Instances,
    probabilities: torch.Tensor,
    output_size: tuple[int, int],
    threshold: float,
    box_margin: float | None = None,
) -> Instances:
    """Scale detections to the image's own size and add their binary masks.

    Args:
        detected: ``pred_boxes``, ``scores`` and ``pred_classes`` of N instances. Its
            ``image_size`` is the network's input without padding.
        probabilities: mask probabilities over the padded input, or their logits,
            ``(N, H/4, W/4)``.
        output_size: (height, width) of the result.
        threshold: mask pixels have a probability, or a logit, above it.
        box_margin: masks end outside of their box, widened by this share of its sides and by at
            least one pixel; None for no such limit.

    Returns:
        The detections at ``output_size`` with ``pred_masks``, M :class:`RLEMasks`, without those
        whose box lies outside the image or whose mask is empty.
    """
    input_size = detected.image_size
    detected.probabilities = probabilities
    # Scales and clips the boxes.
    result = detector_postprocess(detected, *output_size)
    boxes = None
    if box_margin is not None:
        boxes = widen_boxes(result.pred_boxes.tensor, box_margin)
    masks = enlarge_masks(result.probabilities, input_size, output_size, threshold, boxes)
    result.remove("probabilities")
    result.pred_masks = masks
    return result[torch.from_numpy(masks.areas() > 0).to(probabilities.device)]


def with_pasted_masks(detected: Instances, output_size: tuple[int, int]) -> Instances:
    """Apply Detectron2's ``detector_postprocess`` without making masks of full size.

    Args:
        detected: output of Detectron2's RoI heads for an image: ``pred_boxes`` and ``pred_masks``
            ``(N, 1, M, M)``, probabilities over the boxes.
        output_size: (height, width) of the result.

    Returns:
        The detections at ``output_size`` with ``pred_masks`` as :class:`RLEMasks`.
    """
    detected.probabilities = detected.pred_masks[:, 0]
    detected.remove("pred_masks")
    result = detector_postprocess(detected, *output_size)
    result.pred_masks = paste_masks(result.probabilities, result.pred_boxes.tensor, output_size)
    result.remove("probabilities")
    return result
