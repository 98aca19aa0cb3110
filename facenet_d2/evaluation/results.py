"""Predictions in the format of COCO results, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from ..data.coco_entries import is_number
from ..errors import UserError
from ..files import read_json
from ..structures.rle_masks import RLEMasks


def instances_to_results(instances: Instances, image_id: int) -> list[dict[str, Any]]:
    """Convert predictions to COCO results, as Detectron2 does, without masks of full size.

    Args:
        instances: predictions on the CPU. Masks other than
            :class:`~facenet_d2.structures.rle_masks.RLEMasks` are left to Detectron2.
        image_id: value of ``image_id``.

    Returns:
        For each instance ``image_id``, ``category_id`` (the class index), ``bbox``, ``score`` and
        ``segmentation``.
    """
    fields = instances.get_fields()
    masks = fields.get("pred_masks")
    if not isinstance(masks, RLEMasks):
        return instances_to_coco_json(instances, image_id)
    without_masks = {name: field for name, field in fields.items() if name != "pred_masks"}
    results = instances_to_coco_json(Instances(instances.image_size, **without_masks), image_id)
    return [
        {**result, "segmentation": rle} for result, rle in zip(results, masks.rles(), strict=True)
    ]


def read_results(file: Path) -> list[dict[str, Any]]:
    """Read the predicted masks that an evaluation or ``demo.py --save-json`` wrote.

    Args:
        file: JSON list of objects with ``category_id``, ``segmentation`` (RLE), ``score`` and
            ``image_id`` or ``file_name``.

    Raises:
        UserError: if the file does not exist or has another format.
    """
    results, problem = read_json(file)
    if problem:
        raise UserError(f"{file} does not contain COCO results: {problem}.")
    if not isinstance(results, list):
        raise UserError(
            f"{file} does not contain COCO results: it is not a list, but a "
            f"{type(results).__name__}."
        )
    for number, result in enumerate(results):
        if not is_result(result):
            raise UserError(
                f"{file} does not contain COCO results of masks: entry {number} is not an object "
                "with an integer category_id, a segmentation as RLE, a number as score, and an "
                "image_id or file_name."
            )
    return results


def is_result(entry: Any) -> bool:
    """Return whether an entry has the fields that :func:`read_results` requires."""
    if not isinstance(entry, dict):
        return False
    mask = entry.get("segmentation")
    return (
        isinstance(entry.get("category_id"), int)
        and is_number(entry.get("score"))
        and (isinstance(entry.get("image_id"), int) or isinstance(entry.get("file_name"), str))
        and isinstance(mask, dict)
        and isinstance(mask.get("size"), list)
        and isinstance(mask.get("counts"), (str, list))
    )
