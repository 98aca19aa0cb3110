"""Comparison of exported files with the models in PyTorch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import ImageList, Instances
from pycocotools import mask as mask_utils

from ..errors import UserError
from ..runtime.description import ModelDescription
from ..runtime.prediction import Prediction
from ..structures.rle_masks import RLEMasks
from ..synthetic.scenes import draw_scene
from .networks import ExportedNetwork, restored
from .program import example_images
from .readers import Run
from .yolo_seg import YoloSegNetwork

TOLERANCES = {"float32": 1e-3, "float16": 2e-2}
"""Largest accepted difference of an output, relative to its largest absolute value."""

MIN_MASK_IOU = {"float32": 0.999, "float16": 0.98, "int8": 0.5}
"""Smallest accepted mean IoU of final masks."""

# Numbers and sizes, in multiples of the size divisibility, of the images in the first check.
SHAPES = ((1, 5, 8), (3, 6, 5))

# Seed and (height, width) of synthetic scenes: aircraft and ships.
SCENES = ((1, (256, 256)), (11, (192, 256)))


@dataclass(frozen=True)
class Comparison:
    """Differences between an exported file and the model in PyTorch.

    Attributes:
        difference: largest difference of an output on noise, relative to the output's largest
            absolute value.
        instances: number of instances that the model finds in images.
        mask_iou: mean IoU of their masks with those of the file; None without instances.
    """

    difference: float
    instances: int
    mask_iou: float | None

    def check(self, precision: str) -> None:
        """Compare the differences with the tolerances of a precision.

        Args:
            precision: "float32", "float16" for weights, or "int8".

        Raises:
            UserError: if a difference is larger than expected.
        """
        limit = TOLERANCES.get(precision)
        if limit is not None and not self.difference <= limit:
            raise UserError(
                f"the outputs of the exported file differ from PyTorch's by {self.difference:.2g} "
                f"of their largest value, and at most {limit} is expected; try another --opset or "
                "--deform."
            )
        if self.mask_iou is not None and not self.mask_iou >= MIN_MASK_IOU[precision]:
            raise UserError(
                f"the masks of the exported file have a mean IoU of {self.mask_iou:.4f} with "
                f"PyTorch's, and at least {MIN_MASK_IOU[precision]} is expected; try another "
                "--opset or --deform, more --candidates, or leave out --half or --int8."
            )


def compare(
    network: ExportedNetwork, run: Run, instances: Iterable[tuple[Instances, Instances]] = ()
) -> Comparison:
    """Compare an exported file with its network.

    Outputs are compared on noise, with two numbers and two sizes of images; of the rows of the
    contract "yolo-seg", the scores are compared.

    Args:
        network: the exported network.
        run: the exported file.
        instances: what the model and the file find in each of several images, whose masks are
            compared.
    """
    difference = 0.0
    for number, rows, columns in SHAPES:
        noise = example_images(network, count=number, rows=rows, columns=columns)
        with torch.no_grad():
            expected = network(noise)
        for ours, theirs in zip(expected, run(noise), strict=True):
            if network.fixed_size is not None and ours is expected[0]:
                ours, theirs = (_sorted_scores(network, x) for x in (ours, theirs))
            difference = max(difference, relative_difference(ours, theirs))
    count, values = 0, []
    for of_model, of_file in instances:
        count += len(of_model)
        values += matched_ious(of_model, of_file)
    return Comparison(difference, count, sum(values) / len(values) if values else None)


def synthetic_pictures(description: ModelDescription) -> list[np.ndarray]:
    """Return two synthetic scenes for models without images, the same in each call.

    Args:
        description: description of the model.

    Returns:
        ``(H, W, C)`` as :class:`~facenet_d2.engine.Predictor` takes them: uint8 in BGR, or float32
        with the colours in turn as the bands.
    """
    pictures = []
    for seed, (height, width) in SCENES:
        scene, _ = draw_scene(seed, max(height, width))
        picture = scene[:height, :width, np.arange(len(description.pixel_mean)) % 3]
        pictures.append(picture.astype(np.float32) if description.reads_rasters else picture)
    return pictures


def _sorted_scores(network: ExportedNetwork, rows: torch.Tensor) -> torch.Tensor:
    """Return the scores of each class in the first output of the contract "yolo-seg", sorted.

    Rows of equal scores have no order, and one pixel at the threshold moves the side of a box.
    """
    return rows[:, 4 : 4 + len(network.description.class_names)].sort(dim=2).values


def relative_difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return the largest difference of two tensors, relative to the largest value of the first.

    It is infinite for different shapes or values that are not finite.
    """
    if ours.shape != theirs.shape or not (ours.isfinite().all() and theirs.isfinite().all()):
        return float("inf")
    scale = ours.abs().max().clamp(min=1e-6)
    return float((ours - theirs).abs().max() / scale)


