#!/usr/bin/env python3
"""Prepare iSAID for training: cut its scenes into patches and write COCO annotations.

  prepare_isaid.py --source iSAID

reads the published layout, in which images are DOTA's and masks are iSAID's,

  iSAID/train/images/P0002.png  P0002_instance_id_RGB.png  P0002_instance_color_RGB.png ...
  iSAID/val/images/...          same files
  iSAID/test/images/P0006.png   images only, since the masks are withheld

and creates $DETECTRON2_DATASETS/isaid/ with train.json, val.json, test.json and the patches in
train/, val/ and test/. Patches and their names are those of the publisher's tools: 800x800 pixels
with an overlap of 200; the last patch of a row is moved back to the scene's border; scenes of at
most 800 pixels in width or height are not cut.

If --source contains patches already cut by the publisher's tools, with annotations in
SPLIT/instancesonly_filtered_SPLIT.json next to SPLIT/images/, these are checked and used. A folder
that itself contains images, each with a NAME_instance_id_RGB.png, is a single split; this is how
--classes hrsid reads HRSID.

An interrupted run can be repeated; it skips the finished scenes. It needs about 15 bytes of memory
per pixel of the largest scene for each worker.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.data.datasets import hrsid, isaid
from facenet_d2.data.datasets.coco import datasets_root
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.files import remove_temporary_files
from facenet_d2.parallel import add_workers_option, parallel_map
from facenet_d2.preparing.color_maps import CLASS_SUFFIX, ID_SUFFIX
from facenet_d2.preparing.patches import (
    CutJob,
    CutSettings,
    cut_scene,
    finished_record,
    merge_records,
)
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
from facenet_d2.wording import counted

DATASETS = {"isaid": isaid, "hrsid": hrsid}
# Scenes that the publisher's tools leave out.
EXCLUDED_SCENES = ("P1527", "P1530")
RECORDS_FOLDER = ".scenes"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", type=Path, required=True, help="folder of the published data set"
    )
    parser.add_argument(
        "--splits", nargs="+", help="splits to prepare (default: all of train, val and test)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        help="folder of the prepared data set (default: $DETECTRON2_DATASETS/CLASSES)",
    )
    parser.add_argument(
        "--classes",
        choices=DATASETS,
        default="isaid",
        help="data set whose classes and colours to use (default: %(default)s)",
    )
    parser.add_argument(
        "--patch-size",
        type=int,
        default=800,
        help="side of a patch in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--overlap", type=int, default=200, help="overlap in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--cut-narrow",
        action="store_true",
        help="also cut scenes that exceed a patch in one direction only",
    )
    parser.add_argument(
        "--drop-empty", action="store_true", help="leave out patches without instances"
    )
    parser.add_argument(
        "--min-area",
        type=int,
        default=1,
        help="minimum number of pixels of an instance in a patch (default: %(default)s)",
    )
    parser.add_argument(
        "--copy",
        action="store_true",
        help="copy patches that are already cut instead of linking them",
    )
    add_workers_option(parser)
    args = parser.parse_args()
    if not 0 <= args.overlap < args.patch_size:
        parser.error("--overlap must be at least 0 and less than --patch-size")
    if args.workers < 1 or args.min_area < 1:
        parser.error("--workers and --min-area must be at least 1")
    args.output = args.output or datasets_root() / args.classes
    return args


def find_splits(source: Path, wanted: list[str] | None) -> dict[str, Path]:
    """Return the image folder of each split."""
    if not source.is_dir():
        raise UserError(f"--source {source} is not a folder.")
    wanted = list(dict.fromkeys(wanted or ()))
    if any(source.glob(f"*{ID_SUFFIX}")):
        if wanted and len(wanted) > 1:
            raise UserError(
                f"--source {source} contains images and is a single split; name one in --splits."
            )
        return {wanted[0] if wanted else "train": source}
    splits = {s: source / s / "images" for s in wanted or isaid.SPLITS}
    found = {s: folder for s, folder in splits.items() if folder.is_dir()}
    if wanted and len(found) < len(wanted):
        missing = next(folder for s, folder in splits.items() if s not in found)
        raise UserError(f"--splits: {missing} is not a folder.")
    if not found:
        raise UserError(
            f"--source {source} contains neither train/images, val/images or test/images, nor "
            f"*{ID_SUFFIX}."
        )
    return found


def find_jobs(split: str, images: Path, args: argparse.Namespace) -> list[CutJob]:
    """Return a job for each scene of a split, checking that images and masks are complete."""
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
    missing = sorted(owners - names)
    if missing:
        raise UserError(
            f"{len(missing)} scenes have masks but no image, such as {images / missing[0]}; "
            "download DOTA's images, as PNG, and iSAID's masks into the same folder."
        )
    jobs = []
    for name in scenes:
        stem = name.removesuffix(".png")
        if args.classes == "isaid" and stem in EXCLUDED_SCENES:
            continue
        masks = [stem + suffix for suffix in (ID_SUFFIX, CLASS_SUFFIX)]
        exist = [mask in names for mask in masks]
        if split == "test" and not any(exist):
            masks = [None, None]
        elif not all(exist):
            raise UserError(
                f"{images / name} has no {masks[exist.index(False)]}; download the images and the "
                "masks into the same folder."
            )
        files = [images / mask if mask else None for mask in masks]
        jobs.append(
            CutJob(
                image=images / name,
                id_file=files[0],
                class_file=files[1],
                folder=args.output / split,
                record=args.output / RECORDS_FOLDER / split / f"{stem}.json",
                settings=settings,
            )
        )
    return jobs


def cut_split(split: str, images: Path, args: argparse.Namespace) -> tuple[Counter, int]:
    """Cut the scenes of a split; return the number of instances per class, and of patches."""
    jobs = find_jobs(split, images, args)
    for folder in (jobs[0].folder, jobs[0].record.parent):
        if folder.is_symlink() or folder.resolve() == images.resolve():
            raise UserError(f"{folder} was not created by this tool; choose another --output.")
        check_writable(folder)
        remove_temporary_files(folder)
    todo = [job for job in jobs if finished_record(job) is None]
    if len(todo) < len(jobs):
        print(f"{split}: {len(jobs) - len(todo)} of {len(jobs)} scenes are already finished.")
    for job in todo:
        job.record.unlink(missing_ok=True)
    for _ in parallel_map(
        cut_scene, todo, workers=args.workers, description=f"Cutting {split}", unit="scene"
    ):
        pass
    records = [(job.image.stem, finished_record(job)) for job in jobs]
    changed = [scene for scene, record in records if record is None]
    if changed:
        raise UserError(f"{images / changed[0]}.png changed while it was read; repeat the command.")
    patches, annotations = merge_records(records, split)
    annotated = all(record["annotated"] for _, record in records)
    classes = DATASETS[args.classes].CLASSES
    counts = write_split(
        args.output / f"{split}.json",
        patches,
        annotations if annotated else None,
        classes,
        args.classes,
    )
    for key, remark in (
        ("without_class", "left out: no class in the class image"),
        ("mixed", "with pixels of several classes or none, assigned to the most frequent class"),
    ):
        number = sum(record[key] for _, record in records)
        if number:
            print(f"{split}: {counted(number, 'instance')} {remark}.", file=sys.stderr)
    return counts, len(patches)


def use_patches(
    split: str, images: Path, json_file: Path, args: argparse.Namespace
) -> tuple[Counter, int]:
    """Use patches cut by the publisher's tools; return the same as :func:`cut_split`."""
    content = read_published(json_file, images, f"the {split} annotations")
    classes = DATASETS[args.classes].CLASSES
    check_target(images, args.output / split, "--source")
    annotated = "annotations" in content
    annotations = clean_annotations(content, classes)
    check_images(content["images"], images)
    nonempty = {a["image_id"] for a in annotations}
    keep_all = not (args.drop_empty and annotated)
    images_kept = [i for i in content["images"] if keep_all or i["id"] in nonempty]
    patches = image_entries(images_kept, split)
    check_writable(args.output)
    provide_images(images, args.output / split, args.copy)
    counts = write_split(
        args.output / f"{split}.json",
        patches,
        annotations if annotated else None,
        classes,
        args.classes,
    )
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
