#!/usr/bin/env python3
"""Prepare NWPU VHR-10 for training: check it, and split it 7:3 as the paper does.

  prepare_nwpu_vhr10.py --images "NWPU VHR-10 dataset/positive image set" \\
      --annotations annotations.json [--backgrounds "NWPU VHR-10 dataset/negative image set"]

makes $DETECTRON2_DATASETS/nwpu_vhr10/ with train.json, test.json and images/ (and backgrounds/).
The annotations are the instance masks in COCO format, which are published apart from the images:
https://github.com/chaozhong2010/VHR-10_dataset_coco. Ids, boxes and areas are made anew from the
masks. The 150 background images hold no object; they are split 7:3 as well, and training uses them
with DATALOADER.FILTER_EMPTY_ANNOTATIONS False.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
from PIL import Image

from facenet_d2 import UserError
from facenet_d2.data.coco_json import read_coco
from facenet_d2.data.datasets.coco import datasets_root
from facenet_d2.data.datasets.nwpu_vhr10 import CLASSES
from facenet_d2.engine import run_command
from facenet_d2.engine.inputs import find_inputs
from facenet_d2.engine.setup import check_writable
from facenet_d2.preparing.published import (
    check_images,
    check_target,
    clean_annotations,
    image_entries,
    print_counts,
    provide_images,
    write_split,
)

TRAIN_SHARE = 0.7
# The first seed that leaves between 23 and 37 percent of every class for the test; others leave as
# little as a tenth of the rarer classes.
SPLIT_SEED = 9
WHERE_MASKS_ARE = (
    "The data set's own ground truth, a text file an image, has boxes only; the instance masks in "
    "COCO format are published apart, as annotations.json in "
    "https://github.com/chaozhong2010/VHR-10_dataset_coco."
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of the positive images")
    parser.add_argument("--annotations", type=Path, required=True, help="instance masks, COCO JSON")
    parser.add_argument("--backgrounds", type=Path, help="folder of the negative images")
    parser.add_argument(
        "--output",
        type=Path,
        default=datasets_root() / "nwpu_vhr10",
        help="folder of the prepared set (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=SPLIT_SEED, help="of the split (%(default)s)")
    parser.add_argument(
        "--copy", action="store_true", help="copy the images; by default images/ is a link to them"
    )
    return parser.parse_args()


def read_annotations(path: Path) -> dict[str, Any]:
    if path.is_dir() or path.suffix.lower() == ".txt":
        raise UserError(f"--annotations {path} is not a COCO JSON file. {WHERE_MASKS_ARE}")
    return read_coco(path, "--annotations", WHERE_MASKS_ARE)


def split_images(images: list[dict[str, Any]], seed: int) -> dict[str, list[dict[str, Any]]]:
    """7:3 at random; a function of the file names and the seed alone."""
    images = sorted(images, key=lambda image: image["file_name"])
    random.Random(seed).shuffle(images)
    cut = round(TRAIN_SHARE * len(images))
    return {
        split: sorted(part, key=lambda image: image["file_name"])
        for split, part in (("train", images[:cut]), ("test", images[cut:]))
    }


def background_images(folder: Path, first_id: int) -> list[dict[str, Any]]:
    images = []
    for number, file in enumerate(find_inputs([str(folder)], "--backgrounds"), start=first_id):
        try:
            with Image.open(file) as picture:
                width, height = picture.size
        except OSError as error:
            raise UserError(f"--backgrounds: {file} cannot be read ({error}).") from error
        images.append({"id": number, "file_name": file.name, "height": height, "width": width})
    return images


def main() -> None:
    args = parse_args()
    if not args.images.is_dir():
        raise UserError(f"--images {args.images} is not a folder.")
    content = read_annotations(args.annotations)
    if len(content["images"]) < 2:
        raise UserError(
            f"--annotations {args.annotations} has {len(content['images'])} images; a split into "
            "two needs more."
        )
    sources = {"images": (args.images, content["images"])}
    check_target(args.images, args.output / "images")
    if args.backgrounds:
        first_id = max((image["id"] for image in content["images"]), default=0) + 1
        backgrounds = background_images(args.backgrounds, first_id)
        sources["backgrounds"] = (args.backgrounds, backgrounds)
        check_target(args.backgrounds, args.output / "backgrounds", "--backgrounds")
    annotations = clean_annotations(content, CLASSES)
    for folder, images in sources.values():
        check_images(images, folder)
    check_writable(args.output)
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for name, (folder, images) in sources.items():
        provide_images(folder, args.output / name, args.copy)
        for split, part in split_images(images, args.seed).items():
            splits[split] += image_entries(part, name)
    counts = {
        split: write_split(
            args.output / f"{split}.json", images, annotations, CLASSES, "NWPU VHR-10"
        )
        for split, images in splits.items()
    }
    print_counts(CLASSES, counts, {split: len(images) for split, images in splits.items()})
    print(f"Prepared in {args.output.resolve()}")


if __name__ == "__main__":
    sys.exit(run_command(main))
