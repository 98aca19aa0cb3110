#!/usr/bin/env python3
"""Compare two COCO result files of the same images: do two models, or versions, agree?

  compare_results.py a/coco_instances_results.json b/coco_instances_results.json

Takes what the evaluation writes below OUTPUT_DIR/inference, and what demo.py --save-json writes.
Each instance of the first file, from the best score on, is matched with the one of the second, of
the same image and class, whose mask overlaps it most and is not taken yet.
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

# What is the same instance at all.
LEAST_IOU = 0.5


def by_image_and_class(results: list[dict[str, Any]]) -> dict[tuple, list[dict[str, Any]]]:
    groups = defaultdict(list)
    for r in results:
        groups[r.get("file_name", r.get("image_id")), r["category_id"]].append(r)
    for group in groups.values():
        group.sort(key=lambda r: -r["score"])
    return groups


def compare(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> dict[str, float]:
    """How well two lists of COCO results agree.

    Returns:
        ``first`` and ``second``, how many there are in each; ``matched``; of the matched,
        ``mean_iou``, ``least_iou``, ``largest_score_difference``, and ``identical_masks``, how many
        have the same pixels.
    """
    others = by_image_and_class(second)
    ious, differences = [], []
    for key, group in by_image_and_class(first).items():
        rivals = others.get(key, [])
        if not rivals:
            continue
        masks = ([r["segmentation"] for r in g] for g in (group, rivals))
        overlaps = mask_util.iou(*masks, [False] * len(rivals))
        for i, result in enumerate(group):
            j = int(overlaps[i].argmax())
            if overlaps[i, j] < LEAST_IOU:
                continue
            ious.append(overlaps[i, j])
            differences.append(abs(result["score"] - rivals[j]["score"]))
            overlaps[:, j] = 0
    return {
        "first": len(first),
        "second": len(second),
        "matched": len(ious),
        "mean_iou": float(np.mean(ious)) if ious else 0.0,
        "least_iou": float(np.min(ious)) if ious else 0.0,
        "identical_masks": int((np.array(ious) == 1).sum()),
        "largest_score_difference": max(differences, default=0.0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--min-score", type=float, default=0.0, help="leave out those below it")
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
