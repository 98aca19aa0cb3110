#!/usr/bin/env python3
"""Prepare HRSID, ships in SAR images, for training.

  prepare_hrsid.py --images HRSID_JPG/JPEGImages --annotations HRSID_JPG/annotations

checks the data set and creates $DETECTRON2_DATASETS/hrsid/ with train.json, test.json and images/.
The split is the publisher's (3,642 and 1,962 images), from train2017.json and test2017.json. Ids
are renumbered; boxes and areas are recomputed from the masks. For the version of HRSID with an ID
map for each image, see prepare_isaid.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.data.datasets.coco import datasets_root
from facenet_d2.data.datasets.hrsid import CLASSES, PUBLISHED_IMAGES
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.preparing.published import (
    check_images,
    check_target,
    clean_annotations,
    image_entries,
    print_counts,
    provide_images,
    read_published,
    write_split,
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of the JPEG images")
    parser.add_argument(
        "--annotations",
        type=Path,
        required=True,
        help="folder of train2017.json and test2017.json",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=datasets_root() / "hrsid",
        help="folder of the prepared data set (default: %(default)s)",
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy the images instead of linking them"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    for option in ("images", "annotations"):
        if not getattr(args, option).is_dir():
            raise UserError(f"--{option} {getattr(args, option)} is not a folder.")
    contents = {
        split: read_published(args.annotations / f"{split}2017.json", args.images)
        for split in PUBLISHED_IMAGES
    }
    files = {s: {i["file_name"] for i in c["images"]} for s, c in contents.items()}
    both = sorted(files["train"] & files["test"])
    if both:
        raise UserError(
            f"--annotations {args.annotations}: {len(both)} images are in both splits, such "
            f"as {both[0]}."
        )
    check_target(args.images, args.output / "images")
    cleaned = {s: clean_annotations(content, CLASSES) for s, content in contents.items()}
    for content in contents.values():
        check_images(content["images"], args.images)
    check_writable(args.output)
    provide_images(args.images, args.output / "images", args.copy)
    instances = {}
    for split, content in contents.items():
        images = image_entries(content["images"], "images")
        instances[split] = write_split(
            args.output / f"{split}.json", images, cleaned[split], CLASSES, "HRSID"
        )
    numbers = {split: len(content["images"]) for split, content in contents.items()}
    print_counts(CLASSES, instances, numbers)
    for split, published in PUBLISHED_IMAGES.items():
        if numbers[split] != published:
            print(
                f"Note: the published {split} split has {published} images, but this one has "
                f"{numbers[split]}.",
                file=sys.stderr,
            )
    print(f"Prepared in {args.output.resolve()}")


if __name__ == "__main__":
    sys.exit(run_command(main))
