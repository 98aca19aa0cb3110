"""What models that find boxes first, YOLACT and CondInst, do with masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from detectron2.modeling import detector_postprocess
from detectron2.structures import Instances

from .solov2.postprocess import enlarge_masks
from .solov2.targets import downsample_masks, full_size_masks


def quarter_masks(instances: Instances, size: tuple[int, int]) -> torch.Tensor:
    """Ground-truth masks at stride 4, ``(N, *size)`` bool.

    Args:
        instances: with ``gt_quarter_masks`` of :class:`~facenet_d2.data.SceneMapper` or
            ``gt_masks``.
        size: (H/4, W/4) of the padded batch.
    """
    if not instances.has("gt_quarter_masks"):
        return downsample_masks(full_size_masks(instances), size)
    masks = instances.gt_quarter_masks
    h, w = masks.shape[-2:]
    return F.pad(masks, (0, size[1] - w, 0, size[0] - h))


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


def crop_to_boxes(boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Which pixels of a map lie in each box: those whose centres do.

    Args:
        boxes: ``(N, 4)``, (x0, y0, x1, y1) in pixels of the map.
        size: (h, w) of the map.

    Returns:
        ``(N, h, w)`` bool.
    """
    x0, y0, x1, y1 = boxes[:, :, None].unbind(dim=1)
    xs = torch.arange(size[1], device=boxes.device) + 0.5
    ys = torch.arange(size[0], device=boxes.device) + 0.5
    in_columns = (xs >= x0) & (xs <= x1)
    in_rows = (ys >= y0) & (ys <= y1)
    return in_rows[:, :, None] & in_columns[:, None, :]


def spread_evenly(count: int, limit: int, device: torch.device) -> torch.Tensor:
    """Indices of at most ``limit`` of ``count`` things, taken evenly from all.

    The same in every run, unlike a random choice, so that a resumed run is what it would have been.
    """
    if count <= limit:
        return torch.arange(count, device=device)
    return torch.arange(limit, device=device) * count // limit
