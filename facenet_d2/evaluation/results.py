"""Files of predictions as COCO results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..data.datasets.coco import read_json
from ..errors import UserError


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
    fields = {"category_id", "segmentation", "score"}
    if not isinstance(results, list) or not all(
        isinstance(r, dict) and fields <= r.keys() and r.keys() & {"image_id", "file_name"}
        for r in results
    ):
        raise UserError(f"{file} has no COCO results of masks: a list of objects with {fields}.")
    return results
