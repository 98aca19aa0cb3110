"""Results for FiftyOne."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError


def match_results(
    results: Sequence[Mapping[str, Any]], images: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Give results of ``demo.py --save-json`` the image IDs of a data set.

    Args:
        results: COCO results with ``file_name``; see
            :func:`~facenet_d2.evaluation.results.read_results`.
        images: ID of each image by its path. Paths are compared by their last parts: as many as
            are needed to tell the images apart.

    Returns:
        for each result of one of the images, what ``fiftyone.utils.coco.add_coco_labels`` reads:
        ``image_id``, ``category_id``, ``bbox``, ``segmentation`` and ``score``.

    Raises:
        UserError: if results have no file name, or none of the images has results.
    """
    depth = next((d for d in range(1, 65) if _are_unique(images, d)), None)
    if depth is None:
        raise UserError("Two images of the data set have the same path; remove one of them.")
    ids = {_tail(path, depth): number for path, number in images.items()}
    matched = []
    for number, result in enumerate(results):
        if "file_name" not in result:
            raise UserError(
                f"Result {number} has no file_name; results of an evaluation have the image IDs "
                "of their data set already."
            )
        image_id = ids.get(_tail(result["file_name"], depth))
        if image_id is not None:
            fields = ("category_id", "bbox", "segmentation", "score")
            matched.append({"image_id": image_id, **{name: result[name] for name in fields}})
    if results and not matched:
        raise UserError(
            f"None of the images has results: the images are {_some(images)}, the results of "
            f"{_some({r['file_name']: 0 for r in results})}."
        )
    return matched


def add_results(
    dataset: Any,
    results: Sequence[Mapping[str, Any]],
    categories: Sequence[Mapping[str, Any]] | Mapping[int, str],
    *,
    field: str = "predictions",
) -> None:
    """Add results of ``demo.py --save-json`` to the samples of a FiftyOne data set.

    Args:
        dataset: data set, or a view, whose samples have the images as ``filepath``.
        results: COCO results with ``file_name``.
        categories: categories of the results: entries of COCO JSON, or names by category ID.
        field: field of the samples for the instances, which have masks.

    Raises:
        UserError: as for :func:`match_results`, or if FiftyOne is not installed.
    """
    from .packages import missing_package

    try:
        from fiftyone.utils.coco import add_coco_labels
    except ImportError as error:
        raise missing_package("fiftyone", error) from error
    # Without a field of IDs, image IDs are positions of samples, from 1.
    positions = {path: i for i, path in enumerate(dataset.values("filepath"), start=1)}
    matched = match_results(results, positions)
    add_coco_labels(dataset, field, matched, categories, label_type="segmentations")


def _tail(path: str, depth: int) -> tuple[str, ...]:
    return Path(path).parts[-depth:]


def _are_unique(paths: Mapping[str, int], depth: int) -> bool:
    return max(Counter(_tail(path, depth) for path in paths).values(), default=1) == 1


def _some(paths: Mapping[str, int]) -> str:
    shown = ", ".join(list(paths)[:2])
    return f"{shown}, ..." if len(paths) > 2 else shown
