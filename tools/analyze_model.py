#!/usr/bin/env python3
"""Count parameters, multiply-adds, activations and peak memory of a model by part.

  analyze_model.py --config-file configs/NWPU-VHR10/facenet_R_101_36ep.yaml --num-classes 15 \\
      --input-size 800 1280
  analyze_model.py --table 2

parameters      weights and biases, including those of frozen batch normalisation
trainable       the parameters that training changes
multiply-adds   convolutions and matrix products of one inference, including deformable ones with
                their offsets and those with predicted weights, but not normalisation, activation
                functions, pooling and interpolation
as MMDetection  multiply-adds and the operations that MMDetection's counter adds to them, for
                comparison with published numbers: normalisation, rectifiers, pooling, biases, and
                transposed convolutions with their whole kernel at each pixel
activations     elements of the outputs of convolutions and matrix products
peak memory     peak of one inference beyond the memory in use before it, such as the weights

The counts do not depend on what a network with random weights detects: masks are computed for
--instances instances and, in models with proposals, all of them are processed. Operators without
a count are listed.

--table 2 compares the models of the paper's Table 2, on iSAID, with the paper's numbers, which come
from different tools and settings. The columns "as the paper counted" apply the rules of each row to
its model; the rules are listed below the table.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from tqdm import tqdm

from facenet_d2 import UserError
from facenet_d2.analysis import PAPER_RULES, Analysis, Meter, PaperRule, analyze, count_as_paper
from facenet_d2.engine import load_config, read_config, run_command
from facenet_d2.engine.cli import user_errors
from facenet_d2.engine.devices import device_name
from facenet_d2.engine.num_classes import num_classes_key
from facenet_d2.experiments import write_row_config
from facenet_d2.experiments.paper import TABLES, Row
from facenet_d2.experiments.tables import MISSING_VALUE, markdown_table
from facenet_d2.paths import configs

# Data and backbone of Table 2, below configs; the models' configs are merged into it.
PROTOCOL = "iSAID/solov2_R_101_36ep.yaml"
# iSAID's 1000 detections would raise the number of proposals of the R-CNNs, see raise_limits().
ONE_HUNDRED_DETECTIONS = ("TEST.DETECTIONS_PER_IMAGE", "100")
# Without metrics in the paper.
EXTRA = (
    Row("PANet", "panet", ()),
    Row("RefineMask", "refinemask", ()),
    Row("CondInst", "condinst", ()),
    Row("Mask2Former", "mask2former", ()),
)
# What the rules do not say.
NOTES = (
    "The rules were found by counting variants until the counts matched the paper's. They mix five "
    "settings: the paper's numbers cannot be compared from row to row, those of this project can.",
    "Not matched are the multiply-adds of Mask R-CNN, by 0.01 G, of YOLACT, and of QueryInst, "
    "where the paper's are a mean over COCO images of several sizes; SOLOv2's parameters, of which "
    "the paper has 0.80 M more; and FACENet's numbers, as the paper does not give its inner "
    "widths. The 43.83 M of Luo et al. are those of Mask R-CNN with ResNet-50 and 15 classes, "
    "otherwise counted like Mask R-CNN.",
)


def read_model_config(
    config_file: str, num_classes: int | None, overrides: Sequence[str] = ()
) -> CfgNode:
    """Read a config without weights; the data need not exist if ``num_classes`` is given."""
    overrides = ["MODEL.WEIGHTS", "", *overrides]
    if num_classes is not None:
        if num_classes < 1:
            raise UserError(f"--num-classes is {num_classes}; it must be at least 1.")
        cfg = read_config(config_file)
        names = [f"class {i + 1}" for i in range(num_classes)]
        overrides += [num_classes_key(cfg)[0], str(num_classes)]
        overrides += ["DATASETS.CLASS_NAMES", repr(names)]
        if "POINT_HEAD" in cfg.MODEL:
            overrides += ["MODEL.POINT_HEAD.NUM_CLASSES", str(num_classes)]
    return load_config(config_file, overrides, need_data=False)


def analyze_config(cfg: CfgNode, size: tuple[int, int], instances: int) -> Analysis:
    torch.manual_seed(0)
    with user_errors("this config's model cannot be built"):
        model = build_model(cfg).eval()
    with user_errors("this model cannot be analysed"):
        return analyze(model, *size, instances=instances)


def analyze_one(args: argparse.Namespace) -> dict[str, Any]:
    cfg = read_model_config(args.config_file, args.num_classes)
    analysis = analyze_config(cfg, tuple(args.input_size), args.instances)
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


def count_row_as_paper(row: Row, rule: PaperRule) -> tuple[float, float]:
    """Return millions of parameters and 10^9 multiply-adds of a row by the paper's rule."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "row.yaml")
        model = configs() / "models" / f"{rule.model or row.model}.yaml"
        write_row_config(configs() / PROTOCOL, model, file)
        overrides = ["MODEL.DEVICE", "meta", "MODEL.RESNETS.DEPTH", str(rule.depth)]
        overrides += ["MODEL.RESNETS.STRIDE_IN_1X1", str(rule.caffe)]
        cfg = read_config(file, overrides)
    num_classes_key(cfg)[1].NUM_CLASSES = rule.num_classes
    if "POINT_HEAD" in cfg.MODEL:
        cfg.MODEL.POINT_HEAD.NUM_CLASSES = rule.num_classes
    with torch.device("meta"):
        return count_as_paper(build_model(cfg).eval(), rule)


