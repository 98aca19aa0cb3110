#!/usr/bin/env python3
"""Find errors of predicted masks, count them by class and draw them next to the ground truth.

  visualize_errors.py --dataset nwpu_vhr10_test --output errors \\
      --results output/facenet/inference/nwpu_vhr10_test/coco_instances_results.json
  visualize_errors.py --annotations val.json --images images/ --output errors \\
      --results solov2.json facenet.json --names SOLOv2 FACENet

The kinds and colours are those of the FACENet paper's Figures 4 to 6:

  blue    aliasing masks: the mask covers at least half of each of several objects of its class
  green   poor masks: the IoU with their object is between 0.1 and --good-iou
  yellow  missed objects: without a mask of their own or an aliasing mask
  purple  false alarms: any other mask, including second masks of an object and wrong classes

Results are the files that the evaluation writes to OUTPUT_DIR/inference and that
demo.py --save-json writes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import Metadata, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.data import read_image
from facenet_d2.data.coco_json import read_coco
from facenet_d2.data.rle import compress_rle
from facenet_d2.engine import run_command
from facenet_d2.engine.dataset_options import add_dataset_options, find_dataset
from facenet_d2.engine.setup import check_writable
from facenet_d2.evaluation import read_results
from facenet_d2.evaluation.mask_errors import (
    ALIASING,
    FALSE_ALARM,
    IGNORED,
    MISSED,
    POOR,
    RELATED_IOU,
    MaskErrors,
    count_mask_errors,
    find_mask_errors,
)
from facenet_d2.experiments.tables import markdown_table
from facenet_d2.files import replaced
from facenet_d2.visualization import draw_masks

# RGB colours of the marked kinds.
COLORS = {
    ALIASING: (40, 110, 255),
    POOR: (0, 200, 60),
    MISSED: (255, 225, 0),
    FALSE_ALARM: (190, 60, 255),
}
LEGEND = {ALIASING: "aliasing", POOR: "poor", MISSED: "missed", FALSE_ALARM: "false alarm"}
COLUMNS = (
    "objects",
    "right",
    "poor",
    "aliased",
    "missed",
    "predictions",
    "aliasing",
    "false_alarm",
)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_dataset_options(parser)
    parser.add_argument(
        "--results", type=Path, nargs="+", required=True, metavar="FILE", help="COCO results"
    )
    parser.add_argument(
        "--names",
        nargs="+",
        help="names of the models (default: the paths of the files)",
    )
    parser.add_argument(
        "--output", type=Path, help="folder for the images; without it, errors are only counted"
    )
    parser.add_argument(
        "--num-images",
        type=int,
        default=16,
        help="number of images to draw, those with the most errors (default: %(default)s)",
    )
    parser.add_argument("--image", nargs="+", help="file names of images to draw instead")
    parser.add_argument(
        "--min-score",
        type=float,
        default=0.3,
        help="minimum score of predictions (default: %(default)s)",
    )
    parser.add_argument(
        "--good-iou",
        type=float,
        default=0.5,
        help="minimum IoU of a right mask (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print the counts as one line of JSON")
    args = parser.parse_args()
    if args.names is None:
        args.names = [str(file) for file in args.results]
    if len(args.names) != len(args.results) or len(set(args.names)) < len(args.names):
        parser.error("--names: give a different name for each file of --results")
    if not RELATED_IOU < args.good_iou <= 1:
        parser.error(f"--good-iou must be above {RELATED_IOU} and at most 1")
    if args.num_images < 1:
        parser.error("--num-images must be at least 1")
    return args


def group_by_image(
    file: Path, results: list[dict[str, Any]], coco: COCO
) -> dict[int, list[dict[str, Any]]]:
    """Group results by image id.

    Raises:
        UserError: for images, classes or mask sizes that differ from the ground truth.
    """
    ids = {image["file_name"]: i for i, image in coco.imgs.items()}
    # demo.py writes paths as the user gave them.
    base_names = Counter(Path(name).name for name in ids)
    ids |= {Path(name).name: i for name, i in ids.items() if base_names[Path(name).name] == 1}
    groups = defaultdict(list)
    for number, result in enumerate(results):
        where = f"{file}: result {number}"
        if "image_id" in result and "file_name" not in result:
            image_id = result["image_id"]
            if image_id not in coco.imgs:
                raise UserError(f"{where}: the annotations have no image {image_id}.")
        else:
            name = result["file_name"]
            image_id = ids.get(name, ids.get(Path(name).name))
            if image_id is None:
                raise UserError(f"{where}: the annotations have no image {name}.")
        if result["category_id"] not in coco.cats:
            raise UserError(
                f"{where}: the annotations have no category_id {result['category_id']}, but "
                f"{sorted(coco.cats)}."
            )
        image = coco.imgs[image_id]
        try:
            mask = compress_rle(result["segmentation"], image["height"], image["width"])
        except ValueError as error:
            raise UserError(f"{where}: {error}.") from error
        groups[image_id].append({**result, "segmentation": mask})
    return groups


def objects_of(coco: COCO, image_id: int) -> list[dict[str, Any]]:
    """Return the annotations of an image with their masks as RLE."""
    annotations = coco.imgToAnns.get(image_id, [])
    return [{**a, "segmentation": coco.annToRLE(a)} for a in annotations]


def add_caption(image: np.ndarray, texts: Sequence[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    """Add a dark strip with (text, colour) pairs above an image."""
    strip = np.full((36, image.shape[1], 3), 32, np.uint8)
    x = 8
    for text, color in texts:
        cv2.putText(strip, text, (x, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.65, color, 1, cv2.LINE_AA)
        x += cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.65, 1)[0][0] + 18
    return np.concatenate([strip, image])


def mark_errors(
    drawing: np.ndarray,
    scale: float,
    objects: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    errors: MaskErrors,
) -> None:
    """Draw rectangles around errors.

    Args:
        drawing: enlarged image that is drawn into.
        scale: size of ``drawing`` relative to the image.
        objects: annotations of the image.
        predictions: results of the image.
        errors: their kinds.
    """
    marked = [
        (p["segmentation"], COLORS[kind])
        for p, kind in zip(predictions, errors.predictions, strict=True)
        if kind in COLORS
    ] + [
        (o["segmentation"], COLORS[MISSED])
        for o, kind in zip(objects, errors.objects, strict=True)
        if kind == MISSED
    ]
    for mask, color in marked:
        x, y, w, h = mask_util.toBbox(mask) * scale
        # Leave a margin, so that the outline of the object stays visible.
        corners = (round(x) - 3, round(y) - 3), (round(x + w) + 3, round(y + h) + 3)
        cv2.rectangle(drawing, *corners, color, 2, cv2.LINE_AA)


def draw_comparison(
    image: np.ndarray,
    objects: list[dict[str, Any]],
    models: Sequence[tuple[str, list[dict[str, Any]], MaskErrors]],
    metadata: Metadata,
) -> np.ndarray:
    """Draw the ground truth and the predictions of each model with their errors, side by side.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        objects: annotations of the image.
        models: (name, results, kinds of error) of each model.
        metadata: class names, colours and ids.
    """

    def overlay(entries: list[dict[str, Any]]) -> np.ndarray:
        masks = (mask_util.decode(e["segmentation"]) for e in entries)
        ids = metadata.thing_dataset_id_to_contiguous_id
        classes = [ids[e["category_id"]] for e in entries]
        return draw_masks(image, masks, classes, metadata, with_labels=False)

    white = (255, 255, 255)
    kept = [o for o in objects if not o.get("iscrowd")]
    panels = [add_caption(overlay(kept), [(f"ground truth: {len(kept)}", white)])]
    for name, predictions, errors in models:
        drawing = overlay(predictions)
        mark_errors(drawing, drawing.shape[1] / image.shape[1], objects, predictions, errors)
        kinds = Counter(errors.predictions)
        kinds[MISSED] = errors.objects.count(MISSED)
        legend = [(f"{LEGEND[k]} {kinds[k]}", c) for k, c in COLORS.items() if kinds[k]]
        panels.append(add_caption(drawing, [(f"{name}: {len(predictions)}", white), *legend]))
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    return np.concatenate(row, axis=1)


def print_counts(name: str, counts: dict[str, Counter]) -> None:
    titles = [c.replace("_", " ") + ("s" if c == FALSE_ALARM else "") for c in COLUMNS]
    rows = [[class_name, *(str(row[c]) for c in COLUMNS)] for class_name, row in counts.items()]
    print(f"{name}\n\n{markdown_table(['class', *titles], rows, padded=True)}\n")


def main() -> None:
    args = parse_args()
    annotations, folder = find_dataset(args)
    if args.output:
        check_writable(args.output)
    coco = COCO()
    coco.dataset = read_coco(annotations, "file", image_root=folder)
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    categories = sorted(coco.cats)
    metadata = Metadata(
        thing_classes=[coco.cats[c]["name"] for c in categories],
        thing_dataset_id_to_contiguous_id={c: i for i, c in enumerate(categories)},
    )
    known = MetadataCatalog.get(args.dataset) if args.dataset else None
    if known and hasattr(known, "thing_colors"):
        metadata.thing_colors = known.thing_colors
    groups = []
    for file in args.results:
        results = [r for r in read_results(file) if r["score"] >= args.min_score]
        groups.append(group_by_image(file, results, coco))
    errors: dict[int, list[MaskErrors]] = {}
    totals = [defaultdict(Counter) for _ in groups]
    for image_id in tqdm(sorted(coco.imgs), desc="Matching", unit="image", disable=None):
        objects = objects_of(coco, image_id)
        errors[image_id] = []
        for group, total in zip(groups, totals, strict=True):
            predictions = group.get(image_id, [])
            found = find_mask_errors(objects, predictions, good_iou=args.good_iou)
            errors[image_id].append(found)
            for category, counter in count_mask_errors(objects, predictions, found).items():
                total[coco.cats[category]["name"]].update(counter)
    report = {}
    for name, total in zip(args.names, totals, strict=True):
        rows = {c: total[c] for c in metadata.thing_classes}
        rows["all"] = sum(total.values(), Counter())
        report[name] = {c: {k: row[k] for k in COLUMNS} for c, row in rows.items()}
        if not args.json:
            print_counts(name, rows)
    if args.json:
        print(json.dumps(report))
    if args.output:
        drawn = draw_images(args, coco, folder, groups, errors, metadata)
        stream = sys.stderr if args.json else sys.stdout
        print(f"{drawn} images in {args.output.resolve()}", file=stream)


def draw_images(
    args: argparse.Namespace,
    coco: COCO,
    folder: Path,
    groups: list[dict[int, list[dict[str, Any]]]],
    errors: dict[int, list[MaskErrors]],
    metadata: Metadata,
) -> int:
    """Draw the chosen images and return their number."""

    def num_errors(image_id: int) -> int:
        return sum(
            sum(kind in COLORS for kind in e.predictions) + e.objects.count(MISSED)
            for e in errors[image_id]
        )

    if args.image:
        ids = {image["file_name"]: i for i, image in coco.imgs.items()}
        unknown = [name for name in args.image if name not in ids]
        if unknown:
            raise UserError(f"--image {unknown[0]}: the annotations have no such image.")
        chosen = [ids[name] for name in args.image]
    else:
        chosen = [i for i in sorted(errors, key=num_errors, reverse=True) if num_errors(i)]
        chosen = chosen[: args.num_images]
    for number, image_id in enumerate(tqdm(chosen, desc="Drawing", unit="image", disable=None)):
        entry = coco.imgs[image_id]
        file = folder / entry["file_name"]
        image = read_image(file, "RGB")
        if image.shape[:2] != (entry["height"], entry["width"]):
            raise UserError(f"image {file} does not have the size that the annotations state.")
        objects = objects_of(coco, image_id)
        models = []
        for name, group, found in zip(args.names, groups, errors[image_id], strict=True):
            shown = [
                (p, kind)
                for p, kind in zip(group.get(image_id, []), found.predictions, strict=True)
                if kind != IGNORED
            ]
            kept = MaskErrors([kind for _, kind in shown], found.objects)
            models.append((name, [p for p, _ in shown], kept))
        drawing = draw_comparison(image, objects, models, metadata)
        name = f"{number:03d}_{Path(entry['file_name']).stem}.png"
        with replaced(args.output / name) as temporary:
            Image.fromarray(drawing).save(temporary)
    return len(chosen)


if __name__ == "__main__":
    sys.exit(run_command(main))
