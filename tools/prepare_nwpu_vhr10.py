#!/usr/bin/env python3
"""Prepare NWPU VHR-10 for training: check it, and split it 7:3 as the paper does.

  prepare_nwpu_vhr10.py --images .../nwpu_vhr10/images --annotations .../annotations.json

makes $DETECTRON2_DATASETS/nwpu_vhr10/ with train.json, test.json and images/. The annotations are
the instance masks in COCO format; ids, boxes and areas are made anew from the masks.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import pycocotools.mask as mask_util
from PIL import Image
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.data.datasets.coco import datasets_root, read_coco
from facenet_d2.data.datasets.nwpu_vhr10 import CLASSES
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.files import write_whole

TRAIN_SHARE = 0.7
# The first seed that leaves between 23 and 37 percent of every class for the test; others leave as
# little as a tenth of the rarer classes.
SPLIT_SEED = 9


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of the positive images")
    parser.add_argument("--annotations", type=Path, required=True, help="instance masks, COCO JSON")
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
    content = read_coco(
        path,
        "--annotations",
        "The data set's own text files have boxes only; masks in COCO format are published apart.",
    )
    images, annotations = content["images"], content.get("annotations", [])
    names = {c["id"]: c["name"].replace(" ", "_") for c in content["categories"]}
    used = {a["category_id"] for a in annotations}
    wrong = sorted({names.get(i, f"id {i}") for i in used} - set(CLASSES))
    if wrong:
        raise UserError(
            f"--annotations {path} has classes that NWPU VHR-10 has not: {', '.join(wrong)}."
        )
    return {"images": images, "annotations": annotations, "names": names}


def check_images(images: list[dict[str, Any]], folder: Path) -> None:
    """Every image must be there, decodable, and of the annotated size."""
    problems = []
    for image in tqdm(images, desc="Checking images", unit="image"):
        file = folder / image["file_name"]
        try:
            with Image.open(file) as picture:
                picture.load()
                size = picture.size
        except OSError as error:
            problems.append(f"{file}: {error.strerror or error}")
            continue
        if size != (image["width"], image["height"]):
            problems.append(
                f"{file}: {size[0]}x{size[1]} pixels, annotated {image['width']}x{image['height']}"
            )
    if problems:
        more = f" (and {len(problems) - 5} more)" if len(problems) > 5 else ""
        raise UserError(f"{len(problems)} images are wrong: {'; '.join(problems[:5])}{more}.")


def clean(content: dict[str, Any]) -> list[dict[str, Any]]:
    """Annotations with ids from 1, this project's classes, boxes and areas of the masks."""
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    cleaned = []
    for a in content["annotations"]:
        rle = a["segmentation"]
        if isinstance(rle, list):
            if not rle or any(len(p) < 6 or len(p) % 2 for p in rle):
                raise UserError(f"annotation {a['id']}: its polygons are not lists of x, y pairs.")
            rle = mask_util.merge(mask_util.frPyObjects(rle, *sizes[a["image_id"]]))
        elif isinstance(rle["counts"], list):
            rle = mask_util.frPyObjects(rle, *sizes[a["image_id"]])
        area = int(mask_util.area(rle))
        if area == 0:
            raise UserError(f"annotation {a['id']} has an empty mask.")
        cleaned.append(
            {
                # From 1: pycocotools takes a match with annotation 0 for no match.
                "id": len(cleaned) + 1,
                "image_id": a["image_id"],
                "category_id": CLASSES.index(content["names"][a["category_id"]]) + 1,
                "segmentation": a["segmentation"],
                "bbox": [float(v) for v in mask_util.toBbox(rle)],
                "area": area,
                "iscrowd": a.get("iscrowd", 0),
            }
        )
    return cleaned


def split_images(images: list[dict[str, Any]], seed: int) -> dict[str, list[dict[str, Any]]]:
    """7:3 at random; a function of the file names and the seed alone."""
    images = sorted(images, key=lambda image: image["file_name"])
    random.Random(seed).shuffle(images)
    cut = round(TRAIN_SHARE * len(images))
    return {
        split: sorted(part, key=lambda image: image["file_name"])
        for split, part in (("train", images[:cut]), ("test", images[cut:]))
    }


def write_split(
    path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]
) -> Counter:
    ids = {image["id"] for image in images}
    kept = [a for a in annotations if a["image_id"] in ids]
    fields = ("id", "file_name", "height", "width")
    content = {
        "info": {"description": "NWPU VHR-10"},
        "images": [{f: image[f] for f in fields} for image in images],
        "annotations": kept,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    write_whole(path, json.dumps(content))
    return Counter(CLASSES[a["category_id"] - 1] for a in kept)


def check_target(source: Path, target: Path) -> None:
    """Refuse, before anything is written, what would touch images that are there already."""
    source = source.resolve()
    if target.resolve() == source:
        return
    if target.is_symlink():
        return
    if target.exists():
        raise UserError(
            f"{target} exists already and is no link of this tool's; move it away, or choose "
            "another --output."
        )
    if target.resolve().is_relative_to(source):
        raise UserError(f"--output {target.parent} lies in --images {source}; choose another.")


def provide_images(source: Path, target: Path, copy: bool) -> None:
    source = source.resolve()
    if target.resolve() == source and (not copy or not target.is_symlink()):
        return
    target.unlink(missing_ok=True)
    if not copy:
        target.symlink_to(source, target_is_directory=True)
        return
    beside = target.with_name(f"{target.name}.new{os.getpid()}")
    try:
        shutil.copytree(source, beside)
        beside.rename(target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def main() -> None:
    args = parse_args()
    if not args.images.is_dir():
        raise UserError(f"--images {args.images} is not a folder.")
    content = read_annotations(args.annotations)
    check_target(args.images, args.output / "images")
    check_images(content["images"], args.images)
    annotations = clean(content)
    check_writable(args.output)
    provide_images(args.images, args.output / "images", args.copy)
    splits = split_images(content["images"], args.seed)
    counts = {
        split: write_split(args.output / f"{split}.json", images, annotations)
        for split, images in splits.items()
    }
    print(f"{'class':20}{'train':>8}{'test':>8}{'all':>8}")
    for name in CLASSES:
        train, test = counts["train"][name], counts["test"][name]
        print(f"{name:20}{train:8}{test:8}{train + test:8}")
    train, test = counts["train"].total(), counts["test"].total()
    print(f"{'instances':20}{train:8}{test:8}{train + test:8}")
    train, test = len(splits["train"]), len(splits["test"])
    print(f"{'images':20}{train:8}{test:8}{train + test:8}")
    print(f"Prepared in {args.output.resolve()}")


if __name__ == "__main__":
    sys.exit(run_command(main))
