#!/usr/bin/env python3
"""Find errors of predicted masks, count them by class and draw them next to the ground truth.

  visualize_errors.py --dataset nwpu_vhr10_test --results output/facenet --output errors
  visualize_errors.py --annotations val.json --images images/ --output errors \\
      --results solov2.json facenet.json --names SOLOv2 FACENet
  visualize_errors.py --dataset isaid_val --results output/mask_rcnn output/solov2 output/facenet \\
      --names "Mask R-CNN" SOLOv2 FACENet --figure figure4.png --image P0003_0_800_0_800.png

The kinds and colours are those of the FACENet paper's Figures 4 to 6:

  blue    aliasing masks: the mask covers at least half of each of several objects of its class
  green   poor masks: the IoU with their object is between 0.1 and --good-iou
  yellow  missed objects: with neither a mask of their own nor an aliasing mask
  purple  false alarms: any other mask, including second masks of an object and wrong classes

Results are the files that the evaluation writes to OUTPUT_DIR/inference and that
demo.py --save-json writes, or the OUTPUT_DIR of runs. --output is a folder for one picture per
image. --figure is a single picture like the paper's figures, with a row for each image, and columns
for the ground truth and each model.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
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
from facenet_d2.evaluation import find_results, read_results
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
from facenet_d2.visualization import (
    draw_figure,
    draw_marks,
    draw_masks,
    resized,
    side_by_side,
    with_caption,
)
from facenet_d2.visualization.comparison import WHITE

# RGB colours of the marked kinds.
COLORS = {
    ALIASING: (40, 110, 255),
    POOR: (0, 200, 60),
    MISSED: (255, 225, 0),
    FALSE_ALARM: (190, 60, 255),
}
LEGEND = {ALIASING: "aliasing", POOR: "poor", MISSED: "missed", FALSE_ALARM: "false alarm"}
FIGURE_SUFFIXES = (".png", ".jpg", ".jpeg")
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
        "--results",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE|RUN",
        help="COCO results, or folders of runs with the results of one test set or of --dataset",
    )
    parser.add_argument(
        "--names",
        nargs="+",
        help="names of the models (default: the paths of the results)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder for the images; without it and --figure, errors are only counted",
    )
    parser.add_argument(
        "--figure", type=Path, metavar="FILE", help="one picture of all images, .png or .jpg"
    )
    parser.add_argument(
        "--original", action="store_true", help="start with a column for the images without masks"
    )
    parser.add_argument(
        "--panel-width",
        type=int,
        default=400,
        metavar="PIXELS",
        help="width of the columns of --figure (default: %(default)s)",
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
        help="minimum IoU of a correct mask (default: %(default)s)",
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
    if not 50 <= args.panel_width <= 4000:
        parser.error("--panel-width must be between 50 and 4000")
    if args.figure and args.figure.suffix.lower() not in FIGURE_SUFFIXES:
        raise UserError(
            f"--figure {args.figure}: its suffix must be one of {', '.join(FIGURE_SUFFIXES)}."
        )
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
                f"{where}: category_id {result['category_id']} is not one of the annotations' "
                f"{sorted(coco.cats)}; give the annotations that were evaluated."
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


@dataclass(frozen=True)
class Panel:
    """Picture of an image with the masks of the ground truth or of a model.

    Attributes:
        title: title of the column.
        drawing: the picture, RGB uint8, without marks.
        caption: texts and their colours.
        marks: boxes (x, y, width, height) around the errors, in pixels of the image, with colours.
    """

    title: str
    drawing: np.ndarray
    caption: list[tuple[str, Sequence[int]]]
    marks: list[tuple[Sequence[float], Sequence[int]]]


def marks_of(
    objects: list[dict[str, Any]], predictions: list[dict[str, Any]], errors: MaskErrors
) -> list[tuple[Sequence[float], Sequence[int]]]:
    """Return the boxes of the errors of an image with their colours."""
    pairs = [
        *zip(predictions, errors.predictions, strict=True),
        *((o, kind) for o, kind in zip(objects, errors.objects, strict=True) if kind == MISSED),
    ]
    return [(mask_util.toBbox(x["segmentation"]), COLORS[k]) for x, k in pairs if k in COLORS]


def make_panels(
    image: np.ndarray,
    objects: list[dict[str, Any]],
    models: Sequence[tuple[str, list[dict[str, Any]], MaskErrors]],
    metadata: Metadata,
    *,
    original: bool,
) -> list[Panel]:
    """Draw the ground truth, and the predictions of each model.

    Args:
        image: ``(H, W, 3)`` uint8, RGB.
        objects: annotations of the image.
        models: (name, results, kinds of error) of each model.
        metadata: class names, colours and ids.
        original: whether to start with the image without masks.
    """

    def overlay(entries: list[dict[str, Any]]) -> np.ndarray:
        masks = (mask_util.decode(e["segmentation"]) for e in entries)
        ids = metadata.thing_dataset_id_to_contiguous_id
        classes = [ids[e["category_id"]] for e in entries]
        return draw_masks(image, masks, classes, metadata, with_labels=False)

    kept = [o for o in objects if not o.get("iscrowd")]
    panels = [Panel("image", overlay([]), [("image", WHITE)], [])] if original else []
    caption = [(f"ground truth: {len(kept)}", WHITE)]
    panels.append(Panel("ground truth", overlay(kept), caption, []))
    for name, predictions, errors in models:
        kinds = Counter(errors.predictions)
        kinds[MISSED] = errors.objects.count(MISSED)
        legend = [(f"{LEGEND[k]} {kinds[k]}", c) for k, c in COLORS.items() if kinds[k]]
        caption = [(f"{name}: {len(predictions)}", WHITE), *legend]
        marks = marks_of(objects, predictions, errors)
        panels.append(Panel(name, overlay(predictions), caption, marks))
    return panels


def marked(panel: Panel, image_width: int, width: int | None = None) -> np.ndarray:
    """Draw a panel's marks on its picture, which is first resized to a width."""
    drawing = panel.drawing.copy() if width is None else resized(panel.drawing, width)
    draw_marks(drawing, panel.marks, drawing.shape[1] / image_width)
    return drawing


