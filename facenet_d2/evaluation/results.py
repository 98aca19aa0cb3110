"""Files of predictions as COCO results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.coco_json import is_number
from ..errors import UserError
from ..files import read_json


def read_results(file: Path) -> list[dict[str, Any]]:
    """The predicted masks that an evaluation, or ``demo.py --save-json``, has written.

    Args:
        file: a list of objects with ``category_id``, ``segmentation`` (run lengths), ``score`` and
            ``image_id`` or ``file_name``.

    Raises:
        UserError: where it is missing or something else.
    """
    results, problem = read_json(file)
    if problem:
        raise UserError(f"{file} has no COCO results: {problem}.")
    if not isinstance(results, list):
        raise UserError(f"{file} has no COCO results: it is a {type(results).__name__}, no list.")
    for number, result in enumerate(results):
        if not _is_result(result):
            raise UserError(
                f"{file} has no COCO results of masks: entry {number} is no object with a whole "
                "category_id, a segmentation in run lengths, a number as score, and an image_id or "
                "file_name."
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
