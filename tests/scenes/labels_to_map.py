#!/usr/bin/env python3
"""Train on labels of a scene, predict the scene, and evaluate a part that was not trained on.

  labels_to_map.py FOLDER

generates a scene of 4,000 x 4,000 pixels in 16 bits with labels in a GeoPackage, and calls the
commands of the README: prepare_scenes.py, train_net.py, predict_scenes.py, evaluate_scenes.py. The
held-out part is the right quarter of the scene. Its upper half gives the score from which results
are counted, and the count is compared in the lower half. On two idle cores it takes about 15
minutes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from shapely import affinity

from facenet_d2.synthetic import CLASSES
from facenet_d2.synthetic.scenes import draw_scene

REPOSITORY = Path(__file__).parents[2]
CRS = "EPSG:32633"
PIXEL = 0.3
ORIGIN = (500_000.0, 5_800_000.0)
# Side of the generated pictures that the scene consists of.
CELL = 200
SEED = 1
# The counts of the bands are those of a satellite's sensor.
GAIN, OFFSET = (9.1, 10.3, 11.8), 320
GAP = 64


def to_map(geometry: shapely.Geometry) -> shapely.Geometry:
    """Move a geometry from pixels to the map."""
    return affinity.affine_transform(geometry, [PIXEL, 0, 0, -PIXEL, *ORIGIN])


def write_labels(file: Path, geometries: list[shapely.Geometry], names: list[str]) -> None:
    pyogrio.raw.write(
        file,
        shapely.to_wkb(np.array(geometries, dtype=object)),
        [np.array(names)],
        ["class"],
        geometry_type="Unknown",
        crs=CRS,
    )


def generate(folder: Path, side: int) -> None:
    """Write scene.tif, labels.gpkg, and a file of each area."""
    cells = side // CELL
    values = np.zeros((3, side, side), np.uint16)
    geometries, names = [], []
    for row in range(cells):
        for column in range(cells):
            picture, objects = draw_scene((SEED, row * cells + column), CELL)
            x, y = column * CELL, row * CELL
            rgb = picture[:, :, ::-1].astype(float) * GAIN + OFFSET
            values[:, y : y + CELL, x : x + CELL] = np.moveaxis(rgb, 2, 0)
            for category, polygon in objects:
                geometries.append(to_map(affinity.translate(polygon, x, y)))
                names.append(CLASSES[category])
    with rasterio.open(
        folder / "scene.tif",
        "w",
        driver="GTiff",
        height=side,
        width=side,
        count=3,
        dtype="uint16",
        crs=CRS,
        transform=Affine(PIXEL, 0, ORIGIN[0], 0, -PIXEL, ORIGIN[1]),
        tiled=True,
        compress="deflate",
        photometric="rgb",
    ) as file:
        file.write(values)
    write_labels(folder / "labels.gpkg", geometries, names)
    split = side * 3 // 4
    areas = {
        "train": (0, 0, split - GAP, side),
        "val": (split, 0, side, side),
        "val_upper": (split, 0, side, side // 2),
        "val_lower": (split, side // 2, side, side),
    }
    for name, box in areas.items():
        write_labels(folder / f"{name}.gpkg", [to_map(shapely.box(*box))], [name])
    print(f"{len(names)} objects in {side} x {side} pixels")


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
    parser.add_argument("--side", type=int, default=4000, help="side of the scene in pixels")
    parser.add_argument("--model", default="facenet", help="model of configs/models")
    parser.add_argument("--steps", type=int, default=900, help="steps of training")
    parser.add_argument(
        "--pixel-size",
        type=float,
        default=PIXEL / 2,
        help="pixel size of the chips in metres; most objects have 11 pixels of the scene, too few "
        "for masks at stride 4",
    )
    args = parser.parse_args()
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "val.gpkg").is_file():
        generate(folder, args.side)
    printed = run(
        *("tools/prepare_scenes.py", "--input", folder / "scene.tif"),
        *("--labels", folder / "labels.gpkg", "--classes", *CLASSES, "--chip-size", 256),
        *("--pixel-size", args.pixel_size),
        *("--split", f"train={folder / 'train.gpkg'}", f"val={folder / 'val.gpkg'}"),
        *("--output", folder / "chips"),
    )
    report, _, snippet = printed.partition("DATASETS:")
    print(report)
    config = folder / "own.yaml"
    base = REPOSITORY / "configs" / "synthetic" / f"{args.model}_lite0_demo.yaml"
    config.write_text(f'_BASE_: "{base}"\nDATASETS:{snippet}')
    run(
        *("train_net.py", "--resume", "--config-file", config, "OUTPUT_DIR", folder / "run"),
        *("SOLVER.MAX_ITER", args.steps, "TEST.EVAL_PERIOD", 0, "SEED", SEED),
    )
    run(
        *("tools/predict_scenes.py", "--config-file", folder / "run" / "config.yaml"),
        *("--input", folder / "scene.tif", "--confidence-threshold", 0.05),
        *("--output", folder / "scene.gpkg", folder / "scene.png"),
        *("--opts", "MODEL.WEIGHTS", folder / "run" / "model_final.pth"),
    )
    evaluate = (
        *("tools/evaluate_scenes.py", "--truth", folder / "labels.gpkg"),
        *("--results", folder / "scene.gpkg", "--aoi"),
    )
    print(run(*evaluate, folder / "val.gpkg"))
    everything = json.loads(run(*evaluate, folder / "val.gpkg", "--json"))
    upper = json.loads(run(*evaluate, folder / "val_upper.gpkg", "--json"))
    # None if fewer objects are found than there are.
    score = upper["all"]["balanced_score"] or 0
    lower = run(*evaluate, folder / "val_lower.gpkg", "--count-score", score, "--json")
    total = json.loads(lower)["all"]
    print(
        f"AP50 {everything['AP50']:.1f}; in the lower half, {total['predicted']} objects with a "
        f"score of at least {score:.3f}, {total['truth']} true: "
        f"{100 * (total['predicted'] / total['truth'] - 1):+.1f} %"
    )


if __name__ == "__main__":
    main()
