"""Instances from the predictions of SOLOv2, FACENet and SOLO (SOLOv2, section 3.4).

The steps are those of :mod:`facenet_d2.modeling.grids.selection`, in NumPy.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np

from .arrays import descending, logit, logit_of, sigmoid
from .description import GridSettings
from .detected import Detected
from ..structures.enlarger import Enlarger, Part, boxes_with_margin as windows
from .mask_windows import cell_positions, position_maps, window_coefficients

# Number of floats of the masks that are compared at a time in Matrix NMS, 64 MiB.
CHUNK_FLOATS = 16 * 2**20
# Number of mask logits that are computed at a time, 4 MiB: they are used while a cache has them.
LOGITS = 2**20


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
    masks = masks_of_cells(outputs, image, unique_cells, settings, threads)
    minimum = np.repeat(settings.min_mask_areas, [s * s for s in settings.num_grids])
    kept = (masks.areas > minimum[unique_cells])[mask_of]
    cell_scores = cell_scores[kept] * masks.masknesses[mask_of[kept]]
    classes, mask_of = classes[kept], mask_of[kept]

    order = descending(cell_scores)[: settings.nms_pre]
    cell_scores, classes, mask_of = cell_scores[order], classes[order], mask_of[order]
    cell_scores = matrix_nms(
        masks.binary,
        mask_of,
        masks.areas[mask_of],
        classes,
        cell_scores,
        kernel=settings.nms_kernel,
        sigma=settings.nms_sigma,
    )

    order = descending(cell_scores)[: settings.max_instances]
    order = order[cell_scores[order] >= np.float32(settings.update_threshold)]
    enlarge = Enlarger(
        masks.size, input_size, image_size, settings.mask_threshold, settings.mask_stride
    )
    crops = [enlarge(masks.part(i)) for i in mask_of[order].tolist()]
    boxes = np.array([crop.box for crop in crops], np.float32).reshape(-1, 4)
    return Detected(classes[order], cell_scores[order], boxes, crops).visible()


class Masks(NamedTuple):
    """Masks of K cells.

    Attributes:
        size: (h, w), H/stride and W/stride of the padded input.
        binary: pixels of the masks, ``(K, h * w)`` bool.
        areas: number of pixels of each mask, ``(K,)`` int64.
        masknesses: mean probability of each mask's pixels, ``(K,)`` float32; 0 for an empty mask.
        logits: logits around the pixels of each mask, with their column and row.
    """

    size: tuple[int, int]
    binary: np.ndarray
    areas: np.ndarray
    masknesses: np.ndarray
    logits: Sequence[Part]

    def part(self, index: int) -> Part:
        """Return the probabilities around the pixels of a mask."""
        values, x, y = self.logits[index]
        return Part(sigmoid(values), x, y)


def masks_of_cells(
    outputs: Mapping[str, np.ndarray],
    image: int,
    cells: np.ndarray,
    settings: GridSettings,
    threads: int = 1,
) -> Masks:
    """Compute the masks of cells of an image.

    The arguments are those of :func:`mask_logits` and the number of threads; K is at least 1.
    """
    size = outputs["mask_features" if "mask_features" in outputs else "mask_maps_0"].shape[-2:]
    pixels = size[0] * size[1]
    threshold = logit_of(settings.mask_threshold)
    binary = np.empty((len(cells), pixels), bool)
    areas = np.empty(len(cells), np.int64)
    totals = np.zeros(len(cells), np.float32)

    def some_masks(some: slice) -> list[Part]:
        logits = mask_logits(outputs, image, cells[some], settings)
        masks = np.greater(logits, threshold, out=binary[some])
        areas[some] = [np.count_nonzero(mask) for mask in masks]
        inside = sigmoid(logits[masks])
        filled = np.flatnonzero(areas[some])
        if len(filled):
            first = np.cumsum(areas[some]) - areas[some]
            totals[some][filled] = np.add.reduceat(inside, first[filled])
        maps = logits.reshape(-1, *size)
        return [
            Part(values[top:bottom, left:right].copy(), left, top)
            for values, (left, top, right, bottom) in zip(maps, windows(masks.reshape(maps.shape)))
        ]

    step = max(1, LOGITS // pixels)
    chunks = [slice(start, start + step) for start in range(0, len(cells), step)]
    if threads > 1 and len(chunks) > 1:
        with ThreadPoolExecutor(threads) as pool:
            parts = [*pool.map(some_masks, chunks)]
    else:
        parts = [*map(some_masks, chunks)]
    masknesses = totals / np.maximum(areas, 1).astype(np.float32)
    return Masks(size, binary, areas, masknesses, [*itertools.chain.from_iterable(parts)])


def mask_logits(
    outputs: Mapping[str, np.ndarray], image: int, cells: np.ndarray, settings: GridSettings
) -> np.ndarray:
    """Compute the mask logits of cells of an image.

    Args:
        outputs: outputs of the network by name.
        image: index of the image in the batch.
        cells: increasing indices of K cells, ``(K,)``.
        settings: the grids.

    Returns:
        Logits, ``(K, h * w)`` float32, for masks of H/stride and W/stride of the padded input.
    """
    if "mask_features" in outputs:
        features = outputs["mask_features"][image]
        product: np.ndarray = outputs["kernels"][image, cells] @ features.reshape(len(features), -1)
        if settings.windows:
            positions = cell_positions(settings.num_grids)[cells]
            coefficients = window_coefficients(outputs["windows"][image, cells], positions)
            product += coefficients @ position_maps(*features.shape[1:])
        return product
    maps = [outputs[f"mask_maps_{i}"][image] for i in range(len(settings.num_grids))]
    size = maps[0].shape[-2:]
    first = list(itertools.accumulate((s * s for s in settings.num_grids), initial=0))
    level_logits: Callable[[int, np.ndarray], np.ndarray]
    if settings.decoupled:

        def level_logits(level: int, own: np.ndarray) -> np.ndarray:
            return _decoupled_logits(maps[level], settings.num_grids[level], own - first[level])

    else:

        def level_logits(level: int, own: np.ndarray) -> np.ndarray:
            kernels, features = outputs["kernels"][own], maps[level]
            product = kernels[:, :-1] @ features.reshape(len(features), -1) + kernels[:, -1:]
            result: np.ndarray = product.reshape(len(own), *features.shape[1:])
            return result

    parts = []
    for level in range(len(maps)):
        # The cells are sorted: the concatenation keeps their order.
        own = cells[(cells >= first[level]) & (cells < first[level + 1])]
        if len(own):
            parts.append(_enlarged_logits(level_logits(level, own), size))
    return np.concatenate(parts).reshape(len(cells), -1)


def _decoupled_logits(maps: np.ndarray, grid: int, cells: np.ndarray) -> np.ndarray:
    """Return the logits of the products of decoupled SOLO's factors, ``(K, h, w)``."""
    columns, rows = cells % grid, grid + cells // grid
    # Only the maps of some columns and rows are needed.
    some, places = np.unique(np.concatenate([columns, rows]), return_inverse=True)
    factors = sigmoid(maps[some])
    return logit(factors[places[: len(cells)]] * factors[places[len(cells) :]])


