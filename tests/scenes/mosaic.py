#!/usr/bin/env python3
"""Compare the AP of a model over a mosaic of a data set's images with its AP over the images.

  mosaic.py FOLDER --config-file configs/NWPU-VHR10/facenet_lite0_384_36ep.yaml \\
      --opts MODEL.WEIGHTS model_final.pth

The images of DATASETS.TEST are resized as the model sees them, and put side by side into one
GeoTIFF, with a gap without data. The mosaic is predicted by predict_scenes.py, without regard to
where images begin, and evaluated by evaluate_scenes.py; the images are predicted by train_net.py
--eval-only and evaluated by pycocotools.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import cv2
import numpy as np
import pycocotools.mask as mask_util
import rasterio
from affine import Affine
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BitMasks, PolygonMasks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from facenet_d2.engine import load_config
from facenet_d2.scenes.description import SceneDescription, SceneInstance
from facenet_d2.scenes.writers import write_scene

REPOSITORY = Path(__file__).parents[2]
GAP = 32


def load_images(cfg, limit: int | None):
    """Yield the images of DATASETS.TEST as RGB, resized, with (class, mask) of their objects."""
    resize = ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:limit]:
        image = cv2.imread(record["file_name"])[:, :, ::-1]
        height, width = image.shape[:2]
        transform = resize.get_transform(image)
        objects = []
        for annotation in record["annotations"]:
            if annotation.get("iscrowd"):
                raise SystemExit(f"{record['file_name']} has crowds, which a mosaic cannot hold")
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, list):
                masks = BitMasks.from_polygon_masks(PolygonMasks([segmentation]), height, width)
                mask = masks.tensor[0].numpy()
            else:
                mask = mask_util.decode(segmentation).astype(bool)
            mask = transform.apply_segmentation(mask.astype(np.uint8)) > 0
            if mask.any():
                objects.append((annotation["category_id"], mask))
        yield transform.apply_image(np.ascontiguousarray(image)), objects


def place(sizes: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], int, int]:
    """Put images of (height, width) into rows; return their (x, y), and the height and width."""
    width = int(np.sqrt(sum((h + GAP) * (w + GAP) for h, w in sizes)))
    places, x, y, row = [], GAP, GAP, 0
    for h, w in sizes:
        if x + w + GAP > width and x > GAP:
            x, y, row = GAP, y + row + GAP, 0
        places.append((x, y))
        x, row = x + w + GAP, max(row, h)
    return places, y + row + GAP, max(x + w for (x, _), (_, w) in zip(places, sizes)) + GAP


def build(folder: Path, cfg, limit: int | None) -> None:
    """Write mosaic.tif, truth.gpkg, and the resized images as a COCO data set."""
    names = MetadataCatalog.get(cfg.DATASETS.TEST[0]).thing_classes
    loaded = list(load_images(cfg, limit))
    places, height, width = place([image.shape[:2] for image, _ in loaded])
    pixels = np.zeros((4, height, width), np.uint8)
    instances, images, annotations = [], [], []
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number, ((image, objects), (x, y)) in enumerate(zip(loaded, places), start=1):
        h, w = image.shape[:2]
        pixels[:3, y : y + h, x : x + w] = np.moveaxis(image, 2, 0)
        pixels[3, y : y + h, x : x + w] = 255
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image[:, :, ::-1])
        images.append({"id": number, "file_name": f"{number}.png", "height": h, "width": w})
        for category, mask in objects:
            rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            left, top, w0, h0 = map(int, mask_util.toBbox(rle))
            crop = mask[top : top + h0, left : left + w0]
            id = len(annotations) + 1
            instances.append(SceneInstance(id, category, 1.0, x + left, y + top, crop, 1, False))
            annotations.append(
                {
                    "id": id,
                    "image_id": number,
                    "category_id": category + 1,
                    "segmentation": rle | {"counts": rle["counts"].decode()},
                    "area": int(mask.sum()),
                    "bbox": [left, top, w0, h0],
                    "iscrowd": 0,
                }
            )
    with rasterio.open(
        folder / "mosaic.tif",
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=4,
        dtype="uint8",
        tiled=True,
        compress="deflate",
        photometric="rgb",
        alpha="yes",
    ) as file:
        file.write(pixels)
    scene = SceneDescription("mosaic", height, width, Affine.identity(), None, tuple(names))
    write_scene([folder / "truth.gpkg"], scene, instances)
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    (folder / "annotations.json").write_text(json.dumps(content))
    print(f"{len(images)} images, {len(annotations)} objects in {width} x {height} pixels")


def run(*command: object) -> str:
    """Run a command of the repository, and return what it printed."""
    print("$", *command, flush=True)
    result = subprocess.run(
        [sys.executable, *map(str, command)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    if result.returncode:
        sys.exit(result.stdout + f"\nexit code {result.returncode}")
    return result.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of all files")
    parser.add_argument("--config-file", type=Path, required=True, help="config of the model")
    parser.add_argument("--overlap", type=int, help="overlap of tiles in pixels")
    parser.add_argument("--limit", type=int, help="number of images")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides")
    args = parser.parse_args()
    folder, config = args.folder.resolve(), args.config_file.resolve()
    cfg = load_config(config, args.opts)
    if not (folder / "annotations.json").is_file():
        build(folder, cfg, args.limit)
    overlap = [] if args.overlap is None else ["--overlap", args.overlap]
    run(
        *("tools/predict_scenes.py", "--config-file", config, "--confidence-threshold", 0),
        *("--input", folder / "mosaic.tif", *overlap),
        *("--output", folder / "mosaic.gpkg", folder / "mosaic.png"),
        *("--opts", *args.opts),
    )
    scene = json.loads(
        run(
            *("tools/evaluate_scenes.py", "--truth", folder / "truth.gpkg"),
            *("--results", folder / "mosaic.gpkg", "--json"),
        )
    )
    data = json.dumps([["mosaic", str(folder / "annotations.json"), str(folder / "images")]])
    run(
        *("train_net.py", "--config-file", config, "--eval-only", *args.opts),
        *("DATASETS.COCO", data, "DATASETS.TEST", "('mosaic',)", "OUTPUT_DIR", folder / "eval"),
    )
    truth = COCO(str(folder / "annotations.json"))
    results = truth.loadRes(
        str(folder / "eval" / "inference" / "mosaic" / "coco_instances_results.json")
    )
    evaluation = COCOeval(truth, results, "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    for metric, share in zip(("AP", "AP50", "AP75"), evaluation.stats):
        a, b = 100 * share, scene[metric]
        print(f"{metric}: images {a:.2f}, mosaic {b:.2f}, difference {b - a:+.2f}")


if __name__ == "__main__":
    main()
