"""Selection of instances from the scores and masks of cells (SOLOv2, section 3.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Boxes, Instances

from ...stride import MASK_STRIDE
from ...structures.cell_masks import BLOCK_FLOATS, CellMasks
from ...structures.crops import Crop
from ...structures.enlarge import enlarge_masks
from ...structures.enlarger import Enlarger, Part, box_with_margin
from ...structures.masks import flat_nonzero
from ...structures.rle_masks import RLEMasks
from .matrix_nms import matrix_nms

# Number of mask logits that are computed at a time on a GPU, 64 MiB.
CHUNK_FLOATS = 16 * 2**20


@dataclass(frozen=True)
class InferenceSettings:
    """Thresholds and limits of inference.

    Attributes:
        score_threshold: class scores of candidates, pairs of a cell and a class, are above it.
        mask_threshold: probabilities of a mask's pixels are above it.
        max_candidates: maximum number of candidates, those with the highest class scores. The
            published code has no such limit; the results differ only if it is reached.
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


class BinaryMasks(NamedTuple):
    """Binary masks of K cells.

    Attributes:
        pixels: ``(K, h, w)`` bool.
        areas: number of pixels of each mask, ``(K,)`` float.
        masknesses: mean probability of each mask's pixels, ``(K,)`` float; 0 for an empty mask.
    """

    pixels: torch.Tensor
    areas: torch.Tensor
    masknesses: torch.Tensor


def binary_masks(
    masks: CellMasks[torch.Tensor], threshold: float, device: torch.device
) -> BinaryMasks:
    """Compute the pixels whose probability is above a threshold, and their mean probability.

    Args:
        masks: masks of K cells.
        threshold: probability above which a pixel is set.
        device: device of the masks.
    """
    pixels = torch.empty((len(masks), *masks.size), dtype=torch.bool, device=device)
    areas = torch.zeros(len(masks), device=device)
    # A sum of many pixels, one after the other, is not exact enough in float32.
    totals = torch.zeros(len(masks), dtype=torch.float64, device=device)
    # Comparing logits saves the sigmoid of all pixels outside the masks.
    logit = math.log(threshold / (1 - threshold))
    floats = BLOCK_FLOATS if device.type == "cpu" else CHUNK_FLOATS
    buffer = torch.empty(max(floats, len(masks) * masks.size[1]), device=device)
    for cells, rows in masks.blocks(floats):
        logits = masks.logits(cells, rows, buffer=buffer)
        inside = logits > logit
        pixels[cells, rows] = inside
        places = flat_nonzero(inside)
        owners = places // (logits.shape[1] * logits.shape[2])
        areas[cells] += torch.bincount(owners, minlength=len(logits))
        totals[cells].index_add_(0, owners, logits.flatten()[places].sigmoid_().double())
    return BinaryMasks(pixels, areas, (totals / areas.clamp(min=1)).float())


@torch.no_grad()
def detect_instances(
    scores: torch.Tensor,
    cell_masks: Callable[[torch.Tensor], CellMasks[torch.Tensor]],
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
        cell_masks: function that returns the masks of K cells, given their indices, ``(K,)`` int64.
        cell_min_areas: area of each cell above which its mask is kept, in pixels of the masks,
            ``(cells,)``.
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
    masks = cell_masks(unique_cells)
    binary = binary_masks(masks, settings.mask_threshold, scores.device)
    large_enough = (binary.areas > cell_min_areas[unique_cells])[mask_of]
    cell_scores = cell_scores[large_enough] * binary.masknesses[mask_of[large_enough]]
    classes, mask_of = classes[large_enough], mask_of[large_enough]

    order = cell_scores.argsort(descending=True, stable=True)[: settings.nms_pre]
    cell_scores, classes, mask_of = cell_scores[order], classes[order], mask_of[order]
    cell_scores = matrix_nms(
        binary.pixels,
        classes,
        cell_scores,
        mask_of,
        binary.areas,
        kernel=settings.nms_kernel,
        sigma=settings.nms_sigma,
    )

    order = cell_scores.argsort(descending=True, stable=True)[: settings.max_instances]
    order = order[cell_scores[order] >= settings.update_threshold]
    enlarged = _enlarged_masks(
        masks, binary.pixels, mask_of[order], settings, input_size, output_size, mask_stride
    )
    # A mask can vanish when it is scaled to a smaller image or when the padding is cut off.
    visible = torch.from_numpy(enlarged.areas() > 0)
    if not visible.all():
        enlarged, order = enlarged[visible], order[visible.to(order.device)]
    return _instances(enlarged, cell_scores[order], classes[order])


def _enlarged_masks(
    masks: CellMasks[torch.Tensor],
    pixels: torch.Tensor,
    indices: torch.Tensor,
    settings: InferenceSettings,
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    stride: int,
) -> RLEMasks:
    """Enlarge the masks with the given indices, ``(M,)`` int64, to the size of the result.

    On a CPU, only the surroundings of their pixels are enlarged.
    """
    threshold = settings.mask_threshold
    if pixels.device.type != "cpu":
        return RLEMasks.cat(
            [
                enlarge_masks(
                    masks.logits(part).sigmoid_(), input_size, output_size, threshold, stride=stride
                )
                for part in indices.split(max(1, CHUNK_FLOATS // math.prod(masks.size)))
            ]
        )
    enlarge = Enlarger(masks.size, input_size, output_size, threshold, stride)

    def crop_of(mask: int) -> Crop:
        left, top, right, bottom = box_with_margin(pixels[mask].numpy())
        part = masks.logits(slice(mask, mask + 1), slice(top, bottom), slice(left, right))[0]
        return enlarge(Part(part.sigmoid_().numpy(), left, top))

    # One after the other: crops of large masks take as much memory as masks of full size.
    return RLEMasks.from_crops(map(crop_of, indices.tolist()), output_size)


def _instances(masks: RLEMasks, scores: torch.Tensor, classes: torch.Tensor) -> Instances:
    result = Instances(masks.image_size)
    result.pred_masks = masks
    result.scores = scores
    result.pred_classes = classes
    result.pred_boxes = Boxes(masks.boxes().to(scores.device))
    return result
