#!/usr/bin/env python3
"""Measure mask AP and time of exported files on a COCO data set.

  exported_ap.py facenet.onnx facenet_int8.onnx --annotations test.json --images test/

The files are run by facenet_d2.runtime with one thread; pycocotools evaluates their masks.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from facenet_d2.runtime import OnnxPredictor


def evaluate(file: Path, truth: COCO, images: Path) -> str:
    """Return the metrics of a file as text."""
    predict = OnnxPredictor(file, threads=1)
    categories = predict.description.category_ids or sorted(truth.cats)
    results, seconds = [], []
    for image_id, record in truth.imgs.items():
        image = cv2.imread(str(images / record["file_name"]))
        start = time.process_time()
        found = predict(image)
        seconds.append(time.process_time() - start)
        for i in range(len(found)):
            rle = mask_util.encode(np.asfortranarray(found.mask(i).astype(np.uint8)))
            results.append(
                {
                    "image_id": image_id,
                    "category_id": int(categories[found.classes[i]]),
                    "segmentation": rle | {"counts": rle["counts"].decode()},
                    "score": float(found.scores[i]),
                }
            )
    evaluation = COCOeval(truth, truth.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ap, ap50, ap75 = (100 * evaluation.stats[:3]).tolist()
    size = file.stat().st_size / 2**20
    return (
        f"{file}: AP {ap:.2f}, AP50 {ap50:.2f}, AP75 {ap75:.2f}; "
        f"{1000 * np.median(seconds):.0f} ms an image; {size:.1f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", help="exported files")
    parser.add_argument("--annotations", type=Path, required=True, help="COCO JSON")
    parser.add_argument("--images", type=Path, required=True, help="folder of its images")
    args = parser.parse_args()
    truth = COCO(str(args.annotations))
    lines = [evaluate(file, truth, args.images) for file in args.files]
    print(*lines, sep="\n")


if __name__ == "__main__":
    main()
