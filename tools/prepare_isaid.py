#!/usr/bin/env python3
"""Prepare iSAID for training: cut its scenes into patches and write COCO annotations.

  prepare_isaid.py --source iSAID

reads the published layout

  iSAID/train/images/P0002.png  P0002_instance_id_RGB.png  P0002_instance_color_RGB.png ...
  iSAID/val/images/...          the same
  iSAID/test/images/P0006.png   images only: the masks are withheld

(images are DOTA's, masks iSAID's) and makes $DETECTRON2_DATASETS/isaid/ with train.json, val.json,
test.json and the patches in train/, val/ and test/. Patches, their names and what stays whole are
as the publisher cuts: 800x800 with 200 pixels of overlap, the last of a row moved back to the
scene's border, scenes of at most 800 pixels in width or height left as they are.

Where --source holds patches already cut, with the publisher's annotations of them,
SPLIT/instancesonly_filtered_SPLIT.json, beside SPLIT/images/, these are checked and used. A folder
that itself holds images with NAME_instance_id_RGB.png beside them is one split; --classes hrsid
reads HRSID so.

An interrupted run goes on where it stopped. Memory: about 15 bytes a pixel of the largest scene,
for each worker.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.data.coco_json import read_coco
from facenet_d2.data.datasets import hrsid, isaid
from facenet_d2.data.datasets.coco import datasets_root
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.parallel import default_workers, parallel_map
from facenet_d2.preparing.color_maps import CLASS_SUFFIX, ID_SUFFIX
from facenet_d2.preparing.patches import CutJob, CutSettings, assemble, cut_scene, finished_record
from facenet_d2.preparing.published import (
    check_images,
    check_target,
    clean_annotations,
    image_entries,
    print_counts,
    provide_images,
    write_split,
)

DATASETS = {"isaid": isaid, "hrsid": hrsid}
# The publisher's own tools leave these scenes out.
LEFT_OUT = ("P1527", "P1530")
RECORDS = ".scenes"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", type=Path, required=True, help="the published folder")
    parser.add_argument(
        "--splits", nargs="+", help="train, val, test: those to prepare (all that are there)"
    )
    parser.add_argument(
        "--output", type=Path, help="folder of the prepared set, by default as said"
    )
    parser.add_argument(
        "--classes", choices=DATASETS, default="isaid", help="and their colours (%(default)s)"
    )
    parser.add_argument("--patch-size", type=int, default=800, help="in pixels (%(default)s)")
    parser.add_argument("--overlap", type=int, default=200, help="in pixels (%(default)s)")
    parser.add_argument(
        "--cut-narrow",
        action="store_true",
        help="also cut scenes that are narrower, but longer, than a patch",
    )
    parser.add_argument(
        "--drop-empty", action="store_true", help="leave out patches without instances"
    )
    parser.add_argument(
        "--min-area",
        type=int,
        default=1,
        help="leave out of a patch what shows fewer pixels of an instance there (%(default)s)",
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy patches already cut; by default they are linked"
    )
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes (%(default)s)"
    )
    args = parser.parse_args()
    if not 0 <= args.overlap < args.patch_size:
        parser.error("--overlap must be at least 0 and less than --patch-size")
    if args.workers < 1 or args.min_area < 1:
        parser.error("--workers and --min-area must be at least 1")
    args.output = args.output or datasets_root() / args.classes
    return args


def find_splits(source: Path, wanted: list[str] | None) -> dict[str, Path]:
    """The folder of images of each split."""
    if not source.is_dir():
        raise UserError(f"--source {source} is not a folder.")
    wanted = list(dict.fromkeys(wanted or ()))
    if any(source.glob(f"*{ID_SUFFIX}")):
        if wanted and len(wanted) > 1:
            raise UserError(
                f"--source {source} is a single split, since it holds images; name one in --splits."
            )
        return {wanted[0] if wanted else "train": source}
    splits = {s: source / s / "images" for s in wanted or isaid.SPLITS}
    there = {s: folder for s, folder in splits.items() if folder.is_dir()}
    if wanted and len(there) < len(wanted):
        missing = next(folder for s, folder in splits.items() if s not in there)
        raise UserError(f"--splits: {missing} is not a folder.")
    if not there:
        raise UserError(
            f"--source {source} has none of train/images, val/images and test/images, and no "
            f"*{ID_SUFFIX} either."
        )
    return there


def find_jobs(split: str, images: Path, args: argparse.Namespace) -> list[CutJob]:
    settings = CutSettings(
        patch_size=args.patch_size,
        overlap=args.overlap,
        cut_narrow=args.cut_narrow,
        drop_empty=args.drop_empty,
        min_area=args.min_area,
        class_colors=DATASETS[args.classes].ANNOTATION_COLORS,
    )
    names = {p.name for p in images.glob("*.png")}
    scenes = sorted(n for n in names if not n.endswith((ID_SUFFIX, CLASS_SUFFIX)))
    if not scenes:
        raise UserError(f"{images} has no images (*.png).")
    owners = {n.removesuffix(ID_SUFFIX) + ".png" for n in names if n.endswith(ID_SUFFIX)}
    alone = sorted(owners - names)
    if alone:
        raise UserError(
            f"{len(alone)} scenes have masks but no image, the first is {images / alone[0]}; "
            "DOTA's images, as PNG, and iSAID's masks are downloaded apart, into the same folder."
        )
    jobs = []
    for name in scenes:
        stem = name.removesuffix(".png")
        if args.classes == "isaid" and stem in LEFT_OUT:
            continue
        masks = [stem + suffix for suffix in (ID_SUFFIX, CLASS_SUFFIX)]
        there = [mask in names for mask in masks]
        if split == "test" and not any(there):
            masks = [None, None]
        elif not all(there):
            raise UserError(
                f"{images / name} has no {masks[there.index(False)]} beside it; the masks are "
                "downloaded apart from the images, into the same folder."
            )
        files = [images / mask if mask else None for mask in masks]
        jobs.append(
            CutJob(
                image=images / name,
                id_file=files[0],
                class_file=files[1],
                folder=args.output / split,
                record=args.output / RECORDS / split / f"{stem}.json",
                settings=settings,
            )
        )
    return jobs


def cut_split(split: str, images: Path, args: argparse.Namespace) -> tuple[Counter, int]:
    """Instances of each class, and the number of patches."""
    jobs = find_jobs(split, images, args)
    for folder in (jobs[0].folder, jobs[0].record.parent):
        if folder.is_symlink() or folder.resolve() == images.resolve():
            raise UserError(f"{folder} are not patches of this tool's; choose another --output.")
        check_writable(folder)
    for leftover in jobs[0].record.parent.glob(".*"):
        leftover.unlink()  # Of a run that was killed while it wrote.
    todo = [job for job in jobs if finished_record(job) is None]
    if len(todo) < len(jobs):
        print(f"{split}: {len(jobs) - len(todo)} of {len(jobs)} scenes are done already.")
    for job in todo:
        job.record.unlink(missing_ok=True)
    for _ in parallel_map(
        cut_scene, todo, workers=args.workers, description=f"Cutting {split}", unit="scene"
    ):
        pass
    records = [(job.image.stem, finished_record(job)) for job in jobs]
    changed = [scene for scene, record in records if record is None]
    if changed:
        raise UserError(f"{images / changed[0]}.png changed while it was read; run this again.")
    patches, annotations = assemble(records, split)
    annotated = all(record["annotated"] for _, record in records)
    classes = DATASETS[args.classes].CLASSES
    counts = write_split(
        args.output / f"{split}.json",
        patches,
        annotations if annotated else None,
        classes,
        args.classes,
    )
    for key, what in (
        ("without_class", "have no class in the picture of classes and are left out"),
        ("mixed", "have pixels of several classes, or of none; the most frequent is taken"),
    ):
        number = sum(record[key] for _, record in records)
        if number:
            print(f"{split}: {number} instances {what}.", file=sys.stderr)
    return counts, len(patches)


def use_patches(
    split: str, images: Path, json_file: Path, args: argparse.Namespace
) -> tuple[Counter, int]:
    """The same, for patches that the publisher's tools have cut."""
    content = read_coco(json_file, f"the {split} annotations")
    classes = DATASETS[args.classes].CLASSES
    check_target(images, args.output / split, "--source")
    annotations = clean_annotations(content, classes)
    check_images(content["images"], images)
    kept = {a["image_id"] for a in annotations}
    images_kept = [i for i in content["images"] if i["id"] in kept or not args.drop_empty]
    patches = image_entries(images_kept, split)
    check_writable(args.output)
    provide_images(images, args.output / split, args.copy)
    counts = write_split(args.output / f"{split}.json", patches, annotations, classes, args.classes)
    return counts, len(patches)


def main() -> None:
    args = parse_args()
    counts, patches = {}, {}
    for split, images in find_splits(args.source, args.splits).items():
        json_file = images.parent / f"instancesonly_filtered_{split}.json"
        if images != args.source and json_file.is_file():
            print(f"{split}: using the patches of {json_file}.")
            counts[split], patches[split] = use_patches(split, images, json_file, args)
        else:
            counts[split], patches[split] = cut_split(split, images, args)
    print_counts(DATASETS[args.classes].CLASSES, counts, patches)
    print(f"Prepared in {args.output.resolve()}")


if __name__ == "__main__":
    sys.exit(run_command(main))
