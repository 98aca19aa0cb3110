#!/usr/bin/env python3
"""Find what is wrong with predicted masks, count it by class and draw it beside the ground truth.

  visualize_errors.py --dataset nwpu_vhr10_test --output errors \\
      --results output/facenet/inference/nwpu_vhr10_test/coco_instances_results.json
  visualize_errors.py --annotations val.json --images images/ --output errors \\
      --results solov2.json facenet.json --names SOLOv2 FACENet

The kinds are those of the FACENet paper's Figures 4 to 6, in its colours:

  blue    aliasing masks: one mask over at least half of each of several objects of its class
  green   poor masks: an IoU from 0.1 to --good-iou with their object
  yellow  missed objects: neither a mask of their own nor an aliasing mask over them
  purple  false alarms: any other mask, second masks of an object and wrong classes included

Takes what the evaluation writes below OUTPUT_DIR/inference, and what demo.py --save-json writes.
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
from detectron2.data.detection_utils import read_image
from PIL import Image
from pycocotools.coco import COCO
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.data.coco_json import compress_rle, read_coco
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
    Verdicts,
    count,
    judge,
)
from facenet_d2.visualization.overlay import draw_masks

# RGB.
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
    parser.add_argument("--names", nargs="+", help="of the models, for captions (the files' paths)")
    parser.add_argument("--output", type=Path, help="folder of the pictures; without, only counts")
    parser.add_argument(
        "--num-images", type=int, default=16, help="pictures, most errors first (%(default)s)"
    )
    parser.add_argument("--image", nargs="+", help="draw these file names instead")
    parser.add_argument(
        "--min-score", type=float, default=0.3, help="leave predictions below it out (%(default)s)"
    )
    parser.add_argument(
        "--good-iou", type=float, default=0.5, help="from which on a mask is right (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the counts as one line of JSON")
    args = parser.parse_args()
    if args.names is None:
        args.names = [str(file) for file in args.results]
    if len(args.names) != len(args.results) or len(set(args.names)) < len(args.names):
        parser.error("--names: a different one for each file of --results is needed")
    if not RELATED_IOU < args.good_iou <= 1:
        parser.error(f"--good-iou must be above {RELATED_IOU} and at most 1")
    if args.num_images < 1:
        parser.error("--num-images must be at least 1")
    return args


def group_by_image(
    file: Path, results: list[dict[str, Any]], coco: COCO
) -> dict[int, list[dict[str, Any]]]:
    """The results of each image, by its id.

    Raises:
        UserError: for images, classes or masks that are not those of the ground truth.
    """
    ids = {image["file_name"]: i for i, image in coco.imgs.items()}
    # demo.py writes the path it was given.
    base_names = Counter(Path(name).name for name in ids)
    ids |= {Path(name).name: i for name, i in ids.items() if base_names[Path(name).name] == 1}
    groups = defaultdict(list)
    for number, result in enumerate(results):
        where = f"{file}: result {number}"
        if "image_id" in result and "file_name" not in result:
            image_id = result["image_id"]
            if image_id not in coco.imgs:
                raise UserError(f"{where} is of image {image_id}, which the annotations lack.")
        else:
            name = result["file_name"]
            image_id = ids.get(name, ids.get(Path(name).name))
            if image_id is None:
                raise UserError(f"{where} is of image {name}, which the annotations lack.")
        if result["category_id"] not in coco.cats:
            raise UserError(
                f"{where} has category_id {result['category_id']}; the annotations have "
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
    """The annotations of an image, their masks as run lengths."""
    annotations = coco.imgToAnns.get(image_id, [])
    return [{**a, "segmentation": coco.annToRLE(a)} for a in annotations]


def add_strip(picture: np.ndarray, texts: Sequence[tuple[str, tuple[int, int, int]]]) -> np.ndarray:
    """A dark strip with texts above a picture."""
    strip = np.full((36, picture.shape[1], 3), 32, np.uint8)
    x = 8
    for text, color in texts:
        cv2.putText(strip, text, (x, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.65, color, 1, cv2.LINE_AA)
        x += cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.65, 1)[0][0] + 18
    return np.concatenate([strip, picture])


def mark_errors(
    picture: np.ndarray,
    scale: float,
    objects: list[dict[str, Any]],
    predictions: list[dict[str, Any]],
    verdicts: Verdicts,
) -> None:
    """Draw the rectangles of the errors into a picture that is ``scale`` times the image."""
    marked = [
        (p["segmentation"], COLORS[v])
        for p, v in zip(predictions, verdicts.predictions, strict=True)
        if v in COLORS
    ] + [
        (o["segmentation"], COLORS[MISSED])
        for o, v in zip(objects, verdicts.objects, strict=True)
        if v == MISSED
    ]
    for mask, color in marked:
        x, y, w, h = mask_util.toBbox(mask) * scale
        # Around the object rather than over its outline.
        corners = (round(x) - 3, round(y) - 3), (round(x + w) + 3, round(y + h) + 3)
        cv2.rectangle(picture, *corners, color, 2, cv2.LINE_AA)


def draw(
    image: np.ndarray,
    objects: list[dict[str, Any]],
    models: Sequence[tuple[str, list[dict[str, Any]], Verdicts]],
    metadata: Metadata,
) -> np.ndarray:
    """The ground truth, then each model's predictions with their errors, side by side."""

    def overlay(entries: list[dict[str, Any]]) -> np.ndarray:
        masks = [mask_util.decode(e["segmentation"]).astype(bool) for e in entries]
        ids = metadata.thing_dataset_id_to_contiguous_id
        classes = [ids[e["category_id"]] for e in entries]
        return draw_masks(image, masks, classes, metadata, with_labels=False).copy()

    white = (255, 255, 255)
    kept = [o for o in objects if not o.get("iscrowd")]
    panels = [add_strip(overlay(kept), [(f"ground truth: {len(kept)}", white)])]
    for name, predictions, verdicts in models:
        picture = overlay(predictions)
        mark_errors(picture, picture.shape[1] / image.shape[1], objects, predictions, verdicts)
        kinds = Counter(verdicts.predictions)
        kinds[MISSED] = verdicts.objects.count(MISSED)
        legend = [(f"{LEGEND[k]} {kinds[k]}", c) for k, c in COLORS.items() if kinds[k]]
        panels.append(add_strip(picture, [(f"{name}: {len(predictions)}", white), *legend]))
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    row = [part for panel in panels for part in (panel, gap)][:-1]
    return np.concatenate(row, axis=1)