def padded(network: ExportedNetwork, image: torch.Tensor) -> torch.Tensor:
    """Return an image as the input of a network, ``(1, C, H, W)``.

    It is padded with the mean colour at the right and the bottom. For a network of a fixed size it
    is converted to RGB from 0 to 1; a larger image is cropped.
    """
    mean = network.model.pixel_mean
    if network.fixed_size is None:
        divisor = network.description.size_divisibility
        return ImageList.from_tensors([image - mean], divisor).tensor + mean
    size = network.fixed_size
    image = image[:, :size, :size]
    missing = (0, size - image.shape[2], 0, size - image.shape[1])
    image = F.pad(image - mean, missing) + mean
    if network.description.channel_order == "BGR":
        image = image.flip(0)
    return image[None] / 255


def model_instances(network: ExportedNetwork, image: torch.Tensor) -> Instances:
    """Return the instances that the model finds in an image ``(C, h, w)``."""
    size = _size(network, image)
    images = padded(network, image)
    if isinstance(network, YoloSegNetwork):
        images = network.scene_values(images)
    with torch.no_grad():
        (found,) = network.model.inference(network.predictions(images), [size], [size])
    assert isinstance(found, Instances)
    return found


def exported_instances(network: ExportedNetwork, run: Run, image: torch.Tensor) -> Instances:
    """Return the instances that an exported file finds in an image ``(C, h, w)``."""
    size = _size(network, image)
    images = padded(network, image)
    outputs = run(images)
    if isinstance(network, YoloSegNetwork):
        return network.instances(outputs[0][0], outputs[1][0], size)
    named = dict(zip(network.description.output_names, outputs, strict=True))
    with torch.no_grad():
        predictions = restored(network.predictions(images), named)
        (found,) = network.model.inference(predictions, [size], [size])
    assert isinstance(found, Instances)
    return found


def as_instances(prediction: Prediction) -> Instances:
    """Return classes and masks of the runner's prediction."""
    result = Instances(prediction.image_size)
    result.pred_masks = RLEMasks.from_dense(prediction.to_dense(), prediction.image_size)
    result.pred_classes = torch.from_numpy(prediction.classes)
    return result


def matched_ious(expected: Instances, found: Instances) -> list[float]:
    """Return the IoU of each expected mask with the best found mask of its class.

    Found instances are used once each; the best-scored expected instance chooses first. Expected
    and found instances without a partner count as 0.
    """
    if len(expected) == 0 or len(found) == 0:
        return [0.0] * max(len(expected), len(found))
    # Rows are the found masks.
    overlaps = mask_utils.iou(_bytes(found), _bytes(expected), [0] * len(expected))
    same = expected.pred_classes[:, None] == found.pred_classes[None, :]
    ious = torch.where(same, torch.from_numpy(overlaps).T, -1.0)
    values = []
    for row in ious:
        best = int(row.argmax())
        if row[best] > 0:
            values.append(float(row[best]))
            ious[:, best] = -1.0
        else:
            values.append(0.0)
    return values + [0.0] * max(0, len(found) - len(expected))


def _bytes(instances: Instances) -> list[dict[str, Any]]:
    """Return masks as pycocotools takes them."""
    return [{**rle, "counts": rle["counts"].encode()} for rle in instances.pred_masks.rles()]


def _size(network: ExportedNetwork, image: torch.Tensor) -> tuple[int, int]:
    height, width = image.shape[1:]
    if network.fixed_size is not None:
        return min(height, network.fixed_size), min(width, network.fixed_size)
    return height, width
