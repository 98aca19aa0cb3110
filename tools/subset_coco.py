#!/usr/bin/env python3
"""Select a few images of a COCO JSON, for a quick run or an overfitting test.

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
from facenet_d2.wording import counted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, help="COCO JSON file")
    parser.add_argument("--output", type=Path, required=True, help="COCO JSON file of the subset")
    parser.add_argument("--num-images", type=int, required=True, help="number of images")
    parser.add_argument(
        "--seed", type=int, help="select at random with this seed (default: the first images)"
    )
    args = parser.parse_args()
    if args.output.resolve() == args.json.resolve():
        raise UserError(f"--output {args.output} is the same file as --json; choose another.")
    content = read_coco(args.json, "--json")
    images = content["images"]
    if not 1 <= args.num_images <= len(images):
        raise UserError(
            f"--num-images {args.num_images}: {args.json} has {len(images)} images; choose from "
            f"1 to {len(images)}."
        )
    if args.seed is not None:
        images = random.Random(args.seed).sample(images, args.num_images)
    images = images[: args.num_images]
    ids = {image["id"] for image in images}
    subset = {**content, "images": images}
    # A set whose annotations are withheld has no such list, and an evaluation would report an AP
    # for an empty one.
    if "annotations" in content:
        subset["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    check_writable(args.output.parent)
    write_whole(args.output, json.dumps(subset))
    number = len(subset.get("annotations", ()))
    print(f"{counted(len(images), 'image')}, {counted(number, 'instance')} saved to {args.output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
