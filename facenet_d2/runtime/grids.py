"""Instances from the predictions of SOLOv2, FACENet and SOLO (SOLOv2, section 3.4).

The steps are those of :mod:`facenet_d2.modeling.grids.selection`, in NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from ..structures.cell_masks import BLOCK_FLOATS, CellMasks
from ..structures.enlarger import Enlarger, Part, box_with_margin
from .arrays import descending, logit_of, sigmoid
from .cell_masks import cell_masks
from .description import GridSettings
from .detected import Detected

# Number of floats of the masks that are compared at a time in Matrix NMS, 64 MiB.
CHUNK_FLOATS = 16 * 2**20


def suppress_neighbours(scores: np.ndarray, num_grids: Sequence[int]) -> np.ndarray:
    """Apply Points NMS: set every score to zero that is not the maximum of its 2x2 window.

    The window extends up and to the left of the cell.

    Args:
        scores: scores of the cells of all grids in turn, ``(cells, C)``.
        num_grids: number of cells S along each side, per grid.

    Returns:
        The remaining scores, ``(cells, C)``.
    """
    result = np.empty_like(scores)
    first = 0
    for size in num_grids:
        cells = slice(first, first + size * size)
        grid = scores[cells].reshape(size, size, -1)
        maximum = grid.copy()
        np.maximum(maximum[1:], grid[:-1], out=maximum[1:])
        rows = maximum.copy()
        np.maximum(maximum[:, 1:], rows[:, :-1], out=maximum[:, 1:])
        result[cells] = (grid * (maximum == grid)).reshape(size * size, -1)
        first += size * size
    return result


def grid_instances(
    outputs: Mapping[str, np.ndarray],
    image: int,
    settings: GridSettings,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
    threads: int = 1,
) -> Detected:
    """Select the instances of one image.

    Args:
        outputs: outputs of the network by name, see
            :attr:`~facenet_d2.runtime.description.ModelDescription.output_names`.
        image: index of the image in the batch.
        settings: thresholds and limits.
        input_size: (height, width) of the image as the network saw it, without padding.
        image_size: (height, width) of the result.
        threads: number of threads that compute masks.
    """
    scores = sigmoid(outputs["logits"][image])
    if settings.points_nms:
        scores = suppress_neighbours(scores, settings.num_grids)
    cells, classes = np.nonzero(scores > np.float32(settings.score_threshold))
    if len(cells) == 0:
        return Detected.none()
    cell_scores = scores[cells, classes]
    if len(cells) > settings.max_candidates:
        best = np.sort(descending(cell_scores)[: settings.max_candidates])
        cells, classes, cell_scores = cells[best], classes[best], cell_scores[best]

    # Candidates of the same cell share its mask.
    unique_cells, mask_of = np.unique(cells, return_inverse=True)
    masks = cell_masks(outputs, image, unique_cells, settings)
    binary = binary_masks(masks, settings.mask_threshold, threads)
    minimum = np.repeat(settings.min_mask_areas, [s * s for s in settings.num_grids])
    kept = (binary.areas > minimum[unique_cells])[mask_of]
    cell_scores = cell_scores[kept] * binary.masknesses[mask_of[kept]]
    classes, mask_of = classes[kept], mask_of[kept]

    order = descending(cell_scores)[: settings.nms_pre]
    cell_scores, classes, mask_of = cell_scores[order], classes[order], mask_of[order]
    cell_scores = matrix_nms(
        binary.pixels.reshape(len(masks), -1),
        classes,
        cell_scores,
        mask_of,
        binary.areas,
        kernel=settings.nms_kernel,
        sigma=settings.nms_sigma,
    )

    order = descending(cell_scores)[: settings.max_instances]
    order = order[cell_scores[order] >= np.float32(settings.update_threshold)]
    enlarge = Enlarger(
        masks.size, input_size, image_size, settings.mask_threshold, settings.mask_stride
    )
    crops = []
    for i in mask_of[order].tolist():
        left, top, right, bottom = box_with_margin(binary.pixels[i])
        logits = masks.logits(slice(i, i + 1), slice(top, bottom), slice(left, right))[0]
        crops.append(enlarge(Part(sigmoid(logits), left, top)))
    boxes = np.array([crop.box for crop in crops], np.float32).reshape(-1, 4)
    return Detected(classes[order], cell_scores[order], boxes, crops).visible()


class BinaryMasks(NamedTuple):
    """Binary masks of K cells.

    Attributes:
        pixels: ``(K, h, w)`` bool.
        areas: number of pixels of each mask, ``(K,)`` int64.
        masknesses: mean probability of each mask's pixels, ``(K,)`` float32; 0 for an empty mask.
    """

    pixels: np.ndarray
    areas: np.ndarray
    masknesses: np.ndarray


def binary_masks(masks: CellMasks[np.ndarray], threshold: float, threads: int = 1) -> BinaryMasks:
    """Compute the pixels whose probability is above a threshold, and their mean probability.

    Args:
        masks: masks of K cells.
        threshold: probability above which a pixel is set.
        threads: number of threads.
    """
    pixels = np.empty((len(masks), *masks.size), bool)
    threshold_logit = logit_of(threshold)

    def counts(blocks: Sequence[tuple[slice, slice]]) -> tuple[np.ndarray, np.ndarray]:
        """Return the area of each mask in some blocks, and the sum of its probabilities."""
        areas, totals = np.zeros(len(masks), np.int64), np.zeros(len(masks))
        buffer = np.empty(max(BLOCK_FLOATS, len(masks) * masks.size[1]), np.float32)
        for cells, rows in blocks:
            logits = masks.logits(cells, rows, buffer=buffer)
            inside = logits > threshold_logit
            pixels[cells, rows] = inside
            places = np.flatnonzero(inside)
            owners = places // (logits.shape[1] * logits.shape[2])
            probabilities = sigmoid(logits.reshape(-1)[places])
            areas[cells] += np.bincount(owners, minlength=len(logits))
            totals[cells] += np.bincount(owners, probabilities, len(logits))
        return areas, totals

    blocks = [*masks.blocks(BLOCK_FLOATS)]
    threads = min(threads, len(blocks))
    if threads > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = [*pool.map(counts, (blocks[i::threads] for i in range(threads)))]
    else:
        parts = [counts(blocks)]
    areas, totals = (np.sum(part, axis=0) for part in zip(*parts))
    masknesses = (totals / np.maximum(areas, 1)).astype(np.float32)
    return BinaryMasks(pixels, areas, masknesses)


def matrix_nms(
    masks: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    mask_of: np.ndarray,
    areas: np.ndarray,
    *,
    kernel: str,
    sigma: float,
) -> np.ndarray:
    """Lower each score by the overlap with higher-scored masks of the same class.

    See :func:`facenet_d2.modeling.grids.matrix_nms.matrix_nms`.

    Args:
        masks: ``(K, pixels)`` bool; the candidates' masks are not empty.
        classes: class of each of N candidates, ``(N,)`` int64.
        scores: descending scores of the candidates, ``(N,)`` float32.
        mask_of: index of each candidate's mask, ``(N,)`` int64.
        areas: number of pixels of each mask, ``(K,)``.
        kernel: "gaussian" or "linear".
        sigma: parameter of the gaussian kernel.

    Returns:
        New scores, ``(N,)`` float32.
    """
    result = scores.copy()
    area = areas[mask_of].astype(np.float32)
    for c in np.unique(classes):
        own = np.flatnonzero(classes == c)
        if len(own) < 2:
            continue
        shared = _intersections(masks[mask_of[own]])
        # Row i, column j: overlap of j with the higher-scored i; zero elsewhere.
        iou = np.triu(shared / (area[own][:, None] + area[own] - shared), k=1)
        # Largest overlap of i with a higher-scored mask: a suppressed i suppresses less.
        covered = iou.max(axis=0)[:, None]
        if kernel == "gaussian":
            # The quotient of the exponentials would underflow for a large sigma.
            overlap = (np.square(iou) - np.square(covered)).max(axis=0)
            decay = np.exp(np.float32(-sigma) * overlap)
        else:
            # Exact duplicates make the divisor zero.
            decay = ((1 - iou) / np.maximum(1 - covered, np.float32(1e-6))).min(axis=0)
        result[own] *= decay
    return result


def _intersections(masks: np.ndarray) -> np.ndarray:
    """Count the pixels that each two of ``(N, pixels)`` bool masks share, ``(N, N)`` float32.

    The diagonal is not meaningful.
    """
    # Masks rarely overlap: most pixels need not be counted.
    count = np.zeros(masks.shape[1], np.uint8)
    # 252 masks and the count so far, at most 2, do not overflow a byte.
    for start in range(0, len(masks), 252):
        part = masks[start : start + 252].view(np.uint8)
        count = np.minimum(count + part.sum(axis=0, dtype=np.uint8), 2)
    places = np.flatnonzero(count > 1)
    total = np.zeros((len(masks),) * 2, np.float32)
    step = max(1, CHUNK_FLOATS // len(masks))
    for start in range(0, len(places), step):
        part = masks[:, places[start : start + step]].astype(np.float32)
        total += part @ part.T
    return total
