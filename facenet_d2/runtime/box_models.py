"""Instances from the predictions of YOLACT and CondInst, which find boxes and then their masks.

The steps are those of ``inference`` of :mod:`facenet_d2.modeling.yolact.meta_arch` and
:mod:`facenet_d2.modeling.condinst.meta_arch`, in NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import cv2
import numpy as np

from ..stride import MASK_STRIDE
from ..structures.crops import EMPTY_CROP, Crop
from ..structures.enlarger import MARGIN, Enlarger, Part, box_with_margin
from .arrays import descending, sigmoid, softmax
from .boxes import apply_deltas, apply_distances, batched_nms, clip, fast_nms, rescale
from .description import CondInstSettings, YOLACTSettings
from .detected import Detected

Outputs = Mapping[str, np.ndarray]


def yolact_instances(
    outputs: Outputs,
    image: int,
    settings: YOLACTSettings,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
) -> Detected:
    """Select boxes by Fast NMS and compute their masks.

    Args:
        outputs: outputs of the network by name, see
            :attr:`~facenet_d2.runtime.description.ModelDescription.output_names`.
        image: index of the image in the batch.
        settings: thresholds and limits.
        input_size: (height, width) of the image as the network saw it, without padding.
        image_size: (height, width) of the result.
    """
    scores = softmax(outputs["logits"][image])[:, :-1]
    some = np.flatnonzero((scores > np.float32(settings.score_threshold)).any(axis=1))
    boxes = apply_deltas(
        outputs["deltas"][image, some],
        outputs["anchors"][some],
        settings.box_weights,
        settings.scale_clamp,
    )
    boxes = clip(boxes, input_size)
    rows, classes = fast_nms(
        boxes,
        scores[some],
        score_threshold=settings.score_threshold,
        iou_threshold=settings.nms_threshold,
        top_k=settings.top_k,
        max_instances=settings.max_instances,
    )
    coefficients = outputs["coefficients"][image, some[rows]]
    prototypes = outputs["prototypes"][image]
    parts = (_combined(c, prototypes, box) for c, box in zip(coefficients, boxes[rows]))
    map_size = prototypes.shape[1:]
    return _with_masks(
        boxes[rows],
        classes,
        scores[some[rows], classes],
        parts,
        Enlarger(map_size, input_size, image_size, settings.mask_threshold),
    )


def _combined(coefficients: np.ndarray, prototypes: np.ndarray, box: np.ndarray) -> Part:
    """Return the probabilities of a mask, which are 0 away from its box.

    Args:
        coefficients: ``(k,)``.
        prototypes: ``(k, h, w)``.
        box: box in pixels of the network's input, ``(4,)``.
    """
    height, width = prototypes.shape[1:]
    # One more pixel on every side, as published.
    x0, y0, x1, y1 = box / np.float32(MASK_STRIDE) + np.array([-1, -1, 1, 1], np.float32)
    left, right = _between(x0, x1, width)
    top, bottom = _between(y0, y1, height)
    around = prototypes[:, top:bottom, left:right]
    logits = coefficients @ np.ascontiguousarray(around).reshape(len(around), -1)
    x, y = max(0, left - MARGIN), max(0, top - MARGIN)
    values = np.zeros(
        (min(height, bottom + MARGIN) - y, min(width, right + MARGIN) - x), np.float32
    )
    values[top - y : bottom - y, left - x : right - x] = sigmoid(logits).reshape(around.shape[1:])
    return Part(values, x, y)


def _between(low: np.float32, high: np.float32, size: int) -> tuple[int, int]:
    """Return the first pixel whose centre lies between two places, and the end of these pixels."""
    centers = np.arange(size, dtype=np.float32) + np.float32(0.5)
    first, end = np.searchsorted(centers, low), np.searchsorted(centers, high, side="right")
    return int(first), int(max(first, end))


def condinst_instances(
    outputs: Outputs,
    image: int,
    settings: CondInstSettings,
    input_size: tuple[int, int],
    image_size: tuple[int, int],
) -> Detected:
    """Select boxes as FCOS does and compute their masks.

    The arguments are those of :func:`yolact_instances`.
    """
    anchors = outputs["anchors"]
    scores = np.sqrt(sigmoid(outputs["logits"][image]) * sigmoid(outputs["centerness"][image]))
    strides = anchors[:, 2] - anchors[:, 0]
    candidates = []
    for stride in np.unique(strides):
        level = np.flatnonzero(strides == stride)
        position, label = np.nonzero(scores[level] > np.float32(settings.score_threshold))
        best = descending(scores[level[position], label])[: settings.top_k]
        candidates.append((level[position[best]], label[best]))
    positions, classes = (np.concatenate(x) for x in zip(*candidates))
    found = scores[positions, classes]
    boxes = apply_distances(outputs["distances"][image, positions], anchors[positions])
    keep = batched_nms(boxes, found, classes, settings.nms_threshold, settings.max_instances)
    positions = positions[keep]
    factor = settings.mask_feature_stride // MASK_STRIDE
    height, width = outputs["mask_features"].shape[2:]
    map_size = (height * factor, width * factor)
    parts = _condinst_masks(
        outputs["mask_features"][image],
        outputs["parameters"][image, positions],
        anchors[positions],
        settings,
    )
    return _with_masks(
        boxes[keep],
        classes[keep],
        found[keep],
        parts,
        Enlarger(map_size, input_size, image_size, settings.mask_threshold),
    )


def _condinst_masks(
    features: np.ndarray, parameters: np.ndarray, anchors: np.ndarray, settings: CondInstSettings
) -> Iterable[Part]:
    """Yield the probabilities of the mask of each of K instances.

    Args:
        features: mask features, ``(channels, h, w)``.
        parameters: weights, then biases, of each instance's convolutions, ``(K, number)``.
        anchors: anchors of the positions that found the instances, ``(K, 4)``.
        settings: layers of the mask heads.
    """
    channels, height, width = features.shape
    widths = [channels + 2, *[settings.dynamic_channels] * (settings.dynamic_convs - 1), 1]
    shapes = list(zip(widths[1:], widths[:-1]))
    ends = np.cumsum([o * i for o, i in shapes] + [o for o, _ in shapes])
    stride = settings.mask_feature_stride
    places = np.arange(max(height, width), dtype=np.float32) * stride + np.float32(stride / 2)
    # The relative coordinates come first, then the features.
    first = np.empty((channels + 2, height * width), np.float32)
    first[2:] = features.reshape(channels, -1)
    coordinates = first[:2].reshape(2, height, width)
    for own, anchor in zip(parameters, anchors):
        center = (anchor[:2] + anchor[2:]) / 2
        scale = (anchor[2] - anchor[0]) * np.float32(settings.size_of_interest)
        coordinates[0] = (center[0] - places[:width]) / scale
        coordinates[1] = ((center[1] - places[:height]) / scale)[:, None]
        pieces = np.split(own, ends[:-1])
        x = first
        for layer, shape in enumerate(shapes):
            x = pieces[layer].reshape(shape) @ x
            x += pieces[len(shapes) + layer][:, None]
            if layer < len(shapes) - 1:
                np.maximum(x, 0, out=x)
        small = x.reshape(height, width)
        factor = stride // MASK_STRIDE
        size = (width * factor, height * factor)
        yield Part(sigmoid(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)), 0, 0)


def _with_masks(
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray,
    parts: Iterable[Part],
    enlarge: Enlarger,
) -> Detected:
    """Scale detections to the image's own size and add their masks.

    Those whose box lies outside the image or whose mask is empty are left out.
    """
    boxes = rescale(boxes, enlarge.input_size, enlarge.image_size)
    nonempty: list[bool] = np.all(boxes[:, 2:] > boxes[:, :2], axis=1).tolist()
    crops = [
        _crop(part, enlarge) if visible else EMPTY_CROP for part, visible in zip(parts, nonempty)
    ]
    return Detected(classes, scores, boxes, crops).visible()


def _crop(part: Part, enlarge: Enlarger) -> Crop:
    """Enlarge the pixels of a part that are above the threshold."""
    left, top, right, bottom = box_with_margin(part.values > enlarge.threshold)
    if right == left:
        return EMPTY_CROP
    values = np.ascontiguousarray(part.values[top:bottom, left:right])
    return enlarge(Part(values, part.x + left, part.y + top))
