#!/usr/bin/env python3
"""Compute INPUT.STRETCH, MODEL.PIXEL_MEAN and MODEL.PIXEL_STD of a data set.

  compute_statistics.py --annotations train.json --images chips/ --bands 4 3 2 8 \\
      --stretch "percentile 1 99"
  compute_statistics.py --dataset isaid_train --config-file configs/iSAID/facenet_R_50_36ep.yaml

Prints the keys as YAML for a config. Images are read as the config says or, with --bands or
--stretch, with GDAL: any number of bands and bits. Percentiles are those of all images together, so
that the stretch is the same for all of them, in training and in inference. Mean and standard
deviation are those of the valid pixels of each band after the stretch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip

from facenet_d2 import UserError
from facenet_d2.data.coco_json import read_coco
from facenet_d2.data.readers import PillowReader, RasterReader, build_reader, uses_raster_reader
from facenet_d2.data.statistics import fit_stretch, measure_bands
from facenet_d2.engine import read_config, run_command
from facenet_d2.engine.dataset_options import add_dataset_options, find_dataset
from facenet_d2.parallel import add_workers_option
from facenet_d2.paths import configs
from facenet_d2.scenes.stretch import SYNTAX, StretchRule

# Mean standard deviation of ImageNet's colours, for which weights with a PIXEL_STD of 1 were made.
IMAGENET_STD = 57.6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_dataset_options(parser)
    parser.add_argument(
        "--config-file",
        default=configs() / "Base-SOLOv2.yaml",
        help="config with the reader of the images (INPUT.FORMAT, INPUT.BANDS, INPUT.STRETCH)",
    )
    parser.add_argument(
        "--bands", type=int, nargs="+", help="numbers of the bands, from 1; default: the config's"
    )
    parser.add_argument("--stretch", help=f"stretch, instead of the config's: {SYNTAX}")
    add_workers_option(parser)
    args = parser.parse_args()
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    return args


def raster_reader(
    files: list[Path], bands: tuple[int, ...], stretch: str, workers: int
) -> RasterReader:
    """Return a reader with a stretch of fixed bounds.

    Args:
        files: the images.
        bands: numbers of the bands; empty for all.
        stretch: rule of the stretch; empty for none.
        workers: number of processes.
    """
    # rasterio, which this module imports, is only installed with the extra [geo].
    from facenet_d2.scenes.raster import Raster

    with Raster(files[0], bands=bands or None, on_map=False) as raster:
        bands = raster.bands
    zeros = (0.0,) * len(bands)
    rule = StretchRule.parse(stretch) if stretch else None
    if rule is not None and rule.kind == "percentile":
        unstretched = RasterReader(bands=bands, stretch="none", pixel_mean=zeros)
        fitted = fit_stretch(files, rule, unstretched, workers=workers)
        stretch = str(fitted.as_rule())
    return RasterReader(bands=bands, stretch=stretch, pixel_mean=zeros)


def listed(values: object) -> str:
    return f"[{', '.join(f'{v:.3f}' for v in values)}]"  # type: ignore[attr-defined]


def main() -> None:
    args = parse_args()
    annotations, images = find_dataset(args)
    cfg = read_config(args.config_file)
    content = read_coco(annotations, "--annotations", image_root=images)
    files = [images / image["file_name"] for image in content["images"]]
    if not files:
        raise UserError(f"--annotations {annotations} lists no images.")
    reader: PillowReader | RasterReader = build_reader(cfg)
    if args.bands or args.stretch or uses_raster_reader(cfg):
        bands = tuple(args.bands or cfg.INPUT.BANDS)
        reader = raster_reader(files, bands, args.stretch or cfg.INPUT.STRETCH, args.workers)
    moments = measure_bands(files, reader, workers=args.workers)
    print(f"# {moments.count} valid pixels of {len(files)} images in {annotations}")
    if isinstance(reader, RasterReader):
        print("INPUT:")
        print(f"  BANDS: [{', '.join(map(str, reader.bands))}]")
        print(f'  STRETCH: "{reader.stretch.rule if reader.is_stretched else ""}"')
    print("MODEL:")
    print(f"  PIXEL_MEAN: {listed(moments.mean)}")
    print(f"  PIXEL_STD: {listed(moments.std.clip(min=1e-3))}")
    if all(value == 1 for value in cfg.MODEL.PIXEL_STD):
        print(
            "  # For weights that were made with a PIXEL_STD of 1, such as Detectron2's "
            "MSRA/R-50.pkl:"
        )
        print(f"  # PIXEL_STD: {listed((moments.std / IMAGENET_STD).clip(min=1e-3))}")


if __name__ == "__main__":
    sys.exit(run_command(main))
