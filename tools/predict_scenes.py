#!/usr/bin/env python3
"""Predict the instances of whole scenes, and write them as georeferenced polygons.

  predict_scenes.py scene.tif scene.gpkg --config-file output/harbour
  predict_scenes.py --config-file output/harbour/config.yaml --input scene.tif \\
      --output scene.gpkg scene.png --opts MODEL.WEIGHTS output/harbour/model_best.pth
  predict_scenes.py --config-file ... --input scenes/ 'https://example.org/a.tif' \\
      --output results/ --format gpkg geojson --pixel-size 0.3 --aoi harbour.geojson

A scene is any raster that GDAL opens. It is cut into overlapping tiles of the size that the model
was trained with, and the instances of the tiles are merged across the seams. The formats are
{formats}.

The detections of finished tiles are kept next to the output until it is complete, so the same
command continues after an interruption. With --shard, several machines that share the folder each
process a part of the tiles; the same command without it merges them. With --ray, the machines of a
Ray cluster process the tiles.

An exported model is given by --weights facenet.onnx in place of --config-file and --opts. Neither
PyTorch nor Detectron2 needs to be installed then.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.engine import run_command
from facenet_d2.exported_options import add_exported_options, check_exported_options
from facenet_d2.inputs import check_not_inputs
from facenet_d2.paths import check_writable
from facenet_d2.scenes.extras import require_geo
from facenet_d2.wording import counted

if TYPE_CHECKING:
    from facenet_d2.engine import scene_ray
    from facenet_d2.scenes.predictor import TilePredictor

FORMATS = ("gpkg", "geojson", "fgb", "parquet", "json", "tif", "png")
# Side of the overview picture in pixels.
PICTURE_SIDE = 1600


def parse_args() -> argparse.Namespace:
    description = (__doc__ or "").format(formats=", ".join(FORMATS))
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="PATH",
        help="inputs, followed by the output; in place of --input and --output",
    )
    parser.add_argument(
        "--config-file",
        help="config file, OUTPUT_DIR of a training run, or name of a model in the model zoo",
    )
    add_exported_options(parser)
    parser.add_argument("--input", nargs="+", help="rasters, folders, glob patterns or URLs")
    parser.add_argument(
        "--output",
        nargs="+",
        type=Path,
        help="for a single scene, files, whose suffixes select the formats; for several, a folder",
    )
    parser.add_argument(
        "--format",
        nargs="+",
        default=["gpkg"],
        choices=FORMATS,
        help="formats of the files in a folder (default: gpkg)",
    )
    parser.add_argument("--aoi", help="vector file; instances are found only within its polygons")
    parser.add_argument(
        "--bands",
        nargs="+",
        type=int,
        help="numbers of the bands, from 1 (default: TEST.SCENE.BANDS or INPUT.BANDS, or all but "
        "alpha)",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument(
        "--pixel-size",
        type=float,
        help="pixel size of the training images, in metres (default: TEST.SCENE.PIXEL_SIZE, or "
        "that of the scene)",
    )
    size.add_argument(
        "--scale", type=float, help="factor by which scenes are resized, in place of --pixel-size"
    )
    parser.add_argument(
        "--stretch",
        help='stretch of the values, such as "percentile 1 99" or "range 0 3000" (default: '
        "TEST.SCENE.STRETCH or INPUT.STRETCH; none for 8 bits, otherwise percentile 1 99)",
    )
    parser.add_argument(
        "--tile-size", type=int, help="side of a tile in pixels (default: INPUT.MIN_SIZE_TEST)"
    )
    parser.add_argument(
        "--overlap",
        type=int,
        help="overlap of tiles in pixels (default: TEST.SCENE.OVERLAP, or a quarter of a tile)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=4, help="tiles per batch (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        default=0.3,
        help="minimum score of instances (default: %(default)s)",
    )
    parser.add_argument(
        "--simplify",
        type=float,
        default=0.0,
        metavar="PIXELS",
        help="tolerance for simplifying the polygons (default: 0, pixel edges)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="number of processes with a model each, one per GPU if there are several "
        "(default: 1; with --ray, one per GPU or group of OMP_NUM_THREADS cores)",
    )
    parser.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help='process the tiles on a Ray cluster: "auto", HOST:PORT or ray://HOST:PORT; '
        '"local" or no address starts Ray on this machine',
    )
    parser.add_argument(
        "--shard", metavar="I/N", help="only process part I (from 1) of N parts of the tiles"
    )
    parser.add_argument(
        "--work-dir",
        type=Path,
        help="folder for the detections of finished tiles (default: that of the output)",
    )
    parser.add_argument(
        "--keep-tiles",
        action="store_true",
        help="do not delete the detections of the tiles at the end",
    )
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides, for example MODEL.WEIGHTS model.pth; must be last",
    )
    args = parser.parse_args()
    if args.paths and (args.input or args.output):
        parser.error(
            "give inputs and output either as positional arguments or with --input and --output, "
            f"not both: {args.paths[0]}"
        )
    if len(args.paths) > 1:
        *args.input, last = args.paths
        args.output = [Path(last)]
    if not (args.input and args.output):
        parser.error("an input and an output are required")
    check_exported_options(parser, args)
    if args.weights is not None and args.ray is not None:
        parser.error("--ray does not run exported models; use --shard or --workers")
    if args.batch_size < 1 or (args.workers is not None and args.workers < 1):
        parser.error("--batch-size and --workers must be at least 1")
    if args.ray is not None and args.shard is not None:
        parser.error("--ray and --shard are two ways of sharing the tiles; choose one")
    if args.shard is not None:
        args.shard = parse_shard(parser, args.shard)
    return args


def parse_shard(parser: argparse.ArgumentParser, text: str) -> tuple[int, int]:
    """Return the number of a part, from 0, and the number of parts."""
    part, slash, parts = text.partition("/")
    if not (slash and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        parser.error(f"--shard {text}: give a part and the number of parts, such as 3/16")
    return int(part) - 1, int(parts)


def output_files(rasters: Sequence[str], args: argparse.Namespace) -> list[list[Path]]:
    """Return the output files of each raster.

    Raises:
        UserError: if files are named for several scenes, two scenes have the same name, or an
            output would replace an input.
    """
    from facenet_d2.scenes.area import file_of_area
    from facenet_d2.scenes.sources import public_name

    inputs = [*rasters, *([file_of_area(args.aoi)] if args.aoi else [])]
    if all(path.suffix.lstrip(".") in FORMATS and not path.is_dir() for path in args.output):
        if len(rasters) > 1:
            raise UserError(
                f"--output names files, but there are {len(rasters)} scenes; name a folder, and "
                "the formats with --format."
            )
        for path in args.output:
            if args.paths and path.suffix in (".tif", ".png") and path.is_file():
                # A pattern that the shell expanded to two rasters has no output.
                raise UserError(
                    f"{path} is the last path and hence the output, but it exists; to replace it, "
                    "name it with --output."
                )
            check_writable(path.parent)
        check_not_inputs(args.output, inputs)
        return [args.output]
    if len(args.output) > 1:
        known = ", ".join(f".{f}" for f in FORMATS)
        raise UserError(
            f"--output {' '.join(map(str, args.output))}: name one folder, or files with the "
            f"suffixes {known}."
        )
    folder = check_writable(args.output[0])
    stems = [Path(public_name(raster)).stem for raster in rasters]
    twice = {stem for stem in stems if stems.count(stem) > 1}
    if twice:
        raise UserError(
            f"--input: several scenes are called {min(twice)}, so their results would overwrite "
            "each other; process them one by one."
        )
    outputs = [[folder / f"{stem}.{suffix}" for suffix in args.format] for stem in stems]
    check_not_inputs((path for files in outputs for path in files), inputs)
    return outputs


@contextmanager
def kept_tiles() -> Iterator[None]:
    """Say that nothing is lost if the command is stopped."""
    try:
        yield
    except KeyboardInterrupt:
        print("Finished tiles are kept; run the same command again to continue.", file=sys.stderr)
        raise


def build_predictor(args: argparse.Namespace) -> TilePredictor:
    """Return the model.

    Raises:
        UserError: if it is not usable.
    """
    if args.weights is None:
        try:
            return model_options(args).build()
        except ModuleNotFoundError as error:
            if error.name not in ("torch", "detectron2"):
                raise
            raise UserError(
                f"--config-file needs {error.name}, which is not installed; name an exported model "
                "with --weights, or install it."
            ) from error
    from facenet_d2.cores import default_workers
    from facenet_d2.runtime.scenes import OnnxScenePredictor

    workers = args.workers or 1
    return OnnxScenePredictor(
        args.weights,
        provider=args.runtime,
        threads=None if workers == 1 else max(1, default_workers() // workers),
        tile_size=args.tile_size,
        overlap=args.overlap,
        batch_size=args.batch_size,
    )


def model_options(args: argparse.Namespace) -> scene_ray.ModelOptions:
    from facenet_d2.engine import scene_ray

    return scene_ray.ModelOptions(
        args.config_file, args.opts, args.tile_size, args.overlap, args.batch_size
    )


def open_raster(path: str, args: argparse.Namespace, predictor: TilePredictor) -> Any:
    from facenet_d2.scenes.area import Area

    area = Area.from_file(args.aoi) if args.aoi else None
    return predictor.open(
        path, bands=args.bands, pixel_size=args.pixel_size, scale=args.scale, area=area
    )


def read_picture(scene: Any, predictor: TilePredictor) -> Any:
    """Return the whole scene at a reduced size, ``(h, w, 3)`` uint8, RGB.

    It is read in strips of the height of a tile, so that no more of the file is in memory than
    during the prediction.
    """
    import numpy as np

    longest = max(scene.raster.height, scene.raster.width)
    # Rasters are not resampled by less than 1 %.
    factor = max(1.02, longest / PICTURE_SIDE) if longest > PICTURE_SIDE else 1.0
    rows = max(1, int(scene.grid.size / factor))
    strips = []
    with scene.raster.reduced(factor) as small:
        for top in range(0, small.height, rows):
            window = (0, top, small.width, min(top + rows, small.height))
            strip = np.moveaxis(scene.stretch.apply(*small.read(window)), 0, 2)
            strip = strip[:, :, predictor.rgb_channels(strip.shape[2])]
            strips.append(strip.round().astype(np.uint8))
    return np.ascontiguousarray(np.concatenate(strips))


def process_tiles(
    predictor: TilePredictor,
    scene: Any,
    store: Any,
    shard: tuple[int, int],
    label: str,
    line: int | None = None,
) -> None:
    """Detect the instances of a part of the tiles that are not in the store yet.

    Args:
        predictor: the model.
        scene: the scene.
        store: store of the detections.
        shard: number of the part, from 0, and number of parts.
        label: text before the progress bar.
        line: line of the bar on a terminal that several processes write to.
    """
    from facenet_d2.scenes.prediction import detect_tiles, missing_batches, tile_batches

    batches = tile_batches(scene.grid, predictor.batch_size, *shard)
    missing = missing_batches(batches, store)
    total = sum(map(len, batches))
    done = total - sum(map(len, missing))
    position = line if sys.stderr.isatty() else None
    with tqdm(
        total=total, initial=done, unit="tile", desc=label, position=position, leave=None
    ) as bar:
        detect_tiles(scene, missing, predictor.detect, store, on_batch=bar.update)


def choose_gpu(number: int) -> None:
    """Share several GPUs among the processes."""
    import torch

    gpus = torch.cuda.device_count()
    if gpus > 1:
        torch.cuda.set_device(number % gpus)


def worker(path: str, args: argparse.Namespace, store: Any, number: int) -> None:
    """Process a part of the tiles in a process of its own."""

    def work() -> None:
        if args.weights is None:
            choose_gpu(number)
        predictor = build_predictor(args)
        with open_raster(path, args, predictor) as raster:
            scene = predictor.scene(raster, args.stretch)
            part, label = (number, args.workers), f"part {number + 1}"
            process_tiles(predictor, scene, store, part, label, line=number)

    sys.exit(run_command(work))


def run_workers(path: str, args: argparse.Namespace, store: Any) -> None:
    """Process all tiles by several processes.

    Raises:
        UserError: if one of them fails.
    """
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=worker, args=(path, args, store, number))
        for number in range(args.workers)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    failed = [process.exitcode for process in processes if process.exitcode]
    if failed:
        raise UserError(
            f"{len(failed)} of {args.workers} processes failed; their messages are above. Finished "
            "tiles are kept; run the same command again to continue."
        )


def open_store(predictor: TilePredictor, scene: Any, output: Path, args: argparse.Namespace) -> Any:
    """Return the store of a scene's tiles, with an existing folder."""
    from facenet_d2.scenes.tile_store import FolderStore

    parent = check_writable(args.work_dir or output.parent).resolve()
    name = predictor.describe(scene).name
    store = FolderStore(parent, name, predictor.fingerprint(scene))
    store.open()
    return store


