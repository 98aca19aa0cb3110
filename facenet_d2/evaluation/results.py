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

# Written by an evaluation, in OUTPUT_DIR/inference/DATASET.
RESULTS_FILE = "coco_instances_results.json"


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


def find_results(path: Path, dataset: str | None = None) -> Path:
    """Find the predictions of a run.

    Args:
        path: file of COCO results, or the output folder of a training or an evaluation.
        dataset: name of the test set, if it is known; needed if the folder has several.

    Raises:
        UserError: if the folder contains no results, or those of several test sets.
    """
    if not path.is_dir():
        return path
    files = sorted(path.glob(f"inference/*/{RESULTS_FILE}"))
    if dataset is not None:
        files = [file for file in files if file.parent.name == dataset]
    if len(files) != 1:
        found = " and ".join(str(file.relative_to(path)) for file in files) or "none"
        of = f"inference/{dataset or '*'}/{RESULTS_FILE}"
        raise UserError(
            f"{path} must contain one file {of}, but it contains {found}; name the file."
        )
    return files[0]


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