def print_counts(name: str, counts: dict[str, Counter]) -> None:
    titles = [c.replace("_", " ") + ("s" if c == FALSE_ALARM else "") for c in COLUMNS]
    rows = [[class_name, *(str(row[c]) for c in COLUMNS)] for class_name, row in counts.items()]
    print(f"{name}\n\n{markdown_table(['class', *titles], rows, padded=True)}\n")


def main() -> None:
    args = parse_args()
    annotations, folder = find_dataset(args)
    files = [find_results(path, args.dataset) for path in args.results]
    for folder_to_write in (args.output, args.figure and args.figure.parent):
        if folder_to_write:
            check_writable(folder_to_write)
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
    for file in files:
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
    if args.output or args.figure:
        drawn = draw_images(args, coco, folder, groups, errors, metadata)
        stream = sys.stderr if args.json else sys.stdout
        if args.output:
            print(f"{drawn} images in {args.output.resolve()}", file=stream)
        if args.figure and drawn:
            print(f"{drawn} images in {args.figure.resolve()}", file=stream)
        elif args.figure:
            print(f"{args.figure} is not written: there are no errors", file=stream)


def draw_images(
    args: argparse.Namespace,
    coco: COCO,
    folder: Path,
    groups: list[dict[int, list[dict[str, Any]]]],
    errors: dict[int, list[MaskErrors]],
    metadata: Metadata,
) -> int:
    """Draw the chosen images to ``--output`` and ``--figure``, and return their number."""

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
    rows, titles = [], []
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
        panels = make_panels(image, objects, models, metadata, original=args.original)
        if args.figure:
            titles = [panel.title for panel in panels]
            rows.append([marked(panel, image.shape[1], args.panel_width) for panel in panels])
        if args.output:
            drawing = side_by_side(
                [with_caption(marked(p, image.shape[1]), p.caption) for p in panels]
            )
            name = f"{number:03d}_{Path(entry['file_name']).stem}.png"
            save_image(drawing, args.output / name)
    if rows:
        save_image(
            draw_figure(rows, titles, [(LEGEND[k], c) for k, c in COLORS.items()]), args.figure
        )
    return len(chosen)


def save_image(image: np.ndarray, file: Path) -> None:
    with replaced(file) as temporary:
        Image.fromarray(image).save(temporary)


if __name__ == "__main__":
    sys.exit(run_command(main))
