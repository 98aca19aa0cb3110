"""Selection of instances from the scores and masks of cells (SOLOv2, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from ...stride import MASK_STRIDE
from ...structures.enlarge import enlarge_masks
from ...structures.rle_masks import RLEMasks
from .matrix_nms import matrix_nms

# Maximum size of a chunk of masks.
CHUNK_FLOATS = 16 * 2**20


@dataclass(frozen=True)
class InferenceSettings:
    """Thresholds and limits of inference.

    Attributes:
        score_threshold: minimum class score of a candidate, a pair of a cell and a class.
        mask_threshold: minimum probability of a mask's pixels.
        max_candidates: maximum number of candidates, those with the highest class scores. The
            published code has no limit; results with fewer candidates are the same.
        nms_pre: maximum number of candidates in Matrix NMS, those with the highest scores.
        nms_kernel: "gaussian" or "linear".
        nms_sigma: parameter of the gaussian kernel.
        update_threshold: minimum score after Matrix NMS.
        max_instances: maximum number of instances per image.
        points_nms: whether :func:`suppress_neighbours` precedes the selection of candidates.
    """

    score_threshold: float
    mask_threshold: float
    max_candidates: int
    nms_pre: int
    nms_kernel: str
    nms_sigma: float
    update_threshold: float
    max_instances: int
    points_nms: bool = True

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceSettings:
        """Read the settings from ``MODEL.SOLOV2`` and ``TEST.DETECTIONS_PER_IMAGE``."""
        node = cfg.MODEL.SOLOV2
        return cls(
            score_threshold=node.SCORE_THRESH_TEST,
            mask_threshold=node.MASK_THRESH_TEST,
            max_candidates=node.TOPK_CANDIDATES_TEST,
            nms_pre=node.PRE_NMS_TOPK_TEST,
            nms_kernel=node.NMS_KERNEL,
            nms_sigma=node.NMS_SIGMA,
            update_threshold=node.NMS_SCORE_THRESH_TEST,
            max_instances=cfg.TEST.DETECTIONS_PER_IMAGE,
            points_nms=node.POINTS_NMS,
        )


def suppress_neighbours(scores: torch.Tensor, num_grids: Sequence[int]) -> torch.Tensor:
    """Apply Points NMS: set every score to zero that is not the maximum of its 2x2 window.

    The window extends up and to the left of the cell, as in the published code.

    Args:
        scores: scores of the cells of all levels in turn, ``(N, cells, C)``.
        num_grids: number of cells S along each side, per level.

    Returns:
        The remaining scores, ``(N, cells, C)``.
    """
    levels = []
    for level, grid in zip(scores.split([s * s for s in num_grids], dim=1), num_grids, strict=True):
        grid_scores = level.transpose(1, 2).unflatten(2, (grid, grid))
        maximum = F.max_pool2d(grid_scores, 2, stride=1, padding=1)[:, :, :-1, :-1]
        levels.append((grid_scores * (maximum == grid_scores)).flatten(2).transpose(1, 2))
    return torch.cat(levels, dim=1)


def area_and_maskness(
    logits: torch.Tensor, binary: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the area of each mask and its maskness, the mean probability of its pixels.

    Args:
        logits: mask logits, ``(N, pixels)``.
        binary: pixels of the masks, ``(N, pixels)`` bool.

    Returns:
        Areas and masknesses, ``(N,)`` float each. The maskness of an empty mask is 0.
    """
    areas, totals = [], []
    # The indices of a set pixel take 16 bytes: chunks bound the memory.
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
    output_size: tuple[int, int],
    mask_stride: int = MASK_STRIDE,
) -> Instances:
    """Select the instances of one image.

    Args:
        scores: class probabilities, after :func:`suppress_neighbours` if the settings ask for it,
            ``(cells, C)``.
        mask_logits: function that returns the mask logits of increasing cells ``(K,)`` as
            ``(K, pixels)`` float. They are changed in place.
        mask_size: (height, width) of the masks, those of the padded input divided by their stride.
        cell_min_areas: minimum mask area of each cell, ``(cells,)``. Masks that are not larger are
            dropped.
        settings: thresholds and limits.
        input_size: (height, width) of the image as the network saw it, without padding.
        output_size: (height, width) of the result.
        mask_stride: stride of the masks.

    Returns:
        M instances with ``pred_masks`` (:class:`RLEMasks`), ``scores``, ``pred_classes`` and the
        tight ``pred_boxes`` of the masks, sorted by descending score. M may be zero.
    """
    cells, classes = (scores > settings.score_threshold).nonzero(as_tuple=True)
    cell_scores = scores[cells, classes]
    if len(cells) == 0:
        return _instances(RLEMasks([], output_size), cell_scores, classes)
    if len(cells) > settings.max_candidates:
        best = cell_scores.argsort(descending=True, stable=True)[: settings.max_candidates]
        best = best.sort().values
        cells, classes, cell_scores = cells[best], classes[best], cell_scores[best]

    # Candidates of the same cell share its mask.
    unique_cells, mask_of = torch.unique(cells, return_inverse=True)
    logits = mask_logits(unique_cells)
    # Comparing logits saves the sigmoid of all pixels outside the masks.
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
    masks = enlarge_masks(
        logits[mask_of[order]].sigmoid_().unflatten(1, mask_size),
        input_size,
        output_size,
        threshold,
        stride=mask_stride,
    )
    # A mask can vanish when it is scaled to a smaller image or when the padding is cut off.
    visible = torch.from_numpy(masks.areas() > 0)
    if not visible.all():
        masks, order = masks[visible], order[visible.to(order.device)]
    return _instances(masks, cell_scores[order], classes[order])


def _instances(masks: RLEMasks, scores: torch.Tensor, classes: torch.Tensor) -> Instances:
    result = Instances(masks.image_size)
    result.pred_masks = masks
    result.scores = scores
    result.pred_classes = classes
    result.pred_boxes = Boxes(masks.boxes().to(scores.device))
    return result
