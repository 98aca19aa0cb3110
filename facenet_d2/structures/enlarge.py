"""Enlargement of stride-4 mask probabilities to binary masks at the image's size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .masks import MASK_STRIDE, tight_boxes

# Number of floats in one chunk of enlarged masks, 64 MiB: hundreds of instances on a large image
# would not fit into memory as floats.
CHUNK_FLOATS = 16 * 2**20


def enlarge_masks(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Enlarge mask probabilities at stride 4 to binary masks at the image's size.

    Probabilities are scaled to the size of the padded input, cropped to the image, and scaled to
    ``image_size``, bilinearly both times. On a GPU this happens in chunks, to bound the memory; on
    a CPU mask by mask, inside the box of each only.

    Args:
        masks: ``(N, H/4, W/4)`` probabilities of the padded input.
        input_size: (height, width) of the network's input without padding.
        image_size: (height, width) of the result.
        threshold: probability above which a pixel is set.

    Returns:
        ``(N, *image_size)`` bool masks and their tight boxes ``(N, 4)``, zeros for empty masks.
    """
    enlarge = _enlarge_parts if masks.device.type == "cpu" else _enlarge_whole
    out = torch.zeros((len(masks), *image_size), dtype=torch.bool, device=masks.device)
    return out, enlarge(masks, input_size, threshold, out)


def _enlarge_whole(
    masks: torch.Tensor, input_size: tuple[int, int], threshold: float, out: torch.Tensor
) -> torch.Tensor:
    """Fill ``out`` with whole masks, chunk by chunk, and return their boxes."""
    image_size = tuple(out.shape[1:])
    padded = (masks.shape[-2] * MASK_STRIDE, masks.shape[-1] * MASK_STRIDE)
    pixels = max(padded[0] * padded[1], image_size[0] * image_size[1])
    step = max(1, CHUNK_FLOATS // pixels)
    for start in range(0, len(masks), step):
        chunk = masks[start : start + step, None]
        chunk = F.interpolate(chunk, size=padded, mode="bilinear", align_corners=False)
        chunk = chunk[:, :, : input_size[0], : input_size[1]]
        if chunk.shape[-2:] != image_size:
            chunk = F.interpolate(chunk, size=image_size, mode="bilinear", align_corners=False)
        out[start : start + step] = chunk[:, 0] > threshold
    return tight_boxes(out)


def _enlarge_parts(
    masks: torch.Tensor, input_size: tuple[int, int], threshold: float, out: torch.Tensor
) -> torch.Tensor:
    """Draw each mask into ``out``, which is empty, and return the tight boxes.

    An interpolated value lies between its neighbours. So nothing exceeds the threshold further than
    one pixel from those that do.
    """
    boxes = torch.zeros((len(masks), 4))
    lines = [_sampled_lines(size, full) for size, full in zip(input_size, out.shape[1:])]
    extents = tight_boxes(masks > threshold).int().tolist()
    for i, (x0, y0, x1, y1) in enumerate(extents):
        if x0 == x1:
            continue
        # A margin of two: the second pixel is a neighbour in the interpolation at the first.
        x0, y0 = max(0, x0 - 2), max(0, y0 - 2)
        part = masks[i : i + 1, None, y0 : y1 + 2, x0 : x1 + 2]
        part = F.interpolate(part, scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False)
        # From here on, coordinates are pixels of the network's input.
        x0, y0 = x0 * MASK_STRIDE, y0 * MASK_STRIDE
        part = part[0, 0, : max(0, input_size[0] - y0), : max(0, input_size[1] - x0)]
        if part.numel() == 0:
            continue
        if lines[1] is not None:
            part, x0 = _resample(part, x0, lines[1], dim=1)
        if lines[0] is not None:
            part, y0 = _resample(part, y0, lines[0], dim=0)
        binary = part > threshold
        h, w = binary.shape
        out[i, y0 : y0 + h, x0 : x0 + w] = binary
        box = tight_boxes(binary[None])[0]
        if box[2] > 0:
            boxes[i] = box + torch.tensor([x0, y0, x0, y0])
    return boxes


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