def size_sentence(result: dict[str, Any]) -> str:
    height, width = result["input_size"]
    sentence = f"input of {height}x{width}"
    padded = tuple(result["padded_size"])
    if padded != (height, width):
        sentence += f", which the model pads to {padded[0]}x{padded[1]} (the size that is counted)"
    return sentence


def list_calls(operators: dict[str, int]) -> str:
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
    header = ["part", *(title for title, _ in columns.values())]
    rows = [
        [part, *(f"{row[key] / scale:.2f}" for key, (_, scale) in columns.items())]
        for part, row in result["parts"].items()
    ]
    print(f"\n{markdown_table(header, rows, padded=True)}\n")
    if result["peak_memory_mb"] is not None:
        print(
            f"peak memory of one inference above the weights, on {result['device']}: "
            f"about {result['peak_memory_mb']:.0f} MB"
        )
    operators = result["operators"]
    print(f"counted: {list_calls(operators['counted'])}")
    print(f"without convolutions and matrix products: {list_calls(operators['not_multiplying'])}")
    if operators["not_counted"]:
        print(f"warning: not counted: {list_calls(operators['not_counted'])}", file=sys.stderr)


def analyze_table_2(args: argparse.Namespace) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for row in tqdm([*TABLES[2].rows, *EXTRA], desc="models", leave=False):
            counts: dict[str, Any] = {"name": row.name}
            rows.append(counts)
            file = Path(folder, f"{row.model}.yaml")
            write_row_config(configs() / PROTOCOL, row.config, file)
            cfg = read_model_config(str(file), None, ONE_HUNDRED_DETECTIONS)
            analysis = analyze_config(cfg, tuple(args.input_size), args.instances)
            counts.update(analysis.parts["all"], not_counted=analysis.not_counted)
            counts["parts"] = analysis.parts
            rule = PAPER_RULES.get(row.name)
            if rule is not None:
                parameters, multiply_adds = count_row_as_paper(row, rule)
                counts["as_paper"] = {
                    "parameters": round(parameters * 1e6),
                    "multiply_adds": round(multiply_adds * 1e9),
                    "rule": rule.describe(),
                }
            counts.update(
                paper_parameters=row.parameters and round(row.parameters * 1e6),
                paper_multiply_adds=row.multiply_adds and round(row.multiply_adds * 1e9),
            )
    by_name = {row["name"]: row for row in rows}
    facenet, solov2 = by_name["FACENet"], by_name["SOLOv2"]
    keys = ("multiply_adds", "paper_multiply_adds", "parameters", "paper_parameters")
    as_paper = [row["as_paper"]["multiply_adds"] for row in (facenet, solov2)]
    return {
        "table": 2,
        "input_size": args.input_size,
        "padded_size": analysis.input_size,
        "instances": args.instances,
        "rows": rows,
        "facenet_to_solov2": {
            **{key: facenet[key] / solov2[key] for key in keys},
            "multiply_adds_as_paper": as_paper[0] / as_paper[1],
        },
    }


