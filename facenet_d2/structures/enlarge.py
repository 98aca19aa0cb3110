"""Enlargement of mask probabilities to binary masks at the image's size."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .masks import MASK_STRIDE, crop_to_boxes, tight_boxes
from .rle_masks import RLEMasks, find_changes, join_changes

# Number of floats in one chunk of enlarged masks, 64 MiB: hundreds of instances on a large image
# would not fit into memory as floats.
CHUNK_FLOATS = 16 * 2**20

# The same on a CPU, where a chunk that fits into the cache is faster.
BAND_FLOATS = 2**20


def enlarge_masks(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
    boxes: torch.Tensor | None = None,
    stride: int = MASK_STRIDE,
) -> RLEMasks:
    """Enlarge mask probabilities to binary masks at the image's size.

    Probabilities are scaled to the size of the padded input, cropped to the image, and scaled to
    ``image_size``, bilinearly both times. On a GPU this happens in chunks of whole masks; on a CPU
    mask by mask, inside the box of each only. Memory does not grow with the number of masks times
    the pixels of the image.

    Args:
        masks: ``(N, H/stride, W/stride)`` probabilities of the padded input.
        input_size: (height, width) of the network's input without padding.
        image_size: (height, width) of the result.
        threshold: probability above which a pixel is set.
        boxes: box of each mask in pixels of the result, ``(N, 4)``; no pixel whose centre lies
            outside is set.
        stride: stride of the masks.

    Returns:
        N masks of ``image_size``.
    """
    enlarge = _enlarge_parts if masks.device.type == "cpu" else _enlarge_whole
    return RLEMasks(enlarge(masks, input_size, image_size, threshold, boxes, stride), image_size)


def _enlarge_whole(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
    boxes: torch.Tensor | None = None,
    stride: int = MASK_STRIDE,
) -> list[np.ndarray]:
    """Enlarge whole masks, chunk by chunk; return the :attr:`RLEMasks.changes`."""
    padded = (masks.shape[-2] * stride, masks.shape[-1] * stride)
    pixels = max(padded[0] * padded[1], image_size[0] * image_size[1])
    step = max(1, CHUNK_FLOATS // pixels)
    changes = []
    for start, chunk in zip(range(0, len(masks), step), masks[:, None].split(step)):
        chunk = F.interpolate(chunk, size=padded, mode="bilinear", align_corners=False)
        chunk = chunk[:, :, : input_size[0], : input_size[1]]
        if chunk.shape[-2:] != image_size:
            chunk = F.interpolate(chunk, size=image_size, mode="bilinear", align_corners=False)
        pixels_set = chunk[:, 0] > threshold
        if boxes is not None:
            pixels_set &= crop_to_boxes(boxes[start : start + step], image_size)
        changes += find_changes(pixels_set.transpose(1, 2), 0, 0, image_size[0])
    return changes


def _enlarge_parts(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
    boxes: torch.Tensor | None = None,
    stride: int = MASK_STRIDE,
) -> list[np.ndarray]:
    """Enlarge each mask around its pixels; return the :attr:`RLEMasks.changes`.

    An interpolated value lies between its neighbours. So nothing exceeds the threshold further than
    one pixel from those that do.
    """
    lines = [_sampled_lines(size, full) for size, full in zip(input_size, image_size)]
    extents = tight_boxes(masks > threshold)
    if boxes is not None:
        extents = _intersect(extents, boxes, input_size, image_size, stride)
    changes = []
    for i, (x0, y0, x1, y1) in enumerate(extents.int().tolist()):
        # A margin of two: the second pixel is a neighbour in the interpolation at the first.
        x0, y0 = max(0, x0 - 2), max(0, y0 - 2)
        part = masks[i][None, None, y0 : y1 + 2, x0 : x1 + 2]
        # From here on, coordinates are pixels of the network's input.
        x0, y0 = x0 * stride, y0 * stride
        bands = []
        if x1 > 0 and x0 < input_size[1] and y0 < input_size[0]:
            part = F.interpolate(part, scale_factor=stride, mode="bilinear", align_corners=False)
            part = part[0, 0, : input_size[0] - y0, : input_size[1] - x0]
            if lines[1] is not None:
                part, x0 = _resample(part, x0, lines[1], dim=1)
            for band in part.split(max(1, BAND_FLOATS // image_size[0]), dim=1):
                top = y0
                if lines[0] is not None:
                    band, top = _resample(band, y0, lines[0], dim=0)
                pixels_set = band > threshold
                if boxes is not None:
                    own = boxes[i : i + 1] - boxes.new_tensor([x0, top, x0, top])
                    pixels_set &= crop_to_boxes(own, (band.shape[0], band.shape[1]))[0]
                bands += find_changes(pixels_set.T[None], x0, top, image_size[0])
                x0 += band.shape[1]
        changes.append(join_changes(bands) if bands else np.zeros(0, np.uint32))
    return changes


def _intersect(
    extents: torch.Tensor,
    boxes: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    stride: int,
) -> torch.Tensor:
    """Reduce extents of masks, in their own pixels, to boxes in pixels of the image.

    The result is empty, with zeros, where the two do not meet. One pixel is added around the box,
    because scaling to the size of the image samples a neighbour there.
    """
    scale_y, scale_x = (old / new / stride for old, new in zip(input_size, image_size))
    near = boxes * boxes.new_tensor([scale_x, scale_y, scale_x, scale_y])
    low = torch.maximum(extents[:, :2], near[:, :2].floor() - 1)
    high = torch.minimum(extents[:, 2:], near[:, 2:].ceil() + 1)
    return torch.cat([low, high], dim=1) * (low < high).all(dim=1, keepdim=True)


# For each new line, the index of the first of its two old neighbours and the second one's weight.
Lines = tuple[torch.Tensor, torch.Tensor]


def _sampled_lines(old: int, new: int) -> Lines | None:
    """Return where bilinear scaling samples the lines of one axis; None if the size is kept."""
    if old == new:
        return None
    places = ((torch.arange(new) + 0.5) * (old / new) - 0.5).clamp(min=0)
    first = places.floor().long().clamp(max=old - 1)
    return first, places - first


def _resample(part: torch.Tensor, offset: int, lines: Lines, dim: int) -> tuple[torch.Tensor, int]:
    """Scale a part of an image along one axis.

    Lines beyond the part are taken to equal its outermost ones.

    Args:
        part: ``(h, w)``.
        offset: line of the image at which the part starts.
        lines: result of :func:`_sampled_lines`.
        dim: the axis.

    Returns:
        the scaled part, and the line of the scaled image at which it starts.
    """
    first, weight = lines
    end = offset + part.shape[dim]
    start, stop = torch.searchsorted(first, torch.tensor([offset - 1, end])).tolist()
    first, weight = first[start:stop] - offset, weight[start:stop]
    last = part.shape[dim] - 1
    low = part.index_select(dim, first.clamp(0, last))
    high = part.index_select(dim, (first + 1).clamp(0, last))
    weight = weight[:, None] if dim == 0 else weight
    return low * (1 - weight) + high * weight, start
