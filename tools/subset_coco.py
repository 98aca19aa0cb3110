#!/usr/bin/env python3
"""Cut a few images out of a COCO JSON, for a quick run or an overfitting check.

  subset_coco.py --json datasets/nwpu_vhr10/train.json --num-images 8 --output train8.json
  train_net.py ... DATASETS.COCO "[['few', 'train8.json', 'datasets/nwpu_vhr10/images']]" \\
      DATASETS.TRAIN "('few',)" DATASETS.TEST "('few',)"
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.data.coco_json import read_coco
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.files import write_whole


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="COCO annotations")
    parser.add_argument("--output", type=Path, required=True, help="COCO annotations of the subset")
    parser.add_argument("--num-images", type=int, required=True, help="how many to keep")
    parser.add_argument("--seed", type=int, help="choose at random; without it the first ones")
    args = parser.parse_args()
    if args.output.resolve() == args.json.resolve():
        raise UserError(f"--output {args.output} is the file to be cut; choose another.")
    content = read_coco(args.json, "--json")
    images, annotations = content["images"], content.get("annotations", [])
    if not 1 <= args.num_images <= len(images):
        raise UserError(
            f"--num-images {args.num_images}: {args.json} has {len(images)} images; choose from "
            f"1 to {len(images)}."
        )
    if args.seed is not None:
        images = random.Random(args.seed).sample(images, args.num_images)
    images = images[: args.num_images]
    ids = {image["id"] for image in images}
    kept = [a for a in annotations if a["image_id"] in ids]
    check_writable(args.output.parent)
    write_whole(args.output, json.dumps({**content, "images": images, "annotations": kept}))
    print(f"{len(images)} images, {len(kept)} instances in {args.output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