def process_by_ray(
    predictor: TilePredictor, scenes: Iterable[tuple[str, list[Path]]], args: argparse.Namespace
) -> None:
    """Process the tiles of all scenes by a Ray cluster.

    Scenes that cannot be opened or written are left to :func:`predict_scene`, which reports them.

    Args:
        predictor: the model.
        scenes: raster and output files of each scene.
        args: arguments of the command.
    """
    from facenet_d2.engine import scene_ray
    from facenet_d2.scenes.prediction import missing_batches, tile_batches
    from facenet_d2.scenes.writers import check_outputs

    with (
        scene_ray.cluster(args.ray),
        tqdm(total=0, unit="tile", desc=f"Ray {args.ray}") as bar,
    ):
        pool = scene_ray.Pool(model_options(args), args.workers)

        def tasks() -> Iterator[scene_ray.Task]:
            for path, outputs in scenes:
                try:
                    with open_raster(path, args, predictor) as raster:
                        scene = predictor.scene(raster, args.stretch)
                        check_outputs(outputs, predictor.describe(scene), picture=True)
                        store = open_store(predictor, scene, outputs[0], args)
                        batches = tile_batches(scene.grid, predictor.batch_size)
                        missing = missing_batches(batches, store)
                        parts = scene_ray.scene_tasks(scene, store, missing, pool.num_actors)
                except UserError:
                    continue
                bar.total += len(scene.grid)
                bar.update(len(scene.grid) - sum(map(len, missing)))
                yield from parts

        pool.run(tasks(), on_tiles=bar.update)


