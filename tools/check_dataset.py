#!/usr/bin/env python3
"""Report the faults of a COCO data set, and whether SOLOv2's grids suit its objects.

  check_dataset.py --annotations train.json --images images/ --html report.html
  check_dataset.py --dataset nwpu_vhr10_train
  check_dataset.py --annotations train.json --images images/ --fix train_fixed.json

Every image is decoded and every mask is drawn. The grids, the input size and the reader of the
images (INPUT.BANDS, INPUT.STRETCH) are those of --config-file, by default the published ones at 800
pixels: they decide which objects can be found, and limit the quality of masks, which are predicted
at a quarter or half of the input's resolution (MODEL.SOLOV2.MASK_STRIDE). Grids that lose notably
fewer objects are suggested. --fix writes a copy in which every fault is repaired, or its entry
removed, and a list of the changes next to it; the original is not modified.

The exit code is 1 if there are faults.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.checking import (
    FAULT_KINDS,
    NOTE_KINDS,
    DatasetReport,
    GridSettings,
    GridStudy,
    check_dataset,
    count_sizes,
    study_grids,
    suggest_grids,
    write_html_report,
)
from facenet_d2.data.readers import build_reader
from facenet_d2.engine import read_config, run_command
from facenet_d2.engine.dataset_options import add_dataset_options, find_dataset
from facenet_d2.engine.setup import check_writable
from facenet_d2.files import replaced
from facenet_d2.parallel import add_workers_option
from facenet_d2.paths import configs
from facenet_d2.scenes.tiles import tile_overlap
from facenet_d2.wording import counted

NUM_EXAMPLES = 3
CHANGES_SUFFIX = ".changes.txt"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_dataset_options(parser)
    parser.add_argument(
        "--config-file",
        default=configs() / "Base-SOLOv2.yaml",
        help="config with the grids, the input size and the reader of the images",
    )
    parser.add_argument(
        "--input-size", type=int, help="longest side of the input (default: the config's)"
    )
    parser.add_argument("--html", type=Path, help="write the report as a page with images")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="write a cleaned copy")
    parser.add_argument(
        "--crowds-as-objects",
        action="store_true",
        help="turn crowds into objects, for annotation tools that mark all RLE as crowds",
    )
    add_workers_option(parser)
    args = parser.parse_args()
    if args.workers < 1 or (args.input_size is not None and args.input_size < 32):
        parser.error("--workers must be at least 1, --input-size at least 32")
    return args


def format_share(number: int, total: int) -> str:
    return f"{number} ({number / total:.1%})" if total else "0"


def grid_sentences(
    settings: GridSettings, now: GridStudy, suggested: GridSettings, then: GridStudy
) -> list[str]:
    """Describe what the grids do to the objects, and which grids would lose fewer."""
    n = now.num_objects
    levels = ", ".join(str(number) for number in now.per_level)
    sentences = [
        f"Input: shortest side {settings.shortest}, longest side at most {settings.longest} "
        f"pixels. Objects on each level, finest first: {levels}.",
        f"Without a positive cell (size in no scale range): {format_share(now.no_cell, n)}.",
        "Without a cell of their own (all are assigned to later objects): "
        f"{format_share(now.no_own_cell, n)}; sharing a cell: {format_share(now.sharing, n)}.",
        "Dropped in inference (mask not above MIN_MASK_AREAS on any of their levels): "
        f"{format_share(now.too_small, n)}.",
        f"Lost in total: {format_share(now.lost, n)}.",
    ]
    if suggested == settings:
        return [*sentences, "None of the other grids that were tried loses notably fewer."]
    return [
        *sentences,
        f"Suggested, with {format_share(then.lost, n)} lost: {suggested.overrides()}",
    ]


def best_masks(report: DatasetReport) -> dict[str, dict[str, float]]:
    """Return statistics of the best possible IoU, for all objects and for each class."""
    objects = report.objects
    rows = {"all": objects.best_ious}
    for number, name in report.categories:
        rows[name] = objects.best_ious[objects.category_ids == number]
    return {
        name: {
            "objects": len(ious),
            "mean_iou": float(ious.mean()),
            "under_50": int((ious < 0.5).sum()),
            "under_75": int((ious < 0.75).sum()),
        }
        for name, ious in rows.items()
        if len(ious)
    }


def mask_sentences(report: DatasetReport, mask_stride: int) -> list[str]:
    """Describe how the resolution of the masks limits their quality."""
    rows = best_masks(report)
    if not rows:
        return []
    row = rows.pop("all")
    n = row["objects"]
    worst = sorted(rows, key=lambda name: rows[name]["mean_iou"])[:NUM_EXAMPLES]
    listed = ", ".join(f"{name} {rows[name]['mean_iou']:.2f}" for name in worst)
    return [
        f"Training targets are masks at stride {mask_stride}. If predicted perfectly and enlarged, "
        f"their mean IoU with the annotations is {row['mean_iou']:.2f}; lowest: {listed}.",
        f"With an IoU under 0.5, which AP50 counts as wrong: {format_share(row['under_50'], n)}; "
        f"under 0.75, which AP75 counts as wrong: {format_share(row['under_75'], n)}.",
    ]


def limit_sentence(report: DatasetReport, limit: int) -> str:
    """Describe how the limit of detections per image bounds the objects that can be found."""
    numbers = np.bincount(report.objects.image_of)
    total = int(numbers.sum())
    lost = int((numbers - limit).clip(0).sum())
    most = int(numbers.max(initial=0))
    if not lost:
        return f"At most {most} objects in an image; TEST.DETECTIONS_PER_IMAGE {limit} suffices."
    images = int((numbers > limit).sum())
    return (
        f"{images} images have more objects than TEST.DETECTIONS_PER_IMAGE {limit}, at most "
        f"{most}: {format_share(lost, total)} cannot be found. Set it to {most} or more."
    )


def overlap_sentence(report: DatasetReport, settings: GridSettings) -> str:
    """State the overlap of tiles of whole scenes that fits the objects."""
    boxes = report.objects.scaled(settings).boxes
    sizes = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    if not len(sizes):
        return "No objects, so no overlap of tiles of whole scenes is suggested."
    size = float(np.percentile(sizes, 95))
    overlap = tile_overlap(size, settings.shortest)
    return (
        f"95 % of the objects are at most {size:.0f} pixels long in the input. For the tiles of "
        f"whole scenes, TEST.SCENE.OVERLAP {overlap} fits them."
    )


def print_report(report: DatasetReport, sentences: list[str]) -> None:
    print(f"{'class':24}{'small':>8}{'medium':>8}{'large':>8}{'all':>8}")
    rows = count_sizes(report)
    totals = [sum(row[i] for row in rows) for i in (1, 2, 3)]
    for name, *numbers in [*rows, ("objects", *totals)]:
        print(f"{name:24}" + "".join(f"{n:8}" for n in (*numbers, sum(numbers))))
    print(f"{'usable images':24}{'':24}{len(report.cleaned['images']):8}\n")
    print("Grids, scale ranges and masks")
    for sentence in sentences:
        print(f"  {sentence}")
    for title, entries, kinds in (
        ("faults", report.faults, FAULT_KINDS),
        ("notes", report.notes, NOTE_KINDS),
    ):
        print(f"\n{len(entries)} {title}")
        for kind, number in Counter(e.kind for e in entries).most_common():
            print(f"  {number:6} {kind}: {kinds[kind]}")
            own = [e for e in entries if e.kind == kind]
            for entry in own[:NUM_EXAMPLES]:
                print(f"         {entry.where}: {entry.message}")
            if len(own) > NUM_EXAMPLES:
                print(f"         and {len(own) - NUM_EXAMPLES} more")


def write_fixed(path: Path, source: Path, report: DatasetReport) -> int:
    """Write the cleaned copy and, next to it, the list of changes; return their number."""
    changes = [f for f in (*report.faults, *report.notes) if f.fix]
    left = [f for f in report.faults if not f.fix]
    lines = [f"{f.where}: {f.message}: {f.fix}" for f in changes]
    lines += [f"{f.where}: {f.message}: not changed" for f in left]
    header = f"{counted(len(changes), 'change')} to {source}"
    # Both files or none.
    with replaced(path) as copy, replaced(path.with_suffix(CHANGES_SUFFIX)) as listed:
        copy.write_text(json.dumps(report.cleaned), "utf-8")
        listed.write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return len(changes)


def check_outputs(args: argparse.Namespace, annotations: Path) -> None:
    """Refuse output files that cannot be written or would overwrite another file."""
    outputs = {"--html": args.html, "--fix": args.fix}
    if args.fix:
        outputs["the list of changes next to --fix"] = args.fix.with_suffix(CHANGES_SUFFIX)
    taken = {annotations.resolve(): "the file to be checked"}
    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            raise UserError(f"{option}: {path} is a folder; name a file.")
        if path.resolve() in taken:
            raise UserError(f"{option}: {path} is also {taken[path.resolve()]}; choose another.")
        taken[path.resolve()] = option
        check_writable(path.parent)


def main() -> int:
    args = parse_args()
    annotations, images = find_dataset(args)
    check_outputs(args, annotations)
    cfg = read_config(args.config_file)
    settings = GridSettings.from_config(cfg, args.input_size)
    reader = build_reader(cfg)
    report = check_dataset(
        annotations,
        images,
        workers=args.workers,
        settings=settings,
        crowds_as_objects=args.crowds_as_objects,
        reader=reader,
    )
    now = study_grids(report.objects, settings)
    suggested, then = suggest_grids(report.objects, settings)
    sentences = [
        *grid_sentences(settings, now, suggested, then),
        *mask_sentences(report, settings.mask_stride),
        limit_sentence(report, cfg.TEST.DETECTIONS_PER_IMAGE),
        overlap_sentence(report, settings),
    ]
    if args.json:
        content = {
            "annotations": str(annotations),
            "images": len(report.cleaned["images"]),
            "objects": len(report.objects),
            "classes": {
                name: dict(zip(("small", "medium", "large"), sizes, strict=True))
                for name, *sizes in count_sizes(report)
            },
            "grids": {
                "now": asdict(now),
                "suggested": asdict(then),
                "setting": suggested.overrides(),
            },
            "best_masks": best_masks(report),
            "counts": report.fault_counts(),
            "faults": [asdict(f) for f in report.faults],
            "notes": [asdict(f) for f in report.notes],
        }
        print(json.dumps(content))
    else:
        print_report(report, sentences)
    stream = sys.stderr if args.json else sys.stdout
    if args.html:
        title = f"Data set {annotations}"
        write_html_report(args.html, title, report, images, settings, sentences, reader=reader)
        print(f"\nPage: {args.html.resolve()}", file=stream)
    if args.fix:
        changes = counted(write_fixed(args.fix, annotations, report), "change")
        listed = args.fix.with_suffix(CHANGES_SUFFIX)
        print(f"\nCleaned copy: {args.fix} ({changes}, listed in {listed})", file=stream)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
