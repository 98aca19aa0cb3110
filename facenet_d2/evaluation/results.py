"""Files of predictions in the format of COCO results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.coco_entries import is_number
from ..errors import UserError
from ..files import read_json


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
        if not _is_result(result):
            raise UserError(
                f"{file} does not contain COCO results of masks: entry {number} is not an object "
                "with an integer category_id, a segmentation as RLE, a number as score, and an "
                "image_id or file_name."
            )
    return results


def _is_result(entry: Any) -> bool:
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
