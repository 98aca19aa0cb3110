#!/usr/bin/env python3
"""Measure memory and time of the prediction of large scenes, and kill it.

  large_scene.py FOLDER --config-file output/facenet_lite0_demo/config.yaml
  large_scene.py FOLDER --stub --width 100000 --height 10000
  large_scene.py FOLDER --stub --width 20000 --height 6000 --kills 10

The scene is generated: a tiled GeoTIFF with the objects of synthetic scenes. With --stub, a
detector of coloured pixels takes the place of the model. Memory is the largest resident size of the
process that runs predict_scenes.py, and the share of the network the time within the detector. With
--kills, the prediction is killed at random moments and resumed until it ends, and its file must be
the same to the byte as that of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import predict_scenes
import rasterio
import stub
from affine import Affine
from rasterio.windows import Window

from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.engine.scene_predictor import ScenePredictor
from facenet_d2.scenes.description import SceneDescription
from facenet_d2.scenes.merge import MergeSettings
from facenet_d2.scenes.prediction import Scene, TileInstances
from facenet_d2.scenes.raster import Raster
from facenet_d2.scenes.stretch import Stretch
from facenet_d2.scenes.tiles import TileGrid
from facenet_d2.synthetic import CLASSES
from facenet_d2.synthetic.scenes import draw_scene

# Side of the pictures that the scene consists of; a block of the file has that of several.
CELL, CELLS_PER_BLOCK = 256, 8
NUM_PICTURES = 64


def write_raster(file: Path, width: int, height: int, bands: int, cell) -> None:
    """Write a tiled GeoTIFF of the pictures that ``cell(row, column)`` returns."""
    block = CELL * CELLS_PER_BLOCK
    with rasterio.open(
        file,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=bands,
        dtype="uint8",
        crs="EPSG:32633",
        transform=Affine(0.3, 0, 500_000, 0, -0.3, 5_800_000),
        tiled=True,
        blockxsize=512,
        blockysize=512,
        compress="deflate",
        zlevel=1,
        bigtiff="if_safer",
    ) as dataset:
        for top in range(0, height, block):
            for left in range(0, width, block):
                pixels = np.zeros((bands, block, block), np.uint8)
                for row in range(CELLS_PER_BLOCK):
                    for column in range(CELLS_PER_BLOCK):
                        y, x = row * CELL, column * CELL
                        pixels[:, y : y + CELL, x : x + CELL] = cell(
                            top // CELL + row, left // CELL + column
                        )
                h, w = min(block, height - top), min(block, width - left)
                dataset.write(pixels[:, :h, :w], window=Window(left, top, w, h))


def generate(file: Path, width: int, height: int, objects: int, *, is_stub: bool) -> None:
    """Write a scene with about a number of objects; the rest is without objects."""
    rng = np.random.default_rng(0)
    pictures, counts = [], []
    for i in range(NUM_PICTURES):
        if is_stub:
            labels = stub.random_scene(np.random.default_rng(i), CELL, CELL, 25, largest=60)
            pictures.append(stub.colour(labels, len(CLASSES))[None])
            counts.append(int(labels.max()))
        else:
            picture, found = draw_scene((7, i), CELL)
            pictures.append(np.moveaxis(picture[:, :, ::-1], 2, 0))
            counts.append(len(found))
    cells = (-(-height // CELL), -(-width // CELL))
    share = objects / (np.mean(counts) * cells[0] * cells[1])
    empty = np.zeros_like(pictures[0])
    if not is_stub:
        empty = rng.normal(110, 6, pictures[0].shape).clip(0, 255).astype(np.uint8)
    total = 0

    def cell(row: int, column: int) -> np.ndarray:
        nonlocal total
        if rng.random() >= share:
            return empty
        i = rng.integers(NUM_PICTURES)
        total += counts[i] if row < cells[0] and column < cells[1] else 0
        # Half turns keep the objects and make the pictures differ.
        return pictures[i][:, ::-1, ::-1] if rng.random() < 0.5 else pictures[i]

    write_raster(file, width, height, len(empty), cell)
    print(f"{total} objects in {width} x {height} pixels, {file.stat().st_size / 2**20:.0f} MiB")


class StubPredictor:
    """Has the methods of :class:`ScenePredictor` that predict_scenes.py calls."""

    batch_size, tile_size, overlap = 4, 512, 96

    def scene(self, raster: Raster, stretch: str | None) -> Scene:
        return Scene(
            raster, Stretch(), TileGrid(raster.height, raster.width, self.tile_size, self.overlap)
        )

    def fingerprint(self, scene: Scene) -> dict:
        return {"raster": scene.raster.fingerprint()}

    def merge_settings(self) -> MergeSettings:
        return MergeSettings(tolerance=0)

    def describe(self, scene: Scene, scene_id: int = 1) -> SceneDescription:
        raster = scene.raster
        names = tuple(CLASSES)
        return SceneDescription(
            "scene", raster.height, raster.width, raster.transform, raster.crs, names
        )

    def open(self, path: str, **_: object) -> Raster:
        return Raster(path)

    def warn(self, report: object) -> None:
        pass

    def detect(self, images) -> list[TileInstances]:
        results = []
        for values, _ in images:
            classes, scores, boxes, crops = stub.detect(values[0])
            boxes = np.array(boxes, np.int64).reshape(-1, 4)
            results.append(TileInstances(np.array(classes), np.array(scores), boxes, crops))
        return results


def predict(scene: Path, output: Path, config: Path | None, opts: list[str]) -> None:
    """Predict a scene as predict_scenes.py does, and print what it needed."""
    predictor = ScenePredictor(config, overrides=opts) if config else StubPredictor()
    within, detect = 0.0, predictor.detect

    def timed(images):
        nonlocal within
        start = time.perf_counter()
        result = detect(images)
        within += time.perf_counter() - start
        return result

    predictor.detect = timed
    options = SimpleNamespace(
        **dict.fromkeys(("aoi", "bands", "pixel_size", "scale", "stretch", "work_dir", "workers")),
        **dict.fromkeys(("shard", "ray")),
        confidence_threshold=0.3,
        simplify=0.0,
        keep_tiles=False,
    )
    start = time.perf_counter()
    print(predict_scenes.predict_scene(predictor, str(scene), [output], options))
    seconds = time.perf_counter() - start
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(
        f"{seconds:.0f} s, of which {100 * within / seconds:.1f} % in the detector; {memory:.0f} "
        "MiB at most"
    )


def kill_and_resume(command: list[str], expected: Path, tiles: int, kills: int) -> None:
    """Kill the prediction of a scene at points of its progress, and resume it until it ends.

    The output must be the same as that of an uninterrupted run.
    """
    subprocess.run([*command, expected], check=True)
    output = expected.with_name("killed.gpkg")
    output.unlink(missing_ok=True)
    chance = random.Random(0)
    # The last three points are in the merge.
    points = [tiles * i // (kills - 3) for i in range(kills - 3)] + [tiles] * 3
    done = 0
    for point in points:
        process = subprocess.Popen([*command, output], stdout=subprocess.DEVNULL)
        while process.poll() is None and finished_tiles(output.parent) < point:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 1))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            done += 1
        if process.wait() == 0:
            break
    assert not output.exists() or process.returncode == 0, "a killed process left an output"
    subprocess.run([*command, output], check=True)
    assert output.read_bytes() == expected.read_bytes(), "files differ"
    left = [path for path in output.parent.iterdir() if path.name.startswith(".")]
    assert not left, f"left over: {left}"
    print(f"killed {done} times; the file is the same to the byte, and nothing is left over")


def finished_tiles(folder: Path) -> int:
    return sum(1 for _ in folder.glob(".*.tiles/*.npz"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of all files")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--config-file", type=Path, help="config of the model")
    model.add_argument("--stub", action="store_true", help="a detector without a model")
    parser.add_argument("--width", type=int, default=30_000)
    parser.add_argument("--height", type=int, default=30_000)
    parser.add_argument("--objects", type=int, default=50_000)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--override", action="append", default=[], help=argparse.SUPPRESS)
    parser.add_argument("--predict", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], help="config overrides")
    args = parser.parse_args()
    if args.predict:
        predict(*args.predict, args.config_file, args.override)
        return
    folder = args.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    kind = "stub" if args.stub else "model"
    scene = folder / f"{kind}_{args.width}_{args.height}.tif"
    if not scene.is_file():
        generate(scene, args.width, args.height, args.objects, is_stub=args.stub)
    command = [sys.executable, os.path.abspath(__file__), str(folder)]
    command += ["--stub"] if args.stub else ["--config-file", str(args.config_file.resolve())]
    command += [f"--override={text}" for text in args.opts]
    command += ["--predict", str(scene)]
    if args.kills:
        if not args.stub or args.kills < 4:
            raise UserError("--kills is for --stub and at least 4.")
        grid = TileGrid(args.height, args.width, StubPredictor.tile_size, StubPredictor.overlap)
        kill_and_resume(command, folder / "whole.gpkg", len(grid), args.kills)
    else:
        subprocess.run([*command, folder / "out.gpkg"], check=True)


if __name__ == "__main__":
    sys.exit(run_command(main))