def print_counts(name: str, counts: dict[str, Counter]) -> None:
    print(f"{name}")
    titles = [c.replace("_", " ") + ("s" if c == FALSE_ALARM else "") for c in COLUMNS]
    widths = [max(len(t), 6) + 2 for t in titles]
    print(f"  {'class':24}" + "".join(f"{t:>{w}}" for t, w in zip(titles, widths)))
    for class_name, row in counts.items():
        figures = "".join(f"{row[c]:>{w}}" for c, w in zip(COLUMNS, widths))
        print(f"  {class_name:24}" + figures)
    print()


def main() -> None:
    args = parse_args()
    annotations, folder = find_dataset(args)
    if args.output:
        check_writable(args.output)
    coco = COCO()
    coco.dataset = read_coco(annotations, "annotations")
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
    judged: dict[int, list[Verdicts]] = {}
    totals = [defaultdict(Counter) for _ in groups]
    for image_id in tqdm(sorted(coco.imgs), desc="Matching", unit="image", disable=None):
        objects = objects_of(coco, image_id)
        judged[image_id] = []
        for group, total in zip(groups, totals, strict=True):
            predictions = group.get(image_id, [])
            verdicts = judge(objects, predictions, good_iou=args.good_iou)
            judged[image_id].append(verdicts)
            for category, counter in count(objects, predictions, verdicts).items():
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
        drawn = draw_images(args, coco, folder, groups, judged, metadata)
        made = sys.stderr if args.json else sys.stdout
        print(f"{drawn} pictures in {args.output.resolve()}", file=made)


def draw_images(
    args: argparse.Namespace,
    coco: COCO,
    folder: Path,
    groups: list[dict[int, list[dict[str, Any]]]],
    judged: dict[int, list[Verdicts]],
    metadata: Metadata,
) -> int:
    """Draw the chosen images; returns how many."""

    def errors(image_id: int) -> int:
        return sum(
            sum(v in COLORS for v in verdicts.predictions) + verdicts.objects.count(MISSED)
            for verdicts in judged[image_id]
        )

    if args.image:
        ids = {image["file_name"]: i for i, image in coco.imgs.items()}
        unknown = [name for name in args.image if name not in ids]
        if unknown:
            raise UserError(f"--image {unknown[0]}: the annotations have no such image.")
        chosen = [ids[name] for name in args.image]
    else:
        chosen = [i for i in sorted(judged, key=errors, reverse=True) if errors(i)]
        chosen = chosen[: args.num_images]
    for number, image_id in enumerate(tqdm(chosen, desc="Drawing", unit="image", disable=None)):
        entry = coco.imgs[image_id]
        file = folder / entry["file_name"]
        try:
            image = np.ascontiguousarray(read_image(str(file), format="RGB"))
        except Exception as error:
            raise UserError(f"image {file} cannot be read ({error}).") from error
        if image.shape[:2] != (entry["height"], entry["width"]):
            raise UserError(f"image {file} is not of the size that the annotations state.")
        objects = objects_of(coco, image_id)
        models = []
        for name, group, verdicts in zip(args.names, groups, judged[image_id], strict=True):
            shown = [
                (p, v)
                for p, v in zip(group.get(image_id, []), verdicts.predictions, strict=True)
                if v != IGNORED
            ]
            kept = Verdicts([v for _, v in shown], verdicts.objects)
            models.append((name, [p for p, _ in shown], kept))
        picture = draw(image, objects, models, metadata)
        name = f"{number:03d}_{Path(entry['file_name']).stem}.png"
        Image.fromarray(picture).save(args.output / name)
    return len(chosen)


if __name__ == "__main__":
    sys.exit(run_command(main))
