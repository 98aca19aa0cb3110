"""From the network's logits to instances at the image's own size (SOLOv2, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from .matrix_nms import matrix_nms
from .targets import MASK_STRIDE

# Floats in one enlarged chunk of masks; 64 MiB keeps hundreds of instances on a large image from
# ever being held as floats together.
CHUNK_FLOATS = 16 * 2**20


@dataclass(frozen=True)
class InferenceSettings:
    """Thresholds and limits of inference; the defaults are the published ones.

    Attributes:
        score_threshold: least class score of a cell to be considered.
        mask_threshold: least probability of a mask's pixel.
        max_candidates: how many pairs of a cell and a class, those of the best class scores, get a
            mask. The published code has no limit; under it the result is the same.
        nms_pre: how many of the best are given to Matrix NMS.
        nms_kernel: "gaussian" or "linear".
        nms_sigma: of the gaussian kernel.
        update_threshold: least score after Matrix NMS.
        max_instances: most instances an image.
    """

    score_threshold: float = 0.1
    mask_threshold: float = 0.5
    max_candidates: int = 1000
    nms_pre: int = 500
    nms_kernel: str = "gaussian"
    nms_sigma: float = 2.0
    update_threshold: float = 0.05
    max_instances: int = 100


def suppress_neighbours(scores: torch.Tensor, num_grids: Sequence[int]) -> torch.Tensor:
    """Points NMS: zero every score that is not the greatest of its 2x2 window.

    A window reaches up and to the left of the cell, as in the published code.

    Args:
        scores: ``(N, cells, C)``, all levels in turn.
        num_grids: S of each level.

    Returns:
        the same shape.
    """
    levels = []
    for level, grid in zip(scores.split([s * s for s in num_grids], dim=1), num_grids, strict=True):
        grid_scores = level.transpose(1, 2).unflatten(2, (grid, grid))
        greatest = F.max_pool2d(grid_scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
        levels.append((grid_scores * (greatest == grid_scores)).flatten(2).transpose(1, 2))
    return torch.cat(levels, dim=1)


def empty_instances(image_size: tuple[int, int], device: torch.device) -> Instances:
    """An :class:`Instances` of no predictions, with all fields."""
    masks = torch.zeros((0, *image_size), dtype=torch.bool, device=device)
    classes = torch.zeros(0, dtype=torch.int64, device=device)
    return _instances(
        masks, torch.zeros(0, device=device), classes, torch.zeros((0, 4), device=device)
    )


def _instances(
    masks: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, boxes: torch.Tensor
) -> Instances:
    result = Instances(tuple(masks.shape[-2:]))
    result.pred_masks = masks
    result.scores = scores
    result.pred_classes = classes
    result.pred_boxes = Boxes(boxes)
    return result


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """(x0, y0, x1, y1) around each mask, zeros for an empty one: ``(N, H, W)`` to ``(N, 4)``."""
    sides = []
    for dim in (1, 2):
        seen = masks.any(dim=dim).to(torch.uint8)  # Columns, then rows.
        first = seen.argmax(dim=1)
        end = seen.shape[1] - seen.flip(1).argmax(dim=1)
        sides.append((first, end))
    (x0, x1), (y0, y1) = sides
    boxes = torch.stack([x0, y0, x1, y1], dim=1).float()
    return boxes * masks.flatten(1).any(dim=1)[:, None]


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
    out = torch.zeros((len(masks), *image_size), dtype=torch.bool, device=masks.device)
    if masks.device.type == "cpu":
        return out, _enlarge_parts(masks, input_size, threshold, out)
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
    return out, tight_boxes(out)


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


def area_and_maskness(
    logits: torch.Tensor, binary: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of each mask, and the mean probability in it: how sure the network is of the mask.

    Args:
        logits: ``(N, pixels)``.
        binary: ``(N, pixels)`` bool, the pixels in the masks.

    Returns:
        two ``(N,)``, both float; the second is 0 for an empty mask.
    """
    areas, totals = [], []
    # The places of set pixels are 16 bytes each: some masks at a time.
    step = max(1, CHUNK_FLOATS // 8 // logits.shape[1])
    for part, set_pixels in zip(logits.split(step), binary.split(step)):
        owners, places = set_pixels.nonzero(as_tuple=True)
        probabilities = part[owners, places].sigmoid_()
        total = torch.zeros(len(part), device=logits.device)
        totals.append(total.index_add_(0, owners, probabilities))
        areas.append(torch.bincount(owners, minlength=len(part)).float())
    area = torch.cat(areas)
    return area, torch.cat(totals) / area.clamp(min=1)


def dynamic_mask_logits(
    kernels: torch.Tensor, mask_features: torch.Tensor
) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives SOLOv2's mask logits of an image's cells: ``kernels[cells] @ mask_features``.

    Args:
        kernels: ``(cells, D)``.
        mask_features: ``(D, H/4, W/4)``.
    """

    def mask_logits(cells: torch.Tensor) -> torch.Tensor:
        # Half precision would move the masks' borders.
        with torch.autocast(kernels.device.type, enabled=False):
            return kernels[cells].float() @ mask_features.flatten(1).float()

    return mask_logits


@torch.no_grad()
def detect_instances(
    scores: torch.Tensor,
    mask_logits: Callable[[torch.Tensor], torch.Tensor],
    mask_size: tuple[int, int],
    cell_min_areas: torch.Tensor,
    settings: InferenceSettings,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
) -> Instances:
    """One image's instances.

    Args:
        scores: ``(cells, C)``, class probabilities after :func:`suppress_neighbours`.
        mask_logits: gives those of K cells, ``(K,)``, as ``(K, H/4 * W/4)`` float, which is
            changed.
        mask_size: (H/4, W/4).
        cell_min_areas: ``(cells,)``; a mask of no more pixels than its cell's is dropped.
        settings: thresholds and limits.
        input_size: (height, width) of the image as the network saw it, without padding.
        image_size: (height, width) to give the result at.

    Returns:
        ``pred_masks`` ``(M, *image_size)`` bool, ``scores``, ``pred_classes`` and the masks' tight
        ``pred_boxes``, by falling score; M may be zero.
    """
    cells, classes = (scores > settings.score_threshold).nonzero(as_tuple=True)
    if len(cells) == 0:
        return empty_instances(image_size, scores.device)
    cell_scores = scores[cells, classes]
    if len(cells) > settings.max_candidates:
        best = cell_scores.argsort(descending=True, stable=True)[: settings.max_candidates]
        best = best.sort().values
        cells, classes, cell_scores = cells[best], classes[best], cell_scores[best]

    # A cell that passes for several classes has one mask.
    unique_cells, mask_of = torch.unique(cells, return_inverse=True)
    logits = mask_logits(unique_cells)
    # Probabilities are needed in the masks, and of the masks that are kept; not everywhere.
    threshold = settings.mask_threshold
    binary = logits > math.log(threshold / (1 - threshold))
    area, maskness = area_and_maskness(logits, binary)
    large_enough = (area > cell_min_areas[unique_cells])[mask_of]
    cell_scores = cell_scores[large_enough] * maskness[mask_of[large_enough]]
    classes, mask_of = classes[large_enough], mask_of[large_enough]

    order = cell_scores.argsort(descending=True, stable=True)[: settings.nms_pre]
    cell_scores, classes, mask_of = cell_scores[order], classes[order], mask_of[order]
    cell_scores = matrix_nms(
        binary[mask_of].unflatten(1, mask_size),
        classes,
        cell_scores,
        kernel=settings.nms_kernel,
        sigma=settings.nms_sigma,
    )

    order = cell_scores.argsort(descending=True, stable=True)[: settings.max_instances]
    order = order[cell_scores[order] >= settings.update_threshold]
    masks, boxes = enlarge_masks(
        logits[mask_of[order]].sigmoid_().unflatten(1, mask_size),
        input_size,
        image_size,
        threshold,
    )
    # Scaling to a smaller image, or cutting the padding off, can leave nothing of a mask.
    visible = boxes[:, 2] > 0
    if not visible.all():
        masks, boxes, order = masks[visible], boxes[visible], order[visible]
    return _instances(masks, cell_scores[order], classes[order], boxes)
