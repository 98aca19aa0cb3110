"""How good masks can be at best that are drawn at a quarter of the network's input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge, ResizeTransform, TransformList

from ..structures.enlarge import enlarge_masks
from ..structures.rasterize import rasterize_instances
from .grids import Setting


def best_iou(
    annotation: dict[str, Any], rle: dict[str, Any], size: tuple[int, int], setting: Setting
) -> float:
    """The IoU of an object's mask with itself after the way it takes through the network.

    That is what a network reaches that predicts its training target to the last pixel: the mask
    drawn at the target's resolution, and enlarged as post-processing does.

    Args:
        annotation: with ``segmentation`` and ``category_id``.
        rle: its mask as run lengths.
        size: (height, width) of the image.
        setting: the size of the input.

    Returns:
        the IoU; 0 where nothing is left of the object.
    """
    input_size = ResizeShortestEdge.get_output_shape(*size, setting.shortest, setting.longest)
    transforms = TransformList([ResizeTransform(*size, *input_size)])
    masks = rasterize_instances([annotation], transforms, size, input_size).gt_stride4_masks
    if len(masks) == 0:
        return 0.0
    step = setting.divisibility // 4
    bottom, right = (-side % step for side in masks.shape[-2:])
    masks = F.pad(masks, (0, right, 0, bottom))
    enlarged, boxes = enlarge_masks(masks.float(), input_size, size, 0.5)
    # Of the image, only the part in which either mask has pixels.
    x, y, w, h = mask_util.toBbox(rle)
    x0, y0, x1, y1 = boxes[0].tolist()
    rows = slice(int(min(y, y0)), int(np.ceil(max(y + h, y1))))
    columns = slice(int(min(x, x0)), int(np.ceil(max(x + w, x1))))
    best = enlarged[0, rows, columns].numpy()
    own = mask_util.decode(rle)[rows, columns].astype(bool)
    return float((best & own).sum() / (best | own).sum())
