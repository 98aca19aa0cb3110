"""From the network's logits to instances at the image's own size (SOLOv2, section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.structures import BitMasks, Instances

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
        nms_pre: how many of the best are given to Matrix NMS.
        nms_kernel: "gaussian" or "linear".
        nms_sigma: of the gaussian kernel.
        update_threshold: least score after Matrix NMS.
        max_instances: most instances an image.
    """

    score_threshold: float = 0.1
    mask_threshold: float = 0.5
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
    return _instances(
        torch.zeros((0, *image_size), dtype=torch.bool, device=device),
        torch.zeros(0, device=device),
        torch.zeros(0, dtype=torch.int64, device=device),
    )


def _instances(masks: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor) -> Instances:
    result = Instances(tuple(masks.shape[-2:]))
    result.pred_masks = masks
    result.scores = scores
    result.pred_classes = classes
    result.pred_boxes = BitMasks(masks).get_bounding_boxes().to(masks.device)
    return result


def enlarge_masks(
    masks: torch.Tensor,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threshold: float,
) -> torch.Tensor:
    """Mask probabilities at stride 4 to binary masks at the image's own size.

    They are enlarged to the padded input's size, cut to the part that holds the image, and scaled
    to the image; chunk by chunk, so that little is held as floats.

    Args:
        masks: ``(N, H/4, W/4)``, probabilities of the padded input.
        input_size: (height, width) of the image as the network saw it, without padding.
        image_size: (height, width) of the result.
        threshold: a pixel is set above it.

    Returns:
        ``(N, *image_size)`` bool.
    """
    padded = (masks.shape[-2] * MASK_STRIDE, masks.shape[-1] * MASK_STRIDE)
    out = torch.empty((len(masks), *image_size), dtype=torch.bool, device=masks.device)
    pixels = max(padded[0] * padded[1], image_size[0] * image_size[1])
    step = max(1, CHUNK_FLOATS // pixels)
    for start in range(0, len(masks), step):
        chunk = masks[start : start + step, None]
        chunk = F.interpolate(chunk, size=padded, mode="bilinear", align_corners=False)
        chunk = chunk[:, :, : input_size[0], : input_size[1]]
        if chunk.shape[-2:] != image_size:
            chunk = F.interpolate(chunk, size=image_size, mode="bilinear", align_corners=False)
        out[start : start + step] = chunk[:, 0] > threshold
    return out


def area_and_maskness(
    masks: torch.Tensor, binary: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels of each mask, and the mean probability in it: how sure the network is of the mask.

    Args:
        masks: ``(N, pixels)``, probabilities.
        binary: ``(N, pixels)`` bool.

    Returns:
        two ``(N,)``, int64 and float; the second is 0 for an empty mask.
    """
    # Both sums make copies, of eight and four bytes a pixel: some masks at a time.
    step = max(1, CHUNK_FLOATS // masks.shape[1])
    chunks = list(zip(masks.split(step), binary.split(step)))
    area = torch.cat([b.sum(dim=1) for _, b in chunks])
    total = torch.cat([(m * b).sum(dim=1) for m, b in chunks])
    return area, total / area.clamp(min=1)


@torch.no_grad()
def detect_instances(
    scores: torch.Tensor,
    kernels: torch.Tensor,
    mask_features: torch.Tensor,
    cell_min_areas: torch.Tensor,
    settings: InferenceSettings,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
) -> Instances:
    """One image's instances.

    Args:
        scores: ``(cells, C)``, class probabilities after :func:`suppress_neighbours`.
        kernels: ``(cells, D)``.
        mask_features: ``(D, H/4, W/4)``.
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

    # A cell that passes for several classes has one mask.
    unique_cells, mask_of = torch.unique(cells, return_inverse=True)
    # Half precision would move the masks' borders.
    with torch.autocast(scores.device.type, enabled=False):
        masks = kernels[unique_cells].float() @ mask_features.flatten(1).float()
    masks = masks.sigmoid_()
    binary = masks > settings.mask_threshold
    area, maskness = area_and_maskness(masks, binary)
    large_enough = (area > cell_min_areas[unique_cells])[mask_of]
    cell_scores = cell_scores[large_enough] * maskness[mask_of[large_enough]]
    classes, mask_of = classes[large_enough], mask_of[large_enough]

    order = cell_scores.argsort(descending=True, stable=True)[: settings.nms_pre]
    cell_scores, classes, mask_of = cell_scores[order], classes[order], mask_of[order]
    cell_scores = matrix_nms(
        binary[mask_of],
        classes,
        cell_scores,
        kernel=settings.nms_kernel,
        sigma=settings.nms_sigma,
    )

    order = cell_scores.argsort(descending=True, stable=True)[: settings.max_instances]
    order = order[cell_scores[order] >= settings.update_threshold]
    masks = enlarge_masks(
        masks[mask_of[order]].unflatten(1, mask_features.shape[-2:]),
        input_size,
        image_size,
        settings.mask_threshold,
    )
    # Scaling to a smaller image, or cutting the padding off, can leave nothing of a mask.
    visible = masks.flatten(1).any(dim=1)
    order = order[visible]
    return _instances(masks[visible], cell_scores[order], classes[order])
