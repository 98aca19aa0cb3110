"""COCO evaluation of masks and boxes."""

from __future__ import annotations

import contextlib
import io
import logging
from pathlib import Path
from typing import Any

import pycocotools.mask as mask_util
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from .. import compat
from .results import instances_to_results

logger = logging.getLogger(__name__)

# Metrics of a task ("segm" or "bbox") in the results, in the order of the paper's columns.
METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")


class InstanceEvaluator(COCOEvaluator):
    """Detectron2's ``COCOEvaluator`` for ``bbox`` and ``segm``, with zeros if nothing is predicted.

    The metrics are :data:`METRICS` (paper, section 4.3) and the AP of each class, in percent.
    """

    def __init__(
        self, dataset_name: str, *, output_dir: str | None = None, max_dets_per_image: int = 100
    ) -> None:
        """
        Args:
            dataset_name: name of a registered data set in COCO format.
            output_dir: folder for the predictions, ``coco_instances_results.json``.
            max_dets_per_image: maximum number of instances per image; those with the best scores
                are evaluated.
        """
        if output_dir is not None:
            Path(output_dir).mkdir(parents=True, exist_ok=True)
        super().__init__(
            dataset_name,
            tasks=("bbox", "segm"),
            output_dir=output_dir,
            max_dets_per_image=max_dets_per_image,
            use_fast_impl=compat.compiled_operators_available(),
        )
        self._complete_annotations()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for given, output in zip(inputs, outputs):
            results = instances_to_results(output["instances"].to("cpu"), given["image_id"])
            self._predictions.append({"image_id": given["image_id"], "instances": results})

    def _complete_annotations(self) -> None:
        annotations = self._coco_api.dataset.get("annotations", [])
        for number, a in enumerate(annotations, start=1):
            # pycocotools marks a matched detection with the id of its annotation, so a match with
            # annotation 0 would not count. NWPU VHR-10 as published has such an id.
            a["id"] = number
            # pycocotools requires these two fields, which some data sets lack.
            a["iscrowd"] = a.get("iscrowd") or 0
            if not isinstance(a.get("area"), (int, float)):
                a["area"] = float(mask_util.area(self._coco_api.annToRLE(a)))
        self._coco_api.createIndex()

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, Any]:
        # Without any prediction Detectron2 returns NaN. Finding none of the objects is an AP of
        # zero, and only metrics without annotations are NaN.
        if coco_eval is None:
            logger.warning(
                "The model predicted no instance in any image: no score reached the threshold "
                "(MODEL.SOLOV2.SCORE_THRESH_TEST for SOLO and SOLOv2). This is usual in the first "
                "hundreds of iterations. Later, compare the objects' sizes in the network's input "
                "with MODEL.SOLOV2.SCALE_RANGES and NUM_GRIDS, or with the anchors' sizes."
            )
            nothing = COCO()
            nothing.dataset = {**self._coco_api.dataset, "annotations": []}
            with contextlib.redirect_stdout(io.StringIO()):
                nothing.createIndex()
                coco_eval = COCOeval(self._coco_api, nothing, iou_type)
                coco_eval.evaluate()
                coco_eval.accumulate()
                coco_eval.summarize()
        return super()._derive_coco_results(coco_eval, iou_type, class_names)