def print_table(result: dict[str, Any]) -> None:
    header = ["model"]
    for title in ("parameters, M", "multiply-adds, G"):
        header += [title, "as the paper counted", "paper", "ratio"]
    lines = []
    for row in result["rows"]:
        cells = [row["name"]]
        for key, scale in (("parameters", 1e6), ("multiply_adds", 1e9)):
            as_paper = row.get("as_paper", {}).get(key)
            paper = row[f"paper_{key}"]
            values = [row.get(key), as_paper, paper]
            cells += [MISSING_VALUE if v is None else f"{v / scale:.2f}" for v in values]
            cells.append(MISSING_VALUE if None in (as_paper, paper) else f"{as_paper / paper:.3f}")
        lines.append(cells)
    print(markdown_table(header, lines))
    ratio = result["facenet_to_solov2"]
    print(
        f"\nMultiply-adds for an {size_sentence(result)}, with {result['instances']} instances. "
        f"FACENet has {ratio['multiply_adds']:.3f} times SOLOv2's (as the paper counted: "
        f"{ratio['multiply_adds_as_paper']:.3f}; paper: {ratio['paper_multiply_adds']:.3f}) and "
        f"{ratio['parameters']:.3f} times its parameters (paper: "
        f"{ratio['paper_parameters']:.3f}).\n\n"
        'Each ratio is that of the column "as the paper counted" to the column "paper". The '
        "paper's rules, with strides in ResNet's 3x3 convolutions unless they name Caffe's:\n"
    )
    for row in result["rows"]:
        if "as_paper" in row:
            print(f"- {row['name']}: {row['as_paper']['rule']}")
    for note in NOTES:
        print(f"\n{note}")
    for row in result["rows"]:
        if row.get("not_counted"):
            print(
                f"warning: {row['name']}: not counted: {list_calls(row['not_counted'])}",
                file=sys.stderr,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", metavar="FILE", help="config of the model")
    parser.add_argument("--table", type=int, metavar="NUMBER", help="table of the paper: 2")
    parser.add_argument(
        "--input-size",
        type=int,
        nargs=2,
        default=(800, 1280),
        metavar=("HEIGHT", "WIDTH"),
        help="size of the image in pixels (default: 800 1280)",
    )
    parser.add_argument(
        "--num-classes", type=int, help="number of classes (default: that of the data set)"
    )
    parser.add_argument(
        "--instances", type=int, default=100, help="number of masks to compute (default: 100)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    args = parser.parse_args()
    if (args.config_file is None) == (args.table is None):
        raise UserError("give either --config-file for one model, or --table 2 for the paper's.")
    if args.table not in (None, 2):
        raise UserError(f"--table is {args.table}; only Table 2 of the paper contains such counts.")
    if args.table is not None and args.num_classes is not None:
        raise UserError("--num-classes requires --config-file; --table 2 has iSAID's 15 classes.")
    if min(args.input_size) < 1:
        raise UserError(
            f"--input-size is {' '.join(map(str, args.input_size))}; both must be positive."
        )
    if args.instances < 0:
        raise UserError(f"--instances is {args.instances}; it must not be negative.")
    result = analyze_one(args) if args.table is None else analyze_table_2(args)
    if args.json:
        print(json.dumps(result))
    elif args.table is None:
        print_parts(result)
    else:
        print_table(result)


if __name__ == "__main__":
    sys.exit(run_command(main))
