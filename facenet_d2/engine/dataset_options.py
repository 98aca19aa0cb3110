"""Command-line options for any COCO data set, registered or not."""

from __future__ import annotations

import argparse
from pathlib import Path

from detectron2.data import MetadataCatalog

from ..data.datasets.coco import check_available, class_names
from ..errors import UserError


def add_dataset_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--annotations``, ``--images`` and ``--dataset``."""
    parser.add_argument("--annotations", type=Path, help="COCO JSON file")
    parser.add_argument(
        "--images", type=Path, help="folder that the file names in the JSON file are relative to"
    )
    parser.add_argument(
        "--dataset", help="registered data set, instead of --annotations and --images"
    )


def find_dataset(args: argparse.Namespace) -> tuple[Path, Path]:
    """Return the annotation file and the image folder that the options name.

    Raises:
        UserError: if the options name no data set or two, or one that does not exist.
    """
    if bool(args.dataset) == bool(args.annotations) or bool(args.annotations) != bool(args.images):
        raise UserError("give either --annotations and --images, or --dataset.")
    if args.annotations:
        if not args.images.is_dir():
            raise UserError(f"--images {args.images} is not a folder.")
        return args.annotations, args.images
    class_names(args.dataset)  # Raises the error for an unknown name.
    check_available([args.dataset])
    metadata = MetadataCatalog.get(args.dataset)
    return Path(metadata.json_file), Path(metadata.image_root)
