"""COCO evaluation of masks and boxes."""

from __future__ import annotations

import contextlib
import importlib
import io
import itertools
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import COCOevalMaxDets
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .. import compat
from ..data.rle import segmentation_to_rle
from ..errors import UserError
from ..files import disk_errors_of_torch, remove_temporary_files, replaced_files
from .results import RESULTS_FILE, instances_to_results

logger = logging.getLogger(__name__)

# Metrics of a task ("segm" or "bbox") in the results, in the order of the paper's columns.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

# COCO's ranges of small, medium and large objects, in pixels.
AREA_RANGES = ((0, 32**2), (32**2, 96**2), (96**2, 1e10))


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` for ``bbox`` and ``segm``, on what the loader reads.

    Differences:

    - The ground truth are the dataset dicts that training uses, not the JSON file: what the loader
      leaves out is not evaluated. Boxes and areas are those of the masks.
    - The ranges of APs, APm and APl can be set.
    - Metrics are zero, not NaN, if nothing is predicted.

    The metrics are :data:`METRICS` (paper, section 4.3) and the AP of each class, in percent.
    """

    _output_dir: str | None

    def __init__(
        self,
        dataset_name: str,
        *,
        output_dir: str | None = None,
        max_dets_per_image: int = 100,
        area_ranges: Sequence[Sequence[float]] = AREA_RANGES,
    ) -> None:
        """
        Args:
            dataset_name: name of a registered data set.
            output_dir: folder for the predictions, ``coco_instances_results.json``.
            max_dets_per_image: maximum number of instances per image; those with the best scores
                are evaluated.
            area_ranges: (minimum, maximum) area of small, medium and large objects, in pixels.

        Raises:
            UserError: if the data set cannot be read.
        """
        # Not super().__init__(), which would read the JSON file by other rules than the loader.
        if output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        self._logger = logger
        self._distributed = True
        self._output_dir = output_dir
        self._tasks = ("bbox", "segm")
        self._cpu_device = torch.device("cpu")
        self._dataset_name = dataset_name
        self._max_dets = max_dets_per_image
        self._area_ranges = [list(r) for r in area_ranges]
        self._metadata = MetadataCatalog.get(dataset_name)
        truth = build_ground_truth(dataset_name)
        self._do_evaluation = truth is not None
        if truth is not None:
            self._coco_api = truth
            self._warn_of_crowded_images()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, output in zip(inputs, outputs):
            results = instances_to_results(output["instances"].to("cpu"), given["image_id"])
            self._predictions.append({"image_id": given["image_id"], "instances": results})

    def _warn_of_crowded_images(self) -> None:
        objects = Counter(a["image_id"] for a in self._coco_api.dataset["annotations"])
        beyond = {i: n for i, n in objects.items() if n > self._max_dets}
        if beyond:
            total = sum(objects.values())
            found = sum(min(n, self._max_dets) for n in objects.values())
            logger.warning(
                "%s: %d images have more than TEST.DETECTIONS_PER_IMAGE (%d) objects, at most %d. "
                "At best, %.1f %% of all objects can be found; raise the limit.",
                self._dataset_name,
                len(beyond),
                self._max_dets,
                max(beyond.values()),
                100 * found / total,
            )

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """Evaluate the predictions, and write them atomically; see Detectron2's method."""
        if self._output_dir is None or not comm.is_main_process():
            return super().evaluate(img_ids)
        folder = self._output_dir
        remove_temporary_files(folder)
        with replaced_files(folder) as temporary, disk_errors_of_torch():
            self._output_dir = str(temporary)
            try:
                return super().evaluate(img_ids)
            finally:
                self._output_dir = folder

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[int] | None = None
    ) -> None:
        full = sum(len(p["instances"]) >= self._max_dets for p in predictions)
        if full:
            logger.warning(
                "%s: in %d of %d images, the number of predicted instances reached "
                "TEST.DETECTIONS_PER_IMAGE (%d); others may have been dropped.",
                self._dataset_name,
                full,
                len(predictions),
                self._max_dets,
            )
        results = list(itertools.chain(*(p["instances"] for p in predictions)))
        if not results:
            logger.warning(
                "The model predicted no instance in any image: no score reached the threshold "
                "(MODEL.SOLOV2.SCORE_THRESH_TEST for SOLO and SOLOv2). This is usual in the first "
                "hundreds of iterations. Later, compare the objects' sizes in the network's input "
                "with MODEL.SOLOV2.SCALE_RANGES and NUM_GRIDS, or with the anchors' sizes."
            )
        if self._output_dir:
            file = Path(self._output_dir, RESULTS_FILE)
            file.write_text(json.dumps(self._with_dataset_ids(results)))
        if not self._do_evaluation:
            logger.info("Annotations are not available for evaluation.")
            return
        for task in self._tasks:
            self._results[task] = self._derive_coco_results(
                self._evaluate_task(results, task, img_ids),
                task,
                class_names=self._metadata.get("thing_classes"),
            )

    def _with_dataset_ids(self, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Replace class indices by category ids; leave out classes that the data set lacks."""
        mapping = self._metadata.get("thing_dataset_id_to_contiguous_id", None)
        if mapping is None:
            return results
        id_of = {index: given for given, index in mapping.items()}
        return [
            {**r, "category_id": id_of[r["category_id"]]}
            for r in results
            if r["category_id"] in id_of
        ]

    def _evaluate_task(
        self, results: list[dict[str, Any]], task: str, img_ids: list[int] | None
    ) -> COCOeval:
        """Compute the metrics of "bbox" or "segm"."""
        evaluator = COCOeval
        if compat.compiled_operators_available():
            evaluator = importlib.import_module("detectron2.evaluation.fast_eval_api").COCOeval_opt
        own = [dict(r) for r in results]
        if task == "segm":
            # With boxes, pycocotools would take the area of a result from its box.
            for result in own:
                del result["bbox"]
        with contextlib.redirect_stdout(io.StringIO()):
            # pycocotools cannot load an empty list of results.
            predicted = self._coco_api.loadRes(own) if own else _index(self._coco_api, [])
            evaluation = evaluator(self._coco_api, predicted, task)
            evaluation.params.maxDets = [1, 10, self._max_dets]
            evaluation.params.areaRng = [[0, 1e10], *self._area_ranges]
            if img_ids is not None:
                evaluation.params.imgIds = img_ids
            evaluation.evaluate()
            evaluation.accumulate()
        # COCOeval's own summary requires the limit of 100.
        COCOevalMaxDets.summarize(evaluation)
        return evaluation


def build_ground_truth(dataset_name: str) -> COCO | None:
    """Return the annotations of a registered data set for pycocotools.

    Category ids are class indices, segmentations are compressed RLE, and boxes and areas are those
    of the masks. Annotations whose mask has no pixel are left out with a warning.

    Args:
        dataset_name: name of the data set.

    Returns:
        The annotations, or None if the data set has none, as a test set whose annotations are
        withheld.

    Raises:
        UserError: if the data set cannot be read, or a mask does not fit its image.
    """
    records = DatasetCatalog.get(dataset_name)
    if not any("annotations" in r for r in records):
        return None
    entries, rles = [], []
    for record in records:
        for annotation in record.get("annotations", ()):
            try:
                rle = segmentation_to_rle(
                    annotation.get("segmentation"), record["height"], record["width"]
                )
            except ValueError as error:
                raise UserError(
                    f"dataset {dataset_name!r}: an annotation of {record['file_name']} is not "
                    f"usable: {error}."
                ) from error
            rles.append(rle)
            entries.append(
                {
                    "image_id": record["image_id"],
                    "category_id": annotation["category_id"],
                    "iscrowd": annotation.get("iscrowd", 0),
                    "segmentation": rle,
                }
            )
    # pycocotools cannot compute the areas of more than 255 masks in one call.
    areas = [float(mask_util.area(rle)) for rle in rles]
    boxes = mask_util.toBbox(rles).tolist() if rles else []
    annotations = [
        # pycocotools treats a match with annotation 0 as no match.
        {**entry, "id": number, "area": area, "bbox": box}
        for number, (entry, area, box) in enumerate(
            zip(entries, areas, boxes, strict=True), start=1
        )
        if area
    ]
    if len(annotations) < len(entries):
        logger.warning(
            "%s: %d annotations are not evaluated, since their masks have no pixels.",
            dataset_name,
            len(entries) - len(annotations),
        )
    truth = COCO()
    truth.dataset = {
        "images": [
            {"id": r["image_id"], "height": r["height"], "width": r["width"]} for r in records
        ],
        "categories": [
            {"id": i, "name": name}
            for i, name in enumerate(MetadataCatalog.get(dataset_name).thing_classes)
        ],
    }
    return _index(truth, annotations)


def _index(truth: COCO, annotations: list[dict[str, Any]]) -> COCO:
    """Return a data set with other annotations."""
    result = COCO()
    result.dataset = {**truth.dataset, "annotations": annotations}
    with contextlib.redirect_stdout(io.StringIO()):
        result.createIndex()
    return result
