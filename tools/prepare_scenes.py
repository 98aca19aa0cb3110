#!/usr/bin/env python3
"""Prepare rasters with georeferenced labels for training: cut chips, write COCO annotations.

  prepare_scenes.py --input scene.tif --labels labels.gpkg --class-field type \\
      --classes house tree --output datasets/town
  prepare_scenes.py --input scenes/ --labels labels/ --classes car=1,2 lorry=3 \\
      --class-field code --aoi labelled_area.geojson --split train=0.7 val=0.2 test=0.1 \\
      --chip-size 512 --output datasets/traffic

creates OUTPUT/SPLIT.json and the chips in OUTPUT/SPLIT/. Rasters are files, folders, glob patterns
or URLs in any format that GDAL reads. Labels are polygons in GeoPackage, GeoJSON, Shapefile,
FlatGeobuf or another vector format: one file for all rasters, or one of the same name for each.

Chips are divided into splits by blocks with gaps between them, by rasters, or by areas, so that no
chip of one split touches one of another. If the border of a chip cuts an object, the part in the
chip is an object if enough of it is visible; otherwise it is ignored (iscrowd 1), because it is
neither an object nor background. The output ends with a config snippet for training on the chips.

An interrupted run can be repeated; it skips what is finished.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.setup import check_writable
from facenet_d2.parallel import add_workers_option
from facenet_d2.preparing.published import print_counts
from facenet_d2.scenes.extras import require_geo
from facenet_d2.scenes.sources import find_rasters


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", nargs="+", required=True, help="rasters, folders, glob patterns or URLs"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the data set")
    labels = parser.add_argument_group("labels")
    labels.add_argument(
        "--labels",
        nargs="+",
        required=True,
        metavar="FILE",
        help="vector files, folders or glob patterns",
    )
    labels.add_argument("--labels-layer", metavar="NAME", help="layer of the label files")
    labels.add_argument(
        "--labels-crs",
        metavar="CRS",
        help="coordinate reference system of the labels if their files lack it, such as "
        "EPSG:32633; raster: that of the raster",
    )
    labels.add_argument(
        "--class-field",
        default="class",
        metavar="NAME",
        help="attribute with the class (default: %(default)s)",
    )
    labels.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME[=VALUE,...]",
        help="classes in the order of their ids, each with the values of the attribute that mean "
        "it (default: its name)",
    )
    labels.add_argument(
        "--one-class",
        metavar="NAME",
        help="put all labels into one class instead, whatever their attributes",
    )
    labels.add_argument(
        "--ignore-classes",
        nargs="+",
        default=[],
        metavar="VALUE",
        help="values of labels whose pixels are ignored, such as unsure ones",
    )
    labels.add_argument(
        "--drop-classes",
        nargs="+",
        default=[],
        metavar="VALUE",
        help="values of labels that become background",
    )
    labels.add_argument(
        "--explode",
        action="store_true",
        help="make each part of a MultiPolygon an object (default: a MultiPolygon is one)",
    )
    labels.add_argument(
        "--aoi",
        metavar="FILE",
        help="polygons within which the labels are complete",
    )
    labels.add_argument(
        "--outside",
        choices=("blank", "ignore"),
        default="blank",
        help="blank: pixels outside of --aoi get the colour of missing data; ignore: they are "
        "kept, in regions that are ignored (default: %(default)s)",
    )
    labels.add_argument(
        "--min-visible",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="minimum visible share of an object; others are ignored (default: %(default)g)",
    )
    labels.add_argument(
        "--min-pixels",
        type=int,
        default=4,
        help="minimum pixels of a part of an object; others are left out (default: %(default)s)",
    )
    chips = parser.add_argument_group("chips")
    chips.add_argument(
        "--chip-size",
        type=int,
        default=800,
        help="side of a chip in pixels, that of the network's input (default: %(default)s)",
    )
    chips.add_argument(
        "--overlap", type=int, default=0, help="overlap in pixels (default: %(default)s)"
    )
    chips.add_argument(
        "--bands", nargs="+", type=int, help="numbers of the bands, from 1 (default: all but alpha)"
    )
    size = chips.add_mutually_exclusive_group()
    size.add_argument("--pixel-size", type=float, help="pixel size of the chips, in metres")
    size.add_argument("--scale", type=float, help="factor by which the rasters are resized")
    chips.add_argument(
        "--stretch",
        help='stretch of the values to 0 to 255, such as "percentile 1 99" or "range 0 3000"; the '
        "same for all chips (default: none for 8 bits, percentile 1 99 of all rasters for others)",
    )
    chips.add_argument(
        "--format",
        choices=("auto", "png", "tif"),
        default="auto",
        help="png: 8 bits, grey or RGB; tif: GeoTIFF with the raster's own bands and values, whose "
        "stretch is recorded (default: png for 1 or 3 bands, otherwise tif)",
    )
    chips.add_argument(
        "--empty-share",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="maximum share of chips without objects in the first split; the others keep all, for "
        "a fair evaluation (default: %(default)g)",
    )
    splits = parser.add_argument_group("splits")
    splits.add_argument(
        "--split",
        nargs="+",
        default=["train=0.8", "val=0.2"],
        metavar="NAME=VALUE",
        help="shares, or glob patterns of rasters, or vector files with areas; the first split is "
        "that for training (default: train=0.8 val=0.2)",
    )
    splits.add_argument(
        "--split-by",
        choices=("blocks", "rasters"),
        default="blocks",
        help="units that are assigned to the splits by shares (default: %(default)s)",
    )
    splits.add_argument(
        "--block-size",
        type=int,
        default=4,
        help="number of chips along the side of a block (default: %(default)s)",
    )
    splits.add_argument(
        "--gap",
        type=int,
        default=64,
        help="minimum distance of chips of different splits in pixels (default: %(default)s)",
    )
    splits.add_argument("--seed", type=int, default=0, help="seed of the split")
    add_workers_option(parser)
    args = parser.parse_args()
    if (args.classes is None) == (args.one_class is None):
        parser.error("give either --classes or --one-class")
    if args.chip_size < 1 or not 0 <= args.overlap < args.chip_size:
        parser.error("--overlap must be at least 0 and less than --chip-size")
    if min(args.workers, args.block_size, args.min_pixels, args.gap) < 1:
        parser.error("--workers, --block-size, --min-pixels and --gap must be at least 1")
    if not (0 <= args.min_visible <= 1 and 0 <= args.empty_share <= 1):
        parser.error("--min-visible and --empty-share must be between 0 and 1")
    if args.outside == "ignore" and args.aoi is None:
        parser.error("--outside ignore needs --aoi")
    return args


def parse_split(texts: list[str]) -> dict[str, str]:
    """Return the value of each split."""
    parts: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (name and sign and value) or "/" in name or name.startswith(".") or name in parts:
            raise UserError(
                f"--split {text!r}: give NAME=VALUE with different names, such as train=0.8 "
                "val=0.2."
            )
        parts[name] = value
    return parts


def main() -> None:
    args = parse_args()
    require_geo()
    from facenet_d2.preparing.chip_plan import SplitRules
    from facenet_d2.preparing.chip_report import yaml_snippet
    from facenet_d2.preparing.chip_sets import ChipSetOptions, prepare_chips
    from facenet_d2.preparing.label_classes import ClassRules
    from facenet_d2.preparing.label_sources import LabelSources

    rules = ClassRules.parse(
        args.classes or [args.one_class],
        field=None if args.one_class else args.class_field,
        ignored=args.ignore_classes,
        left_out=args.drop_classes,
    )
    options = ChipSetOptions(
        rasters=tuple(find_rasters(args.input)),
        labels=LabelSources(
            tuple(args.labels), rules, args.labels_layer, args.labels_crs, args.explode
        ),
        split=SplitRules(
            parse_split(args.split), args.split_by, args.block_size, args.gap, args.seed
        ),
        output=check_writable(args.output),
        area=args.aoi,
        size=args.chip_size,
        overlap=args.overlap,
        bands=tuple(args.bands) if args.bands else None,
        pixel_size=args.pixel_size,
        scale=args.scale,
        stretch=args.stretch,
        format=args.format,
        min_visible=args.min_visible,
        min_pixels=args.min_pixels,
        keep_outside=args.outside == "ignore",
        empty_share=args.empty_share,
        workers=args.workers,
    )
    chip_set = prepare_chips(options)
    print_counts(rules.names, chip_set.counts, chip_set.chips)
    for note in chip_set.notes:
        print(f"{note}.")
    print(f"Prepared in {args.output.resolve()}\n")
    print(yaml_snippet(chip_set, args.output))


if __name__ == "__main__":
    sys.exit(run_command(main))
