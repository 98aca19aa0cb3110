"""Options of commands that run exported models as well as trained ones."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_exported_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--weights`` and ``--runtime``, for a command with ``--config-file`` and ``--opts``."""
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE.onnx",
        help="model that tools/export_model.py has written, in place of --config-file",
    )
    parser.add_argument(
        "--runtime",
        default="onnxruntime",
        choices=("onnxruntime", "openvino", "openvino-bf16"),
        help="program that runs an exported model (default: %(default)s)",
    )


def check_exported_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with an error unless the arguments name one model."""
    if args.weights is None:
        if args.config_file is None:
            parser.error("--config-file is required, or --weights with an exported model")
        return
    if args.weights.suffix != ".onnx":
        parser.error(
            f"--weights {args.weights}: name an exported model, FILE.onnx; a checkpoint belongs to "
            "--config-file and --opts MODEL.WEIGHTS"
        )
    if args.config_file is not None or args.opts:
        parser.error("an exported model has its config in it; leave out --config-file and --opts")
