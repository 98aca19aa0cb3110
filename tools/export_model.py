#!/usr/bin/env python3
"""Export a trained model to a file that runs without this project.

  export_model.py --config-file output/facenet/config.yaml --output facenet.onnx
  export_model.py --config-file ... --output facenet_yolo.onnx --contract yolo-seg --size 640
  export_model.py --config-file ... --output facenet_int8.onnx --int8 --images train/*.jpg

The contract "raw" is the network: images in, its predictions out. facenet_d2.runtime computes
instances from them without PyTorch. The contract "yolo-seg" also contains the post-processing and
has the outputs of Ultralytics' segmentation models, for programs that read those, such as QGIS
Deepness, Ultralytics and SAHI. docs/EXPORT.md describes both.

The file is compared with the model in PyTorch before it gets its final name: outputs on noise of
two sizes, and final masks on the --images, or on two synthetic scenes. The masks of an ONNX file
with the contract raw are those of facenet_d2.runtime. A difference above the tolerance is an error
(exit code 2).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import facenet_d2.compat  # noqa: F401  isort: skip
import numpy as np
import torch
from detectron2.structures import Instances

from facenet_d2.engine import Predictor, run_command
from facenet_d2.engine.inputs import find_inputs
from facenet_d2.engine.setup import check_writable
from facenet_d2.export import (
    DEFAULT_OPSETS,
    DEFORM_FORMS,
    FORMATS,
    Comparison,
    ExportedNetwork,
    RawNetwork,
    compare,
    describe,
    load_network,
    metadata_of,
    require_onnx,
    save_onnx,
    save_torch,
    to_onnx,
    yolo_seg_network,
)
from facenet_d2.export.checks import (
    MIN_MASK_IOU,
    TOLERANCES,
    as_instances,
    exported_instances,
    model_instances,
    padded,
    synthetic_pictures,
)
from facenet_d2.export.program import require_torch
from facenet_d2.export.readers import Run
from facenet_d2.export.smaller import halve_weights, quantize, sensitive_weights
from facenet_d2.files import replaced
from facenet_d2.runtime import OnnxPredictor
from facenet_d2.runtime.description import CONTRACTS

# Switches of TEST that change the arithmetic of the network in PyTorch.
FLOAT32 = ("TEST.AUTOCAST", "", "TEST.COMPILE", "False", "TEST.CHANNELS_LAST", "False")


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, help="config of the model")
    parser.add_argument("--output", required=True, type=Path, help="file to write")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the file (default: by the suffix of --output, "
        + ", ".join(f"{suffix} for {name}" for name, suffix in FORMATS.items())
        + ")",
    )
    parser.add_argument(
        "--contract",
        choices=CONTRACTS,
        default=CONTRACTS[0],
        help="outputs of the file, see above (default: %(default)s)",
    )
    parser.add_argument(
        "--deform",
        choices=DEFORM_FORMS,
        default=DEFORM_FORMS[0],
        help="deformable convolutions as bilinear sampling, which all runtimes have, or as one "
        "operator, which for ONNX needs ONNX Runtime 1.25 (default: %(default)s)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        help="version of ONNX's operators, at least 18, or 19 with --deform deformconv (default: "
        + ", ".join(f"{opset} for {form}" for form, opset in DEFAULT_OPSETS.items())
        + ")",
    )
    smaller = parser.add_mutually_exclusive_group()
    smaller.add_argument(
        "--half", action="store_true", help="ONNX with weights in float16: half the file's size"
    )
    smaller.add_argument(
        "--int8",
        action="store_true",
        help="ONNX with convolutions in int8, calibrated on the --images",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="FILE",
        help="images, folders or glob patterns, for the comparison of masks (default: two "
        "synthetic scenes) and for --int8",
    )
    parser.add_argument(
        "--max-images", type=int, default=50, help="number of images used (default: %(default)s)"
    )
    parser.add_argument(
        "--size",
        type=int,
        help="side of the images of yolo-seg (default: INPUT.MAX_SIZE_TEST, rounded up)",
    )
    parser.add_argument(
        "--candidates",
        type=int,
        default=300,
        help="maximum number of masks that yolo-seg computes for an image (default: %(default)s)",
    )
    parser.add_argument(
        "--pixel-size", type=float, help="side of the training images' pixels in metres"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument(
        "--opts",
        nargs=argparse.REMAINDER,
        default=[],
        metavar="KEY VALUE",
        help="config overrides, for example MODEL.WEIGHTS model.pth; must be last",
    )
    args = parser.parse_args()
    if args.format is None:
        by_suffix = {suffix: name for name, suffix in FORMATS.items()}
        args.format = by_suffix.get(args.output.suffix)
    if args.format is None:
        parser.error(f"--output {args.output}: give --format, or one of {', '.join(by_suffix)}")
    if args.format != "onnx" and (args.half or args.int8 or args.opset):
        parser.error("--half, --int8 and --opset are for --format onnx")
    if args.int8 and not args.images:
        parser.error("--int8 needs --images of the training set to measure ranges of values")
    if args.max_images < 1 or args.candidates < 1:
        parser.error("--max-images and --candidates must be at least 1")
    if args.pixel_size is not None and not args.pixel_size > 0:
        parser.error("--pixel-size must be positive")
    if args.opset is None:
        args.opset = DEFAULT_OPSETS[args.deform]
    if args.opset < (19 if args.deform == "deformconv" else 18):
        parser.error(f"--opset {args.opset} is too low; see --help")
    return args


def build_network(predictor: Predictor, args: argparse.Namespace) -> ExportedNetwork:
    """Return the network of the chosen contract."""
    description = describe(
        predictor.model,
        predictor.cfg,
        contract=args.contract,
        class_names=predictor.metadata.thing_classes,
        category_ids=predictor.category_ids,
        class_colors=predictor.metadata.get("thing_colors", ()),
        pixel_size=args.pixel_size,
    )
    if args.contract == "raw":
        return RawNetwork(predictor.model, description, deform=args.deform)
    divisor = description.size_divisibility
    return yolo_seg_network(
        predictor.model,
        description,
        size=args.size or -(-description.max_size // divisor) * divisor,
        deform=args.deform,
        max_candidates=args.candidates,
    )


def read_pictures(
    predictor: Predictor, network: ExportedNetwork, args: argparse.Namespace
) -> list[np.ndarray]:
    """Read the images, evenly chosen, or draw synthetic scenes."""
    if not args.images:
        return synthetic_pictures(network.description)
    files = find_inputs(args.images, "--images")
    step = max(1, len(files) / args.max_images)
    chosen = [files[int(i * step)] for i in range(min(len(files), args.max_images))]
    return [predictor.read(file) for file in chosen]


def found_instances(
    predictor: Predictor,
    network: ExportedNetwork,
    run: Run,
    runner: OnnxPredictor | None,
    pictures: Sequence[np.ndarray],
) -> Iterator[tuple[Instances, Instances]]:
    """Yield what the model and the file find in each picture.

    Args:
        predictor: the model.
        network: its network.
        run: the file.
        runner: the file in facenet_d2.runtime; None to post-process its outputs in PyTorch.
        pictures: images as the predictor takes them.
    """
    for picture in pictures:
        if runner:
            yield predictor(picture), as_instances(runner(picture))
        else:
            image = predictor.prepare(picture)
            yield model_instances(network, image), exported_instances(network, run, image)


def main() -> None:
    args = parse_args()
    check_writable(args.output.parent)
    if args.format != "torchscript":
        require_torch()
    if args.format == "onnx":
        require_onnx()
    overrides = [*FLOAT32, "MODEL.DEVICE", "cpu", *args.opts]
    predictor = Predictor(args.config_file, overrides=overrides)
    network = build_network(predictor, args)
    metadata = metadata_of(network.description, size=network.fixed_size)
    pictures = read_pictures(predictor, network, args)
    precision = "float16" if args.half else "int8" if args.int8 else "float32"
    with replaced(args.output) as file:
        if args.format == "onnx":
            model = to_onnx(network, args.opset)
            if args.half:
                halve_weights(model)
            elif args.int8:
                images = map(predictor.prepare, pictures)
                inputs = [np.asarray(padded(network, image)) for image in images]
                model = quantize(model, inputs, excluded=sensitive_weights(network))
            save_onnx(model, file, metadata)
        else:
            save_torch(network, file, args.format, metadata)
        run, runner = load_network(file, args.format), None
        if args.format == "onnx" and args.contract == "raw":
            runner = OnnxPredictor(file, threads=torch.get_num_threads())
        result = compare(network, run, found_instances(predictor, network, run, runner, pictures))
        result.check(precision)
        size = file.stat().st_size
    report(args, result, precision, size)


def report(args: argparse.Namespace, result: Comparison, precision: str, size: int) -> None:
    """Print what was written and how it was compared."""
    if args.json:
        values = {
            "file": str(args.output),
            "bytes": size,
            "difference": result.difference,
            "instances": result.instances,
            "mask_iou": result.mask_iou,
        }
        print(json.dumps(values))
        return
    limit = TOLERANCES.get(precision)
    accepted = f"at most {limit} is accepted" if limit else "no limit for int8"
    print(f"{args.output}: {size / 2**20:.1f} MiB, contract {args.contract}")
    print(f"largest difference of outputs: {result.difference:.2g} of their range ({accepted})")
    pictures = "the images" if args.images else "two synthetic scenes"
    if result.mask_iou is None:
        print(
            f"final masks: not compared, the model finds nothing in {pictures}; name images of "
            "objects with --images"
        )
    else:
        print(
            f"final masks: mean IoU {result.mask_iou:.4f} over {result.instances} instances in "
            f"{pictures} (at least {MIN_MASK_IOU[precision]} is accepted)"
        )


if __name__ == "__main__":
    sys.exit(run_command(main))
