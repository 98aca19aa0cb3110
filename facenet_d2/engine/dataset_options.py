"""The options of tools that take any COCO data set, registered or not."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.data import MetadataCatalog

from ..data.datasets.coco import check_available, class_names
from ..errors import UserError


def add_source_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--annotations``, ``--images`` and ``--dataset``."""
    parser.add_argument("--annotations", type=Path, help="COCO JSON")
    parser.add_argument("--images", type=Path, help="folder that its file names are relative to")
    parser.add_argument("--dataset", help="a registered data set, in place of these two")


def locate_source(args: argparse.Namespace) -> tuple[Path, Path]:
    """The annotation file and the folder of the images that the options name.

    Raises:
        UserError: where they name none, or two, or what is not there.
    """
    if bool(args.dataset) == bool(args.annotations) or bool(args.annotations) != bool(args.images):
        raise UserError("give either --annotations and --images, or --dataset.")
    if args.annotations:
        if not args.images.is_dir():
            raise UserError(f"--images {args.images} is not a folder.")
        return args.annotations, args.images
    class_names(args.dataset)  # Says which data sets there are, where this is none.
    check_available([args.dataset])
    metadata = MetadataCatalog.get(args.dataset)
    return Path(metadata.json_file), Path(metadata.image_root)