def _enlarged_logits(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize masks by interpolating their probabilities."""
    if logits.shape[1:] == size:
        return logits
    resized = [cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in sigmoid(logits)]
    return logit(np.stack(resized))


def matrix_nms(
    binary: np.ndarray,
    mask_of: np.ndarray,
    area: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    *,
    kernel: str,
    sigma: float,
) -> np.ndarray:
    """Lower each score by the overlap with higher-scored masks of the same class.

    See :func:`facenet_d2.modeling.grids.matrix_nms.matrix_nms`.

    Args:
        binary: masks, ``(K, pixels)`` bool.
        mask_of: mask of each of N candidates, ``(N,)``, by descending score.
        area: area of each candidate's mask, ``(N,)``.
        classes: class of each candidate, ``(N,)``.
        scores: descending scores, ``(N,)`` float32.
        kernel: "gaussian" or "linear".
        sigma: parameter of the gaussian kernel.

    Returns:
        New scores, ``(N,)`` float32.
    """
    result = scores.copy()
    area = area.astype(np.float32)
    for c in np.unique(classes):
        own = np.flatnonzero(classes == c)
        shared = _intersections(binary[mask_of[own]])
        # Row i, column j: overlap of j with the higher-scored i; zero elsewhere.
        iou = np.triu(shared / (area[own][:, None] + area[own] - shared), k=1)
        # Largest overlap of i with a higher-scored mask: a suppressed i suppresses less.
        covered = iou.max(axis=0)[:, None]
        if kernel == "gaussian":
            decay = np.exp(np.float32(-sigma) * (np.square(iou) - np.square(covered)))
        else:
            # Exact duplicates make the divisor zero.
            decay = (1 - iou) / np.maximum(1 - covered, np.float32(1e-6))
        result[own] *= decay.min(axis=0)
    return result


def _intersections(masks: np.ndarray) -> np.ndarray:
    """Count the pixels that each two of ``(N, pixels)`` bool masks share, ``(N, N)`` float32.

    The diagonal is not meaningful.
    """
    # Masks rarely overlap: most pixels need not be counted. 255 bytes of 1 do not overflow.
    count = np.zeros(masks.shape[1], np.uint8)
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
