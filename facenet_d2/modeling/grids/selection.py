"""From the network's logits to instances at the image's own size (SOLOv2, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from ...structures.enlarge import enlarge_masks
from .matrix_nms import matrix_nms

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
