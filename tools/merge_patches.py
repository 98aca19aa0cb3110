#!/usr/bin/env python3
"""Merge the results of an evaluation on patches into results and ground truth of whole scenes.

  merge_patches.py --dataset isaid_val --output merged \\
      --results output/facenet/inference/isaid_val/coco_instances_results.json
  evaluate_scenes.py --truth merged/truth/*.gpkg --results merged/results/*.gpkg \\
      --aoi merged/area/*.gpkg --ignore-field ignored

The annotations are those that were evaluated: a COCO JSON of tools/prepare_isaid.py or
tools/prepare_scenes.py, whose images state their scene and their position in it, or one of patches
named SCENE_top_bottom_left_right.png, as iSAID's publisher names them. Patches may be missing. Any
other image is a scene of its own.

Results are merged across the seams of overlapping patches, as in tools/predict_scenes.py. True
objects are assembled by the instance_id of their annotations; annotations without one are merged
like results. --scene-truth reads them from a COCO JSON of the whole scenes instead, such as
iSAID_val.json.

The folders results, truth and area in --output get a file for each scene. Coordinates are pixels
of the scene, or those of its coordinate reference system if the patches are GeoTIFFs with one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
from facenet_d2 import UserError
from facenet_d2.data.coco_json import read_coco
from facenet_d2.engine import run_command
from facenet_d2.engine.dataset_options import add_dataset_options, find_dataset
from facenet_d2.engine.setup import check_writable
from facenet_d2.files import remove_temporary_files
from facenet_d2.scenes.extras import require_geo
from facenet_d2.structures.masks import MASK_STRIDE
from facenet_d2.wording import counted

FORMATS = ("gpkg", "geojson", "fgb", "parquet", "json", "tif")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_dataset_options(parser)
    parser.add_argument(
        "--results", type=Path, required=True, metavar="FILE", help="COCO results of the patches"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder of the scenes' files")
    parser.add_argument(
        "--scene-truth",
        type=Path,
        metavar="FILE",
        help="COCO JSON with the annotations of the whole scenes (default: those of the patches)",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        default=["gpkg"],
        choices=FORMATS,
        help="formats of the results (default: gpkg)",
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.0,
        help="minimum score of instances, after the merge (default: %(default)g)",
    )
    parser.add_argument(
        "--tolerance",
        type=int,
        default=MASK_STRIDE,
        metavar="PIXELS",
        help="largest distance from the side of a patch at which a mask may continue beyond it: "
        "the stride of the masks in pixels of the patches, 0 for exact ones (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.annotations and not args.images:
        args.images = args.annotations.parent
    return args


def prepare_folders(
    output: Path, scenes: Collection[str], folders: Iterable[str], inputs: Iterable[Path]
) -> None:
    """Create the folders of the output.

    Raises:
        UserError: if they contain inputs, which could be replaced, or files of other scenes, which
            an evaluation would read, too.
    """
    used = {parent.resolve() for parent in {path.parent for path in inputs}}
    for folder in (check_writable(output / name) for name in folders):
        if folder.resolve() in used:
            raise UserError(f"{folder} contains inputs; choose another --output.")
        remove_temporary_files(folder)
        others = sorted(file.name for file in folder.iterdir() if file.stem not in scenes)
        if others:
            raise UserError(
                f"{folder} contains {others[0]}, which does not belong to one of the scenes; "
                "choose another --output, or remove the folder."
            )


def print_scene(scene: Any) -> None:
    from facenet_d2.scenes.coordinates import describe

    parts = [f"{scene.results} results, {scene.instances} instances"]
    if scene.truth is not None:
        parts.append(f"{(~scene.truth.ignored).sum()} true objects")
        if scene.truth.without_id:
            parts.append(f"merged from {scene.truth.without_id} annotations without instance_id")
    parts.append(describe(scene.crs) if scene.crs else "pixel coordinates")
    print(f"{scene.name}: {scene.patches} patches, {', '.join(parts)}")


def main() -> None:
    args = parse_args()
    require_geo()
    from facenet_d2.evaluation.patches.merge import FOLDERS, MergeOptions, PatchSet, merge_scenes
    from facenet_d2.evaluation.patches.truth import whole_scenes

    annotations, folder = find_dataset(args)
    patches = PatchSet.from_coco(read_coco(annotations, "--annotations"))
    whole = None
    if args.scene_truth:
        label = f"--scene-truth {args.scene_truth}"
        content = read_coco(args.scene_truth, "--scene-truth")
        whole = whole_scenes(content, patches.scenes, patches.class_names, label)
    images = (folder / patch.file_name for own in patches.scenes.values() for patch in own)
    inputs = [args.results, annotations, *([args.scene_truth] if args.scene_truth else []), *images]
    prepare_folders(args.output, patches.scenes, FOLDERS, inputs)
    options = MergeOptions(
        results=args.results,
        output=args.output,
        images=folder,
        formats=tuple(args.format),
        min_score=args.min_score,
        tolerance=args.tolerance,
    )
    without_overlap = instances = 0
    for scene in merge_scenes(patches, options, whole):
        print_scene(scene)
        instances += scene.instances
        without_overlap += scene.patches > 1 and not scene.overlap
    if without_overlap:
        print(
            f"In {without_overlap} scenes, the patches do not overlap: instances that their "
            "borders cut remain in parts.",
            file=sys.stderr,
        )
    found = f"{counted(instances, 'instance')} in {counted(len(patches.scenes), 'scene')}"
    print(f"{found} saved to {args.output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
