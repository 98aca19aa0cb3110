#!/usr/bin/env python3
"""Convert a published SOLOv2 checkpoint for fine-tuning.

  convert_weights.py SOLOv2_R50_3x.pth --config-file configs/NWPU-VHR10/solov2_R_50_36ep.yaml \\
      --output solov2_R_50_coco.pth
  train_net.py --config-file ... MODEL.WEIGHTS solov2_R_50_coco.pth

Checkpoints of AdelaiDet, WXinlong/SOLO and MMDetection are recognised by their parameter names.
Parameters are kept if their name and shape match the config's model. If the number of classes
differs, these are all but the last convolution of the class branch; for FACENet, the ResNet and the
heads.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import facenet_d2.compat  # noqa: F401  isort: skip
import torch
from detectron2.config import CfgNode

from facenet_d2 import UserError
from facenet_d2.conversion import fit, publisher_of, read_state, rename
from facenet_d2.engine import Trainer, read_config, run_command
from facenet_d2.engine.num_classes import num_classes_key, resolve_num_classes
from facenet_d2.files import write_whole
from facenet_d2.weights import bottom_up_parameters


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", help="published checkpoint (.pth)")
    parser.add_argument("--config-file", required=True, help="config of the model to be trained")
    parser.add_argument("--output", required=True, help="converted checkpoint, for MODEL.WEIGHTS")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides of the config")
    return parser.parse_intermixed_args()


def modules(names: list[str]) -> str:
    """List the parts of the model with their numbers of parameters."""
    counts = Counter(".".join(name.split(".")[:2]) for name in names)
    return ", ".join(f"{part} ({number})" for part, number in counts.items())


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config_file, [*args.opts, "MODEL.DEVICE", "meta"])
    if not num_classes_key(cfg)[1].NUM_CLASSES:
        resolve_num_classes(cfg)
    with torch.device("meta"):
        model = Trainer.build_model(cfg)
    state = read_state(args.checkpoint)
    publisher = publisher_of(state)
    conversion = fit(rename(state, publisher), model)
    missing = bottom_up_parameters(conversion.at_random)
    if missing:
        raise UserError(
            f"{args.checkpoint} lacks {len(missing)} parameters of the bottom-up network of "
            f"{args.config_file}, for example {missing[0]}; set MODEL.RESNETS.DEPTH to the "
            "checkpoint's."
        )
    buffer = io.BytesIO()
    torch.save({"model": conversion.state}, buffer)
    write_whole(Path(args.output), buffer.getvalue())

    print(f"{args.checkpoint}: SOLOv2 of {publisher.name}")
    print(f"kept: {modules([*conversion.state])}")
    for name, reason in conversion.left_out.items():
        print(f"left out: {name}: {reason}")
    if conversion.at_random:
        print(f"initialised at random: {modules(conversion.at_random)}")
    wrong = {k: v for k, v in publisher.settings.items() if v != configured(cfg, k)}
    if wrong:
        print("These weights require, in the config or on the command line of train_net.py:")
        print("  " + " ".join(f'{key} "{value}"' for key, value in wrong.items()))
    print(f"written to {args.output}")


def configured(cfg: CfgNode, key: str) -> Any:
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


if __name__ == "__main__":
    sys.exit(run_command(main))