def predict_scene(
    predictor: TilePredictor,
    path: str,
    outputs: list[Path],
    args: argparse.Namespace,
    scene_id: int = 1,
) -> str:
    """Process one scene and return a line that reports the result."""
    from facenet_d2.scenes.prediction import InstanceStream
    from facenet_d2.scenes.writers import check_outputs, write_scene

    with open_raster(path, args, predictor) as raster:
        scene = predictor.scene(raster, args.stretch)
        description = predictor.describe(scene, scene_id)
        check_outputs(outputs, description, picture=True)
        has_picture = args.shard is None and any(output.suffix == ".png" for output in outputs)
        picture = read_picture(scene, predictor) if has_picture else None
        store = open_store(predictor, scene, outputs[0], args)
        with kept_tiles():
            if args.ray is None and args.shard is None and (args.workers or 1) > 1:
                run_workers(path, args, store)
            else:
                process_tiles(predictor, scene, store, args.shard or (0, 1), description.name)
        if args.shard is not None:
            return f"{path}: part {args.shard[0] + 1} of {args.shard[1]} is complete"
        with tqdm(total=scene.grid.shape[0], unit="row", desc="Merging and writing") as bar:
            stream = InstanceStream(
                scene.grid,
                store,
                predictor.merge_settings(),
                min_score=args.confidence_threshold,
                on_row=bar.update,
            )
            written = write_scene(
                outputs, description, stream, simplify=args.simplify, picture=picture
            )
        predictor.warn(stream.report)
        if not args.keep_tiles:
            store.delete()
    counts = ", ".join(f"{name} {number}" for name, number in written.classes.items() if number)
    files = ", ".join(str(file) for file in written.files)
    return f"{path}: {counted(written.instances, 'instance')} ({counts or 'none'}) in {files}"


def main() -> int:
    args = parse_args()
    require_geo()
    from facenet_d2.scenes.area import OutsideAreaError
    from facenet_d2.scenes.sources import find_rasters

    rasters = find_rasters(args.input)
    outputs = output_files(rasters, args)
    predictor = build_predictor(args)
    if args.ray is not None:
        with kept_tiles():
            process_by_ray(predictor, zip(rasters, outputs), args)
    failed = 0
    outside: list[str] = []
    for number, (path, files) in enumerate(zip(rasters, outputs, strict=True), start=1):
        try:
            print(predict_scene(predictor, path, files, args, number))
        except OutsideAreaError as error:
            outside.append(path)
            if len(outside) == len(rasters):
                raise
            reason = error
        except UserError as error:
            if len(rasters) == 1:
                raise
            failed += 1
            print(f"error: {error} Skipped.", file=sys.stderr)
    if outside:
        print(
            f"{len(outside)} of {len(rasters)} scenes are left out ({', '.join(outside[:5])}): "
            f"{reason}",
            file=sys.stderr,
        )
    if failed:
        print(f"error: {failed} of {len(rasters)} scenes failed.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run_command(main))
