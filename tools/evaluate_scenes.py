#!/usr/bin/env python3
"""Evaluate predicted polygons of whole scenes: AP, recall by size, counts and densities.

  evaluate_scenes.py --truth labels.gpkg --results scene.gpkg
  evaluate_scenes.py --truth labels.geojson --class-field type --aoi labelled_area.gpkg \\
      --results scene.fgb --cell 500
  evaluate_scenes.py --truth a_labels.gpkg b_labels.gpkg --results a.gpkg b.gpkg

Truth and results are vector files that GDAL can read, or GeoParquet if pyarrow is installed; their
coordinate reference systems may differ. AP is COCO's, without a limit on the number of instances.
The truth is complete within the polygons of --aoi: objects cut by its border are ignored, and so
are results that cross it and match no object. Counts compare the objects with the results whose
score is at least --count-score, in the cells of a grid.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2.engine import run_command
from facenet_d2.experiments.tables import MISSING_VALUE, markdown_table
from facenet_d2.scenes.extras import require_geo


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--truth", nargs="+", required=True, metavar="FILE", help="true objects, one file per scene"
    )
    parser.add_argument(
        "--results",
        nargs="+",
        required=True,
        metavar="FILE",
        help="predicted objects, one file for each file of --truth",
    )
    parser.add_argument(
        "--aoi", nargs="+", metavar="FILE", help="area of interest of each scene, as polygons"
    )
    parser.add_argument(
        "--ignore",
        nargs="+",
        metavar="FILE",
        help="regions of each scene in which objects and results are ignored, as polygons",
    )
    parser.add_argument(
        "--class-field",
        default="class",
        metavar="NAME",
        help="attribute of the truth with the class (default: %(default)s)",
    )
    parser.add_argument(
        "--results-class-field",
        default="class",
        metavar="NAME",
        help="attribute of the results with the class (default: %(default)s)",
    )
    parser.add_argument(
        "--one-class", action="store_true", help="compare all objects without their classes"
    )
    parser.add_argument(
        "--score-field",
        default="score",
        metavar="NAME",
        help="attribute of the results with the score (default: %(default)s)",
    )
    parser.add_argument(
        "--ignore-field",
        metavar="NAME",
        help="attribute of the truth that is true for regions in which results are ignored",
    )
    parser.add_argument("--truth-layer", metavar="NAME", help="layer of the files of --truth")
    parser.add_argument("--results-layer", metavar="NAME", help="layer of the files of --results")
    parser.add_argument(
        "--cell",
        type=float,
        default=1000.0,
        metavar="M",
        help="side of the cells in which objects are counted, in metres, or in pixels for files "
        "without a coordinate reference system (default: %(default)g)",
    )
    parser.add_argument(
        "--size-limits",
        type=float,
        nargs="+",
        metavar="M2",
        help="areas in square metres, or pixels, that separate the sizes for which the recall is "
        "given (default: three sizes with equal numbers of objects)",
    )
    parser.add_argument(
        "--count-score",
        type=float,
        default=0.5,
        metavar="SCORE",
        help="minimum score of results that are counted (default: %(default)g); the last column of "
        "the table is the score at which the number of predictions equals that of true objects",
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    for option in ("results", "aoi", "ignore"):
        files = getattr(args, option)
        if files is not None and len(files) != len(args.truth):
            parser.error(f"--{option}: give one file for each file of --truth, {len(args.truth)}")
    if not args.cell > 0:
        parser.error("--cell must be above 0")
    if args.size_limits and sorted(set(args.size_limits)) != args.size_limits:
        parser.error("--size-limits must increase")
    return args


def evaluate_files(args: argparse.Namespace) -> dict[str, Any]:
    """Read and evaluate the files that the arguments name."""
    from facenet_d2.scenes.evaluation import evaluate, make_scene
    from facenet_d2.scenes.objects import predicted_objects, true_objects
    from facenet_d2.scenes.vector_reader import read_polygons

    true_class, result_class = args.class_field, args.results_class_field
    if args.one_class:
        true_class = result_class = None
    scenes = []
    for number, (truth_path, results_path) in enumerate(zip(args.truth, args.results)):
        truth = read_polygons(truth_path, layer=args.truth_layer)
        results = read_polygons(results_path, layer=args.results_layer)
        for file in (truth, results):
            if file.repaired or file.dropped:
                print(
                    f"{file.path}: {file.repaired} invalid polygons repaired, "
                    f"{file.dropped} features without an area left out",
                    file=sys.stderr,
                )
        objects = true_objects(truth, class_field=true_class, ignore_field=args.ignore_field)
        predicted = predicted_objects(
            results, class_field=result_class, score_field=args.score_field
        )
        scenes.append(
            make_scene(
                (truth, objects),
                (results, predicted),
                area=read_polygons(args.aoi[number]) if args.aoi else None,
                ignored=read_polygons(args.ignore[number]) if args.ignore else None,
            )
        )
    return evaluate(
        scenes, cell=args.cell, size_limits=args.size_limits, count_score=args.count_score
    )


def number(value: float | None, digits: int = 2) -> str:
    return MISSING_VALUE if value is None else f"{value:.{digits}f}"


def print_report(report: dict[str, Any]) -> None:
    metres = report["unit"] == "m"
    million, unit = ("km²", "m²") if metres else ("Mpx", "px")
    header = ["class", "AP", "AP50", "AP75", "true", "predicted", "bias"]
    header += ["MAE per cell", f"true per {million}", f"predicted per {million}"]
    header.append("score for equal numbers")
    rows = []
    means = {key: report[key] for key in ("AP", "AP50", "AP75")}
    for name, row in [*report["classes"].items(), ("all", report["all"] | means)]:
        rows.append(
            [
                name,
                *(number(row[key]) for key in ("AP", "AP50", "AP75")),
                str(row["truth"]),
                str(row["predicted"]),
                f"{row['bias']:+d}",
                *(number(row[key]) for key in ("mae", "true_density", "predicted_density")),
                number(row["balanced_score"], 3),
            ]
        )
    print(markdown_table(header, rows, padded=True) + "\n")
    sizes = []
    for row in report["recall_by_size"]:
        high = row["max_area"]
        limits = f"from {row['min_area']:.4g}" + (f" to {high:.4g}" if high is not None else "")
        recalls = (number(row[key]) for key in ("recall50", "recall"))
        sizes.append([f"{limits} {unit}", str(row["truth"]), *recalls])
    if sizes:
        header = ["size of objects", "true", "recall at IoU 0.5", "mean recall, IoU 0.5 to 0.95"]
        print(markdown_table(header, sizes, padded=True) + "\n")
    area = report["area"] / 1e6
    print(
        f"{area:.4g} {million} in {report['cells']} cells of {report['cell']:g} {report['unit']}; "
        f"{report['ignored_truth']} objects and {report['ignored_results']} results ignored"
    )


def main() -> None:
    args = parse_args()
    require_geo()
    report = evaluate_files(args)
    if args.json:
        print(json.dumps(report))
    else:
        print_report(report)


if __name__ == "__main__":
    sys.exit(run_command(main))
