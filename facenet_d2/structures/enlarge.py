"""Enlargement of stride-4 mask probabilities to binary masks at the image's own size."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .masks import MASK_STRIDE, tight_boxes

# Floats in one enlarged chunk of masks; 64 MiB keeps hundreds of instances on a large image from
# ever being held as floats together.
CHUNK_FLOATS = 16 * 2**20


def enlarge_masks(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask probabilities at stride 4 to binary masks at the image's own size.

    They are enlarged to the padded input's size, cut to the part that holds the image, and scaled
    to the image, bilinearly both times. On a GPU chunk by chunk, so that little is held as floats;
    on a CPU one by one, only where they are not empty.

    Args:
        masks: ``(N, H/4, W/4)``, probabilities of the padded input.
        input_size: (height, width) of the image as the network saw it, without padding.
        image_size: (height, width) of the result.
        threshold: a pixel is set above it.

    Returns:
        ``(N, *image_size)`` bool, and their tight boxes ``(N, 4)``, zeros for empty masks.
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
    """Fill ``out``, which is empty, and return the boxes of what is in it.

    Interpolated values lie between those around them: where no pixel within one of a place is over
    the threshold, nothing is over it there.
    """
    boxes = torch.zeros((len(masks), 4))
    lines = [_sampled_lines(size, full) for size, full in zip(input_size, out.shape[1:])]
    extents = tight_boxes(masks > threshold).int().tolist()
    for i, (x0, y0, x1, y1) in enumerate(extents):
        if x0 == x1:
            continue
        # One more line: a place over the threshold may lie between one within and one beyond.
        x0, y0 = max(0, x0 - 2), max(0, y0 - 2)
        part = masks[i : i + 1, None, y0 : y1 + 2, x0 : x1 + 2]
        part = F.interpolate(part, scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False)
        # Of the network's input, from here on.
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


# Of each new line: the first of the two old ones between which it lies, and the second's weight.
Lines = tuple[torch.Tensor, torch.Tensor]


def _sampled_lines(old: int, new: int) -> Lines | None:
    """Where bilinear scaling samples the lines of one direction; None where nothing is scaled."""
    if old == new:
        return None
    places = ((torch.arange(new) + 0.5) * (old / new) - 0.5).clamp(min=0)
    first = places.floor().long().clamp(max=old - 1)
    return first, places - first


def _resample(part: torch.Tensor, offset: int, lines: Lines, dim: int) -> tuple[torch.Tensor, int]:
    """Scale a part of an image, which starts at ``offset``, in one direction; where it starts then.

    The lines around the part are taken to be like its outermost.
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
