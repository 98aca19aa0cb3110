"""Boxes as ``(N, 4)`` float32 arrays (x0, y0, x1, y1): overlaps, suppression, scaling."""

from __future__ import annotations

import numpy as np


def areas(boxes: np.ndarray) -> np.ndarray:
    result: np.ndarray = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return result


def pairwise_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the IoU of each pair of boxes, ``(len(a), len(b))``; NaN for two empty boxes."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    sides = np.maximum(high - low, 0)
    shared = sides[..., 0] * sides[..., 1]
    with np.errstate(invalid="ignore"):
        result: np.ndarray = shared / (areas(a)[:, None] + areas(b)[None, :] - shared)
    return result


def batched_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    classes: np.ndarray,
    iou_threshold: float,
    max_instances: int,
) -> np.ndarray:
    """Drop each box that overlaps a kept box of its class with a higher score.

    Args:
        boxes: ``(N, 4)``.
        scores: ``(N,)``.
        classes: ``(N,)``.
        iou_threshold: boxes with an IoU above it overlap.
        max_instances: maximum number of kept boxes, those with the highest scores.

    Returns:
        Indices of the kept boxes by descending score.
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while len(order) and len(kept) < max_instances:
        best = order[0]
        kept.append(int(best))
        order = order[1:]
        overlaps = pairwise_iou(boxes[best][None], boxes[order])[0] > np.float32(iou_threshold)
        order = order[~(overlaps & (classes[order] == classes[best]))]
    return np.array(kept, np.int64)


def fast_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    *,
    score_threshold: float,
    iou_threshold: float,
    top_k: int,
    max_instances: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Drop each box that overlaps any box of the same class with a higher score (YOLACT, 4).

    Unlike in plain NMS, a dropped box still suppresses others.

    Args:
        boxes: boxes, shared by all classes, ``(R, 4)``.
        scores: scores of the boxes, ``(R, C)``.
        score_threshold: candidates of a class have a score above it.
        iou_threshold: boxes with an IoU above it overlap.
        top_k: maximum number of candidates per class, those with the highest scores.
        max_instances: maximum number of kept boxes, those with the highest scores.

    Returns:
        Indices of the kept boxes and their classes, by descending score, ``(M,)`` int64 each.
    """
    above = scores > np.float32(score_threshold)
    rows = [np.zeros(0, np.int64)]
    classes = [np.zeros(0, np.int64)]
    for c in np.flatnonzero(above.any(axis=0)).tolist():
        own = np.flatnonzero(above[:, c])
        own = own[np.argsort(-scores[own, c], kind="stable")[:top_k]]
        overlap = np.triu(pairwise_iou(boxes[own], boxes[own]), k=1)
        own = own[overlap.max(axis=0) <= np.float32(iou_threshold)]
        rows.append(own)
        classes.append(np.full(len(own), c))
    kept, labels = np.concatenate(rows), np.concatenate(classes)
    best = np.argsort(-scores[kept, labels], kind="stable")[:max_instances]
    return kept[best], labels[best]


def apply_deltas(
    deltas: np.ndarray, boxes: np.ndarray, weights: tuple[float, ...], scale_clamp: float
) -> np.ndarray:
    """Move and scale boxes, as Detectron2's ``Box2BoxTransform`` does.

    Args:
        deltas: ``(N, 4)`` (dx, dy, dw, dh).
        boxes: ``(N, 4)``.
        weights: divisors of the deltas.
        scale_clamp: maximum of dw and dh.
    """
    deltas = deltas / np.array(weights, np.float32)
    sizes = boxes[:, 2:] - boxes[:, :2]
    centers = boxes[:, :2] + np.float32(0.5) * sizes
    centers = deltas[:, :2] * sizes + centers
    half = np.float32(0.5) * np.exp(np.minimum(deltas[:, 2:], np.float32(scale_clamp))) * sizes
    return np.concatenate([centers - half, centers + half], axis=1)


def apply_distances(distances: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the boxes at distances from the centres of others.

    As Detectron2's ``Box2BoxTransformLinear`` with ``normalize_by_size`` does.

    Args:
        distances: distances to the left, top, right and bottom side, in sizes of the boxes,
            ``(N, 4)``; negative ones are taken as 0.
        boxes: ``(N, 4)``.
    """
    centers = np.float32(0.5) * (boxes[:, :2] + boxes[:, 2:])
    sizes = boxes[:, 2:] - boxes[:, :2]
    distances = np.maximum(distances, 0)
    return np.concatenate(
        [centers - distances[:, :2] * sizes, centers + distances[:, 2:] * sizes], axis=1
    )


def clip(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Clip boxes to an image of (height, width)."""
    height, width = size
    return boxes.clip(np.float32(0), np.array([width, height, width, height], np.float32))


def rescale(boxes: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Scale boxes from an image of size (height, width) to another, and clip them."""
    y, x = new[0] / old[0], new[1] / old[1]
    return clip(boxes * np.array([x, y, x, y], np.float32), new)
