"""Upper bound on mask quality that the resolution of the network's masks allows."""

from __future__ import annotations

from typing import Any

import pycocotools.mask as mask_util
import torch.nn.functional as F
from detectron2.data.transforms import ResizeTransform, TransformList

from ..data.augmentation import ResizeShortestEdge
from ..structures.enlarge import enlarge_masks
from ..structures.masks import masks_field
from ..structures.rasterize import rasterize_instances
from .objects import GridSettings


def best_iou(
    annotation: dict[str, Any], rle: dict[str, Any], size: tuple[int, int], settings: GridSettings
) -> float:
    """Return the IoU of an object's mask with its training target, enlarged to the image.

    A network that predicts its targets perfectly reaches this IoU: the target is drawn at the
    stride of the masks, and enlarged as post-processing enlarges predictions.

    Args:
        annotation: the annotation, with ``segmentation`` and ``category_id``.
        rle: mask of the annotation as compressed RLE.
        size: (height, width) of the image.
        settings: the input size and the stride of the masks.

    Returns:
        the IoU; 0 if the object vanishes at the input size.
    """
    input_size = ResizeShortestEdge.get_output_shape(*size, settings.shortest, settings.longest)
    transforms = TransformList([ResizeTransform(*size, *input_size)])
    stride = settings.mask_stride
    instances = rasterize_instances([annotation], transforms, size, input_size, stride)
    masks = instances.get(masks_field(stride))
    if len(masks) == 0:
        return 0.0
    step = settings.divisibility // stride
    bottom, right = (-side % step for side in masks.shape[-2:])
    masks = F.pad(masks, (0, right, 0, bottom))
    best = enlarge_masks(masks.float(), input_size, size, 0.5, stride=stride).rles()
    return float(mask_util.iou(best[:1], [rle], [0])[0, 0])
