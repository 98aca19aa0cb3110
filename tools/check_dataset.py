#!/usr/bin/env python3
"""Say what is wrong with a COCO data set, and whether SOLOv2's grids suit its objects.

  check_dataset.py --annotations train.json --images images/ --html report.html
  check_dataset.py --dataset nwpu_vhr10_train
  check_dataset.py --annotations train.json --images images/ --fix train_fixed.json

Images are decoded, masks drawn. The grids and the input's size are those of --config-file, or the
published ones at 800 pixels: they decide which objects can be found, and how good masks can be that
are made at a quarter of the input. --fix writes a copy with everything mended or left out that is
at fault, and beside it a list of what it changed; the original stays as it is.

The exit code is 1 where there are faults.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.checking import (
    KINDS,
    NOTES,
    Examination,
    GridStudy,
    Setting,
    describe,
    examine,
    sizes_by_class,
    study,
    suggest,
    write_page,
)
from facenet_d2.engine import read_config, run_command
from facenet_d2.engine.dataset_options import add_source_options, locate_source
from facenet_d2.engine.setup import check_writable
from facenet_d2.files import write_whole
from facenet_d2.parallel import default_workers
from facenet_d2.paths import configs

EXAMPLES = 3
CHANGES = ".changes.txt"


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_source_options(parser)
    parser.add_argument(
        "--config-file",
        default=configs() / "Base-SOLOv2.yaml",
        help="whose grids and input size to check",
    )
    parser.add_argument("--input-size", type=int, help="another longest side of the input")
    parser.add_argument("--html", type=Path, help="write the report as a page, with pictures")
    parser.add_argument("--json", action="store_true", help="print the report as one line of JSON")
    parser.add_argument("--fix", type=Path, metavar="OUT.json", help="write a cleaned copy")
    parser.add_argument(
        "--workers", type=int, default=default_workers(), help="processes (%(default)s)"
    )
    args = parser.parse_args()
    if args.workers < 1 or (args.input_size is not None and args.input_size < 32):
        parser.error("--workers must be at least 1, --input-size at least 32")
    return args


def share(number: int, of: int) -> str:
    return f"{number} ({number / of:.1%})" if of else "0"


def grid_sentences(setting: Setting, now: GridStudy, better: Setting, then: GridStudy) -> list[str]:
    """What the grids do to the objects, and what would be better."""
    n = now.num_objects
    levels = ", ".join(str(number) for number in now.per_level)
    sentences = [
        f"Input {setting.shortest} to {setting.longest} pixels; objects on each level, finest "
        f"first: {levels}.",
        f"No positive cell (size in no scale range): {share(now.no_cell, n)}.",
        f"No cell of their own (all are given to later objects): {share(now.no_own_cell, n)}; "
        f"sharing some cell: {share(now.sharing, n)}.",
        "Dropped when found (mask under MIN_MASK_AREAS on each of their levels): "
        f"{share(now.too_small, n)}.",
        f"Lost in all: {share(now.lost, n)}.",
    ]
    if better == setting:
        return [*sentences, "No setting that was tried loses notably fewer."]
    return [
        *sentences,
        f"Suggested, with {share(then.lost, n)} lost: {describe(better)}",
    ]


def best_masks(found: Examination) -> dict[str, dict[str, float]]:
    """Of all objects and of each class, how good masks are that equal their training targets."""
    rows = {"all": found.best_ious}
    for number, name in found.categories:
        rows[name] = found.best_ious[found.measures[:, 0] == number]
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


def mask_sentences(found: Examination) -> list[str]:
    """What the resolution of the masks does to the objects."""
    rows = best_masks(found)
    if not rows:
        return []
    row = rows.pop("all")
    n = row["objects"]
    worst = sorted(rows, key=lambda name: rows[name]["mean_iou"])[:EXAMPLES]
    listed = ", ".join(f"{name} {rows[name]['mean_iou']:.2f}" for name in worst)
    return [
        "Training targets are masks at a quarter of the input. Learned to the last pixel, and "
        f"enlarged, they have a mean IoU of {row['mean_iou']:.2f} with the annotations; lowest: "
        f"{listed}.",
        f"So much is under 0.5, not right for AP50: {share(row['under_50'], n)}; under 0.75, not "
        f"right for AP75: {share(row['under_75'], n)}.",
    ]


def print_report(found: Examination, sentences: list[str]) -> None:
    print(f"{'class':24}{'small':>8}{'medium':>8}{'large':>8}{'all':>8}")
    rows = sizes_by_class(found)
    totals = [sum(row[i] for row in rows) for i in (1, 2, 3)]
    for name, *numbers in [*rows, ("objects", *totals)]:
        print(f"{name:24}" + "".join(f"{n:8}" for n in (*numbers, sum(numbers))))
    print(f"{'usable images':24}{'':24}{len(found.sizes):8}\n")
    print("Grids, scale ranges and masks")
    for sentence in sentences:
        print(f"  {sentence}")
    for title, entries, kinds in (("faults", found.faults, KINDS), ("notes", found.notes, NOTES)):
        print(f"\n{len(entries)} {title}")
        for kind, number in Counter(e.kind for e in entries).most_common():
            print(f"  {number:6} {kind}: {kinds[kind]}")
            own = [e for e in entries if e.kind == kind]
            for entry in own[:EXAMPLES]:
                print(f"         {entry.where}: {entry.message}")
            if len(own) > EXAMPLES:
                print(f"         and {len(own) - EXAMPLES} more")


def write_fixed(path: Path, source: Path, found: Examination) -> int:
    """The cleaned copy, and what was changed in it beside it; returns how much was."""
    changes = [f for f in (*found.faults, *found.notes) if f.fix]
    left = [f for f in found.faults if not f.fix]
    lines = [f"{f.where}: {f.message}: {f.fix}" for f in changes]
    lines += [f"{f.where}: {f.message}: left as it is" for f in left]
    write_whole(path, json.dumps(found.cleaned))
    header = f"{len(changes)} changes to {source}"
    write_whole(path.with_suffix(CHANGES), "\n".join([header, *lines]) + "\n")
    return len(changes)


def main() -> int:
    args = parse_args()
    annotations, images = locate_source(args)
    written = {"--html": args.html, "--fix": args.fix}
    if args.fix:
        written["the list of changes beside --fix"] = args.fix.with_suffix(CHANGES)
    taken = {annotations.resolve(): "the file to be checked"}
    for option, path in written.items():
        if path is None:
            continue
        if path.is_dir():
            raise UserError(f"{option}: {path} is a folder; name a file.")
        if path.resolve() in taken:
            raise UserError(f"{option}: {path} is {taken[path.resolve()]}, too; choose another.")
        taken[path.resolve()] = option
        check_writable(path.parent)
    setting = Setting.from_config(read_config(args.config_file), args.input_size)
    found = examine(annotations, images, workers=args.workers, setting=setting)
    objects = (found.sizes, found.image_of, found.measures)
    now = study(*objects, setting)
    better, then = suggest(*objects, setting)
    sentences = [*grid_sentences(setting, now, better, then), *mask_sentences(found)]
    if args.json:
        report = {
            "annotations": str(annotations),
            "images": len(found.sizes),
            "objects": len(found.measures),
            "classes": {
                name: dict(zip(("small", "medium", "large"), sizes, strict=True))
                for name, *sizes in sizes_by_class(found)
            },
            "grids": {"now": asdict(now), "suggested": asdict(then), "setting": describe(better)},
            "best_masks": best_masks(found),
            "counts": found.counts(),
            "faults": [asdict(f) for f in found.faults],
            "notes": [asdict(f) for f in found.notes],
        }
        print(json.dumps(report))
    else:
        print_report(found, sentences)
    made = sys.stderr if args.json else sys.stdout
    if args.html:
        write_page(args.html, f"Data set {annotations}", found, images, setting, sentences)
        print(f"\nPage: {args.html.resolve()}", file=made)
    if args.fix:
        number = write_fixed(args.fix, annotations, found)
        listed = args.fix.with_suffix(CHANGES)
        print(f"\nCleaned copy: {args.fix} ({number} changes, listed in {listed})", file=made)
    return 1 if found.faults else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
