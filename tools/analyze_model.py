#!/usr/bin/env python3
"""Count a model's parameters, multiply-adds and activations, part by part, and its peak memory.

  analyze_model.py --config-file configs/NWPU-VHR10/facenet_R_101_36ep.yaml --num-classes 15 \\
      --input-size 800 1280
  analyze_model.py --table 2

parameters     weights and biases, those of frozen batch normalisation included; "trainable": those
               that training changes
multiply-adds  of all convolutions and matrix products of one inference, also deformable ones,
               their offsets, and those whose weights a network predicts; normalisation,
               activation functions, pooling and interpolation are not counted
as MMDetection the same, and what the counter of MMDetection counts besides: normalisation,
               rectifiers, pooling, biases, and transposed convolutions with their whole kernel at
               each pixel; for figures to be compared with published ones
activations    elements of the outputs of the same
peak memory    the most that one inference holds beyond what was held before it, the weights

One inference does not depend on what a network of random weights finds: so many --instances, and a
full set of proposals where the model has them. Which operators ran without being counted is printed
too. --table 2 counts the models of the paper's Table 2, as they are put on iSAID, beside its
figures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.analysis import Analysis, Meter, analyze
from facenet_d2.engine import load_config, read_config, run_command
from facenet_d2.engine.cli import user_errors
from facenet_d2.engine.devices import device_name
from facenet_d2.engine.num_classes import num_classes_key
from facenet_d2.experiments import write_row_config
from facenet_d2.experiments.paper import TABLES, Row
from facenet_d2.paths import configs

# The data and the backbone of Table 2; a row's config is put on it.
PROTOCOL = "iSAID/solov2_R_101_36ep.yaml"
# Not in the paper.
EXTRA = (Row("CondInst", "condinst", ()),)
# What was found to explain differences, by counting that variant with this tool.
NOTES = (
    "Ratios of multiply-adds are of those counted as MMDetection, the paper's framework, counts.",
    "Parameters: some of the paper's figures are those of MMDetection's models for COCO, with 80 "
    "classes. So counted, ours have 79.729 M (Mask Scoring R-CNN), 54.286 M (YOLACT) and, with "
    "ResNet-50, 60.215 M (PointRend), to the last digit the paper's; and Cascade Mask R-CNN, with "
    "three mask heads (Detectron2 has one) and without the frozen layers, 96.09 M.",
    "Multiply-adds: with 80 classes and strides in ResNet's 3x3 convolutions, as MMDetection has "
    "them, Mask R-CNN has 351.65 G (paper: 351.64), and Cascade Mask R-CNN, with two more mask "
    "heads and its transposed convolutions counted plainly, 470.0 G. SOLO makes the masks of all "
    "cells there: with these and such strides it has 442.0 G. Mask Scoring R-CNN and PointRend "
    "have in the paper exactly 1.024 times 330 G and 177 G: ours, with 80 classes at 800x1088, "
    "have 329.9 G of plain multiply-adds, and, with ResNet-50 and without the point head, 176.6 G. "
    "YOLACT's input is 550x550 pixels: padded to 576x576, ours has 86.9 G there, with 80 classes. "
    "Of SOLOv2 and FACENet, the difference has no explanation yet.",
)
NONE = "\N{EN DASH}"


def read(config_file: str, num_classes: int | None) -> CfgNode:
    """The config without weights and without looking at data, where that can be."""
    overrides = ["MODEL.WEIGHTS", ""]
    if num_classes is not None:
        if num_classes < 1:
            raise UserError(f"--num-classes {num_classes}: it must be at least 1.")
        cfg = read_config(config_file)
        names = [f"class {i + 1}" for i in range(num_classes)]
        overrides += [num_classes_key(cfg)[0], str(num_classes)]
        overrides += ["DATASETS.CLASS_NAMES", repr(names)]
        if "POINT_HEAD" in cfg.MODEL:
            overrides += ["MODEL.POINT_HEAD.NUM_CLASSES", str(num_classes)]
    return load_config(config_file, overrides, need_data=False)


def count(cfg: CfgNode, size: tuple[int, int], instances: int) -> Analysis:
    torch.manual_seed(0)
    with user_errors("this config's model cannot be built"):
        model = build_model(cfg).eval()
    with user_errors("this model cannot be analysed"):
        return analyze(model, *size, instances=instances)


def one_model(args: argparse.Namespace) -> dict[str, Any]:
    cfg = read(args.config_file, args.num_classes)
    analysis = count(cfg, tuple(args.input_size), args.instances)
    with user_errors("this model cannot be run"):
        meter = Meter(cfg.MODEL.DEVICE)
        with meter.phase("inference"):
            analysis.run()
    return {
        "config_file": args.config_file,
        "num_classes": num_classes_key(cfg)[1].NUM_CLASSES,
        "input_size": args.input_size,
        "padded_size": analysis.input_size,
        "inference": analysis.what,
        "parts": analysis.parts,
        "peak_memory_mb": meter.peaks.get("inference"),
        "device": device_name(cfg.MODEL.DEVICE),
        "operators": {
            "counted": analysis.counted,
            "not_multiplying": analysis.not_multiplying,
            "not_counted": analysis.not_counted,
        },
    }


def size_sentence(result: dict[str, Any]) -> str:
    height, width = result["input_size"]
    sentence = f"input of {height}x{width}"
    padded = tuple(result["padded_size"])
    if padded != (height, width):
        sentence += f", which the model pads to {padded[0]}x{padded[1]}: that is what is counted"
    return sentence


def calls(operators: dict[str, int]) -> str:
    return ", ".join(f"{name} ({number})" for name, number in sorted(operators.items()))


def print_parts(result: dict[str, Any]) -> None:
    print(f"{result['config_file']}, {result['num_classes']} classes, {size_sentence(result)}.")
    print(result["inference"])
    columns = {
        "parameters": ("parameters, M", 1e6),
        "trainable": ("trainable, M", 1e6),
        "multiply_adds": ("multiply-adds, G", 1e9),
        "as_mmdetection": ("as MMDetection, G", 1e9),
        "activations": ("activations, M", 1e6),
    }
    width = max(map(len, result["parts"])) + 2
    print(" " * width + "".join(f"{name:>19}" for name, _ in columns.values()))
    for part, row in result["parts"].items():
        values = (row[key] / scale for key, (_, scale) in columns.items())
        print(f"{part:{width}}" + "".join(f"{value:19.2f}" for value in values))
    if result["peak_memory_mb"] is not None:
        print(
            f"peak memory of one inference, beyond the weights, on {result['device']}: "
            f"about {result['peak_memory_mb']:.0f} MB"
        )
    operators = result["operators"]
    print(f"counted: {calls(operators['counted'])}")
    print(f"without products to count: {calls(operators['not_multiplying'])}")
    if operators["not_counted"]:
        print(f"warning: not counted: {calls(operators['not_counted'])}", file=sys.stderr)


def table_2(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in tqdm([*TABLES[2].rows, *EXTRA], desc="models", leave=False):
            figures: dict[str, Any] = {"name": row.name}
            rows.append(figures)
            if row.config is not None:
                file = Path(folder, f"{row.model}.yaml")
                write_row_config(configs() / PROTOCOL, row.config, file)
                cfg = read(str(file), None)
                analysis = count(cfg, tuple(args.input_size), args.instances)
                figures.update(analysis.parts["all"], not_counted=analysis.not_counted)
                figures["parts"] = analysis.parts
                padded = analysis.input_size
            figures.update(
                paper_parameters=row.parameters and round(row.parameters * 1e6),
                paper_multiply_adds=row.multiply_adds and round(row.multiply_adds * 1e9),
            )
    by_name = {row["name"]: row for row in rows}
    facenet, solov2 = by_name["FACENet"], by_name["SOLOv2"]
    return {
        "table": 2,
        "input_size": args.input_size,
        "padded_size": padded,
        "instances": args.instances,
        "rows": rows,
        "facenet_to_solov2": {
            key: facenet[key] / solov2[key]
            for key in ("multiply_adds", "paper_multiply_adds", "parameters", "paper_parameters")
        },
    }


def print_table(result: dict[str, Any]) -> None:
    print(
        "| | parameters, M | paper | ratio | multiply-adds, G | as MMDetection | paper | ratio |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for row in result["rows"]:
        cells = [row["name"]]
        for keys, scale in (
            (("parameters", "paper_parameters"), 1e6),
            (("multiply_adds", "as_mmdetection", "paper_multiply_adds"), 1e9),
        ):
            values = [row.get(key) for key in keys]
            cells += [NONE if v is None else f"{v / scale:.2f}" for v in values]
            *_, ours, paper = values
            cells.append(NONE if None in (ours, paper) else f"{ours / paper:.3f}")
        print(f"| {' | '.join(cells)} |")
    ratio = result["facenet_to_solov2"]
    print(
        f"\nMultiply-adds are of an {size_sentence(result)}, with {result['instances']} instances. "
        f"FACENet has {ratio['multiply_adds']:.3f} times SOLOv2's (paper: "
        f"{ratio['paper_multiply_adds']:.3f}) and {ratio['parameters']:.3f} times its parameters "
        f"(paper: {ratio['paper_parameters']:.3f})."
    )
    for note in NOTES:
        print(f"\n{note}")
    for row in result["rows"]:
        if row.get("not_counted"):
            print(
                f"warning: {row['name']}: not counted: {calls(row['not_counted'])}", file=sys.stderr
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE")
    parser.add_argument("--table", type=int, metavar="NUMBER", help="of the paper: 2")
    parser.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        default=(800, 1280),
        metavar=("HEIGHT", "WIDTH"),
        help="of the image in pixels (default 800 1280)",
    )
    parser.add_argument("--num-classes", type=int, help="instead of the data set's")
    parser.add_argument(
        "--instances", type=int, default=100, help="that have their masks made (default 100)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    if (args.config_file is None) == (args.table is None):
        raise UserError("give either --config-file, for one model, or --table 2, for the paper's.")
    if args.table not in (None, 2):
        raise UserError(f"--table {args.table}: the paper counts in Table 2 alone.")
    if args.table is not None and args.num_classes is not None:
        raise UserError("--num-classes is for --config-file; --table 2 has iSAID's 15 classes.")
    if min(args.input_size) < 1:
        raise UserError(
            f"--input-size {' '.join(map(str, args.input_size))}: both must be positive."
        )
    if args.instances < 0:
        raise UserError(f"--instances {args.instances}: it must not be negative.")
    result = one_model(args) if args.table is None else table_2(args)
    if args.json:
        print(json.dumps(result))
    elif args.table is None:
        print_parts(result)
    else:
        print_table(result)


if __name__ == "__main__":
    sys.exit(run_command(main))
