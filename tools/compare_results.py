#!/usr/bin/env python3
"""Compare two files of COCO results on the same images, for example of two versions of a model.

  compare_results.py a/coco_instances_results.json b/coco_instances_results.json

Results are the files that the evaluation writes to OUTPUT_DIR/inference and that
demo.py --save-json writes. In order of decreasing score, each instance of the first file is matched
with the still unmatched instance of the second file, in the same image and class, whose mask has
the largest IoU.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from facenet_d2.engine import run_command
from facenet_d2.evaluation import read_results

# Minimum IoU of matched instances.
MIN_IOU = 0.5


def by_image_and_class(results: list[dict[str, Any]]) -> dict[tuple, list[dict[str, Any]]]:
    groups = defaultdict(list)
    for r in results:
        groups[r.get("file_name", r.get("image_id")), r["category_id"]].append(r)
    for group in groups.values():
        group.sort(key=lambda r: -r["score"])
    return groups


def compare(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, float]:
    """Measure how well two lists of COCO results agree.

    Returns:
        ``first``, ``second``: numbers of instances; ``matched``: number of matched pairs; and for
        these pairs ``mean_iou``, ``min_iou``, ``identical_masks`` (number of pairs with identical
        masks) and ``max_score_difference``.
    """
    others = by_image_and_class(second)
    ious, differences = [], []
    for key, group in by_image_and_class(first).items():
        candidates = others.get(key, [])
        if not candidates:
            continue
        masks = ([r["segmentation"] for r in g] for g in (group, candidates))
        overlaps = mask_util.iou(*masks, [False] * len(candidates))
        for i, result in enumerate(group):
            j = int(overlaps[i].argmax())
            if overlaps[i, j] < MIN_IOU:
                continue
            ious.append(overlaps[i, j])
            differences.append(abs(result["score"] - candidates[j]["score"]))
            overlaps[:, j] = 0
    return {
        "first": len(first),
        "second": len(second),
        "matched": len(ious),
        "mean_iou": float(np.mean(ious)) if ious else 0.0,
        "min_iou": float(np.min(ious)) if ious else 0.0,
        "identical_masks": int((np.array(ious) == 1).sum()),
        "max_score_difference": max(differences, default=0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--min-score", type=float, default=0.0, help="minimum score of instances")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    lists = [
        [r for r in read_results(file) if r["score"] >= args.min_score]
        for file in (args.first, args.second)
    ]
    report = compare(*lists)
    if args.json:
        print(json.dumps(report))
        return
    for key, value in report.items():
        print(f"{key.replace('_', ' '):28}{value:>12.6g}")


if __name__ == "__main__":
    sys.exit(run_command(main))
